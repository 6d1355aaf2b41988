"""The base of all toy densities."""

from __future__ import annotations

import numpy as np

from gyoza.data.checks import to_seed
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Tensor

__all__ = ["CHUNK_SIZE", "ToyDensity", "rotate"]


CHUNK_SIZE = 8192
"""Number of points whose density is computed at a time, so that memory does not run out."""


class ToyDensity:
    """Base of the toy densities: the checks and the loop over chunks that all of them share.

    A subclass implements `_draw` and `_log_prob`, and `entropy` as a property.
    """

    @property
    def dimension_count(self) -> int:
        """Number of dimensions of a point."""
        return 2

    @property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        raise NotImplementedError

    def sample(self, count: int, seed: int | None = None) -> np.ndarray:
        """Draws independent points.

        Args:
            count: Number of points, a non-negative integer.
            seed: Non-negative integer that determines the points. If None, a seed is drawn, which
                `keras.utils.set_random_seed` makes reproducible.

        Returns:
            Float32 array of shape [count, dimension_count].

        Raises:
            ValueError: If `count` or `seed` is not a non-negative integer.
        """
        check_integer("count", count, minimum=0)
        return self._draw(np.random.default_rng(to_seed(seed)), int(count)).astype("float32")

    def log_prob(self, x: Tensor) -> np.ndarray:
        """Computes the logarithm of the density, in nats.

        Args:
            x: The points, array-like of shape [count, dimension_count].

        Returns:
            Float64 array of shape [count]. It is minus infinity where the density is 0, including
            points at infinity, and NaN where a coordinate is NaN.

        Raises:
            ValueError: If `x` has an unsuitable shape.
        """
        x = to_numpy(x)
        if x.ndim != 2 or x.shape[1] != self.dimension_count:
            raise ValueError(
                f"`x` should have shape [count, {self.dimension_count}]. "
                f"Received: x.shape={x.shape}"
            )
        x = x.astype("float64")
        log_prob = np.where(np.isnan(x).any(axis=1), np.nan, -np.inf)
        finite = np.flatnonzero(np.isfinite(x).all(axis=1))
        for start in range(0, len(finite), CHUNK_SIZE):
            rows = finite[start : start + CHUNK_SIZE]
            with np.errstate(over="ignore"):
                log_prob[rows] = self._log_prob(x[rows])
        return log_prob

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws points of shape [count, dimension_count]."""
        raise NotImplementedError

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        """Computes the log-density of finite float64 points, of shape [count, dimension_count]."""
        raise NotImplementedError


def rotate(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotates vectors of shape [..., 2] counter-clockwise by angles of shape [...]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], axis=-1)
