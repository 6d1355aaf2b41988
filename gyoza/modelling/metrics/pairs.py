"""How much the instances of pairs correlate in each factor."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.factors import (
    check_correlation_shape,
    check_dimensions_per_factor,
    index_factors,
    split_pairs,
)
from gyoza.modelling.metrics.moments import are_rounding_errors
from gyoza.typing import Tensor

__all__ = ["PairCorrelation"]


@keras.saving.register_keras_serializable(package="gyoza")
class PairCorrelation(keras.metrics.Metric):
    r"""The correlations of pairs in each factor, compared with those requested.

    For the pairs :math:`(a, b)` that should correlate in factor :math:`F`, with :math:`y_F \neq 0`,
    the correlation in the block of factor :math:`G` is the mean over its dimensions:

    .. math::
        r_{FG} = \frac{1}{|G|} \sum_{i \in G}
        \frac{\operatorname{cov}_F(a_i, b_i)}{\sqrt{\operatorname{var}_F(a_i)
        \operatorname{var}_F(b_i)}}.

    :meth:`matrix` returns all of them. The result, which `fit` shows, is the mean of
    :math:`|r_{FG} - \bar y_{FG}|`, where :math:`\bar y_{FG}` is the mean correlation in :math:`G`
    that is requested of the same pairs. It is 0 if factors are disentangled as requested.

    Pass it to `compile(metrics=[...])` of a
    :class:`~gyoza.modelling.flow_layers.DisentanglingFlowModel`. Statistics are sums over all
    batches since the last reset; a dimension that does not vary counts as uncorrelated.

    Args:
        dimensions_per_factor: The number of latent dimensions of each factor, the residual factor
            first, as in :class:`~gyoza.modelling.losses.SupervisedFactorLoss`.
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Raises:
        TypeError: If `dimensions_per_factor` are not integers.
        ValueError: If `dimensions_per_factor` is empty, negative or all zero, or if `y_true` or
            `y_pred` does not fit it.

    Example:

        >>> random = np.random.default_rng(0)
        >>> a = random.normal(size=[1000, 2])
        >>> b = np.stack([random.normal(size=1000), a[:, 1]], axis=1)  # share the second
        >>> metric = gyoza.modelling.metrics.PairCorrelation([1, 1])
        >>> y_pred = np.concatenate([a, b, np.zeros([1000, 2])], axis=1)
        >>> metric.update_state(np.tile([0.0, 1.0], [1000, 1]), y_pred)
        >>> print(abs(metric.matrix()[1].round(1)))  # of pairs that share the second
        [0. 1.]
    """

    NOISE = 1e-6
    """A variance below this share of the mean square, squared in float64, is a rounding error."""

    def __init__(
        self,
        dimensions_per_factor: Iterable[int],
        name: str = "pair_correlation",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.dimensions_per_factor = check_dimensions_per_factor(dimensions_per_factor)
        factor_count, d = len(self.dimensions_per_factor), sum(self.dimensions_per_factor)
        self._sums = self.add_variable(
            shape=(factor_count, 1 + factor_count + 5 * d),
            initializer="zeros",
            dtype=self.dtype,
            name="sums",
        )
        factors = index_factors(self.dimensions_per_factor)
        members = factors[:, None] == np.arange(factor_count)
        self._has_dimensions = members.any(axis=0)
        self._means_of_blocks = members / np.maximum(members.sum(axis=0), 1)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Takes a batch of pairs into account.

        Args:
            y_true: Correlations in [-1, 1] per pair and factor, `[batch, factor count]`.
            y_pred: Concatenation of latent vectors and log-determinants of the pair, `[a, b, j_a,
                j_b]`, `[batch, 2 * dimension count + 2]`. Further columns are ignored.
            sample_weight: Weights, `[batch]`.
        """
        y_true = ops.convert_to_tensor(y_true, dtype=self.dtype)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        check_correlation_shape(y_true.shape, self.dimensions_per_factor)
        a, b, _, _ = split_pairs(y_true, y_pred, self.dimensions_per_factor)
        weights = ops.cast(ops.not_equal(y_true, 0), self.dtype)
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            weights *= ops.reshape(sample_weight, [-1, 1])
        terms = [ops.ones_like(a[:, :1]), y_true, a, b, a * a, b * b, a * b]
        self._sums.assign_add(ops.transpose(weights) @ ops.concatenate(terms, axis=1))

    def _compute_matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Computes realised and requested correlations, and which of them exist."""
        factor_count = len(self.dimensions_per_factor)
        sums = ops.convert_to_tensor(self._sums)
        exist = ops.logical_and(sums[:, :1] > 0, self._has_dimensions)
        means = sums[:, 1:] / ops.where(sums[:, :1] > 0, sums[:, :1], 1.0)
        requested, moments = means[:, :factor_count], means[:, factor_count:]
        a, b, aa, bb, ab = ops.split(moments, 5, axis=1)
        variance_a, variance_b = aa - a * a, bb - b * b
        constant = ops.logical_or(
            are_rounding_errors(variance_a, aa, self.NOISE),
            are_rounding_errors(variance_b, bb, self.NOISE),
        )
        scales = ops.sqrt(ops.where(constant, 1.0, variance_a * variance_b))
        correlations = ops.where(constant, 0.0, (ab - a * b) / scales)
        means_of_blocks = ops.convert_to_tensor(self._means_of_blocks, dtype=self.dtype)
        return correlations @ means_of_blocks, requested, exist

    def result(self) -> Tensor:
        """Computes the mean distance of realised from requested correlations, 0 without pairs."""
        realised, requested, exist = self._compute_matrices()
        count = ops.sum(ops.cast(exist, self.dtype))
        distances = ops.where(exist, ops.abs(realised - requested), 0.0)
        return ops.sum(distances) / ops.where(count > 0, count, 1.0)

    def matrix(self) -> np.ndarray:
        """Computes the realised correlations.

        Returns:
            A matrix, `[factor count, factor count]`. Entry [F, G] is the correlation, in the block
            of factor G, of the pairs that should correlate in F. It is NaN if there are no such
            pairs, as is usual in row 0, that of the residual factor, or if the block is empty.
        """
        realised, _, exist = self._compute_matrices()
        return np.where(ops.convert_to_numpy(exist), ops.convert_to_numpy(realised), np.nan)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal metric."""
        return {
            **super().get_config(),
            "dimensions_per_factor": list(self.dimensions_per_factor),
        }
