"""What layers and models show of themselves when they are printed."""

import inspect
import math
from typing import Any

import keras

from gyoza.modelling.functions.dtypes import is_floating
from gyoza.typing import Tensor

__all__ = ["Describes", "Summarises"]

_LONGEST = 60
# What arguments are if they are omitted.
_OMITTED = ("HeavisideMask()", "StandardNormal()")


class Describes:
    """A layer or model that shows, when it is printed, what defines it.

    These are the arguments of its constructor that differ from their defaults, and of a model its
    layers, each on a line.
    """

    def __repr__(self) -> str:
        try:
            return _describe(self)
        except Exception:  # such as for an object whose constructor has not run
            return f"<{type(self).__name__}>"


class Summarises:
    """A model whose summary counts parameters alone."""

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints the layers with their numbers of parameters.

        The rows add up to the totals, except for layers that are used several times. Neither
        integers that are saved with the weights, such as the indices of permutations, nor the state
        of the optimizer are counted.

        Args:
            *args: Arguments of `keras.Model.summary`.
            **kwargs: Likewise.
        """
        keras.Model.summary(_Counted(self), *args, **kwargs)


class _Counted:
    """A layer or model as `keras.Model.summary` sees it: with its parameters alone.

    Args:
        layer: The layer, or model.
    """

    compiled = False  # so that the state of the optimizer is left out

    def __init__(self, layer: keras.Layer) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._layer)

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of a model."""
        return [_Counted(layer) for layer in self._layer.layers]

    @property
    def weights(self) -> list[Tensor]:
        """The weights that are parameters: none before the layer is built."""
        return self._choose(self._layer.weights)

    @property
    def trainable_weights(self) -> list[Tensor]:
        """Those that are trained."""
        return self._choose(self._layer.trainable_weights)

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """Those that are not trained."""
        return self._choose(self._layer.non_trainable_weights)

    def _choose(self, weights: list[keras.Variable]) -> list[keras.Variable]:
        """Returns those that are parameters."""
        return [w for w in weights if is_floating(w.dtype)] if self._layer.built else []

    def count_params(self) -> int:
        """Returns the number of parameters."""
        return sum(math.prod(weight.shape) for weight in self.weights)


def _describe(layer: keras.Layer) -> str:
    name = type(layer).__name__
    parts = getattr(layer, "_flow_layers_", None)
    arguments = [f"{key}={_shorten(value)}" for key, value in _find_arguments(layer).items()]
    if parts is None:
        return f"{name}({', '.join(arguments)})"
    lines = [f"    {line}" for part in parts for line in f"{part!r},".splitlines()]
    if not lines:
        return f"{name}({', '.join(['[]', *arguments])})"
    return "\n".join([f"{name}([", *lines, ", ".join(["]", *arguments]) + ")"])


def _find_arguments(layer: keras.Layer) -> dict[str, Any]:
    """Returns arguments of the constructor that are not their defaults, without those of Keras."""
    config, found = layer.get_config(), {}
    for key, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if key not in config or key in ("self", "flow_layers"):
            continue
        value = config[key]
        value = list(value) if isinstance(value, tuple) else value
        default = parameter.default
        default = list(default) if isinstance(default, tuple) else default
        if _name(value) not in (repr(default), *_OMITTED):
            found[key] = value
    return found


def _name(value: Any) -> str:
    """Returns a value, or the class of an object in the form in which Keras saves it."""
    if isinstance(value, dict) and "class_name" in value:
        inner = value.get("config")
        if value["class_name"] == "function":
            return str(inner)
        sizes = inner.get("hidden_sizes") if isinstance(inner, dict) else None
        return f"{value['class_name']}({'' if sizes is None else list(sizes)})"
    return repr(value)


def _shorten(value: Any) -> str:
    text = _name(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
