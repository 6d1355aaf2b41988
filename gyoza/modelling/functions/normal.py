"""The standard normal distribution."""

import math

from keras import ops

from gyoza.typing import Tensor

__all__ = ["LOG_2_PI", "standard_normal_log_density"]

LOG_2_PI = math.log(2.0 * math.pi)


def standard_normal_log_density(x: Tensor) -> Tensor:
    r"""Computes the log-density of the standard normal distribution.

    .. math::
        \ln p(x) = -\frac{1}{2} \left( x^2 + \ln 2 \pi \right)

    Args:
        x: Floating-point numbers, `[...]`.

    Returns:
        The log-densities, in the shape and dtype of `x`.

    Example:

        >>> from gyoza.modelling.functions.normal import standard_normal_log_density
        >>> log_densities = standard_normal_log_density(keras.ops.array([0.0, 1.0]))
        >>> keras.ops.convert_to_numpy(log_densities).round(4)
        array([-0.9189, -1.4189], dtype=float32)
    """
    return -0.5 * (ops.square(x) + LOG_2_PI)
