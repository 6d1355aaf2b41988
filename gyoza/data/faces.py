r"""Drawn faces, about which everything is known: expression, pose, light and person.

They serve to question a network that reads faces: for any face, one can be drawn that differs in
nothing but the mouth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyoza.data.rendering import Renderer

__all__ = ["Faces"]

_CHUNK_SIZE = 32
"""Number of pictures that are rendered at a time, so that they fit into the processor's cache."""


class Faces(Renderer):
    r"""Renders grey faces from their factors, with smooth edges and shading.

    A face fills the picture, as if cropped by a face detector. Its eight factors are independent.
    Those of the expression are

    - `mouth`, from -1 (corners down) to 1 (corners up),
    - `opening` of the mouth, from 0 (closed) to 1 (wide open),
    - `brows`, from -1 (inner ends lowered) to 1 (inner ends raised),
    - `eyes`, from 0 (nearly closed) to 1 (wide open),

    those of the picture are

    - `tilt`, the angle in radians by which the head leans counter-clockwise,
    - `light`, the direction that it comes from, from -1 (left) to 1 (right),

    and those of the person are

    - `width` of the face, relative to an average one,
    - `skin`, the share of light that it reflects.

    A frown is (-1, 0) in mouth and opening, and a smile (1, 0). With lowered brows, a face looks
    angry; with raised ones, it looks sad if the corners of the mouth are down, and surprised if
    eyes and mouth are wide open.

    The face is shaded like half an ellipsoid, with normal :math:`n`, in ambient light and that of a
    lamp in direction :math:`l`,

    .. math::
        I = r \, (0.6 + 0.4 \max(0, n \cdot l)), \qquad
        l = (\sin \varphi, 0, \cos \varphi), \quad \varphi = 1.1 \, \text{light}

    where :math:`r` is the share of light that skin, eyes, brows or lips reflect. Lids, lips and
    brows are bounded by parabolas, and contribute to the brightness of a pixel by the share of it
    that they cover. The opening of the mouth has an area of :math:`\tfrac{4}{3} w h`, where
    :math:`w` is half its width and :math:`h` its height in the middle.

    Args:
        image_size: Height and width of a picture in pixels, a positive integer.

    Raises:
        ValueError: If `image_size` is not a positive integer.

    Example:
        >>> from gyoza.data import Faces
        >>> faces = Faces()
        >>> images, factors = faces.sample(100, seed=0)
        >>> print(images.shape, factors.shape)
        (100, 64, 64, 1) (100, 8)
        >>> print(faces.names)
        ('mouth', 'opening', 'brows', 'eyes', 'tilt', 'light', 'width', 'skin')
        >>> smile = faces.render([[1, 0, 0, 0.6, 0, 0, 1, 0.8]])
        >>> bool(np.allclose(smile, smile[:, :, ::-1], atol=1e-5))
        True
    """

    names = ("mouth", "opening", "brows", "eyes", "tilt", "light", "width", "skin")

    def __init__(self, image_size: int = 64) -> None:
        limits = [(-1, 1), (0, 1), (-1, 1), (0, 1), (-0.25, 0.25), (-1, 1), (0.9, 1.1), (0.6, 1.0)]
        super().__init__(image_size, limits)

    def _render(self, factors: np.ndarray) -> np.ndarray:
        images = np.empty((len(factors), self.image_size, self.image_size), "float32")
        for start in range(0, len(factors), _CHUNK_SIZE):
            chunk = slice(start, start + _CHUNK_SIZE)
            columns = factors[chunk].astype("float32").T[..., None, None]
            _draw_face(images[chunk], dict(zip(self.names, columns, strict=True)))
        return images


