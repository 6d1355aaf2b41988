"""Inversion of increasing functions that have no inverse in closed form."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from gyoza.typing import Tensor

__all__ = ["find_root"]


def find_root(
    function: Callable[..., tuple[Tensor, Tensor]],
    lower: Tensor,
    upper: Tensor,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    r"""Finds the root of an increasing function, for each entry by itself.

    A bracket around the root is narrowed where its secant crosses zero, but never less than
    bisection would after one step more (Oliveira & Takahashi 2020), in one compiled loop. In what
    is left, a step of Newton's method gives the last digits :math:`x_0`, and another one,

    .. math::
        x = x_0 - \frac{f(x_0; \theta)}{f'(x_0; \theta)},

    the derivatives of :math:`x` by the parameters :math:`\theta`, by the implicit function theorem:
    :math:`x_0` and :math:`f'` are held constant. Second derivatives are not right.

    Args:
        function: The function :math:`f`. It is called with the points `[...]` and the `parameters`
            and returns the values and the slopes :math:`f'` there, both `[...]`.
        lower: Points at or below the roots, `[...]`, in float32 or float64.
        upper: Points at or above the roots, in the same shape and dtype.
        parameters: The tensors :math:`\theta` that `function` depends on and that can be
            differentiated by. What it depends on otherwise has to be constant.

    Returns:
        The roots, in the shape of `lower`.

    Example:

        >>> from gyoza.modelling.functions import find_root
        >>> def cube(x, target):
        ...     return x**3 - target, 3 * x**2
        >>> target = keras.ops.array([8.0, 27.0])
        >>> roots = find_root(cube, 0 * target, 1 + target, [target])
        >>> keras.ops.convert_to_numpy(roots).round(4)
        array([2., 3.], dtype=float32)

    References:
        - Oliveira, I. F. D. & Takahashi, R. H. C. (2020). "An enhancement of the bisection method
          average performance preserving minmax optimality." ACM Transactions on Mathematical
          Software 47(1), 1-24.
    """
    constants = [ops.stop_gradient(parameter) for parameter in parameters]
    lower, upper = ops.stop_gradient(lower), ops.stop_gradient(upper)
    width = upper - lower
    precision = np.finfo(keras.backend.standardize_dtype(lower.dtype))
    tolerance = float(precision.eps) * (ops.abs(lower) + ops.abs(upper))

    def is_wide(lower: Tensor, upper: Tensor, *_: Tensor) -> Tensor:
        return ops.any(upper - lower > tolerance)

    def narrow(
        lower: Tensor, upper: Tensor, below: Tensor, above: Tensor, reach: Tensor
    ) -> tuple[Tensor, ...]:
        """Cuts the bracket, where the function has the values `below` and `above`, in two."""
        half = (upper - lower) / 2
        rise = above - below
        share = ops.where(rise > 0, -below / ops.where(rise > 0, rise, ops.ones_like(rise)), 0.5)
        # How far the secant's root is above the middle, drawn towards it, such that both ends move.
        offset = (2 * share - 1) * half
        drawn = ops.relu(ops.abs(offset) - 0.8 * half * half / ops.where(width > 0, width, 1.0))
        # After k steps, half of the bracket is not longer than 2^-k times all of it was.
        limit = ops.relu(reach - half)
        limit = ops.where(limit < half, limit, half)
        distance = ops.where(drawn < limit, drawn, limit)
        x = lower + half + ops.where(offset > 0, distance, -distance)
        values, _ = function(x, *constants)
        is_below = values < 0
        return (
            ops.where(is_below, x, lower),
            ops.where(is_below, upper, x),
            ops.where(is_below, values, below),
            ops.where(is_below, above, values),
            reach / 2,
        )

    below, above = (function(end, *constants)[0] for end in (lower, upper))
    lower, upper, *_ = ops.while_loop(
        is_wide,
        narrow,
        (lower, upper, below, above, width),
        maximum_iterations=precision.nmant + 8,
    )
    x = lower + (upper - lower) / 2
    values, slopes = function(x, *constants)
    x = ops.stop_gradient(ops.clip(x - values / slopes, lower, upper))
    values, slopes = function(x, *parameters)
    return x - values / ops.stop_gradient(slopes)
