"""The loss by which the dimensions of latent vectors are assigned to factors."""

from collections.abc import Iterable, Sequence
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
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.normal import LOG_2_PI
from gyoza.typing import DType, Shape, Tensor

__all__ = ["SupervisedFactorLoss"]


@keras.saving.register_keras_serializable(package="gyoza")
class SupervisedFactorLoss(keras.losses.Loss):
    r"""The negative log-likelihood of pairs whose factors have given correlations.

    A :class:`~gyoza.modelling.flow_layers.DisentanglingFlowModel` maps both instances of a pair to
    latent vectors :math:`a` and :math:`b`, with the log-determinants :math:`j_a` and :math:`j_b`.
    Their dimensions are divided among factors. If :math:`\rho_i` is the correlation of the factor
    that dimension :math:`i` belongs to, then :math:`a_i` is taken to be standard normal, and
    :math:`b_i` normal with mean :math:`\rho_i a_i` and variance :math:`1 - \rho_i^2`:

    .. math::
        \ell = \frac{1}{2} \sum_i a_i^2
        + \frac{1}{2} \sum_i \left( \frac{(b_i - \rho_i a_i)^2}{1 - \rho_i^2}
        + \ln (1 - \rho_i^2) \right) - (j_a + j_b).

    This is in nats, without the constant :math:`n \ln 2 \pi` for :math:`n` dimensions per instance
    unless `include_constant` is set. Minimising it draws what the two instances of a pair share,
    and nothing else, into the factor that correlates. Correlations are clipped to
    :math:`\pm (1 - 10^{-6})`, including those that exceed 1 by a rounding error.

    If each pair shares the class of one factor, as in the paper, pass that factor's `correlation`
    here. The target of a pair is then the index :math:`F` of the factor that it shares:

    .. math::
        \rho_i = \begin{cases} \sigma_F & \text{dimension } i \text{ belongs to factor } F \\
        0 & \text{otherwise} \end{cases} \qquad \sigma_0 = 0.

    Args:
        dimensions_per_factor: The number of latent dimensions of each factor, in order. The
            residual factor, which takes all variation that no other factor explains, comes first.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.
        include_constant: Whether to add :math:`n \ln 2 \pi`, so that the loss is the negative
            log-likelihood of a pair, in nats.
        correlation: The correlations :math:`\sigma_F` in [0, 1) of the factors after the residual
            factor, or one number for all of them. If given, `y_true` holds the index of the factor
            that each pair shares, `[batch]` or `[batch, 1]`, where 0, the residual factor, means
            that nothing is shared. If omitted, `y_true` holds correlations.

    Raises:
        TypeError: If `dimensions_per_factor` are not integers.
        ValueError: If `dimensions_per_factor` is empty, negative or all zero, if `correlation`,
            `y_true` or `y_pred` does not fit it, `correlation` is outside [0, 1), or `y_true` holds
            correlations outside [-1, 1] or indices that are out of range. In compiled code, which
            cannot raise errors, the loss of such correlations or indices is NaN.

    Attributes:
        __factor_masks__: A tensor that is 1 where a dimension (column) belongs to a factor (row)
            and 0 elsewhere, `[factor count, dimension count]`.
        __dimensions_per_factor__: The list `dimensions_per_factor`, also available by that name.

    Example:

        >>> loss = gyoza.modelling.losses.SupervisedFactorLoss([1, 1])
        >>> y_true = np.array([[0.0, 0.5]])  # the second factor correlates
        >>> y_pred = np.array([[1.0, 2.0, 0.0, 1.0, 0.25, 0.25]])  # a, b, their log-determinants
        >>> round(float(loss(y_true, y_pred)), 4)
        1.8562

        >>> loss = gyoza.modelling.losses.SupervisedFactorLoss([1, 1], correlation=0.5)
        >>> round(float(loss(np.array([1]), y_pred)), 4)  # factor 1 is shared
        1.8562

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    CORRELATION_MARGIN = 1e-6
    """How far correlations stay away from -1 and 1, where the variance would be 0."""
    ROUNDING_TOLERANCE = 1e-3
    """By how much a correlation of 1 may exceed 1 after rounding, even to half precision."""

    def __init__(
        self,
        dimensions_per_factor: Iterable[int],
        name: str = "supervised_factor_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
        include_constant: bool = False,
        correlation: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.dimensions_per_factor = check_dimensions_per_factor(dimensions_per_factor)
        self.include_constant = include_constant
        self.correlation = correlation
        if correlation is not None:
            self._correlation_of_factor = np.concatenate(
                [[0.0], _check_correlation(correlation, len(self.dimensions_per_factor) - 1)]
            )
        self._factor_of_dimension = index_factors(self.dimensions_per_factor)
        self.__dimensions_per_factor__ = list(self.dimensions_per_factor)
        factors = np.arange(len(self.dimensions_per_factor))
        self.__factor_masks__ = ops.convert_to_tensor(
            factors[:, None] == self._factor_of_dimension, dtype=keras.config.floatx()
        )

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Computes the reduced loss; see :meth:`call`."""
        if isinstance(y_true, np.ndarray | list | tuple):
            self.check_correlations(y_true)
        return super().__call__(y_true, y_pred, sample_weight)

    def check_correlations(self, y_true: Tensor) -> None:
        """Checks targets before they enter compiled code.

        Args:
            y_true: Correlations per pair and factor, `[batch, factor count]`, as an array. Or
                indices of shared factors, if the loss has a `correlation`.

        Raises:
            ValueError: If the shape is wrong, or values are out of range.
        """
        values = np.asarray(y_true)
        self._check_targets(values.shape)
        if self.correlation is not None:
            factor_count = len(self.dimensions_per_factor)
            if not np.all(np.isin(values, np.arange(factor_count))):
                raise ValueError(
                    f"`y_true` should hold indices of factors, integers from 0 to "
                    f"{factor_count - 1}. Received: values from {np.min(values)} to "
                    f"{np.max(values)}"
                )
        elif not np.all(np.abs(values) <= 1 + self.ROUNDING_TOLERANCE):
            raise ValueError(
                "`y_true` should hold correlations from -1 to 1. Received: values from "
                f"{np.min(values)} to {np.max(values)}"
            )

    def _check_targets(self, shape: Shape) -> None:
        if self.correlation is None:
            check_correlation_shape(shape, self.dimensions_per_factor)
        elif len(shape) not in (1, 2) or tuple(shape[1:]) not in ((), (1,)):
            raise ValueError(
                "`y_true` should have shape [batch] or [batch, 1], with the index of the "
                f"factor that a pair shares. Received: y_true.shape={tuple(shape)}"
            )

    def _to_correlations(self, y_true: Tensor) -> Tensor:
        """Returns the correlation per pair and factor, NaN where an index is out of range."""
        if self.correlation is None:
            return y_true
        factors = ops.arange(len(self.dimensions_per_factor), dtype=y_true.dtype)
        is_shared = ops.reshape(y_true, (-1, 1)) == factors
        correlations = ops.convert_to_tensor(self._correlation_of_factor, dtype=y_true.dtype)
        correlations = ops.where(is_shared, correlations, ops.zeros_like(correlations))
        return ops.where(ops.any(is_shared, axis=1, keepdims=True), correlations, np.nan)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each pair.

        Args:
            y_true: Correlations in [-1, 1] per pair and factor, `[batch, factor count]`; usually 0
                for the residual factor, at index 0. Or indices of shared factors, `[batch]` or
                `[batch, 1]`, if the loss has a `correlation`.
            y_pred: Concatenation of latent vectors and log-determinants of the pair, `[a, b, j_a,
                j_b]`, `[batch, 2 * dimension count + 2]`. Further columns are ignored.

        Returns:
            The losses, `[batch]`.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        y_pred = ops.cast(y_pred, at_least_float32(y_pred.dtype))
        y_true = ops.convert_to_tensor(y_true, dtype=y_pred.dtype)
        self._check_targets(y_true.shape)
        z_a, z_b, j_a, j_b = split_pairs(y_true, y_pred, self.dimensions_per_factor)

        limit = 1.0 - self.CORRELATION_MARGIN
        correlations = ops.take(self._to_correlations(y_true), self._factor_of_dimension, axis=1)
        valid = ops.abs(correlations) <= 1.0 + self.ROUNDING_TOLERANCE
        correlations = ops.where(valid, ops.clip(correlations, -limit, limit), np.nan)
        variances = 1.0 - ops.square(correlations)
        prior_a = 0.5 * ops.sum(ops.square(z_a), axis=1)
        prior_b = 0.5 * ops.sum(
            ops.square(z_b - correlations * z_a) / variances + ops.log(variances), axis=1
        )
        constant = len(self._factor_of_dimension) * LOG_2_PI if self.include_constant else 0.0
        return prior_a + prior_b + constant - (j_a + j_b)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {
            **super().get_config(),
            "dimensions_per_factor": list(self.dimensions_per_factor),
            "dtype": self.dtype,
            "include_constant": self.include_constant,
            "correlation": None
            if self.correlation is None
            else np.asarray(self.correlation).tolist(),
        }


def _check_correlation(correlation: float | Sequence[float], count: int) -> np.ndarray:
    """Returns the correlation of each factor after the residual factor."""
    values = np.asarray(correlation, "float64")
    if values.shape not in ((), (count,)) or not np.all((values >= 0.0) & (values < 1.0)):
        raise ValueError(
            f"`correlation` should be a number in [0, 1), or one for each of the {count} factors "
            f"after the residual factor. Received: correlation={correlation}"
        )
    return np.broadcast_to(values, count)
