"""Options of layers and models, of which compiled functions have to know the last values."""

import inspect
from typing import Any

import keras
from keras import ops

from gyoza.backend import CHANGES

__all__ = ["HasOptions"]

# What Keras itself knows of, such as `trainable`.
_OF_KERAS = frozenset(inspect.signature(keras.Layer.__init__).parameters)


class HasOptions:
    """A Keras layer or model whose compiled functions are made anew when an option changes.

    Options are the attributes that are named like arguments of the constructor, but for those of
    `keras.Layer`. What has been compiled has their values in it, not those that they are assigned
    later.
    """

    built: bool
    _option_names: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = set(inspect.signature(cls.__init__).parameters)
        # A constructor may pass on others that it does not name.
        names.update(*(vars(base).get("_option_names", ()) for base in cls.__mro__))
        cls._option_names = frozenset(names - _OF_KERAS)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self)._option_names and getattr(self, "built", False):
            CHANGES.count += _is_another(getattr(self, name, None), value)
        super().__setattr__(name, value)


def _is_another(old: Any, new: Any) -> bool:
    """Returns whether a value is not an old one, and not one that a call has computed."""
    if isinstance(new, bool | int | float | str):
        return type(old) is not type(new) or old != new
    return old is not new and not (ops.is_tensor(new) or isinstance(new, keras.KerasTensor))
