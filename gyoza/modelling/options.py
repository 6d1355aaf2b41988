"""Options of layers and models, of which compiled functions have to know the last values."""

import inspect
from typing import Any

from gyoza.backend import CHANGES

__all__ = ["HasOptions"]


class HasOptions:
    """A Keras layer or model whose compiled functions are made anew when an option changes.

    Options are the attributes that are named like arguments of the constructor. What has been
    compiled has their values in it, not those that they are assigned later.
    """

    built: bool
    _options: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._options = frozenset(inspect.signature(cls.__init__).parameters)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self._options and getattr(self, "built", False):
            CHANGES.count += 1
