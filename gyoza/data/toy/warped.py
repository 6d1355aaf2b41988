"""Toy densities that are warped normal distributions: the banana and the funnel."""

from __future__ import annotations

import math

import numpy as np

from gyoza.data.toy.base import ToyDensity
from gyoza.data.toy.quadrature import log_normal
from gyoza.modelling.functions.checks import check_integer, check_positive
from gyoza.modelling.functions.normal import LOG_2_PI

__all__ = ["Banana", "Funnel"]


class Banana(ToyDensity):
    r"""A Gaussian that a volume-preserving shear bends along a parabola.

    .. math::
        x_1 = \ell z_1, \qquad x_2 = w z_2 + b (x_1^2 - \ell^2), \qquad
        z \sim \mathcal{N}(0, I)

    Its mean is zero, and its entropy, :math:`\log(2 \pi e \ell w)`, is that of the Gaussian before
    it was bent: 2.8379 nats by default.

    Args:
        length: Standard deviation :math:`\ell` of the first coordinate, a positive number.
        width: Standard deviation :math:`w` of the second coordinate around the parabola, a positive
            number.
        bend: Curvature :math:`b` of the parabola, in units of one over length.

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data.toy import Banana
        >>> density = Banana(length=2.0, width=0.5, bend=0.25)
        >>> print(density.sample(3, seed=0).shape, round(density.entropy, 4))
        (3, 2) 2.8379
        >>> print(density.log_prob([[0.0, -1.0], [4.0, 3.0]]).round(4))
        [-1.8379 -3.8379]

    References:
        - Haario, H., Saksman, E., & Tamminen, J. (1999). "Adaptive proposal distribution for random
          walk Metropolis algorithm." Computational Statistics, 14, 375-395.
    """

    def __init__(self, length: float = 2.0, width: float = 0.5, bend: float = 0.25) -> None:
        check_positive("length", length)
        check_positive("width", width)
        if not math.isfinite(bend):
            raise ValueError(f"`bend` should be a finite number. Received: bend={bend}")
        self.length = float(length)
        self.width = float(width)
        self.bend = float(bend)

    @property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        return 1 + LOG_2_PI + math.log(self.length) + math.log(self.width)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        first = self.length * rng.standard_normal(count)
        second = self.width * rng.standard_normal(count) + self._parabola(first)
        return np.stack([first, second], axis=1)

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        first, second = x.T
        z = np.stack([first / self.length, (second - self._parabola(first)) / self.width], axis=1)
        return log_normal(z) - math.log(self.length) - math.log(self.width)

    def _parabola(self, first: np.ndarray) -> np.ndarray:
        return self.bend * (first**2 - self.length**2)


class Funnel(ToyDensity):
    r"""Neal's funnel: a normal variable that sets the scale of all the others.

    .. math::
        x_1 \sim \mathcal{N}(0, s^2), \qquad x_i \mid x_1 \sim \mathcal{N}(0, e^{x_1}), \quad
        i = 2, \dots, D

    The entropy is :math:`\frac{D}{2} \log(2 \pi e) + \log s`, or 15.288 nats by default. The
    log-density of a sample varies a lot, with a standard deviation of about 14 nats by default. To
    measure a model, it is better to average the difference between the model's log-density and
    `log_prob` over the same samples.

    Args:
        dimension_count: Number :math:`D` of dimensions, an integer of at least 2.
        scale: Standard deviation :math:`s` of the first coordinate, a positive number.

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data.toy import Funnel
        >>> density = Funnel(dimension_count=10)
        >>> print(density.sample(3, seed=0).shape, round(density.entropy, 3))
        (3, 10) 15.288

    References:
        - Neal, R. M. (2003). "Slice sampling." The Annals of Statistics, 31(3), 705-767.
          `arXiv:physics/0009028 <https://arxiv.org/abs/physics/0009028>`_
    """

    def __init__(self, dimension_count: int = 10, scale: float = 3.0) -> None:
        check_integer("dimension_count", dimension_count, minimum=2)
        check_positive("scale", scale)
        self._dimension_count = int(dimension_count)
        self.scale = float(scale)

    @property
    def dimension_count(self) -> int:
        """Number of dimensions of a point."""
        return self._dimension_count

    @property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        return self.dimension_count / 2 * (1 + LOG_2_PI) + math.log(self.scale)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        z = rng.standard_normal((count, self.dimension_count))
        first = self.scale * z[:, :1]
        return np.concatenate([first, np.exp(first / 2) * z[:, 1:]], axis=1)

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        first = x[:, :1]
        # The clip keeps the factor finite, so that its product with zero is zero.
        rest = x[:, 1:] * np.exp(np.clip(-first / 2, -700, 700))
        log_prob = log_normal(np.concatenate([first / self.scale, rest], axis=1))
        return log_prob - math.log(self.scale) - (self.dimension_count - 1) / 2 * first[:, 0]
