"""Inversion of increasing functions that have no inverse in closed form."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.tensors import larger, smaller
from gyoza.typing import Tensor

__all__ = ["find_root"]


def find_root(
    function: Callable[..., tuple[Tensor, Tensor | Callable[[], Tensor]]],
    lower: Tensor,
    upper: Tensor,
    parameters: Sequence[Tensor] = (),
    magnitudes: Tensor | None = None,
) -> Tensor:
    r"""Finds the root of an increasing function, for each entry by itself.

    A bracket around the root is narrowed where its secant crosses zero, but never less than
    bisection would after one step more (Oliveira & Takahashi 2020), in one compiled loop. What is
    then still wide, around a root that is much closer to zero than the first bracket was long, is
    halved in orders of magnitude, which ends after some 35 further steps (70 in float64) wherever
    the root is. An entry is left alone as soon as its bracket is a few units in the last place long
    or rounding hides the value at an end. So no root depends on the entries beside it.

    The derivatives by the parameters :math:`\theta` are those of a step of Newton's method from the
    root :math:`x_0`, by the implicit function theorem:

    .. math::
        x = x_0 - \frac{f(x_0; \theta)}{f'(x_0; \theta)},

    where :math:`x_0` and :math:`f'` are held constant. Second derivatives are not right.

    Args:
        function: The function :math:`f`. It is called with the points `[...]` and the `parameters`
            and returns the values and the slopes :math:`f'` there, both `[...]`. The slopes can be
            a function without arguments that computes them, since they are needed at the root only.
        lower: Points at or below the roots, `[...]`, in float32 or float64. Numbers beyond a
            quarter of the greatest one are taken for that.
        upper: Points at or above the roots, in the same shape and dtype.
        parameters: The tensors :math:`\theta` that `function` depends on and that can be
            differentiated by. What it depends on otherwise has to be constant.
        magnitudes: The magnitudes of the terms that `function` adds up near the root, `[...]`: the
            rounding error of its values is in proportion to them. With `None`, values count as
            exact.

    Returns:
        The roots, in the shape of `lower`. Where the function has none in the bracket, the end that
        is nearer to it.

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
    precision = np.finfo(keras.backend.standardize_dtype(lower.dtype))
    eps = float(precision.eps)
    # As tensors, since PyTorch's `clip` would round its bounds to float32.
    tiny, limit = (float(size) * ops.ones_like(lower) for size in (precision.tiny, precision.max))
    lower, upper = (
        smaller(limit / 4, larger(-limit / 4, ops.stop_gradient(end))) for end in (lower, upper)
    )
    width = upper - lower
    noise = 0.0 if magnitudes is None else 2 * eps * ops.stop_gradient(magnitudes)
    secant_count = precision.nmant + 8

    def is_left(lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Any:
        size = larger(ops.abs(lower), ops.abs(upper))
        is_wide = upper - lower > larger(tiny, 2 * eps * size)
        return ops.logical_and(is_wide, smaller(-below, above) > noise)

    def narrow(
        step: Any,
        lower: Tensor,
        upper: Tensor,
        below: Tensor,
        above: Tensor,
        reach: Tensor,
        moves: Any,
    ) -> tuple[Any, ...]:
        """Cuts those brackets in two that move, with the values `below` and `above` at the ends."""
        half = (upper - lower) / 2
        rise = above - below
        is_sloping = ops.logical_and(rise > 0, rise < np.inf)
        share = ops.where(is_sloping, -below / ops.where(is_sloping, rise, 1.0), 0.5)
        # How far the secant's root is above the middle, drawn towards it, such that both ends move.
        offset = (2 * share - 1) * half
        drawn = ops.relu(ops.abs(offset) - 0.8 * half * (half / ops.where(width > 0, width, 1.0)))
        # After k steps, half of the bracket is not longer than 2^-k times all of it was.
        distance = smaller(drawn, smaller(ops.relu(reach - half), half))
        crossing = lower + half + ops.where(offset > 0, distance, -distance)
        x = ops.where(step < secant_count, crossing, _halve_magnitudes(lower, upper, tiny))
        values, _ = function(x, *constants)
        is_below = values < 0
        rises, falls = (
            ops.logical_and(moves, which) for which in (is_below, ops.logical_not(is_below))
        )
        ends = (
            ops.where(rises, x, lower),
            ops.where(falls, x, upper),
            ops.where(rises, values, below),
            ops.where(falls, values, above),
        )
        return step + 1, *ends, reach / 2, is_left(*ends)

    below, above = (function(end, *constants)[0] for end in (lower, upper))
    ends = lower, upper, below, above
    _, lower, upper, below, above, *_ = ops.while_loop(
        lambda *state: ops.any(state[-1]),
        narrow,
        (ops.zeros((), "int32"), *ends, width, is_left(*ends)),
        maximum_iterations=2 * precision.nmant + 24,
    )
    x = ops.stop_gradient(ops.where(-below < above, lower, upper))
    values, slopes = function(x, *parameters)
    slopes = slopes() if callable(slopes) else slopes
    # Zero, but for its derivatives, and NaN where parameters are.
    is_infinite = ops.abs(values) == np.inf
    error = ops.where(is_infinite, ops.zeros_like(x), values - ops.stop_gradient(values))
    return x - error / larger(tiny, ops.stop_gradient(slopes))


def _halve_magnitudes(lower: Tensor, upper: Tensor, tiny: Tensor) -> Any:
    """Returns the middle of a bracket in orders of magnitude, or within one in numbers."""
    sizes = [larger(tiny, ops.abs(end)) for end in (lower, upper)]
    small, large = smaller(*sizes), larger(*sizes)
    middle = ops.where(large > 2 * small, ops.sqrt(small) * ops.sqrt(large), (small + large) / 2)
    middle = ops.where(lower < 0, -middle, middle)
    return ops.where(ops.logical_and(lower < 0, upper > 0), ops.zeros_like(middle), middle)
