"""What the scores of codes share: the checks of their arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gyoza.modelling.factors import check_dimensions_per_factor

__all__ = [
    "check_codes",
    "check_labels",
    "is_categorical",
    "find_bins",
    "split_units",
]


def check_codes(codes: Any, name: str = "codes") -> np.ndarray:
    """Turns codes into a matrix of finite numbers, `[N, n]`."""
    matrix = np.asarray(codes, dtype="float64")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"`{name}` should have shape [N, n]. Received: {name}.shape={matrix.shape}"
        )
    if not np.all(np.isfinite(matrix)):
        raise ValueError(
            f"`{name}` should be finite. Received: "
            f"{np.sum(~np.isfinite(matrix))} values that are not"
        )
    return matrix


def check_labels(
    labels: Any, count: int, categorical: bool | Sequence[bool] | None, at_least: int = 1
) -> list[np.ndarray]:
    """Turns labels into a list of columns.

    Args:
        labels: Classes or real numbers, `[N, K]` or `[N]`.
        count: The number N of instances.
        categorical: Which columns are classes, or one for all. If `None`, columns of whole numbers
            and of what is not a number are.
        at_least: How many columns there should be.

    Returns:
        The K columns, `[N]`, of integers from 0 on for classes and of floats for real numbers.
    """
    matrix = np.asarray(labels)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or len(matrix) != count or matrix.shape[1] < at_least:
        limit = "" if at_least == 1 else f" with K of at least {at_least}"
        raise ValueError(
            f"`labels` should have shape [{count}, K]{limit}, one row for each of the codes. "
            f"Received: labels.shape={np.shape(labels)}"
        )
    flags: Sequence[bool | None]
    if categorical is None or isinstance(categorical, bool | np.bool_):
        flags = [categorical] * matrix.shape[1]
    else:
        flags = list(categorical)
    if len(flags) != matrix.shape[1]:
        raise ValueError(
            f"`categorical` should hold a truth value for each of the {matrix.shape[1]} columns of "
            f"`labels`. Received: categorical={categorical}"
        )
    columns = enumerate(zip(matrix.T, flags, strict=True))
    return [_check_label(k, column, flag) for k, (column, flag) in columns]


def _check_label(index: int, column: np.ndarray, categorical: bool | None) -> np.ndarray:
    # Lists find the type of a column whose neighbours have others.
    column = np.asarray(column.tolist())
    is_number = column.dtype.kind in "fiu"
    if is_number and not np.all(np.isfinite(column)):
        raise ValueError(f"`labels` should be finite. Received: others in column {index}")
    values, classes = np.unique(column, return_inverse=True)
    if len(values) == 1:
        raise ValueError(
            "`labels` should vary, since a constant has no information. Received: the single "
            f"value {values[0]} in column {index}"
        )
    if categorical is None:
        categorical = not is_number or bool(np.all(column == np.round(column)))
    if categorical:
        return classes.reshape(-1)
    if not is_number:
        raise ValueError(
            "`labels` that are not classes should be real numbers. Received: values of type "
            f"{column.dtype} in column {index}"
        )
    return column.astype("float64")


def is_categorical(label: np.ndarray) -> bool:
    """Tells whether a column of `check_labels` holds classes."""
    return label.dtype.kind == "i"


def find_bins(column: np.ndarray, bins: int) -> np.ndarray:
    """Replaces real numbers by the indices of bins of equal width between their extremes."""
    return np.digitize(column, np.histogram_bin_edges(column, bins)[1:-1])


def split_units(
    dimension_count: int, dimensions_per_factor: Iterable[int] | None, at_least: int = 1
) -> list[np.ndarray]:
    """Gives the indices of the entries of each unit: of each factor, or else each entry its own."""
    if dimensions_per_factor is None:
        sizes = [1] * dimension_count
    else:
        sizes = check_dimensions_per_factor(dimensions_per_factor)
    if sum(sizes) != dimension_count:
        raise ValueError(
            f"`dimensions_per_factor` should sum to {dimension_count}, the number of entries of "
            f"the codes. Received: dimensions_per_factor={sizes}"
        )
    if len(sizes) < at_least:
        raise ValueError(
            f"Codes should have at least {at_least} entries or factors. Received: {len(sizes)}"
        )
    return np.split(np.arange(dimension_count), np.cumsum(sizes)[:-1])
