"""States of what takes part in training besides the data: the model, and other callbacks."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from gyoza.backend import flatten_layers
from gyoza.callbacks.backups import is_plain, to_fingerprint

__all__ = ["CallbackStates", "describe_model", "list_variables", "read_values", "write_values"]

# Keras' own, which it adds or which show the progress. The history is kept separately.
_WITHOUT_STATE = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
# What every callback has; and what those that monitor a metric turn the sign of when they first
# look at it, which they do again in each process.
_NOT_KEPT = {"model", "min_delta", *vars(keras.callbacks.Callback())}


def list_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that training changes, with the states of random generators."""
    return [*model.variables, *model.optimizer.variables]


def read_values(variables: Iterable[keras.Variable]) -> list[Any]:
    """Returns the values of variables as arrays."""
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def write_values(variables: Iterable[keras.Variable], values: Iterable[Any]) -> None:
    """Assigns arrays to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def describe_model(model: keras.Model) -> dict[str, Any]:
    """Returns what is equal for equal models with equal optimizers, by what it is."""
    return {
        "classes of layers": [type(layer).__name__ for layer in flatten_layers(model)],
        "class of the optimizer": type(model.optimizer).__name__,
        "shapes of variables": [
            f"{keras.backend.standardize_dtype(variable.dtype)} {[*variable.shape]}"
            for variable in list_variables(model)
        ],
    }


class CallbackStates:
    """What has changed of callbacks since training began.

    A callback keeps its state in attributes, or has `get_state` and `set_state`. Of attributes,
    numbers, strings and arrays are known, and lists, tuples and dictionaries of such.

    Args:
        callbacks: The callbacks, at the beginning of training.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        self._callbacks: dict[str, Any] = {}
        for callback in callbacks:
            if not isinstance(callback, _WITHOUT_STATE):
                name = type(callback).__name__
                same = sum(key.startswith(f"{name} ") for key in self._callbacks)
                self._callbacks[f"{name} {same}"] = callback
        self._start = {
            key: {name: to_fingerprint(value) for name, value in _list_attributes(callback).items()}
            for key, callback in self._callbacks.items()
            if not hasattr(callback, "get_state")
        }

    def get(self) -> dict[str, Any]:
        """Returns the states, by class and number of the callback."""
        states = {}
        for key, callback in self._callbacks.items():
            if key not in self._start:
                states[key] = callback.get_state()
                continue
            states[key] = {
                name: value
                for name, value in _list_attributes(callback).items()
                if self._start[key].get(name) != to_fingerprint(value)
            }
        return states

    def set(self, states: dict[str, Any]) -> None:
        """Sets the callbacks to what `get` returned; those that it knew nothing of stay."""
        for key, state in states.items():
            callback = self._callbacks.get(key)
            if callback is None:
                continue
            if key not in self._start:
                callback.set_state(state)
                continue
            for name, value in state.items():
                setattr(callback, name, value)


def _list_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    values = vars(callback).items()
    return {name: value for name, value in values if name not in _NOT_KEPT and is_plain(value)}
