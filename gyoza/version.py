"""The version of gyoza: the only place where it is written down."""

__all__ = ["__version__"]

__version__ = "1.0.0"
