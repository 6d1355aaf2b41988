r"""Handwritten digits in random colours: small pictures with two factors that everyone can name.

Every picture of a digit is tinted in a hue that is independent of the digit. A representation of
the pictures should keep the two apart, and apart from how the digit was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gyoza.extras import import_extra
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Tensor

__all__ = ["TintedDigits", "load_tinted_digits", "tint", "distort"]


@dataclass
class TintedDigits:
    """Pictures of digits and their two factors, which can be indexed like an array.

    Args:
        images: The pictures, float32 array of shape [N, 8, 8, 3] with values in [0, 1].
        digits: The digits in the pictures, integers of shape [N].
        hues: The hues of their ink in [0, 1), of shape [N].
    """

    images: np.ndarray
    digits: np.ndarray
    hues: np.ndarray

    def classes(self, hue_count: int = 12) -> np.ndarray:
        """Returns digits and hues as classes, as `gyoza.data.CategoricalPairs` expects them.

        Args:
            hue_count: Number of equal sections into which the colour wheel is divided.

        Returns:
            Integer array of shape [N, 2], with the digit and the index of the section.

        Raises:
            ValueError: If `hue_count` is not a positive integer.
        """
        check_integer("hue_count", hue_count, minimum=1)
        return np.stack([self.digits, (self.hues * hue_count).astype(int)], axis=1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Any) -> TintedDigits:
        return TintedDigits(self.images[indices], self.digits[indices], self.hues[indices])


def load_tinted_digits(
    copy_count: int = 12, distortion: float = 0.06, saturation: float = 0.85, seed: int = 0
) -> tuple[TintedDigits, ...]:
    """Loads the digits of scikit-learn, splits them in three, and tints them in random hues.

    The pictures are split before they are copied, so that no handwriting is in two sets: 72% of
    the 1797 pictures are for training, 8% for validation and 20% for testing, with equal shares
    of every digit.

    Args:
        copy_count: Number of copies of each picture for training and validation, each in another
            hue. A positive integer.
        distortion: Strength of the distortion of training pictures; see `distort`.
        saturation: Saturation of the ink, in [0, 1].
        seed: Non-negative integer that determines the split, the distortions and the hues.

    Returns:
        The sets for training, validation and testing.

    Raises:
        ValueError: If an argument has an unsuitable value.
        ImportError: If scikit-learn or SciPy is missing.

    Example:
        >>> from gyoza.data import load_tinted_digits
        >>> train, validation, test = load_tinted_digits(copy_count=2, seed=0)
        >>> print(train.images.shape, len(validation), len(test))
        (2586, 8, 8, 3) 288 360
        >>> print(train.classes(hue_count=12).max(axis=0))
        [ 9 11]
    """
    check_integer("copy_count", copy_count, minimum=1)
    check_integer("seed", seed, minimum=0)
    data = import_extra("sklearn.datasets", "data").load_digits()
    split = import_extra("sklearn.model_selection", "data").train_test_split
    ink = data.images / 16.0
    rest, test = split(
        np.arange(len(ink)), test_size=0.2, stratify=data.target, random_state=int(seed)
    )
    train, validation = split(
        rest, test_size=0.1, stratify=data.target[rest], random_state=int(seed)
    )
    train, validation = (np.repeat(part, copy_count) for part in (train, validation))
    rng = np.random.default_rng(seed)
    written = [distort(ink[train], distortion, rng), ink[validation], ink[test]]
    sets = []
    for part, images in zip((train, validation, test), written, strict=True):
        hues = rng.uniform(size=len(part))
        sets.append(TintedDigits(tint(images, hues, saturation), data.target[part], hues))
    return tuple(sets)


def tint(images: Tensor, hues: Tensor, saturation: float = 0.85) -> np.ndarray:
    r"""Tints the bright parts of grey pictures, while black stays black.

    The colour of a picture with hue :math:`h` and saturation :math:`s` is that of the HSV colour
    space at full value. Its channels, with :math:`n` = 5, 3 and 1 for red, green and blue, are

    .. math::
        1 - s \operatorname{clip}\big(\min(k, 4 - k), 0, 1\big), \qquad k = (n + 6 h) \bmod 6

    Args:
        images: Grey pictures with values in [0, 1], array-like of shape [N, height, width] or
            [N, height, width, 1].
        hues: A hue per picture in [0, 1], of shape [N]: 0 and 1 are red, 1/3 is green, 2/3 is blue.
        saturation: Saturation in [0, 1], from white to the pure colour.

    Returns:
        Float32 array of shape [N, height, width, 3].

    Raises:
        ValueError: If an argument has an unsuitable shape, or values out of range.

    Example:
        >>> from gyoza.data import tint
        >>> white = np.ones([3, 8, 8])
        >>> print(tint(white, hues=[0, 1 / 3, 2 / 3], saturation=1.0)[:, 0, 0])
        [[1. 0. 0.]
         [0. 1. 0.]
         [0. 0. 1.]]
    """
    images, hues = to_numpy(images), to_numpy(hues)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    _check_pictures(images)
    if hues.shape != images.shape[:1]:
        raise ValueError(
            "`hues` should have one value for every picture. "
            f"Received: hues.shape={hues.shape}, images.shape={images.shape}"
        )
    if not np.all((hues >= 0) & (hues <= 1)):
        raise ValueError(
            f"`hues` should lie in [0, 1]. Received: hues from {hues.min()} to {hues.max()}"
        )
    if not 0 <= saturation <= 1:
        raise ValueError(f"`saturation` should lie in [0, 1]. Received: saturation={saturation}")
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hues[:, None]) % 6
    colours = 1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return (images[..., None] * colours[:, None, None, :]).astype("float32")


def distort(
    images: Tensor, strength: float = 0.06, seed: int | np.random.Generator | None = None
) -> np.ndarray:
    r"""Rotates, shears, scales and shifts each grey picture slightly at random.

    The new value at pixel :math:`p` is the old one at :math:`A (p - c) + c + d`, where :math:`c` is
    the centre of the picture. Linear maps and shifts are drawn from normal distributions:
    :math:`A = I + \alpha \varepsilon` and :math:`d = 2 \alpha \delta` pixels, with independent
    standard normal :math:`\varepsilon` and :math:`\delta`.

    Args:
        images: Grey pictures with values in [0, 1], array-like of shape [N, height, width].
        strength: The standard deviation :math:`\alpha`, a non-negative number.
        seed: Non-negative integer that determines the distortions, or a generator to draw them
            from. If None, they differ from call to call.

    Returns:
        Float64 array of the same shape, with values in [0, 1].

    Raises:
        ValueError: If an argument has an unsuitable shape or value.
        ImportError: If SciPy is missing.

    Example:
        >>> from gyoza.data import distort
        >>> image = np.zeros([1, 8, 8])
        >>> image[0, 2:6, 3:5] = 1.0
        >>> copies = distort(np.repeat(image, 5, axis=0), strength=0.1, seed=0)
        >>> print(copies.shape, bool(np.ptp(copies, axis=0).max() > 0.1))
        (5, 8, 8) True
    """
    images = to_numpy(images)
    _check_pictures(images)
    if not 0 <= strength < np.inf:
        raise ValueError(
            f"`strength` should be a non-negative finite number. Received: strength={strength}"
        )
    transform = import_extra("scipy.ndimage", "data").affine_transform
    rng = np.random.default_rng(seed)
    matrices = np.eye(2) + rng.normal(scale=strength, size=[len(images), 2, 2])
    centre = (np.array(images.shape[1:]) - 1) / 2
    offsets = centre - matrices @ centre
    offsets = offsets + rng.normal(scale=2 * strength, size=[len(images), 2])
    warped = np.empty(images.shape)
    for picture, matrix, offset, output in zip(images, matrices, offsets, warped, strict=True):
        transform(picture, matrix, offset, output=output, mode="grid-constant")
    return np.clip(warped, 0, 1)


def _check_pictures(images: np.ndarray) -> None:
    if images.ndim != 3:
        raise ValueError(
            "`images` should be grey pictures of shape [count, height, width]. "
            f"Received: images.shape={images.shape}"
        )
