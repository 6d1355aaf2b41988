"""Checks and conversions that the sources of data share."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np

from gyoza.modelling.functions.checks import check_integer, check_positive

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
    return check_integer("seed", seed)
