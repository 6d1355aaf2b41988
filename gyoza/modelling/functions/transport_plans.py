"""Pairs of samples of two distributions, as optimal transport makes them."""

import numpy as np
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.tensors import larger, mean, to_rows
from gyoza.typing import Seed, Tensor

__all__ = ["compute_transport_plan", "draw_sources"]

# By which factor each iteration reduces the entropy, until it is as small as it is to be.
_RATE = 0.6


def compute_transport_plan(
    source: Tensor,
    target: Tensor,
    is_allowed: Tensor | None = None,
    entropy: float = 0.002,
    iteration_count: int = 50,
) -> Tensor:
    r"""Computes which part of each source each target gets if transport is to cost the least.

    This is the plan :math:`\pi` with sums of :math:`1 / n` over rows and over columns, which
    minimises

    .. math::
        \sum_{i j} \pi_{i j} c_{i j} + \epsilon \, \bar{c} \sum_{i j} \pi_{i j} \ln \pi_{i j},
        \qquad c_{i j} = \| x_i - y_j \|^2,

    where :math:`\bar{c}` is the mean cost. Both means are subtracted first: the best plan does not
    depend on them. Sinkhorn's iteration scales rows and columns of :math:`\exp(-c_{i j} / \epsilon
    \bar{c})` in turn until both have their sums. It begins with a large :math:`\epsilon`, for which
    it converges soon.

    Args:
        source: The points :math:`x`, `[n, ...]`.
        target: The points :math:`y`, `[n, ...]`.
        is_allowed: Which pairs there can be, booleans `[n, n]`, among them those of a source and a
            target of the same index. All if omitted.
        entropy: The number :math:`\epsilon`, positive. The smaller, the closer to the optimum, and
            the more iterations it takes.
        iteration_count: The number of iterations.

    Returns:
        The logarithms of :math:`n \pi_{i j}`, `[n, n]`. Sums over columns are 1, those over rows as
        far as the iteration has converged.

    Example:

        >>> from gyoza.modelling.functions import compute_transport_plan
        >>> x = keras.ops.array([[0.0], [1.0], [2.0]])
        >>> plan = keras.ops.exp(compute_transport_plan(x, x[::-1] + 5.0))
        >>> keras.ops.convert_to_numpy(plan).round(2)
        array([[0., 0., 1.],
               [0., 1., 0.],
               [1., 0., 0.]], dtype=float32)

    References:
        - Cuturi, M. (2013). "Sinkhorn distances: Lightspeed computation of optimal transport."
          `arXiv:1306.0895 <https://arxiv.org/abs/1306.0895>`_
    """
    x, y = map(_centre, (source, target))
    squares = ops.sum(ops.square(x), axis=-1)[:, None] + ops.sum(ops.square(y), axis=-1)
    cost = squares - 2.0 * ops.matmul(x, ops.transpose(y))
    # A point that is not finite is as far from all others, and makes no other pair NaN.
    cost = ops.where(ops.isfinite(cost), cost, ops.zeros_like(cost))
    average = mean(cost)
    cost = cost / ops.where(average > 0.0, average, ops.ones_like(average))
    if is_allowed is not None:
        cost = ops.where(is_allowed, cost, ops.full_like(cost, np.inf))

    def scale_rows(columns: Tensor, scale: Tensor) -> Tensor:
        return -scale * ops.logsumexp((columns - cost) / scale, axis=1, keepdims=True)

    def advance(index: Tensor, columns: Tensor) -> Tensor:
        scale = larger(_RATE ** ops.cast(index, cost.dtype), entropy)
        rows = scale_rows(columns, scale)
        return -scale * ops.logsumexp((rows - cost) / scale, axis=0)

    columns = repeat(advance, ops.zeros_like(cost[0]), iteration_count)
    log_plan = (scale_rows(columns, entropy) - cost) / entropy
    return log_plan - ops.logsumexp(log_plan, axis=0)


def _centre(points: Tensor) -> Tensor:
    """Returns vectors with a mean of 0, on which the best plan does not depend."""
    vectors = to_rows(points)
    finite = ops.where(ops.isfinite(vectors), vectors, ops.zeros_like(vectors))
    return vectors - mean(finite, 0)


def draw_sources(log_plan: Tensor, seed: Seed) -> Tensor:
    """Draws a source for each target, by the probabilities of a plan.

    Args:
        log_plan: What :func:`compute_transport_plan` returns, `[n, n]`.
        seed: An integer or a `keras.random.SeedGenerator`.

    Returns:
        The indices of sources, `[n]`. On average, each is drawn once.
    """
    uniform = draw_uniform(ops.shape(log_plan), log_plan.dtype, seed)
    # Of exponential waiting times, the shortest is drawn with the probability of its rate.
    waits = larger(-ops.log(1.0 - uniform), 1e-30)
    return ops.argmin(ops.log(waits) - log_plan, axis=0)
