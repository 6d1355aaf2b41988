"""Integrals that the densities of toy data need, exact to rounding."""

import functools
import math
from collections.abc import Callable

import numpy as np

from gyoza.modelling.functions.normal import LOG_2_PI

__all__ = [
    "log_normal",
    "log_mean_exp",
    "normal_expectation",
    "gauss_legendre",
    "log_integral",
    "log_half_circle",
    "cubic_roots",
    "WINDOW",
    "REACH",
    "norm",
]

WINDOW = 40.0
"""An integrand is neglected where it has fallen below exp(-40) of its maximum."""

NODE_COUNT = 32
"""Number of nodes of the quadrature over each piece of an integrand."""

REACH = 9.0
"""Number of standard deviations beyond which a normal distribution is neglected."""


def log_normal(z: np.ndarray) -> np.ndarray:
    """Computes the log-density of the standard normal distribution over the last axis."""
    return -0.5 * np.sum(z**2, axis=-1) - z.shape[-1] / 2 * LOG_2_PI


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """Computes the logarithm of the mean of the exponentials over the last axis."""
    return np.logaddexp.reduce(values, axis=-1) - math.log(values.shape[-1])


def normal_expectation(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Computes the expectation of a smooth function of two standard normal variables.

    The trapezoidal rule converges exponentially here.

    Args:
        function: Maps points of shape [N, 2] to values of shape [N].

    Returns:
        The expectation.
    """
    step = 1 / 16
    grid = np.arange(-REACH, REACH + step / 2, step)
    z = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    return float(np.sum(np.exp(log_normal(z)) * function(z))) * step**2


@functools.cache
def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def log_integral(rise: Callable[[np.ndarray], np.ndarray], width: np.ndarray) -> np.ndarray:
    r"""Computes :math:`\log \int_0^w \exp(-E(v)) \, dv`, where `E` does not decrease from 0.

    Args:
        rise: The function `E`, which maps shape [node count, N] to the same shape.
        width: The upper limits, non-negative, of shape [N].

    Returns:
        The logarithms of the integrals, of shape [N], minus infinity where the width is 0.
    """
    nodes, weights = gauss_legendre(NODE_COUNT)
    values = np.exp(-rise(nodes[:, None] * width))
    with np.errstate(divide="ignore"):
        return np.log(width) + np.log(weights @ values)


def log_half_circle(x: np.ndarray, noise: float) -> np.ndarray:
    """Computes the log-density of the first of two moons.

    Args:
        x: Points of shape [N, 2].
        noise: Standard deviation of the noise.

    Returns:
        The log-density, of shape [N].
    """
    radius = norm(x)
    signed_angle = np.arctan2(x[:, 1], x[:, 0])
    angle = np.abs(signed_angle)
    # The integrand is exp(-2 κ sin²(u/2)), where u is the distance on the circle to the angle of
    # the point. The half circle contains either the point u = 0 or the opposite one, u = π. Cut
    # there, it consists of two pieces along which the integrand decreases.
    concentration = np.maximum(radius / noise**2, 1e-300)
    is_above = signed_angle >= 0
    log_pieces = [
        log_circle_piece(
            concentration, np.where(is_above, 0.0, edge), np.where(is_above, edge, np.pi)
        )
        for edge in (angle, np.pi - angle)
    ]
    log_constant = math.log(2 * math.pi**2) + 2 * math.log(noise)
    return np.logaddexp(*log_pieces) - ((radius - 1) / noise) ** 2 / 2 - log_constant


def log_circle_piece(concentration: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    r"""Computes :math:`\log \int_a^b \exp(-2 \kappa \sin^2(u / 2)) \, du` over part of [0, π].

    Args:
        concentration: The positive factors :math:`\kappa`, of shape [N].
        start: The lower limits :math:`a`, of shape [N].
        stop: The upper limits :math:`b`, of shape [N].

    Returns:
        The logarithms of the integrals, of shape [N], minus infinity where the limits are equal.
    """

    def rise(distance: np.ndarray) -> np.ndarray:
        # The difference from the exponent at the lower limit, without cancellation.
        return 2 * concentration * np.sin(start + distance / 2) * np.sin(distance / 2)

    nearest = np.sin(start / 2) ** 2
    farthest = np.minimum(nearest + WINDOW / (2 * concentration), 1.0)
    width = np.minimum(stop, 2 * np.arcsin(np.sqrt(farthest))) - start
    return log_integral(rise, np.maximum(width, 0.0)) - 2 * concentration * nearest


def cubic_roots(
    linear: np.ndarray, constant: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the real roots of x³ + linear x + constant.

    Args:
        linear: Coefficients of shape [N].
        constant: Coefficients of shape [N].

    Returns:
        Three arrays of shape [N], in ascending order. If there is only one real root, all of them
        hold it.
    """
    # With x = scale * y the equation reads 4 y³ ± 3 y = target, which is the triple-angle formula
    # of the hyperbolic sine, of the hyperbolic cosine, or of the cosine.
    scale = 2 * np.sqrt(np.maximum(np.abs(linear), 1e-20) / 3)
    target = -4 * constant / scale**3
    size = np.abs(target)
    outer = np.copysign(np.cosh(np.arccosh(np.maximum(size, 1)) / 3), target)
    single = scale * np.where(linear < 0, outer, np.sinh(np.arcsinh(target) / 3))
    angle = np.arccos(np.clip(target, -1, 1)) / 3
    has_three = (linear < 0) & (size < 1)
    left, middle, right = (
        np.where(has_three, scale * np.cos(angle + shift), single)
        for shift in (2 * np.pi / 3, 4 * np.pi / 3, 0.0)
    )
    return left, middle, right


def norm(x: np.ndarray) -> np.ndarray:
    """Computes the length of vectors of shape [..., 2]."""
    return np.hypot(x[..., 0], x[..., 1])
