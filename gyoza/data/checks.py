"""Checks and conversions that the sources of data share."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np

from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.warning import warn

__all__ = [
    "to_seed",
    "check_complete",
    "is_text",
    "looks_like_numbers",
    "to_floats",
    "warn_of_spike",
    "warn_of_identifier",
]


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


def check_complete(name: str, column: Any) -> np.ndarray:
    """Returns the values of a column, or raises an error if some are missing."""
    values = column.to_numpy()
    if values.ndim != 1:
        raise ValueError(f"The names of columns should be distinct. Received: {name!r} twice")
    is_missing = np.asarray(column.isna() if hasattr(column, "isna") else values != values)
    if np.any(is_missing):
        raise ValueError(
            f"Column {name!r} should have no missing values: fill them, or leave these rows out. "
            f"Received: {np.sum(is_missing)} missing values, the first one in row "
            f"{np.flatnonzero(is_missing)[0]} (counted from 0)"
        )
    if not len(values):
        raise ValueError("`frame` should have rows. Received: a data frame without rows")
    return values


def is_text(values: np.ndarray) -> bool:
    """Returns whether values are strings or Boolean, not numbers."""
    return values.dtype.kind in "OUSTb" and isinstance(values[0], str | bool | np.bool_)


def looks_like_numbers(values: np.ndarray) -> bool:
    """Returns whether most values of a column of text are numbers, such as those of "$12.50"."""
    number = re.compile(r"\W*\d[\d.,]*(e[+-]?\d+)?\W*", re.IGNORECASE)
    return 2 * sum(number.fullmatch(str(value)) is not None for value in values) > len(values)


def to_floats(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values of a column as floats, or raises an error that names it."""
    if isinstance(values[0], str):
        raise TypeError(
            f"Column {name!r} should hold numbers: `pd.to_numeric` makes them of strings. "
            f"Received: {values[0]!r}"
        )
    try:
        if values.dtype.kind not in "iufO" or is_text(values):
            raise TypeError
        return values.astype("float64")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Column {name!r} should hold numbers, strings or Boolean values: turn dates, say, "
            f"into numbers, or leave it out. Received: {values[0]!r}"
        ) from error
