"""Normal distributions."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_normal
from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.location_scale import LocationScale
from gyoza.modelling.distributions.tools import (
    check_covariance,
    make_constant,
)
from gyoza.modelling.functions.checks import check_finite
from gyoza.modelling.functions.log_odds import normal_log_odds, normal_quantile
from gyoza.modelling.functions.normal import standard_normal_log_density
from gyoza.typing import Seed, Shape, Tensor

__all__ = ["StandardNormal", "DiagonalNormal", "MultivariateNormal"]


@keras.saving.register_keras_serializable(package="gyoza")
class StandardNormal(Distribution):
    r"""The normal distribution with mean 0 and covariance :math:`I`, which has no parameters.

    .. math::
        \ln p(x) = -\frac{1}{2} \sum_{i=1}^n x_i^2 - \frac{n}{2} \ln 2 \pi.

    Args:
        shape: See :class:`Distribution`.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> distribution = gyoza.modelling.distributions.StandardNormal(shape=[2])
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[0.0, 0.0], [1.0, 2.0]])).round(4)
        array([-1.8379, -4.3379], dtype=float32)
        >>> tuple(distribution.sample(3, seed=0).shape)
        (3, 2)
    """

    def compute_log_prob(self, x: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_log_prob`."""
        return ops.sum(standard_normal_log_density(x), axis=-1)

    def draw(self, sample_count: int | Tensor, seed: Seed) -> Tensor:
        """See :meth:`Distribution.draw`."""
        return draw_normal((sample_count, self.dimension_count), self.log_prob_dtype, seed)

    def compute_log_odds(self, x: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_log_odds`."""
        return normal_log_odds(x)[0]

    def compute_quantiles(self, log_odds: Tensor) -> Tensor:
        """See :meth:`Distribution.compute_quantiles`."""
        return normal_quantile(log_odds)


@keras.saving.register_keras_serializable(package="gyoza")
class DiagonalNormal(LocationScale):
    r"""A normal distribution of independent dimensions, with learnt locations and scales.

    .. math::
        \ln p(x) = -\frac{1}{2} \sum_{i=1}^n \left( \frac{x_i - l_i}{s_i} \right)^2
        - \sum_{i=1}^n \ln s_i - \frac{n}{2} \ln 2 \pi.

    Args:
        shape: See :class:`Distribution`.
        location: Initial means :math:`l_i`, a number or an array that broadcasts to `shape`.
        scale: Initial standard deviations :math:`s_i`, positive, likewise.
        **kwargs: Arguments of `keras.Layer`. With `trainable=False`, location and scale stay fixed.

    Raises:
        ValueError: If `location` or `scale` are not finite, do not broadcast to `shape`, or `scale`
            is not positive.

    Attributes:
        location: The weight :math:`l`, with `event_shape`.
        log_scale: The weight :math:`\ln s`, with `event_shape`.

    Example:

        >>> distribution = gyoza.modelling.distributions.DiagonalNormal([2], scale=[1.0, 10.0])
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[1.0, 10.0]])).round(4)
        array([-5.1405], dtype=float32)
        >>> len(distribution.trainable_weights)
        2
    """

    def standard_log_prob(self, z: Tensor) -> Tensor:
        """Computes log-densities of the standard normal distribution, dimension by dimension."""
        return standard_normal_log_density(z)

    def standard_draw(self, shape: Shape, seed: Seed) -> Tensor:
        """Draws standard normal numbers."""
        return draw_normal(shape, self.log_prob_dtype, seed)

    def standard_log_odds(self, z: Tensor) -> Tensor:
        """Computes the log-odds of standard normal numbers."""
        return normal_log_odds(z)[0]

    def standard_quantiles(self, log_odds: Tensor) -> Tensor:
        """Computes the standard normal numbers of log-odds."""
        return normal_quantile(log_odds)


@keras.saving.register_keras_serializable(package="gyoza")
class MultivariateNormal(Distribution):
    r"""A normal distribution with learnt mean :math:`l` and covariance :math:`L L^T`.

    .. math::
        \ln p(x) = -\frac{1}{2} \left\lVert L^{-1} (x - l) \right\rVert^2
        - \sum_{i=1}^n \ln L_{ii} - \frac{n}{2} \ln 2 \pi.

    The factor :math:`L` is lower triangular, and its diagonal is positive by construction. The
    covariance is that of events as vectors, with all axes merged. Densities and samples cost as
    much as a product with a matrix of :math:`n^2` entries.

    Args:
        shape: See :class:`Distribution`.
        location: Initial mean, a number or an array that broadcasts to `shape`.
        covariance: Initial covariance, `[dimension_count, dimension_count]`, symmetric and positive
            definite. The identity if omitted.
        **kwargs: Arguments of `keras.Layer`. With `trainable=False`, mean and covariance stay
            fixed.

    Raises:
        ValueError: If `location` is not finite or does not broadcast to `shape`, or `covariance` is
            not symmetric and positive definite or does not fit `shape`.

    Attributes:
        location: The weight :math:`l`, with `event_shape`.
        lower: The weight whose entries below the diagonal are those of :math:`L`,
            `[dimension_count, dimension_count]`. Its other entries are not used.
        log_diagonal: The weight :math:`\ln L_{ii}`, `[dimension_count]`.

    Example:

        >>> distribution = gyoza.modelling.distributions.MultivariateNormal(
        ...     shape=[2], covariance=[[1.0, 0.5], [0.5, 1.0]]
        ... )
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[1.0, 1.0], [1.0, -1.0]])).round(4)
        array([-2.3607, -3.694 ], dtype=float32)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        location: Tensor = 0.0,
        covariance: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self._initial_location = check_finite("location", location)
        self._initial_covariance = None if covariance is None else check_covariance(covariance)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the mean and the triangular factor of the covariance."""
        count = self.dimension_count
        covariance = np.eye(count) if self._initial_covariance is None else self._initial_covariance
        if covariance.shape != (count, count):
            raise ValueError(
                f"`covariance` should have shape {(count, count)} for events of shape "
                f"{self._event_shape}. Received: covariance.shape={covariance.shape}"
            )
        cholesky = np.linalg.cholesky(covariance)
        self.location = self._add_parameter("location", (), self._initial_location)
        self.lower = self.add_weight(
            shape=(count, count),
            initializer=make_constant("covariance", np.tril(cholesky, -1), (count, count)),
            name="lower",
            autocast=False,
        )
        self.log_diagonal = self.add_weight(
            shape=(count,),
            initializer=make_constant("covariance", np.log(np.diagonal(cholesky)), (count,)),
            name="log_diagonal",
            autocast=False,
        )

    def _get_factor(self, changes: dict[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Returns the factor and the logarithm of its diagonal."""
        count = self.dimension_count
        log_diagonal = self._parameter(self.log_diagonal, changes)
        lower = ops.tril(self._parameter(self.lower, changes, (count, count)), k=-1)
        identity = ops.eye(count, dtype=self.log_prob_dtype)
        return lower + identity * ops.exp(log_diagonal)[..., None, :], log_diagonal

    @property
    def cholesky(self) -> Tensor:
        """The factor :math:`L`, `[dimension_count, dimension_count]`."""
        return self._get_factor(None)[0]

    @property
    def covariance(self) -> Tensor:
        """The covariance :math:`L L^T`, `[dimension_count, dimension_count]`."""
        cholesky = self.cholesky
        return cholesky @ ops.transpose(cholesky)

    def compute_log_prob(self, x: Tensor, changes: dict[str, Tensor] | None = None) -> Tensor:
        """See :meth:`Distribution.compute_log_prob`."""
        cholesky, log_diagonal = self._get_factor(changes)
        centred = x - self._parameter(self.location, changes)
        if changes is None:
            z = ops.transpose(ops.solve_triangular(cholesky, ops.transpose(centred), lower=True))
        else:
            z = ops.solve_triangular(cholesky, centred[..., None], lower=True)[..., 0]
        return ops.sum(standard_normal_log_density(z) - log_diagonal, axis=-1)

    def draw(
        self, sample_count: int | Tensor, seed: Seed, changes: dict[str, Tensor] | None = None
    ) -> Tensor:
        """See :meth:`Distribution.draw`."""
        z = draw_normal((sample_count, self.dimension_count), self.log_prob_dtype, seed)
        cholesky, _ = self._get_factor(changes)
        location = self._parameter(self.location, changes)
        if changes is None:
            return location + z @ ops.transpose(cholesky)
        return location + (cholesky @ z[..., None])[..., 0]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        covariance = self._initial_covariance
        return {
            **super().get_config(),
            "location": self._initial_location.tolist(),
            "covariance": None if covariance is None else covariance.tolist(),
        }
