"""The hyperbolic tangent and its derivative, with their digits where it saturates."""

from keras import ops

from gyoza import backend
from gyoza.typing import Tensor

__all__ = ["tanh", "tanh_and_slope"]


def tanh(x: Tensor) -> Tensor:
    """Computes the hyperbolic tangent, whose derivative keeps its digits for large numbers, too.

    XLA's is rounded to one too early.

    Args:
        x: Numbers, `[...]`.

    Returns:
        The tangents, `[...]`.
    """
    is_positive = x >= 0
    size = ops.where(is_positive, x, -x)
    large = 1.0 - 2.0 * ops.sigmoid(-2.0 * size)
    return ops.where(size < 0.5, backend.tanh(x), ops.where(is_positive, large, -large))


def tanh_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the hyperbolic tangent and its derivative.

    Args:
        x: Numbers, `[...]`.

    Returns:
        The tangents and their derivatives, `[...]`.
    """
    return tanh(x), 4.0 * ops.sigmoid(2.0 * x) * ops.sigmoid(-2.0 * x)