class _Style(NamedTuple):
    """How faces are drawn. Lengths are shares of the picture's, downwards from its centre."""

    background: float = 0.23
    hair: float = 0.18
    hairline: float = -0.4
    hair_curve: float = 0.8
    ambient: float = 0.6
    lamp: float = 1.1
    face_width: float = 0.35
    face_height: float = 0.56
    face_v: float = 0.07
    eye_u: float = 0.15
    eye_v: float = -0.082
    eye_width: float = 0.08
    eye_heights: tuple[float, float] = (0.008, 0.081)
    iris: float = 0.039
    lid: float = 0.018
    lid_dark: float = 0.05
    brow_v: float = -0.193
    brow_ends: tuple[float, float] = (0.072, 0.287)
    brow_height: float = 0.036
    brow_lift: float = 0.075
    brow_shift: float = 0.014
    brow_arch: float = 0.053
    brow_dark: float = 0.05
    furrow: float = 0.37
    nose_v: float = 0.07
    nose_dark: float = 0.31
    nose_side: float = 0.05
    mouth_v: float = 0.259
    mouth_width: float = 0.138
    mouth_widening: float = 0.017
    mouth_curve: float = 0.089
    mouth_height: float = 0.171
    lip: float = 0.036
    lip_dark: float = 0.83
    inside: float = 0.063
    line: float = 0.01
    teeth: float = 0.89
    teeth_height: float = 0.051
    fold: float = 0.111
    fold_width: float = 0.022
    chin: float = 0.4


_STYLE = _Style()
_Factors = dict[str, np.ndarray]
_Number = np.ndarray | float


def _draw_face(images: np.ndarray, f: _Factors) -> None:
    """Draws faces into pictures [count, size, size] from factors [count, 1, 1] by name."""
    s = _STYLE
    size = images.shape[1]
    centres = ((np.arange(size) + 0.5) / size - 0.5).astype("float32")
    x, y = centres[None, None, :], centres[None, :, None]
    cos, sin = np.cos(f["tilt"]), np.sin(f["tilt"])
    u, v = (cos * x - sin * y) / f["width"], sin * x + cos * y
    pixel = np.float32(1 / size)

    images[...] = s.background
    hair, _ = _cover_ellipse(u, v + 0.05, s.face_width + 0.07, s.face_height + 0.03, pixel)
    _paint(images, hair, s.hair)
    cover, radii = _cover_ellipse(u, v - s.face_v, s.face_width, s.face_height, pixel)

    face = np.broadcast_to(f["skin"], images.shape).copy()
    for paint, box in ((_paint_nose, _NOSE), (_paint_mouth, _MOUTH), (_paint_eyes, _EYES)):
        rows, columns = _window(box, size)
        window = (slice(None), rows, columns)
        paint(face[window], u[window], v[window], f, pixel)
    _paint(face, _cover_between(v, -1.0, s.hairline + s.hair_curve * u * u, pixel), s.hair)

    angle = s.lamp * f["light"]
    towards = np.sqrt(np.maximum(1 - radii, 0))
    lamp = np.sin(angle) / s.face_width * u + np.cos(angle) * towards
    face *= s.ambient + (1 - s.ambient) * np.maximum(lamp, 0)
    _paint(images, cover, face)


# Where parts of a face may be at any tilt and width: left, right, top and bottom.
_EYES = -0.36, 0.36, -0.4, 0.13
_NOSE = -0.13, 0.13, -0.18, 0.17
_MOUTH = -0.32, 0.32, 0.0, 0.5


def _window(box: tuple[float, float, float, float], size: int) -> tuple[slice, slice]:
    left, right, top, bottom = (round((place + 0.5) * size) for place in box)
    return slice(top, bottom), slice(left, right)


def _paint_nose(
    face: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Factors, pixel: np.float32
) -> None:
    s = _STYLE
    side = np.abs(u)
    sides = np.exp(-np.square((side - 0.045) / 0.025) - np.square(v / 0.11))
    nostrils = np.exp(-np.square((side - 0.035) / 0.022) - np.square((v - s.nose_v) / 0.012))
    wings = np.exp(-np.square((side - 0.065) / 0.012) - np.square((v - s.nose_v + 0.015) / 0.025))
    face *= 1 - s.nose_side * sides
    face *= 1 - s.nose_dark * np.minimum(1.6 * nostrils + 0.5 * wings, 1)


