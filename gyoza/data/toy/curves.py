"""Toy densities along curves: two moons, an arc, and the arms of a pinwheel."""

from __future__ import annotations

import functools
import math

import numpy as np

from gyoza.data.toy.base import ToyDensity, rotate
from gyoza.data.toy.quadrature import (
    REACH,
    WINDOW,
    cubic_roots,
    gauss_legendre,
    log_half_circle,
    log_integral,
    log_mean_exp,
    log_normal,
    norm,
    normal_expectation,
)
from gyoza.modelling.functions.checks import check_integer, check_positive
from gyoza.modelling.functions.normal import LOG_2_PI

__all__ = ["TwoMoons", "Arc", "Pinwheel"]


class TwoMoons(ToyDensity):
    r"""Two interleaved half circles with Gaussian noise, at uniformly random angles.

    .. math::
        x = \begin{cases}
            (\cos t,\, \sin t) + \varepsilon & \text{with probability } \tfrac12 \\
            (1 - \cos t,\, \tfrac12 - \sin t) + \varepsilon & \text{otherwise}
        \end{cases}, \qquad
        t \sim \mathcal{U}(0, \pi), \quad \varepsilon \sim \mathcal{N}(0, \sigma^2 I)

    This is the layout of `sklearn.datasets.make_moons`, except that the angles there are equally
    spaced instead of random, so that the points have no density. In polar coordinates
    :math:`(r, \varphi)` around its centre, the density of the first moon is

    .. math::
        \frac{1}{2 \pi^2 \sigma^2} \exp\!\left(-\frac{(r - 1)^2}{2 \sigma^2}\right) \int_0^\pi
        \exp\!\left(-\frac{r}{\sigma^2} (1 - \cos(t - \varphi))\right) dt

    The integral is computed by Gauss-Legendre quadrature, between limits that follow the peak of
    the integrand. `log_prob` is exact to within 1e-9, even in the tails. The entropy, 0.2892 nats
    by default, is computed by quadrature to within 1e-9, in a time inversely proportional to the
    noise: about a second by default.

    Args:
        noise: Standard deviation :math:`\sigma` of the noise along each dimension, a positive
            number.

    Raises:
        ValueError: If `noise` is not positive.

    Example:
        >>> from gyoza.data.toy import TwoMoons
        >>> density = TwoMoons(noise=0.05)
        >>> print(density.sample(3, seed=0).shape, round(density.entropy, 4))
        (3, 2) 0.2892
        >>> print(density.log_prob([[0.0, 1.0], [0.5, 0.25]]).round(2))
        [  0.24 -37.67]
    """

    def __init__(self, noise: float = 0.05) -> None:
        check_positive("noise", noise)
        self.noise = float(noise)

    @functools.cached_property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        # Both moons contribute the same by symmetry. The integral over the first one's density is
        # taken in its polar coordinates: over the angle by the trapezoidal rule, which converges
        # exponentially for a periodic integrand, with four steps to a standard deviation.
        lower, upper = max(0.0, 1 - REACH * self.noise), 1 + REACH * self.noise
        nodes, weights = gauss_legendre(100)
        radii = lower + (upper - lower) * nodes
        step_count = math.ceil(8 * math.pi * upper / self.noise)
        expectation = 0.0
        for angle in np.linspace(-np.pi, np.pi, step_count, endpoint=False):
            x = radii[:, None] * np.array([np.cos(angle), np.sin(angle)])
            prob = np.exp(log_half_circle(x, self.noise))
            expectation += float(np.sum(weights * radii * prob * self._log_prob(x)))
        return -expectation * (upper - lower) * 2 * math.pi / step_count

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        angles = rng.uniform(0, np.pi, size=count)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        is_first = rng.integers(2, size=(count, 1)) == 0
        points = np.where(is_first, points, _rotate_half(points))
        return points + self.noise * rng.standard_normal((count, 2))

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        first = log_half_circle(x, self.noise)
        second = log_half_circle(_rotate_half(x), self.noise)
        return np.logaddexp(first, second) - math.log(2)


