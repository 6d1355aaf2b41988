"""What layers that adapt to data have in common."""

import warnings
from collections.abc import Sequence

import keras
import numpy as np

from gyoza.modelling.tables import describe_columns
from gyoza.typing import DType

__all__ = ["is_left_alone", "check_finite_rows", "describe_not_finite", "choose_scales"]

# The distance from 1 to the next number, and the smallest number with all digits.
_PRECISION = {
    "float64": (2.0**-52, 2.0**-1022),
    "float32": (2.0**-23, 2.0**-126),
    "float16": (2.0**-10, 2.0**-14),
    "bfloat16": (2.0**-7, 2.0**-126),
}


def is_left_alone(layer: keras.Layer) -> bool:
    """Returns whether a layer is frozen and so must not be adapted, with a warning if so.

    Args:
        layer: A layer with a method `adapt`.

    Returns:
        Whether it is frozen.
    """
    if not layer.trainable:
        warnings.warn(
            f"`adapt` left '{layer.name}' as it is, because it is frozen: `trainable=False`.",
            stacklevel=3,
        )
    return not layer.trainable


def check_finite_rows(
    name: str,
    x: np.ndarray,
    first_row: int = 0,
    names: Sequence[str] | None = None,
    what: str = "`data`",
) -> None:
    """Raises a `ValueError` that names rows, and columns of vectors, that are not finite.

    Args:
        name: The name of the layer that is to be adapted.
        x: The data, or a batch of them, `[batch, ...]`.
        first_row: The index of the first row of the batch.
        names: The names of the columns, if they have some.
        what: What the data are called.
    """
    if found := describe_not_finite(x, first_row, names):
        raise ValueError(
            f"{what} should be finite where '{name}' is adapted to them. Received: {found}"
        )


def describe_not_finite(
    x: np.ndarray, first_row: int = 0, names: Sequence[str] | None = None
) -> str:
    """Returns a text on what is not finite, and where, as in "NaN in row 17, column 1".

    Args:
        x: The data, or a batch of them, `[batch, ...]`.
        first_row: The index of the first row of the batch.
        names: The names of the columns, if they have some.

    Returns:
        The first value and where there are such, or "" where all are finite.
    """
    is_finite = np.isfinite(x).reshape(len(x), -1)
    rows = np.flatnonzero(~is_finite.all(axis=1))
    if not len(rows):
        return ""
    value = x.reshape(len(x), -1)[rows[0]][~is_finite[rows[0]]][0]
    shown = ", ".join(str(first_row + row) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    found = f"{'NaN' if np.isnan(value) else value} in row{'s' * (len(rows) > 1)} {shown}"
    if x.ndim == 2:
        columns = np.flatnonzero(~is_finite.all(axis=0))
        found += f", column{'s' * (len(columns) > 1)} {describe_columns(columns, names)}"
    return found


def choose_scales(
    layer: keras.Layer,
    mean: np.ndarray,
    deviation: np.ndarray,
    is_constant: np.ndarray,
    dtype: DType,
) -> np.ndarray:
    """Chooses what data are divided by: their standard deviation where there is one, 1 elsewhere.

    It warns of data that are too large for their spread, or too small, to be computed with.

    Args:
        layer: The layer that is adapted.
        mean: The mean of each dimension, `[...]`, in float64.
        deviation: The standard deviation of each dimension, `[...]`, in float64.
        is_constant: Whether all values of the dimension are the same, `[...]`.
        dtype: The dtype of the data.

    Returns:
        The scales, `[...]`.
    """
    step, smallest = _PRECISION[layer.compute_dtype]
    size = np.abs(mean)
    is_coarse = ~is_constant & (size * step > 0.1 * deviation)
    # Whole numbers that differ by 1 may have been rounded to the same one.
    is_coarse |= is_constant & (size * _PRECISION[str(dtype)][0] >= 1)
    is_tiny = ~is_constant & (deviation < smallest)
    _warn(
        layer,
        is_coarse,
        "their mean is so large, and their standard deviation so small, that {dtype} rounds their "
        'differences away. Use dtype="float64" for the layer and the data, or subtract the mean '
        "from the data before they are rounded",
        mean=mean,
        standard_deviation=deviation,
    )
    _warn(
        layer,
        is_tiny,
        "their standard deviation is too small for {dtype}. They are not scaled. Use "
        'dtype="float64" for the layer, or multiply the data first',
        standard_deviation=deviation,
    )
    return np.where(is_constant | is_tiny, 1.0, deviation)


def _warn(layer: keras.Layer, is_affected: np.ndarray, text: str, **values: np.ndarray) -> None:
    """Warns of dimensions that something is wrong with, by their indices."""
    indices = np.argwhere(is_affected)
    if not len(indices):
        return
    shown = [int(index[0]) if len(index) == 1 else tuple(map(int, index)) for index in indices[:5]]
    rest = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    first = tuple(indices[0])
    received = ", ".join(f"{name}={array[first]:.6g}" for name, array in values.items())
    warnings.warn(
        f"'{layer.name}' was adapted to data whose columns {shown}{rest} it cannot resolve: "
        f"{text.format(dtype=layer.compute_dtype)}. Received: {received}",
        stacklevel=4,
    )
