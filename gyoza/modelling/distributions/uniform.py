"""The uniform distribution."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.tools import (
    make_constant,
)
from gyoza.modelling.functions.checks import check_finite
from gyoza.typing import Seed, Tensor

__all__ = ["Uniform"]


@keras.saving.register_keras_serializable(package="gyoza")
class Uniform(Distribution):
    r"""The uniform distribution on a box, which has no weights.

    .. math::
        \ln p(x) = -\sum_i \ln (b_i - a_i) \quad \text{if } a_i \le x_i \le b_i \text{ for all } i,
        \qquad -\infty \text{ otherwise.}

    The gradient with respect to `x` is 0, inside the box and outside. A flow to this distribution
    should therefore end in a layer whose outputs are inside the box whatever its inputs are.

    Args:
        shape: See :class:`Distribution`.
        low: Lower bounds :math:`a_i`, a number or an array that broadcasts to `shape`.
        high: Upper bounds :math:`b_i`, likewise.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the bounds are not finite, do not broadcast to `shape`, or `low` is not below
            `high`.

    Example:

        >>> distribution = gyoza.modelling.distributions.Uniform([2], low=-1.0, high=1.0)
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[0.5, 0.5], [0.5, 1.5]])).round(4)
        array([-1.3863,    -inf], dtype=float32)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        low: Tensor = 0.0,
        high: Tensor = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self._low = check_finite("low", low)
        self._high = check_finite("high", high)
        if not np.all(self._low < self._high):
            raise ValueError(f"`low` should be less than `high`. Received: low={low}, high={high}")
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates no weights, but checks that the bounds fit the shape."""
        for name, bound in (("low", self._low), ("high", self._high)):
            make_constant(name, bound, self._event_shape or ())

    def _bound(self, bound: np.ndarray) -> Tensor:
        vector = np.broadcast_to(bound, self._event_shape or ()).reshape(-1)
        return ops.convert_to_tensor(vector, dtype=self.log_prob_dtype)

    def compute_log_prob(self, x: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_log_prob`."""
        low, high = self._bound(self._low), self._bound(self._high)
        inside = ops.logical_and(x >= low, x <= high)
        log_prob = ops.where(inside, -ops.log(high - low), ops.full_like(x, -math.inf))
        # NaN is neither inside nor outside.
        return ops.sum(ops.where(ops.isnan(x), x, log_prob), axis=-1)

    def draw(self, sample_count: int | Tensor, seed: Seed) -> Tensor:
        """See :meth:`Distribution.draw`."""
        low, high = self._bound(self._low), self._bound(self._high)
        shape = (sample_count, self.dimension_count)
        vectors = low + (high - low) * draw_uniform(shape, self.log_prob_dtype, seed)
        return ops.where(vectors < high, vectors, high)  # rounding could go beyond

    def compute_log_odds(self, x: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_log_odds`."""
        low, high = self._bound(self._low), self._bound(self._high)
        x = ops.clip(x, low, high)
        return ops.log(x - low) - ops.log(high - x)

    def compute_quantiles(self, log_odds: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_quantiles`."""
        low, high = self._bound(self._low), self._bound(self._high)
        return low * ops.sigmoid(-log_odds) + high * ops.sigmoid(log_odds)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {**super().get_config(), "low": self._low.tolist(), "high": self._high.tolist()}
