"""Normalizing flows for Keras 3: disentangle hidden representations and estimate densities."""

from gyoza import data, modelling
from gyoza.version import __version__

__all__ = ["modelling", "data", "__version__"]
