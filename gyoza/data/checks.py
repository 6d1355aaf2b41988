"""Checks and conversions that the sources of data share."""

from __future__ import annotations

import random

import keras
import numpy as np

from gyoza.modelling.functions.checks import check_integer, check_positive
from gyoza.modelling.functions.warning import warn
from gyoza.typing import Tensor

__all__ = [
    "to_numpy",
    "to_seed",
    "check_integer",
    "check_positive",
    "warn_of_spike",
    "warn_of_identifier",
]


def to_numpy(values: Tensor) -> np.ndarray:
    """Converts any array-like, including tensors of the Keras backend, to NumPy."""
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else np.asarray(values)


def to_seed(seed: int | None) -> int:
    """Returns the seed, or draws one, which `keras.utils.set_random_seed` makes reproducible."""
    if seed is None:
        # This is the generator that `keras.utils.set_random_seed` seeds, and that Keras takes its
        # own default seeds from.
        return random.getrandbits(32)
    return check_integer("seed", seed)


def warn_of_spike(name: str, x: np.ndarray) -> None:
    """Warns of a value too frequent for continuous data."""
    values, counts = np.unique(x, return_counts=True)
    share = counts.max() / len(x)
    if share > 0.05 and counts.max() > 20:
        warn(
            f"Column {name!r} has the value {values[counts.argmax()]:g} in {share:.0%} of its "
            "rows, where a density has an infinite spike. Fit these rows separately, or add noise."
        )


def warn_of_identifier(name: str, x: np.ndarray, kind: str) -> None:
    """Warns of whole numbers that look like those by which rows are counted."""
    x = np.sort(x)
    if len(x) > 20 and np.all(x == x[0] + np.arange(len(x))):
        warn(
            f"Column {name!r} looks like an identifier: it has each whole number from {x[0]:g} to "
            f"{x[-1]:g} once. Leave it out, or pass `kinds={{{name!r}: {kind!r}}}` if its numbers "
            "mean something."
        )
