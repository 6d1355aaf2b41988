"""What metrics that sum up moments have in common."""

from keras import backend

from gyoza.typing import Tensor

__all__ = ["are_rounding_errors"]


def are_rounding_errors(variances: Tensor, squares: Tensor, noise: float) -> Tensor:
    """Returns whether variances are nothing but rounding errors, which NaN is not.

    Args:
        variances: Differences of mean squares and squared means.
        squares: The mean squares.
        noise: The share of them up to which that is so in float32. In float64, it is its square.
    """
    if backend.standardize_dtype(variances.dtype) == "float64":
        noise = noise**2
    return variances <= noise * squares
