"""What scores of codes have in common: the checks of their arguments."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from gyoza.modelling.factors import check_dimensions_per_factor
from gyoza.typing import Tensor

__all__ = [
    "check_codes",
    "check_labels",
    "is_categorical",
    "find_bins",
    "find_ranks",
    "announce_difference",
    "split_units",
    "to_unit_interval",
]

_FEW_CLASSES = 20
"""Integers with more distinct values may well be measurements."""

_MARKED_DIFFERENCE = 0.2
"""Scores by values and by ranks that differ by more are announced."""


def check_codes(codes: Tensor, name: str = "codes") -> np.ndarray:
    """Converts codes to a matrix of finite numbers, `[N, n]`."""
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
    labels: Tensor, count: int, categorical: bool | Sequence[bool] | None, at_least: int = 1
) -> list[np.ndarray]:
    """Converts labels to a list of columns.

    Args:
        labels: Classes or real numbers, `[N, K]` or `[N]`.
        count: The number N of instances.
        categorical: Which columns are classes, or one truth value for all. If `None`, columns of
            whole numbers and of non-numbers are, with a warning about whole numbers that may well
            be measurements: floating-point numbers, and integers with many values or with gaps.
        at_least: The least number of columns.

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
    checked, guessed = [], []
    for k, (label, flag) in enumerate(zip(matrix.T, flags, strict=True)):
        # Converting a list finds the type of a column by itself, whatever those of its neighbours.
        column = np.asarray(label.tolist())
        checked.append(_check_label(k, column, flag))
        if flag is None and is_categorical(checked[-1]) and _may_be_measured(column):
            guessed.append(k)
    if guessed:
        warnings.warn(
            f"The whole numbers in columns {guessed} of `labels` are taken to be classes. Pass "
            "`categorical=True` if they are, `categorical=False` if they are measurements, or a "
            "truth value for each column.",
            stacklevel=3,
        )
    return checked


def _may_be_measured(column: np.ndarray) -> bool:
    """Returns whether whole numbers may well be measurements, such as percentages."""
    if column.dtype.kind not in "iu":
        return column.dtype.kind == "f"
    values = np.unique(column)
    return len(values) > _FEW_CLASSES or np.ptp(values) >= len(values)


def _check_label(index: int, column: np.ndarray, categorical: bool | None) -> np.ndarray:
    is_number = column.dtype.kind in "fiu"
    if is_number and not np.all(np.isfinite(column)):
        raise ValueError(
            f"`labels` should be finite. Received: values that are not, in column {index}"
        )
    values, classes = np.unique(column, return_inverse=True)
    if len(values) == 1:
        raise ValueError(
            "`labels` should vary, since a constant carries no information. Received: the single "
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
    """Returns whether a column of `check_labels` holds classes."""
    return label.dtype.kind == "i"


def find_bins(
    column: np.ndarray, bins: int, robust: bool = True, ranks: bool = False
) -> np.ndarray:
    """Replaces real numbers by the indices of bins.

    Bins have equal width between the extremes. By ranks, they hold equally many numbers instead, or
    one distinct value each if there are not more of these than bins.

    Args:
        column: The numbers, `[N]`.
        bins: The number of bins.
        robust: Whether to put outliers into the outermost bins. Outliers are further from the
            central 99% of the numbers than these are wide.
        ranks: Whether to divide ranks, in which there are no outliers, rather than numbers.

    Returns:
        The indices, `[N]`.
    """
    if ranks:
        values, indices = np.unique(column, return_inverse=True)
        if len(values) <= bins:
            return indices.reshape(-1)
        return np.floor(find_ranks(column) * bins).astype("int64")
    inside = column
    if robust:
        low, high = np.quantile(column, [0.005, 0.995])
        width = high - low
        if width > 0:
            inside = column[(column >= low - width) & (column <= high + width)]
    return np.digitize(column, np.histogram_bin_edges(inside, bins)[1:-1])


def find_ranks(column: np.ndarray) -> np.ndarray:
    """Returns the share of numbers below each number, of which equal ones count half, `[N]`."""
    _, indices, counts = np.unique(column, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(column))[indices.reshape(-1)]


def announce_difference(
    name: str, score: float, by_ranks: float, remedy: str = "ranks=True"
) -> None:
    """Warns if a score as published is markedly different from that by ranks.

    Args:
        name: The name of the score.
        score: The score as published.
        by_ranks: That by ranks.
        remedy: The arguments that yield the latter.
    """
    if abs(score - by_ranks) > _MARKED_DIFFERENCE:
        warnings.warn(
            f"`{name}` is {score:.2f} as published, and {by_ranks:.2f} with `{remedy}`, which "
            "depends neither on outliers nor on the scale of codes. Pass this, or `ranks=False` "
            "for the former.",
            stacklevel=3,
        )


def split_units(
    dimension_count: int, dimensions_per_factor: Iterable[int] | None, at_least: int = 1
) -> list[np.ndarray]:
    """Returns the indices of the dimensions of each factor, by default of each dimension alone."""
    if dimensions_per_factor is None:
        sizes = [1] * dimension_count
    else:
        sizes = check_dimensions_per_factor(dimensions_per_factor)
    if sum(sizes) != dimension_count:
        raise ValueError(
            f"`dimensions_per_factor` should sum to {dimension_count}, the number of dimensions of "
            f"the codes. Received: dimensions_per_factor={sizes}"
        )
    if len(sizes) < at_least:
        raise ValueError(
            f"Codes should have at least {at_least} dimensions or factors. Received: {len(sizes)}"
        )
    return np.split(np.arange(dimension_count), np.cumsum(sizes)[:-1])


def to_unit_interval(score: float) -> float:
    """Clips a score, which rounding errors may have moved out of the interval from 0 to 1."""
    return float(np.clip(score, 0.0, 1.0))
