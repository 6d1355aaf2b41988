"""Tests of the sprites against the geometry of their shapes."""

import math

import keras
import numpy as np
import pytest

from gyoza.data import Sprites

NAMES = ["square", "ellipse", "heart"]
PERIODS = [math.pi / 2, math.pi, 2 * math.pi]
# Of a heart with scale 1. The half discs on the sides L of its square have their centres of mass at
# 2 L / 3π from these sides, so the heart's is this much above its tip, in units of L:
TIP_HEIGHT = (1 + math.pi / 4 * (1.5 + 2 / (3 * math.pi))) / (1 + math.pi / 4) / math.sqrt(2)
AREAS = [2.0, math.pi / 2, (1 + math.pi / 4) / TIP_HEIGHT**2]


def _centre_of_mass(images):
    coordinates = (np.arange(images.shape[1]) + 0.5) / images.shape[1]
    weights = images[..., 0] / images.sum(axis=(1, 2))[..., None]
    x, y = weights.sum(axis=1) @ coordinates, weights.sum(axis=2) @ coordinates
    return np.stack([x, y], axis=1)


@pytest.mark.parametrize("shape", range(3), ids=NAMES)
def test_areas_and_centres_of_mass_are_exact(shape):
    renderer = Sprites(image_size=128)
    factors = renderer.sample(60, seed=shape)[1]
    factors[:, 0] = shape
    images = renderer.render(factors).astype("float64")
    areas = AREAS[shape] * factors[:, 1] ** 2
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), areas, rtol=0.012)
    # A twentieth of a pixel.
    np.testing.assert_allclose(_centre_of_mass(images), factors[:, 3:], atol=0.05 / 128)


def test_upright_square_is_exact():
    # Its sides are 22.6 pixels long, and it lies between pixels.
    side = 0.25 * math.sqrt(2)
    (image,) = Sprites(image_size=64, scales=(0.1, 0.3)).render([[0, 0.25, 0.0, 0.512, 0.487]])
    edges = np.arange(65) / 64

    def cover(centre):
        inside = np.clip(edges, centre - side / 2, centre + side / 2)
        return 64 * np.diff(inside)

    np.testing.assert_allclose(image[..., 0], np.outer(cover(0.487), cover(0.512)), atol=1e-5)


@pytest.mark.parametrize("shape", range(3), ids=NAMES)
def test_shapes_fill_the_circle_of_their_scale(shape):
    (image,) = Sprites(image_size=256, orientations=(0, 7)).render([[shape, 0.2, 1.0, 0.5, 0.5]])
    centres = (np.arange(256) + 0.5) / 256 - 0.5
    distances = np.hypot(*np.meshgrid(centres, centres))
    assert abs(distances[image[..., 0] > 0.2].max() - 0.2) < 1 / 256


@pytest.mark.parametrize(("shape", "period"), list(enumerate(PERIODS)), ids=NAMES)
def test_rotation_by_the_period_but_by_no_less_changes_nothing(shape, period):
    renderer = Sprites(orientations=(0.0, 9.0))
    fractions = np.array([0.0, 1.0, 0.5, 1 / 3, 0.25])
    factors = [[shape, 0.2, 0.2 + period * fraction, 0.5, 0.5] for fraction in fractions]
    first, whole, *parts = renderer.render(factors)
    np.testing.assert_allclose(whole, first, atol=1e-4)
    assert all(np.abs(part - first).sum() > 20 for part in parts)


@pytest.mark.parametrize("shape", range(3), ids=NAMES)
def test_orientation_turns_pictures_counter_clockwise(shape):
    renderer = Sprites(orientations=(0, 2 * math.pi))
    turns = np.arange(4)
    images = renderer.render([[shape, 0.2, turn * math.pi / 2, 0.5, 0.5] for turn in turns])
    turned = [np.rot90(images[0], turn) for turn in turns]
    np.testing.assert_allclose(images, turned, atol=1e-4)


def test_hearts_stand_on_their_tip():
    (image,) = Sprites().render([[2, 0.2, 0.0, 0.5, 0.5]])
    widths = (image[..., 0] > 0.5).sum(axis=1)
    widths = widths[widths > 0]
    assert widths[:5].min() > 5
    assert widths[-1] <= 2
    np.testing.assert_array_equal(image, image[:, ::-1])


@pytest.mark.parametrize("shape", range(3), ids=NAMES)
def test_brightness_changes_continuously_with_the_position(shape):
    x = np.linspace(0.4, 0.4 + 2 / 64, 201)
    factors = np.stack([np.full_like(x, v) for v in (shape, 0.15, 0.4)] + [x, np.full_like(x, 0.5)])
    images = Sprites().render(factors.T).astype("float64")
    assert np.abs(np.diff(images, axis=0)).max() < 0.03
    brightness = images.sum(axis=(1, 2, 3))
    assert np.ptp(brightness) < 0.01 * brightness.mean()
    assert (np.diff(_centre_of_mass(images)[:, 0]) > 0).all()