def _paint_mouth(
    face: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Factors, pixel: np.float32
) -> None:
    s = _STYLE
    smile = f["mouth"]
    width = s.mouth_width + s.mouth_widening * smile
    bulge = np.maximum(1 - np.square(u / width), 0)
    height = s.mouth_height * f["opening"] * bulge
    middle = s.mouth_v + s.mouth_curve * smile * (bulge - 0.6)
    upper, lower = middle - 0.3 * height, middle + 0.7 * height
    # Folds from the nose around the corners of the mouth.
    fold_u = 0.06 + (0.12 + 0.03 * smile) * np.sqrt(np.clip((v - 0.09) / 0.2, 0, 1))
    fold = np.exp(-np.square((np.abs(u) - fold_u) / s.fold_width))
    fold *= np.clip((v - 0.07) / 0.04, 0, 1) * np.clip((0.3 - v) / 0.08, 0, 1)
    face *= 1 - s.fold * np.square((1 + smile) / 2) * fold
    face *= 1 - s.chin * np.exp(-np.square(u / 0.07) - np.square((v - lower - 0.055) / 0.015))
    lip = s.lip * bulge * (2 - bulge)
    _paint(face, _cover_between(v, upper - lip, lower + 1.3 * lip, pixel), s.lip_dark * f["skin"])
    line = s.line / 2 * bulge
    _paint(face, _cover_between(v, upper - line, lower + line, pixel), s.inside)
    teeth = np.minimum(0.6 * height, s.teeth_height * bulge)
    _paint(face, _cover_between(v, upper, upper + teeth, pixel), s.teeth)


def _paint_eyes(
    face: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Factors, pixel: np.float32
) -> None:
    s = _STYLE
    side = np.abs(u)
    low, high = s.eye_heights
    bulge = np.maximum(1 - np.square((side - s.eye_u) / s.eye_width), 0)
    height = (low + (high - low) * f["eyes"]) * bulge
    upper, lower = s.eye_v - 0.6 * height, s.eye_v + 0.4 * height
    opened = _cover_between(v, upper, lower, pixel)
    _paint(face, opened, 1.0)
    distance = np.hypot(side - s.eye_u, v - s.eye_v + 0.004)
    for radius, colour in ((s.iris, 0.22), (0.45 * s.iris, 0.03)):
        _paint(face, opened * np.clip((radius - distance) / pixel + 0.5, 0, 1), colour)
    lid = s.lid * bulge * (2 - bulge)
    _paint(face, _cover_between(v, upper - lid, upper + lid, pixel), s.lid_dark)
    _paint(face, 0.5 * _cover_between(v, lower - 0.4 * lid, lower + 0.4 * lid, pixel), s.lid_dark)

    brows = f["brows"]
    furrows = np.exp(-np.square((side - 0.022) / 0.009) - np.square((v - s.brow_v - 0.02) / 0.035))
    face *= 1 - s.furrow * np.square((1 - brows) / 2) * furrows
    inner, outer = s.brow_ends
    place = np.clip((side - inner) / (outer - inner), 0, 1)
    middle = s.brow_v - brows * (s.brow_shift + s.brow_lift * (1 - place))
    middle -= s.brow_arch * place * (1 - place)
    half = s.brow_height / 2 * (1 - np.square(np.square(place)))
    within = np.clip((side - inner) / pixel + 0.5, 0, 1)
    _paint(face, within * _cover_between(v, middle - half, middle + half, pixel), s.brow_dark)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: _Number) -> None:
    """Paints a colour over the canvas, in the share of each pixel that is covered."""
    canvas += cover * (colour - canvas)


def _cover_between(v: np.ndarray, upper: _Number, lower: _Number, pixel: np.float32) -> np.ndarray:
    """Returns the share of a pixel's height that lies between two curves."""
    covered = np.minimum(lower, v + pixel / 2) - np.maximum(upper, v - pixel / 2)
    return np.maximum(covered, 0) / pixel


def _cover_ellipse(
    u: np.ndarray, v: np.ndarray, a: float, b: float, pixel: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of a pixel in an ellipse, and its squared radius, 1 at the edge."""
    radii = np.square(u / a) + np.square(v / b)
    # To first order, the distance to the edge is (1 - r) / |∇r|. In the centre, it only has to be
    # large.
    slope = 2 * np.sqrt(np.square(u / (a * a)) + np.square(v / (b * b))) + np.float32(1e-6)
    return np.clip((1 - radii) / (slope * pixel) + 0.5, 0, 1), radii
