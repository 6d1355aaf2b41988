"""Checks and conversions that the sources of data share."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from gyoza.modelling.axes import is_integer

__all__ = ["to_numpy", "check_integer", "check_positive"]


def to_numpy(values: Any) -> np.ndarray:
    """Converts any array-like, tensors of the Keras backend included, to numpy."""
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else np.asarray(values)


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Raises a `ValueError` if `value` is no integer of at least `minimum`."""
    if not is_integer(value) or value < minimum:
        raise ValueError(
            f"`{name}` should be an integer of at least {minimum}. Received: {name}={value!r}"
        )


def check_positive(name: str, value: float) -> None:
    """Raises a `ValueError` if `value` is not positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` should be a positive finite number. Received: {name}={value!r}")
