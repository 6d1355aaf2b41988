r"""Pictures of sprites, about which everything is known: shape, scale, orientation and position.

They serve to measure representations, since nothing but the five factors varies. The layout is that
of dSprites, with continuous factors instead of a fixed data set.

References:
    - Matthey, L., Higgins, I., Hassabis, D., & Lerchner, A. (2017). "dSprites: Disentanglement
      testing Sprites dataset." `<https://github.com/google-deepmind/dsprites-dataset>`_
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gyoza.data.rendering import Renderer
from gyoza.modelling.functions.checks import check_positive

__all__ = ["Sprites"]

_CHUNK_SIZE = 32
"""Number of pictures that are rendered at a time, so that they fit into the processor's cache."""


class Sprites(Renderer):
    r"""Renders white shapes on a black background from their factors, with smooth edges.

    A picture covers the unit square. Its five factors are independent:

    - `shape`, the index of the shape in `shapes`,
    - `scale`, the radius of the smallest circle around the shape's centre of mass that encloses it,
    - `orientation`, the angle in radians by which it is rotated counter-clockwise,
    - `x` and `y`, its centre of mass, where `x` runs from the left and `y` from the top.

    A shape that is rotated by its period looks the same: a square by :math:`\pi / 2`, an ellipse by
    :math:`\pi` and a heart by :math:`2 \pi`. So that each picture has a single label, orientations
    stay below the smallest period among the shapes, unless another range is given. The two ends of
    a full period look the same; to avoid this jump, choose a smaller range.

    The areas of shapes with scale :math:`r` are

    .. math::
        A_\text{square} = 2 r^2, \qquad A_\text{ellipse} = \tfrac{\pi}{2} r^2, \qquad
        A_\text{heart} = (1 + \tfrac{\pi}{4}) (r / 0.9286)^2

    The semi-axes of the ellipse are :math:`r` and :math:`r / 2`. The heart is a square standing on
    a corner, with a half disc on each of the upper sides. A pixel's brightness is the share of it
    that the shape covers, as if the edge within the pixel were straight.

    The factor `shape` takes integers. A `grid` has at most as many values of it as there are
    shapes, and its orientations stop one step before the upper end.

    For coloured sprites, pass the pictures to `gyoza.data.tint`.

    Args:
        image_size: Height and width of a picture in pixels, a positive integer.
        shapes: Which of "square", "ellipse" and "heart" there are, in the order of their indices.
        scales: Smallest and largest scale, two positive numbers.
        orientations: Smallest and largest orientation. If None, these are 0 and the smallest period
            among the shapes.
        positions: Smallest and largest coordinate of the centre of mass, both of `x` and of `y`.

    Raises:
        ValueError: If an argument has an unsuitable value.

    Example:
        >>> from gyoza.data import Sprites
        >>> sprites = Sprites(image_size=32)
        >>> images, factors = sprites.sample(1000, seed=0)
        >>> print(images.shape, factors.shape, sprites.names)
        (1000, 32, 32, 1) (1000, 5) ('shape', 'scale', 'orientation', 'x', 'y')
        >>> square = sprites.render([[0, 0.2, 0.0, 0.5, 0.5]])
        >>> print(round(float(square.mean()), 3))
        0.08
        >>> print(sprites.grid([3, 2, 1, 4, 4]).shape)
        (96, 5)
    """

    names = ("shape", "scale", "orientation", "x", "y")

    def __init__(
        self,
        image_size: int = 64,
        shapes: Sequence[str] = ("square", "ellipse", "heart"),
        scales: tuple[float, float] = (0.1, 0.2),
        orientations: tuple[float, float] | None = None,
        positions: tuple[float, float] = (0.25, 0.75),
    ) -> None:
        if isinstance(shapes, str) or not shapes or not set(shapes) <= set(_SHAPES):
            raise ValueError(
                f"`shapes` should be a list of some of {list(_SHAPES)}. Received: shapes={shapes}"
            )
        if orientations is None:
            orientations = (0.0, min(_SHAPES[shape].period for shape in shapes))
        for name, limits in (
            ("scales", scales),
            ("orientations", orientations),
            ("positions", positions),
        ):
            if np.shape(limits) != (2,) or not -math.inf < limits[0] <= limits[1] < math.inf:
                raise ValueError(
                    f"`{name}` should be two finite numbers in ascending order. "
                    f"Received: {name}={limits}"
                )
        check_positive("scales", scales)
        self.shapes = tuple(shapes)
        shape_numbers = (0, len(self.shapes) - 1)
        super().__init__(image_size, [shape_numbers, scales, orientations, positions, positions])

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        factors = super()._draw(rng, count)
        factors[:, 0] = rng.integers(len(self.shapes), size=count)
        return factors

    def _list_values(self, counts: Sequence[int]) -> list[np.ndarray]:
        if counts[0] > len(self.shapes):
            raise ValueError(
                f"`counts` should have at most {len(self.shapes)} shapes. Received: counts={counts}"
            )
        values = super()._list_values(counts)
        values[0] = np.arange(counts[0], dtype="float64")
        low, high = self._limits[2]
        values[2] = np.linspace(low, high, counts[2], endpoint=False)
        return values

    def _render(self, factors: np.ndarray) -> np.ndarray:
        shape_numbers = factors[:, 0].astype(int)
        if np.any(shape_numbers != factors[:, 0]):
            raise ValueError(
                f"`factors` should have integers as shapes. Received: {np.unique(factors[:, 0])}"
            )
        images = np.empty((len(factors), self.image_size, self.image_size), "float32")
        for number, shape in enumerate(self.shapes):
            indices = np.flatnonzero(shape_numbers == number)
            for start in range(0, len(indices), _CHUNK_SIZE):
                chunk = indices[start : start + _CHUNK_SIZE]
                images[chunk] = self._render_shape(shape, factors[chunk, 1:])
        return images

    def _render_shape(self, shape: str, factors: np.ndarray) -> np.ndarray:
        """Renders pictures of one shape, with lengths in units of a pixel."""
        centres = np.arange(self.image_size) + 0.5
        scale, angle, x, y = factors.T[..., None]
        right, up = centres - self.image_size * x, self.image_size * y - centres
        cos, sin = np.cos(angle), np.sin(angle)
        # The pixels' coordinates in the shape's own system, which is not rotated.
        a = (cos * right).astype("float32")[:, None, :] + (sin * up).astype("float32")[:, :, None]
        b = (-sin * right).astype("float32")[:, None, :] + (cos * up).astype("float32")[:, :, None]
        radius = (self.image_size * scale).astype("float32")[:, :, None]
        return _SHAPES[shape].cover(a, b, radius)


