"""What is not trained: frozen layers, and the sublayers that they create later."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras

from gyoza.backend import flatten_layers

__all__ = ["TrainsPart", "freeze_after", "leave_out", "list_weights"]


def freeze_after(build: Callable[..., None]) -> Callable[..., None]:
    """Wraps a `build` method, so that what it creates for frozen layers is frozen, too.

    Setting `trainable` reaches only the sublayers that exist at that time. A frozen layer that is
    loaded or copied creates its sublayers when it is built, and they would be trained.

    Args:
        build: The method of a Keras layer.

    Returns:
        A method that does the same, and then freezes the sublayers of frozen layers.
    """

    @functools.wraps(build)
    def wrapper(layer: keras.Layer, *args: Any, **kwargs: Any) -> None:
        build(layer, *args, **kwargs)
        for part in flatten_layers(layer):
            # On TensorFlow, assigning `part.trainable` the value that it has would do nothing.
            for below in () if part.trainable else flatten_layers(part, include_self=False):
                below.trainable = False

    return wrapper


def leave_out(
    variables: Iterable[keras.Variable], others: Iterable[keras.Variable]
) -> list[keras.Variable]:
    """Returns those variables that are not among the others."""
    left_out = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in left_out]


def list_weights(layers: Iterable[keras.Layer]) -> list[keras.Variable]:
    """Returns the weights of several layers."""
    return [weight for layer in layers for weight in layer.weights]


class TrainsPart:
    """What a Keras model is derived from, before `keras.Model`, to leave some weights as they are.

    A subclass says which by `_untrained`.
    """

    @property
    def _untrained(self) -> list[keras.Layer]:
        """The weights that are left as they are."""
        raise NotImplementedError

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The variables that are trained."""
        return leave_out(super().trainable_variables, self._untrained)  # type: ignore[misc]

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The weights that are trained."""
        return leave_out(super().trainable_weights, self._untrained)  # type: ignore[misc]

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All other variables."""
        return leave_out(self.variables, self.trainable_variables)  # type: ignore[attr-defined]

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """All other weights."""
        return leave_out(self.weights, self.trainable_weights)  # type: ignore[attr-defined]