class Arc(ToyDensity):
    r"""A parabola along which a position is normally distributed, with Gaussian noise around it.

    .. math::
        x = (s,\, \tfrac12 s^2) + \varepsilon, \qquad
        s \sim \mathcal{N}(0, \tau^2), \quad \varepsilon \sim \mathcal{N}(0, \sigma^2 I)

    The density is the integral over all positions,

    .. math::
        p(x) = \int \mathcal{N}(s;\, 0, \tau^2)\, \mathcal{N}(x_1;\, s, \sigma^2)\,
        \mathcal{N}(x_2;\, \tfrac12 s^2, \sigma^2) \, ds,

    whose integrand is the exponential of a quartic polynomial. It is cut at the extrema of that
    polynomial, and each piece is integrated by Gauss-Legendre quadrature up to where it vanishes.
    `log_prob` is exact to within 1e-9, even in the tails. The entropy, -0.0456 nats by default, is
    computed by quadrature to within 1e-9, in a time inversely proportional to the square of the
    noise: about a second by default.

    Args:
        scale: Standard deviation :math:`\tau` of the position, a positive number.
        noise: Standard deviation :math:`\sigma` of the noise along each dimension, a positive
            number.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> from gyoza.data.toy import Arc
        >>> density = Arc(scale=0.5, noise=0.1)
        >>> x = density.sample(20000, seed=0)
        >>> print(x.shape, x.mean(axis=0).round(1))
        (20000, 2) [0.  0.1]
    """

    def __init__(self, scale: float = 0.5, noise: float = 0.1) -> None:
        check_positive("scale", scale)
        check_positive("noise", noise)
        self.scale = float(scale)
        self.noise = float(noise)

    @functools.cached_property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        # The trapezoidal rule converges exponentially, since the density is smooth on the scale of
        # the noise and vanishes at the borders.
        step = self.noise / 3
        width = REACH * math.hypot(self.scale, self.noise)
        height = (REACH * self.scale) ** 2 / 2 + REACH * self.noise
        second = np.arange(-REACH * self.noise, height, step)
        expectation = 0.0
        for first in np.arange(-width, width, step):
            log_prob = self.log_prob(np.stack([np.full_like(second, first), second], axis=1))
            expectation += float(np.sum(np.exp(log_prob) * log_prob))
        return -expectation * step**2

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        position = self.scale * rng.standard_normal(count)
        points = np.stack([position, position**2 / 2], axis=1)
        return points + self.noise * rng.standard_normal((count, 2))

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        first, second = x.T
        # The energy, which is minus the logarithm of the integrand up to a constant, is the quartic
        # E(s) = s²/(2τ²) + (x₁ - s)²/(2σ²) + (x₂ - s²/2)²/(2σ²), and E'(s) = 0 is a cubic equation.
        linear = 2 * (1 + (self.noise / self.scale) ** 2 - second)
        left, middle, right = cubic_roots(linear, -2 * first)
        log_integrals = [
            self._log_piece(first, second, left, -1, np.full_like(left, np.inf)),
            self._log_piece(first, second, left, 1, middle - left),
            self._log_piece(first, second, right, -1, right - middle),
            self._log_piece(first, second, right, 1, np.full_like(right, np.inf)),
        ]
        constant = 1.5 * LOG_2_PI + math.log(self.scale) + 2 * math.log(self.noise)
        return np.logaddexp.reduce(log_integrals) - constant

    def _log_piece(
        self,
        first: np.ndarray,
        second: np.ndarray,
        start: np.ndarray,
        direction: int,
        limit: np.ndarray,
    ) -> np.ndarray:
        """Integrates from a minimum of the energy in one direction, along which the energy rises.

        Args:
            first: First coordinates, of shape [N].
            second: Second coordinates, of shape [N].
            start: Position of a minimum of the energy, of shape [N].
            direction: 1 or -1.
            limit: Length of the piece, of shape [N], possibly infinite.

        Returns:
            The logarithm of the integral, of shape [N].
        """
        variance = self.noise**2
        residuals = (first - start) ** 2 + (second - start**2 / 2) ** 2
        energy = (start / self.scale) ** 2 / 2 + residuals / (2 * variance)
        # Coefficients of Taylor's expansion around the minimum, where the first derivative is 0.
        curvature = 1 + (self.noise / self.scale) ** 2 - second + 1.5 * start**2
        quadratic = np.maximum(curvature, 0) / (2 * variance)
        cubic = direction * start / (2 * variance)
        quartic = 1 / (8 * variance)

        def rise(distance: np.ndarray) -> np.ndarray:
            return distance**2 * (quadratic + distance * (cubic + distance * quartic))

        # The energy leaves the window before the bound, where the quartic term is at least twice as
        # large as the window and as the cubic term. Bisection finds the place.
        bound = np.maximum(2 * np.abs(cubic) / quartic, (2 * WINDOW / quartic) ** 0.25)
        lower, width = np.zeros_like(start), np.minimum(bound, limit)
        for _ in range(40):
            centre = (lower + width) / 2
            is_inside = rise(centre) < WINDOW
            lower, width = np.where(is_inside, centre, lower), np.where(is_inside, width, centre)
        return log_integral(rise, width) - energy


