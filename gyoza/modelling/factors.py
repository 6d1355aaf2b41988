"""How latent vectors, and pairs of them, are divided among factors."""

from collections.abc import Iterable, Sequence

import numpy as np

from gyoza.modelling.functions.checks import check_integers
from gyoza.typing import Shape, Tensor

__all__ = [
    "check_dimensions_per_factor",
    "check_correlation_shape",
    "index_factors",
    "split_pairs",
]


def check_dimensions_per_factor(dimensions_per_factor: Iterable[int]) -> list[int]:
    """Converts the number of dimensions of each factor to a list of integers.

    Args:
        dimensions_per_factor: Numbers that are not negative, nor all zero.

    Returns:
        The numbers.

    Raises:
        TypeError: If they are not integers.
        ValueError: If there are none, one is negative, or all are zero.
    """
    dimensions = check_integers("dimensions_per_factor", dimensions_per_factor)
    if not dimensions or min(dimensions) < 0 or sum(dimensions) == 0:
        raise ValueError(
            "`dimensions_per_factor` should hold numbers that are not negative, nor all zero. "
            f"Received: dimensions_per_factor={dimensions}"
        )
    return dimensions


def check_correlation_shape(shape: Shape, dimensions_per_factor: Sequence[int]) -> None:
    """Checks the shape of targets with one correlation per pair and factor.

    Args:
        shape: The shape of the targets.
        dimensions_per_factor: The number of latent dimensions of each factor.

    Raises:
        ValueError: If the shape is not `[batch, factor count]`.
    """
    factor_count = len(dimensions_per_factor)
    if len(shape) != 2 or shape[1] != factor_count:
        raise ValueError(
            f"`y_true` should have shape [batch, {factor_count}], with one correlation for "
            f"each of `dimensions_per_factor`. Received: y_true.shape={tuple(shape)}"
        )


def index_factors(dimensions_per_factor: Sequence[int]) -> np.ndarray:
    """Returns the factor to which each dimension belongs, `[dimension count]`."""
    return np.repeat(np.arange(len(dimensions_per_factor)), dimensions_per_factor)


def split_pairs(
    y_true: Tensor, y_pred: Tensor, dimensions_per_factor: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Splits the output of a model for pairs, and checks it against its targets.

    Args:
        y_true: Targets, `[batch, ...]`.
        y_pred: Concatenation of latent vectors and log-determinants of the pair, `[a, b, j_a,
            j_b]`, `[batch, 2 * dimension count + 2]`. Further columns are ignored.
        dimensions_per_factor: The number of latent dimensions of each factor.

    Returns:
        `a` and `b`, `[batch, dimension count]`, and `j_a` and `j_b`, `[batch]`.

    Raises:
        ValueError: If shapes do not match.
    """
    d = sum(dimensions_per_factor)
    width = 2 * d + 2
    if len(y_pred.shape) != 2 or (y_pred.shape[1] is not None and y_pred.shape[1] < width):
        raise ValueError(
            f"`y_pred` should have shape [batch, {width}] or more columns: two latent vectors of "
            f"{d} dimensions, the sum of `dimensions_per_factor`, and their log-determinants. "
            f"Received: y_pred.shape={tuple(y_pred.shape)}"
        )
    if None not in (y_true.shape[0], y_pred.shape[0]) and y_true.shape[0] != y_pred.shape[0]:
        raise ValueError(
            "`y_true` and `y_pred` should have the same number of instances. Received: "
            f"y_true.shape={tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)}"
        )
    return y_pred[:, :d], y_pred[:, d : 2 * d], y_pred[:, 2 * d], y_pred[:, 2 * d + 1]
