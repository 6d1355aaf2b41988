"""Tests of the drawn faces against symmetry, geometry and the formula of their shading."""

import math

import keras
import numpy as np
import pytest

from gyoza.data import Faces

PLAIN = {
    "mouth": 0.0,
    "opening": 0.0,
    "brows": 0.0,
    "eyes": 0.6,
    "tilt": 0.0,
    "light": 0.0,
    "width": 1.0,
    "skin": 0.8,
}
WIDTH, HEIGHT = 0.35, 0.56  # semi-axes of the head


def _draw(image_size=64, **factors):
    """Renders faces that are plain except for some factors, which may be lists."""
    columns = np.broadcast_arrays(*{**PLAIN, **factors}.values())
    rows = np.stack([np.atleast_1d(column) for column in columns], axis=1)
    return Faces(image_size).render(rows)[..., 0].astype("float64")


def _centre_of_mass(weights):
    """Returns how far to the right of the picture's centre, and how far up, most of it is."""
    centres = (np.arange(weights.shape[0]) + 0.5) / weights.shape[0] - 0.5
    weights = weights / weights.sum()
    return np.array([weights.sum(axis=0) @ centres, -weights.sum(axis=1) @ centres])


@pytest.mark.parametrize("factor", ["mouth", "opening", "brows", "eyes", "width", "skin"])
def test_upright_faces_are_symmetric(factor):
    images = _draw(**{factor: np.linspace(*Faces().ranges[factor], 4)})
    np.testing.assert_allclose(images, images[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize(("factor", "end"), [("tilt", 0.25), ("light", 1.0)])
def test_opposite_tilt_and_light_mirror_a_face(factor, end):
    one, other = _draw(mouth=0.7, opening=0.4, brows=-0.8, **{factor: [-end, end]})
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-4)
    assert np.abs(one - other).max() > 0.2


def test_tilt_turns_the_mouth_counter_clockwise_around_the_middle():
    angle = 0.2
    upright, tilted = (
        _centre_of_mass(np.abs(np.subtract(*_draw(128, opening=[0, 1], tilt=tilt))))
        for tilt in (0.0, angle)
    )
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    np.testing.assert_allclose(tilted, turn @ upright, atol=0.1 / 128)
    assert tilted[0] > 5 / 128


def test_heads_are_ellipses_of_the_given_width():
    size, widths = 256, np.array([0.9, 1.0, 1.1])
    difference = _draw(size, skin=1.0, width=widths) - _draw(size, skin=0.6, width=widths)
    extent = [np.ptp(np.nonzero(row)[0]) + 1 for row in difference[:, round(0.57 * size)] > 0.01]
    np.testing.assert_allclose(extent / widths, extent[1], atol=1.5)
    # A quarter of its height below the centre, an ellipse has √¾ of its width.
    lower = np.ptp(np.nonzero(difference[1, round((0.57 + HEIGHT / 2) * size)] > 0.01)[0]) + 1
    assert abs(lower / extent[1] - math.sqrt(0.75)) < 0.01


@pytest.mark.parametrize("light", [-0.8, -0.5, 0.5, 0.8])
def test_skin_is_shaded_by_the_angle_between_its_normal_and_the_light(light):
    size, skin = 256, 0.7
    (image,) = _draw(size, light=light, skin=skin)
    cheeks = image[round(0.57 * size)]  # at half the face's height, where normals are level
    cheeks[np.abs(np.arange(size) + 0.5 - size / 2) < 0.1 * size] = 0.0  # but not the nose
    # Full light where the normal points to the lamp, and ambient light alone behind the horizon.
    assert abs(cheeks.max() - skin) < 1e-3
    normal = (np.argmax(cheeks) + 0.5) / size - 0.5
    assert abs(normal / WIDTH - math.sin(1.1 * light)) < 0.03
    away = cheeks if light > 0 else cheeks[::-1]
    np.testing.assert_allclose(away[round(0.17 * size)], 0.6 * skin, atol=0.06)


def test_the_right_side_becomes_brighter_as_light_comes_from_there():
    images = _draw(light=np.linspace(-1, 1, 9))
    difference = images[:, :, 32:].mean(axis=(1, 2)) - images[:, :, :32].mean(axis=(1, 2))
    assert (np.diff(difference) > 0.005).all()


def test_skin_reflects_its_share_of_light():
    (light,), (dark,) = _draw(skin=0.9), _draw(skin=0.6)
    cheeks = np.index_exp[34:38, 44:52]
    np.testing.assert_allclose(dark[cheeks] / light[cheeks], 0.6 / 0.9, rtol=1e-3)


@pytest.mark.parametrize("mouth", [-1.0, 0.0, 1.0])
def test_an_open_mouth_has_the_area_between_two_parabolas(mouth):
    size = 512
    images = _draw(size, mouth=mouth, opening=[0.5, 1.0], skin=0.6)
    images = images[:, size // 2 :, size // 3 : -size // 3]
    # Teeth are brighter than any skin, and the rest of the opening is darker than lips.
    opened = (images > 0.65) | (images < 0.25)
    heights = opened[:, :, opened.shape[2] // 2].sum(axis=1)
    half_width = np.ptp(np.nonzero(opened[1])[1]) / 2
    areas = opened.sum(axis=(1, 2))
    np.testing.assert_allclose(areas, 4 / 3 * half_width * heights, rtol=0.04)


@pytest.mark.parametrize(
    ("factor", "top", "bottom"),
    [("mouth", 0.07, 0.4), ("opening", 0.07, 0.5), ("brows", -0.32, -0.05), ("eyes", -0.15, 0.0)],
)
def test_expression_changes_its_own_part_of_a_face(factor, top, bottom):
    first, *others = _draw(**{factor: np.linspace(*Faces().ranges[factor], 5)})
    changed = np.abs(others - first).max(axis=0) > 1e-6
    v = (np.nonzero(changed)[0] + 0.5) / 64 - 0.5
    assert top < v.min() < v.max() < bottom
    assert changed.sum() > 50


def test_light_and_skin_leave_the_background():
    one, other = _draw(light=[-1, 1], skin=[0.6, 1.0])
    corner = np.index_exp[:8, :4]
    np.testing.assert_array_equal(one[corner], other[corner])


def test_corners_of_the_mouth_rise_with_the_factor():
    size = 128
    images = _draw(size, mouth=[-1, 0, 1])[:, round(0.68 * size) :]
    darkest = images.argmin(axis=1) / size
    side = round((0.5 + 0.085) * size)
    heights = darkest[:, size // 2] - darkest[:, side]
    assert heights[0] < -0.02
    assert heights[1] == pytest.approx(0.0, abs=1.5 / size)
    assert heights[2] > 0.02


def test_inner_ends_of_brows_rise_with_the_factor():
    size = 128
    images = _draw(size, brows=np.linspace(-1, 1, 5), eyes=0.0)
    above = images[:, round(0.17 * size) : round(0.42 * size)]
    inner = above[:, :, round((0.5 + 0.1) * size)].argmin(axis=1)
    assert (np.diff(inner) < 0).all()


def test_eyes_show_more_white_the_wider_they_are_open():
    images = _draw(256, eyes=np.linspace(0.25, 1, 4), skin=0.6)
    white = (images > 0.65).sum(axis=(1, 2))
    assert (np.diff(white) > 0).all()


@pytest.mark.parametrize("factor", Faces.names)
def test_brightness_changes_continuously_with_every_factor(factor):
    images = _draw(**{factor: np.linspace(*Faces().ranges[factor], 201)})
    assert np.abs(np.diff(images, axis=0)).max() < 0.08
    assert np.abs(images[-1] - images[0]).max() > 0.1


def test_pixels_take_the_share_of_what_covers_them():
    factors = Faces().sample(20, seed=0)[1]
    small, large = (Faces(size).render(factors)[..., 0] for size in (64, 256))
    averaged = large.reshape(20, 64, 4, 64, 4).mean(axis=(2, 4))
    assert np.sqrt(np.mean((small - averaged) ** 2)) < 0.01


def test_factors_are_independent_and_uniform():
    renderer = Faces(image_size=1)
    images, factors = renderer.sample(20000, seed=0)
    assert images.shape == (20000, 1, 1, 1)
    limits = np.array(list(renderer.ranges.values()))
    assert tuple(renderer.ranges) == renderer.names
    scaled = (factors - limits[:, 0]) / np.diff(limits)[:, 0]
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_allclose((scaled < level).mean(axis=0), level, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(factors.T), np.eye(8), atol=0.03)


def test_pictures_follow_from_seed_and_from_factors():
    renderer = Faces(image_size=16)
    images, factors = renderer.sample(70, seed=5)
    assert images.dtype == "float32"
    assert 0 <= images.min() < images.max() <= 1
    np.testing.assert_array_equal(renderer.sample(70, seed=5)[0], images)
    assert np.abs(renderer.sample(70, seed=6)[1] - factors).max(axis=0).min() > 0
    np.testing.assert_array_equal(renderer.render(factors), images)
    np.testing.assert_array_equal(renderer.render(factors[::-1]), images[::-1])
    rounded = renderer.render(keras.ops.convert_to_tensor(factors, "float32"))
    np.testing.assert_allclose(rounded, images, atol=1e-4)
    keras.utils.set_random_seed(1)
    unseeded = renderer.sample(3)[1]
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(renderer.sample(3)[1], unseeded)


def test_grid_lists_all_combinations():
    factors = Faces().grid([3, 2, 1, 1, 1, 1, 1, 2])
    expected = [
        [m, o, -1, 0, -0.25, -1, 0.9, s] for m in (-1, 0, 1) for o in (0, 1) for s in (0.6, 1)
    ]
    np.testing.assert_allclose(factors, expected)
    assert len(Faces(8).render(factors)) == 12


def test_no_pictures():
    images, factors = Faces().sample(0)
    assert images.shape == (0, 64, 64, 1)
    assert factors.shape == (0, 8)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (list(PLAIN.values()), r"\[count, 8\]"),
        ([list(PLAIN.values())[:7]], r"\[count, 8\]"),
        *(
            ([list({**PLAIN, name: value}.values())], f"values of {name} in")
            for name, value in (
                ("mouth", -1.1),
                ("opening", -0.1),
                ("brows", 1.1),
                ("eyes", math.nan),
                ("tilt", 0.3),
                ("light", 2.0),
                ("width", 0.5),
                ("skin", 0.0),
            )
        ),
    ],
)
def test_unsuitable_factors_raise(factors, message):
    with pytest.raises(ValueError, match=message):
        Faces().render(factors)


@pytest.mark.parametrize("counts", [3, [1] * 7, [1, 1, 0, 1, 1, 1, 1, 1]])
def test_unsuitable_counts_raise(counts):
    with pytest.raises(ValueError, match="counts"):
        Faces().grid(counts)


def test_unsuitable_image_size_raises():
    with pytest.raises(ValueError, match="image_size"):
        Faces(image_size=0)
