"""Toy densities that are mixtures: of normal distributions, and of squares."""

from __future__ import annotations

import functools
import math

import numpy as np

from gyoza.data.toy.base import CHUNK_SIZE, ToyDensity
from gyoza.data.toy.quadrature import log_mean_exp, log_normal, normal_expectation
from gyoza.modelling.functions.checks import check_integer, check_positive
from gyoza.modelling.functions.normal import LOG_2_PI

__all__ = ["EightGaussians", "CheckerBoard", "GaussianMixtureDensity"]


class EightGaussians(ToyDensity):
    r"""Eight equal Gaussians on a circle.

    .. math::
        p(x) = \frac{1}{8} \sum_{k=0}^{7} \mathcal{N}(x;\, c_k, s^2 I), \qquad
        c_k = R \left(\cos \tfrac{\pi k}{4},\, \sin \tfrac{\pi k}{4}\right)

    The entropy, 3.5247 nats by default, is computed by quadrature to within 1e-9.

    Args:
        radius: Radius :math:`R` of the circle of centres, a non-negative number.
        scale: Standard deviation :math:`s` of each Gaussian along each dimension, a positive
            number.

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data.toy import EightGaussians
        >>> density = EightGaussians()
        >>> x = density.sample(20000, seed=0)
        >>> print(x.shape, round(density.entropy, 4))
        (20000, 2) 3.5247
        >>> print(abs(-density.log_prob(x).mean() - density.entropy) < 0.05)
        True
    """

    def __init__(self, radius: float = 4.0, scale: float = 0.5) -> None:
        if not 0 <= radius < math.inf:
            raise ValueError(
                f"`radius` should be a non-negative finite number. Received: radius={radius}"
            )
        check_positive("scale", scale)
        self.radius = float(radius)
        self.scale = float(scale)
        angles = np.arange(8) * (np.pi / 4)
        self._centres = self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    @functools.cached_property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        # All components contribute the same by symmetry, so one of them is enough.
        return -normal_expectation(lambda z: self.log_prob(self._centres[0] + self.scale * z))

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        centres = self._centres[rng.integers(8, size=count)]
        return centres + self.scale * rng.standard_normal((count, 2))

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        log_probs = log_normal((x[:, None] - self._centres) / self.scale)
        return log_mean_exp(log_probs) - 2 * math.log(self.scale)


class CheckerBoard(ToyDensity):
    r"""The uniform distribution over the dark cells of a board of 4×4 cells.

    The board covers :math:`[-4, 4]^2`, so a cell has sides of length 2, and the cell in the lower
    left corner is dark.

    .. math::
        p(x) = \begin{cases}
            \frac{1}{32} & x \in [-4, 4)^2 \text{ and }
            \lfloor x_1 / 2 \rfloor + \lfloor x_2 / 2 \rfloor \text{ even} \\
            0 & \text{otherwise}
        \end{cases}

    The entropy is the logarithm of the dark area, :math:`\log 32`, or 3.4657 nats.

    Example:
        >>> from gyoza.data.toy import CheckerBoard
        >>> density = CheckerBoard()
        >>> print(density.sample(3, seed=0).shape, round(density.entropy, 4))
        (3, 2) 3.4657
        >>> print(density.log_prob([[-3.0, -3.0], [-1.0, -3.0]]).round(4))
        [-3.4657    -inf]
    """

    @property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        return math.log(32)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        row = rng.integers(4, size=count)
        column = 2 * rng.integers(2, size=count) + row % 2
        lower = 2.0 * np.stack([column, row], axis=1) - 4
        points = (lower + rng.uniform(0, 2, size=(count, 2))).astype("float32")
        # In float32, a point just below the upper edge of its cell may round to the next cell.
        return np.minimum(points, np.nextafter((lower + 2).astype("float32"), np.float32(-5)))

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        is_inside = np.all((x >= -4) & (x < 4), axis=1)
        is_dark = np.floor(x / 2).sum(axis=1) % 2 == 0
        return np.where(is_inside & is_dark, -self.entropy, -np.inf)


