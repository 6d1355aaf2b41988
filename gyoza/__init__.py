"""Normalizing flows for Keras 3: disentangle hidden representations and estimate densities.

Importing it registers all classes that Keras saves and loads, so that `keras.saving.load_model`
needs no `custom_objects`. `gyoza.testing`, `gyoza.plotting`, which needs matplotlib, and
`gyoza.sklearn`, which needs scikit-learn, are imported when they are first used.
"""

import importlib
from types import ModuleType

from gyoza import applications, callbacks, data, interpretation, modelling
from gyoza.version import __version__

__all__ = ["modelling", "applications", "interpretation", "data", "callbacks", "__version__"]

_LAZY = ["plotting", "sklearn", "testing"]


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"gyoza.{name}")
    raise AttributeError(f"module 'gyoza' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY} - {"_LAZY"})
