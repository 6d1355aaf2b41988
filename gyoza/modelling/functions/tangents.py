"""The hyperbolic tangent, in the precision of its argument on every backend."""

from keras import ops

from gyoza.typing import Tensor

__all__ = ["tanh_and_slope"]


def tanh_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the hyperbolic tangent and its derivative.

    On JAX, `keras.ops.tanh` would round float64 to float32. The derivative keeps its digits where
    the tangent saturates.

    Args:
        x: Numbers, `[...]`.

    Returns:
        The tangents and their derivatives, `[...]`.
    """
    rising, falling = ops.sigmoid(2.0 * x), ops.sigmoid(-2.0 * x)
    return rising - falling, 4.0 * rising * falling
