"""What importance weights say of a normalisation, and of how well a density fits another."""

import math

from keras import ops

from gyoza.typing import Tensor

__all__ = ["effective_sample_size", "log_evidence"]


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Computes how many independent samples of the target importance samples are worth.

    Kish's estimate from the weights :math:`w_i`, on which their common factor has no effect,

    .. math::
        \frac{\left( \sum_i w_i \right)^2}{\sum_i w_i^2}.

    Args:
        log_weights: The logarithms of the weights, `[samples, ...]`.

    Returns:
        Numbers of samples, `[...]`, from 1 to `samples`. NaN where all weights are 0.

    Example:

        >>> from gyoza.modelling.functions import effective_sample_size
        >>> weights = np.array([1.0, 2.0, 3.0], "float32")
        >>> round(float(effective_sample_size(np.log(weights))), 3)  # 6 ** 2 / 14
        2.571

    References:
        - Kish, L. (1965). "Survey sampling." Wiley.
        - Kong, A. (1992). "A note on importance sampling using standardized weights." University
          of Chicago, Department of Statistics, Technical Report 348.
    """
    return ops.exp(
        2.0 * ops.logsumexp(log_weights, axis=0) - ops.logsumexp(2.0 * log_weights, axis=0)
    )


def log_evidence(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Estimates the logarithm of a normalisation from importance weights, with its error.

    From :math:`n` weights :math:`w_i`, the ratios of an unnormalised target density and that of the
    samples,

    .. math::
        \ln \hat Z = \ln \frac 1 n \sum_i w_i, \qquad
        \sigma^2 = \frac 1 {n (n - 1)} \sum_i \left( \frac{w_i}{\hat Z} - 1 \right)^2.

    The mean weight is unbiased. The expectation of its logarithm is at most :math:`\ln Z`, and
    never decreases with :math:`n`. The error is that of the linear term in
    :math:`\hat Z / Z - 1`: it holds where it is small against 1.

    Args:
        log_weights: The logarithms of the weights, `[samples, ...]`, of at least 2 samples.

    Returns:
        The estimate :math:`\ln \hat Z` and its standard error :math:`\sigma`, both `[...]`.

    Example:

        >>> from gyoza.modelling.functions import log_evidence
        >>> estimate, error = log_evidence(np.log(np.array([1.0, 2.0, 3.0], "float32")))
        >>> round(float(estimate), 3), round(float(error), 3)  # ln 2 and sqrt(1 / 12)
        (0.693, 0.289)

    References:
        - Burda, Y., Grosse, R. & Salakhutdinov, R. (2016). "Importance weighted autoencoders."
          `arXiv:1509.00519 <https://arxiv.org/abs/1509.00519>`_
    """
    count = log_weights.shape[0]
    estimate = ops.logsumexp(log_weights, axis=0) - math.log(count)
    deviations = ops.exp(ops.subtract(log_weights, estimate)) - 1.0
    return estimate, ops.sqrt(ops.sum(deviations**2, axis=0) / (count * (count - 1)))
