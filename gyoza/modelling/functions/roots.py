"""Inversion of increasing functions that have no inverse in closed form."""

from collections.abc import Callable, Sequence

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
    r"""Finds the root of an increasing function, elementwise.

    A bracket around the root is cut where the inverse parabola through the last three points
    crosses zero, or in two where the function bends too much for one (Chandrupatla 1997), in one
    compiled loop. What is still wide after as many steps as bisection takes, around a root that is
    much closer to zero than the first bracket was long, is halved in orders of magnitude, which
    ends after some 35 further steps (70 in float64) wherever the root is. An element is left alone
    as soon as its bracket is a few units in the last place long or rounding hides the value at an
    end. No root depends on the other elements.

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
        - Chandrupatla, T. R. (1997). "A new hybrid quadratic/bisection algorithm for finding the
          zero of a nonlinear function without using derivatives." Advances in Engineering Software
          28(3), 145-149.
    """
    constants = [ops.stop_gradient(parameter) for parameter in parameters]
    precision = np.finfo(keras.backend.standardize_dtype(lower.dtype))
    eps = float(precision.eps)
    # As tensors, since PyTorch's `clip` would round its bounds to float32.
    tiny, limit = (float(size) * ops.ones_like(lower) for size in (precision.tiny, precision.max))
    lower, upper = (
        smaller(limit / 4, larger(-limit / 4, ops.stop_gradient(end))) for end in (lower, upper)
    )
    noise = 0.0 if magnitudes is None else 2 * eps * ops.stop_gradient(magnitudes)
    parabola_count = precision.nmant + 8

    def measure_digit(x_1: Tensor, x_2: Tensor) -> Tensor:
        return larger(tiny, eps * larger(ops.abs(x_1), ops.abs(x_2)))

    def is_left(x_1: Tensor, x_2: Tensor, f_1: Tensor, f_2: Tensor) -> Tensor:
        is_wide = ops.abs(x_2 - x_1) > 2 * measure_digit(x_1, x_2)
        return ops.logical_and(is_wide, smaller(-smaller(f_1, f_2), larger(f_1, f_2)) > noise)

    def narrow(
        step: Tensor,
        x_1: Tensor,
        x_2: Tensor,
        x_3: Tensor,
        f_1: Tensor,
        f_2: Tensor,
        f_3: Tensor,
        moves: Tensor,
    ) -> tuple[Tensor, ...]:
        """Cuts those brackets in two that move: from the last point to one of the other sign."""
        share = _cross_zero(x_1, x_2, x_3, f_1, f_2, f_3)
        # At least by one digit, so that both ends come close to the root.
        least = measure_digit(x_1, x_2) / ops.where(moves, ops.abs(x_2 - x_1), 1.0)
        crossing = x_1 + smaller(1 - least, larger(least, share)) * (x_2 - x_1)
        middle = _halve_magnitudes(smaller(x_1, x_2), larger(x_1, x_2), tiny)
        x = ops.where(step < parabola_count, crossing, middle)
        values, _ = function(x, *constants)
        replaces = ops.equal(values < 0, f_1 < 0)
        points = x, ops.where(replaces, x_2, x_1), ops.where(replaces, x_1, x_2)
        levels = values, ops.where(replaces, f_2, f_1), ops.where(replaces, f_1, f_2)
        state = [
            ops.where(moves, new, old)
            for new, old in zip((*points, *levels), (x_1, x_2, x_3, f_1, f_2, f_3), strict=True)
        ]
        return step + 1, *state, is_left(*state[:2], *state[3:5])

    below, above = (function(end, *constants)[0] for end in (lower, upper))
    _, x_1, x_2, _, f_1, f_2, *_ = ops.while_loop(
        lambda *state: ops.any(state[-1]),
        narrow,
        (
            ops.zeros((), "int32"),
            *(upper, lower, upper),
            *(above, below, above),
            is_left(upper, lower, above, below),
        ),
        maximum_iterations=2 * precision.nmant + 24,
    )
    x = ops.stop_gradient(ops.where(ops.abs(f_2) < ops.abs(f_1), x_2, x_1))
    values, slopes = function(x, *parameters)
    slopes = slopes() if callable(slopes) else slopes
    # Zero, but for its derivatives, and NaN where parameters are.
    is_infinite = ops.abs(values) == np.inf
    error = ops.where(is_infinite, ops.zeros_like(x), values - ops.stop_gradient(values))
    return x - error / larger(tiny, ops.stop_gradient(slopes))


def _cross_zero(
    x_1: Tensor, x_2: Tensor, x_3: Tensor, f_1: Tensor, f_2: Tensor, f_3: Tensor
) -> Tensor:
    """Returns which share of the way from the first to the second of three points to go.

    That is where the inverse parabola through them crosses zero, if it is monotonic between them.
    """
    place, level = (x_1 - x_2) / (x_3 - x_2), (f_1 - f_2) / (f_3 - f_2)
    is_monotonic = ops.logical_and(level**2 < place, (1 - level) ** 2 < 1 - place)
    of_third = (x_3 - x_1) / (x_2 - x_1) * (f_1 / (f_3 - f_1)) * (f_2 / (f_3 - f_2))
    share = f_1 / (f_2 - f_1) * (f_3 / (f_2 - f_3)) + of_third
    return ops.where(is_monotonic, share, 0.5)


def _halve_magnitudes(lower: Tensor, upper: Tensor, tiny: Tensor) -> Tensor:
    """Returns the middle of a bracket in orders of magnitude, or within one in numbers."""
    sizes = [larger(tiny, ops.abs(end)) for end in (lower, upper)]
    small, large = smaller(*sizes), larger(*sizes)
    middle = ops.where(large > 2 * small, ops.sqrt(small) * ops.sqrt(large), (small + large) / 2)
    middle = ops.where(lower < 0, -middle, middle)
    return ops.where(ops.logical_and(lower < 0, upper > 0), ops.zeros_like(middle), middle)
