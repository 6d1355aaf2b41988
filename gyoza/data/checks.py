"""Checks and conversions that the sources of data share."""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np

from gyoza.modelling.axes import is_integer

__all__ = ["to_numpy", "to_seed", "check_integer", "check_positive"]


def to_numpy(values: Any) -> np.ndarray:
    """Converts any array-like, including tensors of the Keras backend, to NumPy."""
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else np.asarray(values)


def to_seed(seed: int | None) -> int:
    """Returns the seed, or draws one, which `keras.utils.set_random_seed` makes reproducible."""
    if seed is None:
        # This is the generator that `keras.utils.set_random_seed` seeds, and that Keras takes its
        # own default seeds from.
        return random.getrandbits(32)
    check_integer("seed", seed, minimum=0)
    return int(seed)


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Raises a `ValueError` if `value` is not an integer of at least `minimum`."""
    if not is_integer(value) or value < minimum:
        raise ValueError(
            f"`{name}` should be an integer of at least {minimum}. Received: {name}={value!r}"
        )


def check_positive(name: str, value: float) -> None:
    """Raises a `ValueError` if `value` is not positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` should be a positive finite number. Received: {name}={value!r}")