def _step(distance: np.ndarray) -> np.ndarray:
    """Returns the share of a pixel inside a straight edge, from the distance to the edge."""
    return np.clip(distance + np.float32(0.5), 0, 1)


def _cover_square(a: np.ndarray, b: np.ndarray, radius: np.ndarray) -> np.ndarray:
    half_side = radius / np.float32(math.sqrt(2))
    return _step(half_side - np.abs(a)) * _step(half_side - np.abs(b))


def _cover_ellipse(a: np.ndarray, b: np.ndarray, radius: np.ndarray) -> np.ndarray:
    # With f = a² + 4 b² - r², which is 0 on the edge, the distance to it is -f / |∇f| to first
    # order. In the centre, where the gradient is 0, the distance only has to be large.
    squares, sharper = a * a, 4 * b * b
    slope = 2 * np.sqrt(squares + 4 * sharper) + np.float32(1e-6)
    return _step((radius * radius - squares - sharper) / slope)


def _cover_heart(a: np.ndarray, b: np.ndarray, radius: np.ndarray) -> np.ndarray:
    # Coordinates in the right half, in units of the square's side, from its lowest corner: `s` runs
    # along the lower side up to the upper one, which bears the half disc, and `t` along the upper
    # side to the cleft, at (1, 1).
    side = radius / np.float32(_HEART_REACH)
    height, width = b + radius, np.abs(a)
    s = (height + width) * np.float32(math.sqrt(0.5))
    t = (height - width) * np.float32(math.sqrt(0.5))
    beyond = s - side
    # Above the upper side the edge is that of the disc, below it the lower side, or the cleft.
    disc = side / 2 - np.hypot(beyond, t - side / 2)
    rest = np.minimum(t, np.hypot(beyond, t - side))
    return _step(np.where(beyond > 0, disc, rest)) * _step(s)


_HEART_REACH = (7 / 6 + 3 * math.pi / 8) / (1 + math.pi / 4) / math.sqrt(2)
"""Distance of a heart's tip from its centre of mass, in units of the side of its square."""


class _Shape(NamedTuple):
    cover: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    period: float


_SHAPES = {
    "square": _Shape(_cover_square, math.pi / 2),
    "ellipse": _Shape(_cover_ellipse, math.pi),
    "heart": _Shape(_cover_heart, 2 * math.pi),
}
