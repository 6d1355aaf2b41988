"""Distributions with heavier tails than the normal distribution."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import cos_and_sin
from gyoza.modelling.distributions.location_scale import LocationScale
from gyoza.modelling.distributions.tools import (
    draw_open_uniform,
    log1p_square,
    log_gamma_step,
)
from gyoza.modelling.functions.checks import check_finite
from gyoza.modelling.functions.logistic import logistic_log_density
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.tensors import smaller
from gyoza.typing import Seed, Shape, Tensor

__all__ = ["Logistic", "StudentT"]

# From this many degrees of freedom on, the t-distribution is normal, as far as numbers can tell.
_NORMAL = 1e12


@keras.saving.register_keras_serializable(package="gyoza")
class Logistic(LocationScale):
    r"""A logistic distribution of independent dimensions, with learnt locations and scales.

    .. math::
        \ln p(x) = \sum_i \left( -z_i - 2 \ln \left( 1 + e^{-z_i} \right) - \ln s_i \right), \qquad
        z_i = \frac{x_i - l_i}{s_i}.

    Its tails are heavier than those of the normal distribution, and its cumulative distribution is
    the sigmoid of :math:`z`.

    Args:
        shape: See :class:`Distribution`.
        location: Initial means :math:`l_i`, a number or an array that broadcasts to `shape`.
        scale: Initial scales :math:`s_i`, positive, likewise. The standard deviation is
            :math:`\pi s_i / \sqrt{3}`.
        **kwargs: Arguments of `keras.Layer`. With `trainable=False`, location and scale stay fixed.

    Raises:
        ValueError: If `location` or `scale` are not finite, do not broadcast to `shape`, or `scale`
            is not positive.

    Attributes:
        location: The weight :math:`l`, with `event_shape`.
        log_scale: The weight :math:`\ln s`, with `event_shape`.

    Example:

        >>> distribution = gyoza.modelling.distributions.Logistic(shape=[1])
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[0.0], [1000.0]])).round(4)
        array([   -1.3863, -1000.    ], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
    """

    def standard_log_prob(self, z: Tensor) -> Tensor:
        """Computes log-densities of the standard logistic distribution, dimension by dimension."""
        return logistic_log_density(z)

    def standard_draw(self, shape: Shape, seed: Seed) -> Tensor:
        """Draws standard logistic numbers, by the inverse of the cumulative distribution."""
        uniform = draw_open_uniform(shape, self.log_prob_dtype, seed)
        return ops.log(uniform) - ops.log1p(-uniform)

    def standard_log_odds(self, z: Tensor) -> Tensor:
        """Returns standard logistic numbers, which are their own log-odds."""
        return z

    def standard_quantiles(self, log_odds: Tensor) -> Tensor:
        """Returns log-odds, which are standard logistic numbers."""
        return log_odds


@keras.saving.register_keras_serializable(package="gyoza")
class StudentT(LocationScale):
    r"""A Student t-distribution of independent dimensions, with learnt degrees of freedom.

    .. math::
        \ln p(x) = \sum_i \left( \ln \frac{\Gamma \left( \frac{\nu_i + 1}{2} \right)}
        {\Gamma \left( \frac{\nu_i}{2} \right) \sqrt{\pi \nu_i}} - \frac{\nu_i + 1}{2} \ln \left( 1
        + \frac{z_i^2}{\nu_i} \right) - \ln s_i \right), \qquad z_i = \frac{x_i - l_i}{s_i}.

    A flow of bounded stretch cannot make its base distribution's tails heavier, so data with heavy
    tails, or with outliers, ask for a base distribution such as this one. Samples are drawn by
    Bailey's polar method, and are differentiable with respect to the degrees of freedom, too. With
    few degrees of freedom, samples can be larger than the dtype holds, and are clipped there.

    Args:
        shape: See :class:`Distribution`.
        location: Initial locations :math:`l_i`, a number or an array that broadcasts to `shape`.
        scale: Initial scales :math:`s_i`, positive, likewise.
        degrees_of_freedom: Initial degrees of freedom :math:`\nu_i`, above `MINIMUM`, likewise.
        **kwargs: Arguments of `keras.Layer`. With `trainable=False`, all parameters stay fixed.

    Raises:
        ValueError: If the parameters are not finite, do not broadcast to `shape`, `scale` is not
            positive, or `degrees_of_freedom` are not above `MINIMUM`.

    Attributes:
        MINIMUM: The degrees of freedom stay above this value, 0.01.
        location: The weight :math:`l`, with `event_shape`.
        log_scale: The weight :math:`\ln s`, with `event_shape`.
        raw_degrees_of_freedom: The weight whose softplus is :math:`\nu` less `MINIMUM`, with
            `event_shape`.

    Example:

        >>> distribution = gyoza.modelling.distributions.StudentT([1], degrees_of_freedom=1.0)
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[0.0], [1000.0]])).round(4)
        array([ -1.1447, -14.9602], dtype=float32)

    References:
        - Jaini, P., Kobyzev, I., Yu, Y. & Brubaker, M. (2020). "Tails of Lipschitz triangular
          flows." `arXiv:1907.04481 <https://arxiv.org/abs/1907.04481>`_
        - Alexanderson, S. & Henter, G. E. (2020). "Robust model training and generalisation with
          Studentising flows." `arXiv:2006.06599 <https://arxiv.org/abs/2006.06599>`_
        - Bailey, R. W. (1994). "Polar generation of random variates with the t-distribution."
          Mathematics of Computation 62(206), 779-781.
        - Takahasi, H. & Mori, M. (1974). "Double exponential formulas for numerical integration."
          Publications of the Research Institute for Mathematical Sciences 9(3), 721-741.
    """

    MINIMUM = 0.01

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        location: Tensor = 0.0,
        scale: Tensor = 1.0,
        degrees_of_freedom: Tensor = 5.0,
        **kwargs: Any,
    ) -> None:
        self._initial_degrees = check_finite("degrees_of_freedom", degrees_of_freedom)
        if not np.all(self._initial_degrees > self.MINIMUM):
            raise ValueError(
                f"`degrees_of_freedom` should be greater than {self.MINIMUM}. "
                f"Received: degrees_of_freedom={degrees_of_freedom}"
            )
        super().__init__(shape=shape, location=location, scale=scale, **kwargs)

    def create_weights(self) -> None:
        """Creates location, logarithm of the scale, and degrees of freedom."""
        super().create_weights()
        above = self._initial_degrees - self.MINIMUM
        self.raw_degrees_of_freedom = self._add_parameter(
            "degrees_of_freedom", (), above + np.log(-np.expm1(-above))
        )

    @property
    def degrees_of_freedom(self) -> Tensor:
        """The degrees of freedom, with `event_shape`."""
        return self.MINIMUM + ops.softplus(self.raw_degrees_of_freedom)

    def get_shapes(self, changes: dict[str, Tensor] | None) -> tuple[Tensor, ...]:
        """Returns the degrees of freedom."""
        raw = self._parameter(self.raw_degrees_of_freedom, changes)
        return (self.MINIMUM + ops.softplus(raw),)

    def standard_log_prob(self, z: Tensor, degrees: Tensor) -> Tensor:
        """Computes log-densities at location 0 and scale 1, dimension by dimension."""
        normalisation = log_gamma_step(0.5 * degrees) - 0.5 * ops.log(math.pi * degrees)
        return normalisation - 0.5 * (degrees + 1.0) * log1p_square(z / ops.sqrt(degrees))

    def standard_draw(self, shape: Shape, seed: Seed, degrees: Tensor) -> Tensor:
        """Draws numbers at location 0 and scale 1 by the polar method."""
        uniform = draw_open_uniform((2, *shape), self.log_prob_dtype, seed)
        # The squared radius is ν (u^(-2/ν) - 1), which is written without overflow or cancellation.
        exponent = -ops.log(uniform[0]) / degrees
        radius = ops.exp(ops.clip(exponent, 0.0, self._largest_log)) * ops.sqrt(
            -ops.expm1(-2.0 * exponent)
        )
        cosine, _ = cos_and_sin(2.0 * math.pi * uniform[1])
        return ops.sqrt(degrees) * radius * cosine

    @property
    def _largest_log(self) -> float:
        """The logarithm of numbers beyond which quantiles and samples are clipped."""
        return 0.9 * math.log(float(np.finfo(self.log_prob_dtype).max))

    def standard_log_odds(self, z: Tensor, degrees: Tensor) -> Tensor:
        """Computes log-odds at location 0 and scale 1."""
        fixed = ops.stop_gradient(z)
        log_odds, slopes = self._log_odds(fixed, degrees)
        # The integral has to be differentiated by the degrees of freedom alone.
        return log_odds + ops.stop_gradient(slopes) * (z - fixed)

    def _log_odds(self, z: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns log-odds and their slopes.

        With :math:`a = \nu / 2` and :math:`w = \ln(1 + z^2 / \nu)`, substitution turns the integral
        of the density beyond :math:`|z|` into

        .. math::
            P(Z > |z|) = \frac{\Gamma(a + \frac{1}{2})}{2 \sqrt{\pi a} \, \Gamma(a)} e^{-a w}
            \int_0^\infty \frac{e^{-s}}{\sqrt{a (1 - e^{-s / a - w})}} \, ds,

        in which nothing cancels.
        """
        degrees = smaller(degrees, _NORMAL)
        half = 0.5 * degrees
        growth = log1p_square(z / ops.sqrt(degrees))
        nodes, weights = (
            ops.convert_to_tensor(values, dtype=self.log_prob_dtype)
            for values in _make_quadrature(self.log_prob_dtype)
        )
        decay = -ops.expm1(-nodes / half[..., None] - growth[..., None])
        integral = ops.sum(weights * ops.rsqrt(half[..., None] * decay), axis=-1)
        factor = log_gamma_step(half) - 0.5 * ops.log(4.0 * math.pi * half)
        log_above = factor - half * growth + ops.log(integral)
        log_below = ops.log1p(-ops.exp(log_above))
        slopes = ops.exp(self.standard_log_prob(z, degrees) - log_above - log_below)
        return ops.sign(z) * (log_below - log_above), slopes

    def standard_quantiles(self, log_odds: Tensor, degrees: Tensor) -> Tensor:
        """Inverts `standard_log_odds`, by a search on the scale of inverse hyperbolic sines."""

        def equation(y: Tensor, target: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
            size = _sinh(y)
            values, slopes = self._log_odds(size, degrees)
            return values - target, slopes * (size + ops.exp(-y))

        sign = ops.where(log_odds < 0, -1.0, ops.ones_like(log_odds))
        target = sign * log_odds
        # The density is below that of a power, as it is in the far tails.
        factor = log_gamma_step(0.5 * degrees) - 0.5 * math.log(math.pi)
        factor = factor + ops.softplus(target) - ops.log(degrees)
        logarithm = factor / degrees + 0.5 * ops.log(degrees)
        upper = ops.clip(1.0 + ops.relu(logarithm), 0.0, self._largest_log)
        y = find_root(
            equation, ops.zeros_like(upper), upper, [target, degrees], magnitudes=1.0 + target
        )
        return sign * _sinh(y)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {**super().get_config(), "degrees_of_freedom": self._initial_degrees.tolist()}


def _sinh(x: Tensor) -> Tensor:
    # That of Keras is in float32 on JAX.
    excess = ops.expm1(x)
    return 0.5 * (excess + excess / (excess + 1.0))


@functools.cache
def _make_quadrature(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and weights of a double exponential formula for integrals of e^-s f(s).

    The function f may have a singularity at 0, or close to it.
    """
    start, step = (-3.6, 0.15) if dtype == "float32" else (-4.4, 0.04)
    t = np.arange(start, 3.9, step)
    nodes = np.exp(t - np.exp(-t))
    return nodes, step * (1.0 + np.exp(-t)) * nodes * np.exp(-nodes)