class Pinwheel(ToyDensity):
    r"""Gaussian blobs on a circle, bent by a swirl into the arms of a spiral.

    .. math::
        x = \operatorname{Rot}(\omega \|f\| + \tfrac{2 \pi k}{K})\, f, \qquad
        f \sim \mathcal{N}\!\left(\begin{pmatrix} 1 \\ 0 \end{pmatrix},
        \begin{pmatrix} s_\text{r}^2 & 0 \\ 0 & s_\text{t}^2 \end{pmatrix}\right), \quad
        k \sim \mathcal{U}\{0, \dots, K - 1\}

    Rotating each point by an angle that depends on its radius alone keeps the radius and preserves
    volume. The swirl can therefore be undone exactly, and the density is that of the unbent blobs:

    .. math::
        p(x) = \frac{1}{K} \sum_{k=0}^{K-1}
        p_f\!\left(\operatorname{Rot}(-\omega \|x\| - \tfrac{2 \pi k}{K})\, x\right)

    In the pinwheel of Johnson et al., the angle depends exponentially on :math:`f_1` instead of
    linearly on :math:`\|f\|`. The entropy, 0.9343 nats by default, is computed by quadrature to
    within 1e-9, or 1e-7 for arms that are 20 times as long as wide.

    Args:
        arm_count: Number :math:`K` of arms, a positive integer.
        radial_scale: Standard deviation :math:`s_\text{r}` along an arm, a positive number.
        tangential_scale: Standard deviation :math:`s_\text{t}` across an arm, a positive number.
        twist: Angle :math:`\omega` in radians by which an arm rotates per unit of radius, positive
            for counter-clockwise.

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data.toy import Pinwheel
        >>> density = Pinwheel()
        >>> x = density.sample(20000, seed=0)
        >>> print(x.shape, abs(-density.log_prob(x).mean() - density.entropy) < 0.05)
        (20000, 2) True

    References:
        - Johnson, M. J., Duvenaud, D., Wiltschko, A. B., Datta, S. R., & Adams, R. P. (2016).
          "Composing graphical models with neural networks for structured representations and fast
          inference." `arXiv:1603.06277 <https://arxiv.org/abs/1603.06277>`_
    """

    def __init__(
        self,
        arm_count: int = 5,
        radial_scale: float = 0.3,
        tangential_scale: float = 0.1,
        twist: float = 1.0,
    ) -> None:
        check_integer("arm_count", arm_count, minimum=1)
        check_positive("radial_scale", radial_scale)
        check_positive("tangential_scale", tangential_scale)
        if not math.isfinite(twist):
            raise ValueError(f"`twist` should be a finite number. Received: twist={twist}")
        self.arm_count = int(arm_count)
        self.radial_scale = float(radial_scale)
        self.tangential_scale = float(tangential_scale)
        self.twist = float(twist)
        self._scales = np.array([self.radial_scale, self.tangential_scale])
        self._arm_angles = np.arange(self.arm_count) * (2 * np.pi / self.arm_count)

    @functools.cached_property
    def entropy(self) -> float:
        """Differential entropy in nats."""

        def log_prob_of_first_arm(z: np.ndarray) -> np.ndarray:
            features = self._scales * z + [1.0, 0.0]
            return self.log_prob(rotate(features, self.twist * norm(features)))

        return -normal_expectation(log_prob_of_first_arm)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        features = self._scales * rng.standard_normal((count, 2)) + [1.0, 0.0]
        arm_angles = self._arm_angles[rng.integers(self.arm_count, size=count)]
        return rotate(features, self.twist * norm(features) + arm_angles)

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        angles = self.twist * norm(x)[:, None] + self._arm_angles
        features = rotate(x[:, None], -angles)
        log_probs = log_normal((features - [1.0, 0.0]) / self._scales)
        return log_mean_exp(log_probs) - float(np.sum(np.log(self._scales)))


def _rotate_half(x: np.ndarray) -> np.ndarray:
    """Rotates the plane by half a turn, which exchanges the two moons."""
    return np.array([1.0, 0.5]) - x
