"""Warnings that show the line of a user's code."""

import inspect
import warnings

__all__ = ["warn"]

# What calls gyoza's code in between: Keras, what it maps structures with, its backends, context
# managers and partials.
_PASSED = {"gyoza", "keras", "optree", "tensorflow", "jax", "torch", "contextlib", "functools"}


def warn(message: str) -> None:
    """Warns at the nearest line that is not within gyoza or Keras, however deep this is called.

    Args:
        message: What to say.
    """
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
