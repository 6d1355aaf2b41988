"""What is not trained: frozen layers, and the sublayers that they create later."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from gyoza.backend import flatten_layers

__all__ = ["freeze_after", "leave_out"]


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
    def wrapper(layer: Any, *args: Any, **kwargs: Any) -> None:
        build(layer, *args, **kwargs)
        for part in flatten_layers(layer):
            # On TensorFlow, assigning `part.trainable` the value that it has would do nothing.
            for below in () if part.trainable else flatten_layers(part, include_self=False):
                below.trainable = False

    return wrapper


def leave_out(variables: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Returns those variables that are not among the others."""
    left_out = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in left_out]