class GaussianMixtureDensity(ToyDensity):
    r"""A mixture of Gaussians with random weights, means and full covariances.

    .. math::
        p(x) = \sum_{k=1}^{K} \pi_k \, \mathcal{N}(x;\, \mu_k, Q_k \Lambda_k^2 Q_k^\top)

    The weights are drawn from a symmetric Dirichlet distribution with concentration 5, the means
    from :math:`\mathcal{N}(0, m^2 I)`, the rotations :math:`Q_k` uniformly, and the standard
    deviations :math:`\Lambda_k` along the principal axes log-uniformly between 0.25 and 1.

    The entropy is the mean entropy of the components, plus that of the weights, minus the expected
    entropy of the component given a point,

    .. math::
        H = \sum_k \pi_k \left(\tfrac{D}{2} \log(2 \pi e) + \log |\Lambda_k|\right)
        - \sum_k \pi_k \log \pi_k
        - \mathbb{E}_{x \sim p}\!\left[-\sum_k p(k \mid x) \log p(k \mid x)\right],

    of which only the last term, which is small, is estimated from random points: :math:`2^{16}` of
    them, drawn with a fixed seed. `entropy_standard_error` is its standard error, 4e-4 nats by
    default.

    Args:
        dimension_count: Number :math:`D` of dimensions, a positive integer.
        component_count: Number :math:`K` of components, a positive integer.
        spread: Standard deviation :math:`m` of the means along each dimension, a non-negative
            number.
        seed: Non-negative integer that determines the weights, means and covariances.

    Attributes:
        weights: The weights, of shape [component_count].
        means: The means, of shape [component_count, dimension_count].
        scales: Standard deviations along the principal axes, of shape
            [component_count, dimension_count].
        rotations: Orthogonal matrices with the principal axes in their columns, of shape
            [component_count, dimension_count, dimension_count].

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data.toy import GaussianMixtureDensity
        >>> density = GaussianMixtureDensity(dimension_count=16)
        >>> print(density.sample(3, seed=0).shape, density.means.shape)
        (3, 16) (8, 16)
        >>> print(density.entropy_standard_error < 1e-3)
        True
    """

    def __init__(
        self,
        dimension_count: int = 16,
        component_count: int = 8,
        spread: float = 0.5,
        seed: int = 0,
    ) -> None:
        check_integer("dimension_count", dimension_count, minimum=1)
        check_integer("component_count", component_count, minimum=1)
        if not 0 <= spread < math.inf:
            raise ValueError(
                f"`spread` should be a non-negative finite number. Received: spread={spread}"
            )
        check_integer("seed", seed, minimum=0)
        rng = np.random.default_rng(seed)
        shape = (int(component_count), int(dimension_count))
        self.weights = rng.dirichlet(np.full(shape[0], 5.0))
        self.means = float(spread) * rng.standard_normal(shape)
        self.scales = 4.0 ** -rng.uniform(size=shape)
        rotations, triangles = np.linalg.qr(rng.standard_normal((*shape, shape[1])))
        # The rotation is uniformly distributed only if the triangle has a positive diagonal.
        self.rotations = rotations * np.sign(np.diagonal(triangles, axis1=1, axis2=2))[:, None]

    @property
    def dimension_count(self) -> int:
        """Number of dimensions of a point."""
        return self.means.shape[1]

    @property
    def entropy(self) -> float:
        """Differential entropy in nats, with the standard error `entropy_standard_error`."""
        return self._entropy_and_error[0]

    @property
    def entropy_standard_error(self) -> float:
        """Standard error of `entropy` in nats."""
        return self._entropy_and_error[1]

    @functools.cached_property
    def _entropy_and_error(self) -> tuple[float, float]:
        log_det = np.log(self.scales).sum(axis=1)
        component_entropies = self.dimension_count / 2 * (1 + LOG_2_PI) + log_det
        joint_entropy = float(np.sum(self.weights * (component_entropies - np.log(self.weights))))
        rng = np.random.default_rng(0)
        posterior_entropies = []
        for _ in range(2**16 // CHUNK_SIZE):
            log_joint = self._log_joint(self._draw(rng, CHUNK_SIZE))
            log_posterior = log_joint - np.logaddexp.reduce(log_joint, axis=1)[:, None]
            posterior_entropies.append(-np.sum(np.exp(log_posterior) * log_posterior, axis=1))
        terms = np.concatenate(posterior_entropies)
        return joint_entropy - float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        component = rng.choice(len(self.weights), size=count, p=self.weights)
        z = rng.standard_normal((count, self.dimension_count))
        points = np.empty_like(z)
        for k, (mean, scales, rotation) in enumerate(
            zip(self.means, self.scales, self.rotations, strict=True)
        ):
            is_k = component == k
            points[is_k] = mean + (scales * z[is_k]) @ rotation.T
        return points

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self._log_joint(x), axis=1)

    def _log_joint(self, x: np.ndarray) -> np.ndarray:
        """Computes the log-density of points and components, of shape [N, component count]."""
        parameters = zip(self.weights, self.means, self.scales, self.rotations, strict=True)
        log_joint = [
            math.log(weight) + log_normal((x - mean) @ rotation / scales) - np.log(scales).sum()
            for weight, mean, scales, rotation in parameters
        ]
        return np.stack(log_joint, axis=1)