def test_pixels_are_grey_on_the_edge_alone():
    images, factors = Sprites().sample(50, seed=0)
    assert images.dtype == "float32"
    assert images.min() == 0
    assert images.max() == 1
    # No more pixels than edges of twice the circumference of the circle could meet.
    grey = ((images > 0) & (images < 1)).sum(axis=(1, 2, 3))
    assert (grey > 20).all()
    assert (grey < 2 * 2 * math.pi * 64 * factors[:, 1]).all()


def test_factors_are_independent_and_uniform():
    renderer = Sprites(image_size=1, scales=(0.05, 0.3), positions=(0.1, 0.9))
    _, factors = renderer.sample(20000, seed=0)
    limits = np.array(list(renderer.ranges.values()))
    assert list(renderer.ranges) == list(renderer.names)
    np.testing.assert_allclose(limits[1:], [[0.05, 0.3], [0, math.pi / 2], [0.1, 0.9], [0.1, 0.9]])
    np.testing.assert_allclose(np.bincount(factors[:, 0].astype(int)) / 20000, 1 / 3, atol=0.02)
    scaled = (factors[:, 1:] - limits[1:, 0]) / np.diff(limits[1:])[:, 0]
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_allclose((scaled < level).mean(axis=0), level, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(factors.T), np.eye(5), atol=0.03)


@pytest.mark.parametrize(
    ("shapes", "period"),
    [(["ellipse", "heart"], math.pi), (["heart"], 2 * math.pi), (["square"], math.pi / 2)],
)
def test_orientations_cover_the_smallest_period(shapes, period):
    assert Sprites(shapes=shapes).ranges["orientation"] == (0.0, pytest.approx(period))


def test_numbers_of_shapes_follow_their_order():
    factors = [[0.2, 0.3, 0.5, 0.5]]
    heart = Sprites(shapes=["heart", "square"]).render(np.insert(factors, 0, 0, axis=1))
    np.testing.assert_array_equal(heart, Sprites().render(np.insert(factors, 0, 2, axis=1)))


def test_pictures_follow_from_seed_and_from_factors():
    renderer = Sprites(image_size=16)
    images, factors = renderer.sample(70, seed=5)
    np.testing.assert_array_equal(renderer.sample(70, seed=5)[0], images)
    assert np.abs(renderer.sample(70, seed=6)[1] - factors).min(axis=0)[1:].max() > 0
    np.testing.assert_array_equal(renderer.render(factors), images)
    np.testing.assert_array_equal(renderer.render(factors[::-1]), images[::-1])
    rounded = renderer.render(keras.ops.convert_to_tensor(factors, "float32"))
    np.testing.assert_allclose(rounded, images, atol=1e-4)
    keras.utils.set_random_seed(1)
    unseeded = renderer.sample(3)[1]
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(renderer.sample(3)[1], unseeded)


def test_grid_lists_all_combinations():
    renderer = Sprites()
    factors = renderer.grid([3, 2, 4, 1, 3])
    assert len(np.unique(factors, axis=0)) == len(factors) == 72
    for column, values in zip(
        factors.T,
        ([0, 1, 2], [0.1, 0.2], np.arange(4) * math.pi / 8, [0.25], [0.25, 0.5, 0.75]),
        strict=True,
    ):
        np.testing.assert_allclose(np.unique(column), values)
    np.testing.assert_allclose(factors[:3, 4], [0.25, 0.5, 0.75])
    assert len(renderer.render(factors)) == 72


def test_no_pictures():
    images, factors = Sprites().sample(0)
    assert images.shape == (0, 64, 64, 1)
    assert factors.shape == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size"),
        ({"shapes": []}, "shapes"),
        ({"shapes": "heart"}, "shapes"),
        ({"shapes": ["heart", "star"]}, "star"),
        ({"scales": (0.0, 0.2)}, "positive"),
        ({"scales": (0.2, 0.1)}, "ascending"),
        ({"orientations": (0.0, math.inf)}, "orientations"),
        ({"positions": 0.5}, "positions"),
    ],
)
def test_unsuitable_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sprites(**arguments)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([0, 0.2, 0.0, 0.5, 0.5], r"\[count, 5\]"),
        ([[0, 0.2, 0.0, 0.5]], r"\[count, 5\]"),
        ([[3, 0.2, 0.0, 0.5, 0.5]], r"shape in \[0, 2\]"),
        ([[0.5, 0.2, 0.0, 0.5, 0.5]], "integers"),
        ([[0, 0.3, 0.0, 0.5, 0.5]], r"scale in \[0.1, 0.2\]"),
        ([[0, 0.2, 1.6, 0.5, 0.5]], "orientation"),
        ([[0, 0.2, 0.0, 0.1, 0.5]], "of x"),
        ([[0, 0.2, 0.0, 0.5, math.nan]], "of y"),
    ],
)
def test_unsuitable_factors_raise(factors, message):
    with pytest.raises(ValueError, match=message):
        Sprites().render(factors)


@pytest.mark.parametrize("counts", [[3, 2, 2, 2], [4, 1, 1, 1, 1], [1, 0, 1, 1, 1]])
def test_unsuitable_counts_raise(counts):
    with pytest.raises(ValueError, match="counts"):
        Sprites().grid(counts)
