"""Tests of the tinted digits."""

import colorsys
import sys

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from gyoza.data import CategoricalPairs, distort, load_tinted_digits, tint


@pytest.fixture(scope="module")
def sets():
    return load_tinted_digits(copy_count=3, seed=0)


def test_colours_are_those_of_the_hsv_space():
    hues = np.linspace(0, 1, 25)
    ink = np.random.default_rng(0).uniform(size=(25, 2, 3))
    for saturation in (0.0, 0.7, 1.0):
        colours = np.array([colorsys.hsv_to_rgb(hue, saturation, 1.0) for hue in hues])
        expected = ink[..., None] * colours[:, None, None]
        images = tint(ink, hues, saturation)
        assert images.dtype == "float32"
        np.testing.assert_allclose(images, expected, atol=1e-6)
        np.testing.assert_array_equal(tint(ink[..., None], hues, saturation), images)


def test_sets_hold_tinted_handwriting(sets):
    originals = {image.tobytes() for image in load_digits().images}
    for pictures in sets[1:]:
        # With full value, the brightest channel is the ink.
        ink = pictures.images.max(axis=-1).astype("float64") * 16
        assert {image.tobytes() for image in np.round(ink)} <= originals
        np.testing.assert_allclose(ink, np.round(ink), atol=1e-5)
    for pictures in sets:
        assert pictures.images.min() == 0
        assert pictures.images.max() <= 1
        colours = pictures.images.sum(axis=(1, 2))
        colours = colours / colours.max(axis=1, keepdims=True)
        hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in colours]
        np.testing.assert_allclose(hues, pictures.hues, atol=1e-5)


def test_sets_share_no_handwriting_and_all_digits(sets):
    train, validation, test = load_tinted_digits(copy_count=2, distortion=0.0)
    ink = [{x.tobytes() for x in part.images.max(axis=-1)} for part in (train, validation, test)]
    assert [len(part) for part in ink] == [1293, 144, 360]
    assert len(set.union(*ink)) == 1797
    for pictures in sets:
        assert np.bincount(pictures.digits).min() > 0.09 * len(pictures)


def test_hues_are_uniform_and_independent_of_the_digit(sets):
    hues, shown = sets[0].hues, sets[0].digits
    for level in (0.25, 0.5, 0.75):
        assert abs(np.mean(hues < level) - level) < 0.03
    means = [hues[shown == digit].mean() for digit in range(10)]
    np.testing.assert_allclose(means, 0.5, atol=0.06)


def test_classes_make_pairs(sets):
    train = sets[0]
    classes = train.classes(hue_count=4)
    np.testing.assert_array_equal(classes[:, 0], train.digits)
    assert ((classes[:, 1] <= 4 * train.hues) & (4 * train.hues < classes[:, 1] + 1)).all()
    (a, b), y = CategoricalPairs(train.images, classes, seed=0)[0]
    assert a.shape == b.shape == (256, 8, 8, 3)
    assert y.shape == (256, 3)


def test_sets_are_indexed_like_arrays(sets):
    part = sets[2][5:9]
    assert len(part) == 4
    np.testing.assert_array_equal(part.images, sets[2].images[5:9])
    np.testing.assert_array_equal(part.digits, sets[2].digits[5:9])
    np.testing.assert_array_equal(part.hues, sets[2].hues[5:9])


def test_the_seed_determines_the_sets(sets):
    again, other = load_tinted_digits(copy_count=3, seed=0), load_tinted_digits(3, seed=1)
    np.testing.assert_array_equal(again[0].images, sets[0].images)
    assert np.mean(other[0].digits == sets[0].digits) < 0.3
    assert np.abs(other[0].hues - sets[0].hues).mean() > 0.2


def test_distortion_keeps_what_is_in_the_centre():
    picture = np.zeros((17, 17))
    picture[6:11, 6:11] = 1
    picture = ndimage.gaussian_filter(picture, 1.0)
    copies = distort(np.repeat(picture[None], 400, axis=0), strength=0.1, seed=0)
    assert copies.min() >= 0
    assert copies.max() <= 1
    # Shifts have a standard deviation of 0.2 pixels; areas are scaled by 1 / det(I + 0.1 ε).
    centres = np.array([ndimage.center_of_mass(copy) for copy in copies]) - 8
    np.testing.assert_allclose(centres.std(axis=0), 0.2, atol=0.03)
    np.testing.assert_allclose(centres.mean(axis=0), 0.0, atol=0.04)
    areas = copies.sum(axis=(1, 2)) / picture.sum()
    np.testing.assert_allclose(areas.std(), 0.1 * np.sqrt(2), rtol=0.15)


def test_no_distortion_changes_nothing():
    pictures = np.random.default_rng(0).uniform(size=(3, 8, 8))
    np.testing.assert_allclose(distort(pictures, 0.0), pictures, atol=1e-12)
    np.testing.assert_array_equal(distort(pictures, seed=2), distort(pictures, seed=2))
    assert distort(pictures[:0]).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tint(np.ones((2, 8)), [0, 0]), "images"),
        (lambda: tint(np.ones((2, 8, 8, 3)), [0, 0]), "images"),
        (lambda: tint(np.ones((2, 8, 8)), [0]), "hues"),
        (lambda: tint(np.ones((2, 8, 8)), [0, 1.5]), "hues"),
        (lambda: tint(np.ones((2, 8, 8)), [0, 0], saturation=2), "saturation"),
        (lambda: distort(np.ones((8, 8))), "images"),
        (lambda: distort(np.ones((2, 8, 8)), strength=-1), "strength"),
        (lambda: load_tinted_digits(copy_count=0), "copy_count"),
        (lambda: load_tinted_digits(seed=-1), "seed"),
    ],
)
def test_unsuitable_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unsuitable_number_of_hues_raises(sets):
    with pytest.raises(ValueError, match="hue_count"):
        sets[0].classes(hue_count=0)


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match=r'scipy.*pip install "gyoza\[data\]"'):
        distort(np.ones((1, 8, 8)))
