"""Normalizing flows for Keras 3: disentangle hidden representations and estimate densities."""

from gyoza import callbacks, data, interpretation, modelling
from gyoza.version import __version__

__all__ = ["modelling", "interpretation", "data", "callbacks", "__version__"]
