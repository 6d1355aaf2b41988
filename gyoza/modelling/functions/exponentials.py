"""Exponentials and logarithms without cancellation, of operations that ONNX has, too."""

import math

from keras import ops

from gyoza.typing import Tensor

__all__ = ["expm1", "log1p", "exponential_ratio", "scaled_log1p"]

# Below this, series are summed: the closed forms, and even more their derivatives, are differences
# of nearly equal numbers. The series are exact to the last digit of float64 there.
_SMALL = 0.3


def _split(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns whether numbers are small, and numbers that are safe in the branches for either."""
    is_small = ops.abs(z) < _SMALL
    zeros = ops.zeros_like(z)
    return is_small, ops.where(is_small, z, zeros), ops.where(is_small, zeros + 1, z)


def _exponential_series(z: Tensor) -> Tensor:
    series = ops.zeros_like(z)
    for k in range(13, 0, -1):
        series = series * z + 1 / math.factorial(k)
    return series


def _logarithm_series(z: Tensor) -> Tensor:
    """Sums 2 / (2 + z) arctanh(s) / s for s = z / (2 + z)."""
    squared = ops.square(z / (2 + z))
    series = ops.zeros_like(z)
    for k in range(21, 0, -2):
        series = series * squared + 1 / k
    return 2 / (2 + z) * series


def expm1(z: Tensor) -> Tensor:
    """Computes exp(z) - 1.

    Args:
        z: Numbers, `[...]`, in float32 or float64.

    Returns:
        The results, `[...]`.
    """
    is_small, small, large = _split(z)
    return ops.where(is_small, small * _exponential_series(small), ops.exp(large) - 1)


def log1p(z: Tensor) -> Tensor:
    """Computes ln(1 + z).

    Args:
        z: Numbers, `[...]`, in float32 or float64.

    Returns:
        The results, `[...]`.
    """
    is_small, small, large = _split(z)
    return ops.where(is_small, small * _logarithm_series(small), ops.log(1 + large))


def exponential_ratio(z: Tensor) -> Tensor:
    """Computes (exp(z) - 1) / z, which is 1 for z = 0.

    Args:
        z: Numbers, `[...]`, in float32 or float64.

    Returns:
        The results, `[...]`.
    """
    is_small, small, large = _split(z)
    return ops.where(is_small, _exponential_series(small), (ops.exp(large) - 1) / large)


def scaled_log1p(x: Tensor, factor: Tensor) -> Tensor:
    """Computes ln(1 + f x) / f, which is x for f = 0.

    Args:
        x: Numbers, `[...]`, in float32 or float64.
        factor: The factors f, `[...]`.

    Returns:
        The results, `[...]`.
    """
    is_small, small, large = _split(x * factor)
    divisors = ops.where(is_small, ops.ones_like(large), factor)
    # Not x times a ratio: a product of x and the ratio's derivative would overflow for large x.
    return ops.where(is_small, x * _logarithm_series(small), ops.log(1 + large) / divisors)
