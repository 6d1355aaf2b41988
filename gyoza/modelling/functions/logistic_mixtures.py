"""Distribution functions of mixtures of logistic or normal distributions, as log-odds."""

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.log_odds import normal_log_odds, normal_quantile
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.tensors import clip, larger, smaller
from gyoza.typing import Tensor

__all__ = ["mixture_log_odds", "mixture_quantile"]

# Where the logarithm of a slope is below this, rounding has the better of Newton's method.
_FLAT = -40.0

# Logarithms of scales beyond this, 10^±34, are taken for this, so that scales and their reciprocals
# are in the range of float32.
_LARGEST_LOG_SCALE = 80.0


def _limit(log_scales: Tensor) -> Tensor:
    """Keeps scales and their reciprocals finite, and all that they are multiplied by."""
    return ops.clip(log_scales, -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)


def mixture_log_odds(
    x: Tensor,
    log_weights: Tensor,
    locations: Tensor,
    log_scales: Tensor,
    components: str = "logistic",
) -> tuple[Tensor, Tensor]:
    r"""Computes how likely a number from a mixture is below `x`, on the scale of log-odds.

    .. math::
        l(x) = \ln \frac{F(x)}{1 - F(x)}, \qquad
        F(x) = \sum_k \pi_k \, \sigma \! \left( \frac{x - m_k}{s_k} \right), \qquad
        l'(x) = \frac{F'(x)}{F(x) (1 - F(x))},

    or, where components are normal, with :math:`\Phi` instead of the sigmoid :math:`\sigma`.
    Nothing cancels and nothing underflows, however far `x` is from all components.

    Args:
        x: Numbers, `[...]`, in float32 or float64.
        log_weights: Logarithms of the weights :math:`\pi_k`, which add up to 1. They, and the
            other parameters, have the shape `[..., component count]`, or one that broadcasts to it.
        locations: The locations :math:`m_k`.
        log_scales: The logarithms of the scales :math:`s_k`.
        components: What the components are: `"logistic"` or `"normal"`.

    Returns:
        The pair of log-odds and logarithms of their derivatives, in the shape of `x`.

    Example:

        >>> from gyoza.modelling.functions import mixture_log_odds
        >>> x, mixture = keras.ops.array([-1e3, 0.0]), (np.log([0.5, 0.5]), [-4.0, 4.0], [0.0, 0.0])
        >>> mixture = [keras.ops.array(values, "float32") for values in mixture]
        >>> log_odds, log_slopes = mixture_log_odds(x, *mixture)
        >>> keras.ops.convert_to_numpy(log_odds).round(2)
        array([-996.69,    0.  ], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_slopes).round(2)
        array([ 0.  , -2.65], dtype=float32)
    """
    log_odds, compute_log_slopes = _log_odds(
        x, log_weights, locations, _limit(log_scales), components
    )
    return log_odds, compute_log_slopes()


def _log_odds(
    x: Tensor, log_weights: Tensor, locations: Tensor, log_scales: Tensor, components: str
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Computes log-odds, and returns what computes the logarithms of their derivatives."""
    largest = float(np.finfo(keras.backend.standardize_dtype(x.dtype)).max) / 16
    standardised = (x[..., None] - locations) * ops.exp(-log_scales)
    own_odds, log_growth = standardised, -log_scales
    if components == "normal":
        own_odds, slopes = normal_log_odds(standardised)
        log_growth = ops.log(slopes) - log_scales
    own_odds = clip(own_odds, -largest, largest)
    log_below, log_above = -ops.softplus(-own_odds), -ops.softplus(own_odds)
    joint_below, joint_above = log_weights + log_below, log_weights + log_above

    def compute_log_slopes() -> Tensor:
        # This is ln(F' / F + F' / (1 - F)), where F' / F is the mean rate at which components grow,
        # weighted by how likely they gave a number that is below x.
        log_rates = [
            ops.log_softmax(joint_below, axis=-1) + log_above + log_growth,
            ops.log_softmax(joint_above, axis=-1) + log_below + log_growth,
        ]
        return ops.logsumexp(ops.concatenate(log_rates, axis=-1), axis=-1)

    log_odds = ops.logsumexp(joint_below, axis=-1) - ops.logsumexp(joint_above, axis=-1)
    return log_odds, compute_log_slopes


def mixture_quantile(
    log_odds: Tensor,
    log_weights: Tensor,
    locations: Tensor,
    log_scales: Tensor,
    components: str = "logistic",
) -> Tensor:
    r"""Computes the number that one from a mixture is below with given log-odds.

    This is the inverse of :func:`mixture_log_odds`, found numerically. It is differentiable with
    respect to all arguments; see :func:`~gyoza.modelling.functions.find_root`.

    Args:
        log_odds: Numbers, `[...]`, in float32 or float64.
        log_weights: See :func:`mixture_log_odds`.
        locations: See :func:`mixture_log_odds`.
        log_scales: See :func:`mixture_log_odds`.
        components: See :func:`mixture_log_odds`.

    Returns:
        The quantiles, in the shape of `log_odds`.

    Example:

        >>> from gyoza.modelling.functions import mixture_quantile
        >>> log_odds = keras.ops.array([-996.69, 0.0])
        >>> mixture = (np.log([0.5, 0.5]), [-4.0, 4.0], [0.0, 0.0])
        >>> mixture = [keras.ops.array(values, "float32") for values in mixture]
        >>> x = keras.ops.convert_to_numpy(mixture_quantile(log_odds, *mixture))
        >>> bool(np.allclose(x, [-1e3, 0.0], atol=0.01))
        True
    """

    def equation(
        x: Tensor, log_odds: Tensor, log_weights: Tensor, locations: Tensor, log_scales: Tensor
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        values, compute_log_slopes = _log_odds(x, log_weights, locations, log_scales, components)

        def compute_slopes() -> Tensor:
            log_slopes = compute_log_slopes()
            # The reciprocal of the slope has to stay finite.
            return ops.exp(ops.where(log_slopes > _FLAT, log_slopes, _FLAT))

        return values - log_odds, compute_slopes

    log_scales = _limit(log_scales)
    # The quantile of a mixture lies among those of its components.
    own_quantiles = normal_quantile(log_odds) if components == "normal" else log_odds
    quantiles = ops.stop_gradient(locations + ops.exp(log_scales) * own_quantiles[..., None])
    parts = ops.unstack(quantiles, axis=-1)
    lower, upper = functools.reduce(smaller, parts), functools.reduce(larger, parts)
    parameters = [log_odds, log_weights, locations, log_scales]
    return find_root(equation, lower, upper, parameters, magnitudes=1 + ops.abs(log_odds))
