"""Means, covariances and principal axes of data that come in batches, with NumPy in float64."""

from collections.abc import Iterable

import numpy as np

from gyoza.typing import Array

__all__ = ["measure_spread", "diagonalise", "find_axes", "fix_signs"]


def measure_spread(batches: Iterable[Array]) -> tuple[Array, Array, float]:
    """Measures vectors that come in batches.

    Args:
        batches: Arrays, `[instances, size]`.

    Returns:
        The mean `[size]`, the covariance `[size, size]`, and the mean fourth power of the length
        of centred vectors, each centred by the mean of the batches up to its own.

    Raises:
        ValueError: If there are no vectors, or they are not finite, or all the same.
    """
    count, fourth = 0, 0.0
    mean, scatter = np.zeros(1), np.zeros((1, 1))
    for batch in batches:
        batch_mean = batch.mean(axis=0)
        centred = batch - batch_mean
        gap, total = batch_mean - mean, count + len(batch)
        scatter = scatter + centred.T @ centred + np.outer(gap, gap) * count * len(batch) / total
        mean = mean + gap * len(batch) / total
        fourth += np.sum(np.sum((batch - mean) ** 2, axis=1) ** 2)
        count = total
    if count == 0:
        raise ValueError("`data` should hold at least one instance. Received: no instance")
    variance = np.trace(scatter) / count
    if not np.all(np.isfinite(scatter)) or not variance > 0.0:
        raise ValueError(
            "Data should hold finite numbers, not all the same. "
            f"Received: a total variance of {variance}"
        )
    return mean, scatter / count, fourth / count


def diagonalise(matrix: Array) -> tuple[Array, Array]:
    """Returns the eigenvalues of a symmetric matrix, descending, and eigenvectors as columns."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1], vectors[:, ::-1]


def find_axes(matrix: Array) -> tuple[Array, Array]:
    """Returns the same as :func:`diagonalise`, with the signs of :func:`fix_signs`."""
    values, vectors = diagonalise(matrix)
    return values, fix_signs(vectors)


def fix_signs(columns: Array) -> Array:
    """Flips the signs of columns so that the largest entry of each is positive."""
    if not columns.size:
        return columns
    largest = columns[np.argmax(np.abs(columns), axis=0), np.arange(columns.shape[1])]
    return columns * np.where(largest < 0.0, -1.0, 1.0)
