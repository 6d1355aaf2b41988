"""The standard logistic distribution, whose distribution function is the sigmoid."""

from keras import ops

from gyoza.typing import Tensor

__all__ = ["logistic_log_density"]


def logistic_log_density(x: Tensor) -> Tensor:
    r"""Computes the log-density of the standard logistic distribution, :math:`\ln \sigma'(x)`.

    .. math::
        \ln p(x) = \ln \sigma(x) + \ln \sigma(-x) = -|x| - 2 \ln \left( 1 + e^{-|x|} \right)

    It is the log-derivative of the sigmoid, too. Both tails keep all digits.

    Args:
        x: Floating-point numbers, `[...]`.

    Returns:
        The log-densities, in the shape and dtype of `x`.

    Example:

        >>> from gyoza.modelling.functions.logistic import logistic_log_density
        >>> log_densities = logistic_log_density(keras.ops.array([0.0, -1000.0]))
        >>> keras.ops.convert_to_numpy(log_densities).round(4)
        array([   -1.3863, -1000.    ], dtype=float32)
    """
    # The density is even, and on PyTorch, `softplus` of numbers above 20 costs digits of float64.
    # With `ops.abs`, the second derivative at 0 would be 0.
    size = ops.where(x >= 0, x, -x)
    return -size - 2.0 * ops.softplus(-size)
