"""The base of renderers of pictures with known factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gyoza.data.checks import to_seed
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Tensor

__all__ = ["Renderer"]


class Renderer:
    """Base of the renderers: draws and lists factors, and checks them.

    A subclass names its factors, in `names`, and implements `_render`.

    Args:
        image_size: Height and width of a picture in pixels, a positive integer.
        limits: Smallest and largest value of every factor, of shape [factor count, 2].
    """

    names: tuple[str, ...]

    def __init__(self, image_size: int, limits: Tensor) -> None:
        check_integer("image_size", image_size, minimum=1)
        self.image_size = int(image_size)
        self._limits = np.array(limits, "float64")

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every factor, by name."""
        return dict(zip(self.names, map(tuple, self._limits.tolist()), strict=True))

    def sample(self, count: int, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws independent pictures, whose factors are uniform over their ranges.

        Args:
            count: Number of pictures, a non-negative integer.
            seed: Non-negative integer that determines the pictures. If None, a seed is drawn, which
                `keras.utils.set_random_seed` makes reproducible.

        Returns:
            The pictures as `render` returns them, and their factors, a float64 array of shape
            [count, factor count].

        Raises:
            ValueError: If `count` or `seed` is not a non-negative integer.
        """
        check_integer("count", count, minimum=0)
        factors = self._draw(np.random.default_rng(to_seed(seed)), count)
        return self.render(factors), factors

    def grid(self, counts: Sequence[int]) -> np.ndarray:
        """Lists all combinations of evenly spaced factors, for `render`.

        Args:
            counts: The number of values of each factor, positive integers. The values run from the
                lower to the upper end of the factor's range. A single value is the lower end.

        Returns:
            Float64 array of shape [product of the counts, factor count], whose last factor changes
            fastest.

        Raises:
            ValueError: If `counts` has an unsuitable length or value.
        """
        if np.shape(counts) != (len(self.names),):
            raise ValueError(
                f"`counts` should have one number for each of {self.names}. "
                f"Received: counts={counts}"
            )
        for count in counts:
            check_integer("counts", count, minimum=1)
        values = self._list_values(counts)
        return np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(values))

    def render(self, factors: Tensor) -> np.ndarray:
        """Renders pictures from given factors.

        Args:
            factors: Values of the factors, array-like of shape [count, factor count], within their
                ranges.

        Returns:
            Float32 array of shape [count, image size, image size, 1] with values in [0, 1].

        Raises:
            ValueError: If `factors` has an unsuitable shape, or values out of range.
        """
        factors = to_numpy(factors)
        if factors.ndim != 2 or factors.shape[1] != len(self.names):
            raise ValueError(
                f"`factors` should have shape [count, {len(self.names)}]. "
                f"Received: factors.shape={factors.shape}"
            )
        factors = factors.astype("float64")
        for name, column, (low, high) in zip(self.names, factors.T, self._limits, strict=True):
            slack = 1e-6 * max(abs(low), abs(high))  # for values that were rounded to float32
            if not np.all((column >= low - slack) & (column <= high + slack)):
                raise ValueError(
                    f"`factors` should have values of {name} in [{low:g}, {high:g}]. "
                    f"Received: values from {column.min():g} to {column.max():g}"
                )
        return self._render(factors)[..., None]

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws factors of shape [count, factor count]."""
        low, high = self._limits.T
        return rng.uniform(low, high, size=(count, len(self.names)))

    def _list_values(self, counts: Sequence[int]) -> list[np.ndarray]:
        """Returns the values of each factor in a grid."""
        return [
            np.linspace(low, high, count)
            for (low, high), count in zip(self._limits, counts, strict=True)
        ]

    def _render(self, factors: np.ndarray) -> np.ndarray:
        """Renders pictures of shape [count, image size, image size] from checked factors."""
        raise NotImplementedError
