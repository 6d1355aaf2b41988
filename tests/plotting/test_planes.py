"""Tests of the figures of the plane."""

import keras
import numpy as np
import pytest
from matplotlib import pyplot as plt

from gyoza.data import EightGaussians
from gyoza.modelling.flow_layers import FlowModel, Reflection
from gyoza.plotting import density_heat_map, latent_scatter, warped_grid
from gyoza.plotting.canvas import PALETTE, get_colours

POINTS = np.random.default_rng(0).normal(size=(50, 3))
SQUARE = ((-1.0, 1.0), (-1.0, 1.0))


def test_scatter_shows_points_in_colours_of_their_values(ax):
    values = POINTS[:, 2]
    figure = ax.figure
    drawn = latent_scatter(POINTS, values, (2, 0), factor_name="size", ax=ax, vmin=-1.0, s=3)
    assert drawn is ax
    (points,) = ax.collections
    np.testing.assert_array_equal(points.get_offsets(), POINTS[:, [2, 0]])
    np.testing.assert_array_equal(points.get_array(), values)
    assert points.get_clim() == (-1.0, values.max())
    assert points.get_sizes() == [3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("dimension 2", "dimension 0")
    assert [other.get_ylabel() for other in figure.axes[2:]] == ["size"]


@pytest.mark.parametrize(
    "classes",
    [np.arange(50) % 3, np.arange(50) % 2 == 0, np.array(["b", "a"] * 25), np.arange(50) % 20],
)
def test_scatter_gives_every_class_a_colour(ax, classes):
    latent_scatter(keras.ops.convert_to_tensor(POINTS), classes, factor_name="class", ax=ax)
    colours = ax.collections[0].get_facecolors()
    names = np.unique(classes)
    shades = [np.unique(colours[classes == name], axis=0) for name in names]
    assert all(len(shade) == 1 for shade in shades)
    assert len(np.unique(np.concatenate(shades), axis=0)) == len(names)
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [str(name) for name in names]
    assert legend.get_title().get_text() == "class"
    keys = [plt.matplotlib.colors.to_rgba(key.get_color()) for key in legend.get_lines()]
    np.testing.assert_allclose(keys, np.concatenate(shades))


@pytest.mark.parametrize("factor", [POINTS[:, 0], np.arange(50) % 3])
def test_scatter_without_a_key(ax, factor):
    latent_scatter(POINTS, factor, show_key=False, ax=ax)
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2


def test_scatter_without_a_factor():
    ax = latent_scatter(POINTS)
    assert len(ax.collections[0].get_offsets()) == 50
    assert len(ax.collections[0].get_facecolors()) == 1
    assert latent_scatter(POINTS) is not ax


@pytest.mark.parametrize("factor", [None, POINTS[:, 0], np.arange(50) % 3])
def test_scatter_in_space(factor):
    ax = latent_scatter(POINTS, factor, dimensions=(2, 0, 1), factor_name="size", s=3)
    assert ax.name == "3d"
    (points,) = ax.collections
    np.testing.assert_array_equal(np.transpose(points._offsets3d), POINTS[:, [2, 0, 1]])
    labels = ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()
    assert labels == ("dimension 2", "dimension 0", "dimension 1")
    ax.figure.draw_without_rendering()
    assert latent_scatter(POINTS, factor, (0, 1, 2), ax=ax) is ax
    assert len(ax.collections) == 2
    assert len(plt.get_fignums()) == 1


def test_colours_differ():
    for count in (1, len(PALETTE), 25):
        colours = get_colours(count)
        assert colours.shape == (count, 3)
        distances = np.abs(colours[:, None] - colours).max(axis=-1) + np.eye(count)
        assert distances.min() > 0.01


def test_grid_lies_where_the_flow_takes_it(ax):
    model = FlowModel([Reflection(reflection_count=2)])
    model.build([None, 2])
    bounds = ((-2.0, 1.0), (0.0, 4.0))
    assert warped_grid(model, bounds, line_count=4, point_count=7, ax=ax, lw=2) is ax
    lines = [line.get_xydata() for line in ax.lines]
    assert len(lines) == 8
    assert {line.get_linewidth() for line in ax.lines} == {2}
    first = [[(x, y) for x in np.linspace(-2, 1, 7)] for y in np.linspace(0, 4, 4)]
    second = [[(x, y) for y in np.linspace(0, 4, 7)] for x in np.linspace(-2, 1, 4)]
    for line, inputs in zip(lines, first + second, strict=True):
        outputs = keras.ops.convert_to_numpy(model(np.array(inputs, "float32"))[0])
        np.testing.assert_allclose(line, outputs, atol=1e-5)


def test_grid_calls_the_map_once():
    calls = []

    def count(points):
        calls.append(points.dtype)
        return points

    ax = warped_grid(count, line_count=3, labels=("x changes", "y changes"))
    assert calls == ["float32"]
    assert ax.get_legend_handles_labels()[1] == ["x changes", "y changes"]
    colours = [line.get_color() for line in ax.lines]
    assert colours == [colours[0]] * 3 + [colours[3]] * 3
    assert colours[0] != colours[3]


def test_density_is_drawn_at_the_right_places(ax):
    density = EightGaussians()
    samples = density.sample(30, seed=0)
    bounds = ((-6.0, 6.0), (0.0, 6.0))
    drawn = density_heat_map(density.log_prob, bounds, samples, resolution=60, ax=ax)
    assert drawn is ax
    image = ax.images[0]
    assert image.get_extent() == [-6, 6, 0, 6]
    assert image.origin == "lower"
    # The pixel in column 9 and row 4, from below.
    point = [[-6 + 12 * 9.5 / 60, 6 * 4.5 / 60]]
    np.testing.assert_allclose(
        image.get_array()[4, 9], np.exp(density.log_prob(point))[0], rtol=1e-5
    )
    # The upper half of the plane holds half of the mass: three Gaussians, and half of two.
    np.testing.assert_allclose(image.get_array().sum() * 0.2 * 0.1, 0.5, atol=1e-3)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), samples)
    assert (ax.get_xlim(), ax.get_ylim()) == bounds


def test_density_without_samples():
    ax = density_heat_map(lambda points: -points[:, 0], SQUARE, resolution=5, cmap="Blues")
    assert len(ax.collections) == 0
    assert ax.images[0].get_cmap().name == "Blues"


def test_space_needs_axes_of_space(ax):
    with pytest.raises(ValueError, match="projection '3d'"):
        latent_scatter(POINTS, dimensions=(0, 1, 2), ax=ax)
    assert not ax.has_data()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent_scatter(POINTS[:, 0]), "latent"),
        (lambda: latent_scatter(POINTS, dimensions=(0, 3)), "more than 3"),
        (lambda: latent_scatter(POINTS, factor=np.ones(49)), "factor"),
        (lambda: latent_scatter(POINTS, dimensions=(0,)), "two or three"),
        (lambda: warped_grid(lambda points: points[:, 0]), "mapping"),
        (lambda: warped_grid(lambda points: points, bounds=(-1, 1)), "bounds"),
        (lambda: warped_grid(lambda points: points, line_count=0), "line_count"),
        (lambda: density_heat_map(lambda points: points, SQUARE), "log_prob"),
        (lambda: density_heat_map(lambda points: points[:, 0], ((1, 1), (0, 1))), "bounds"),
        (lambda: density_heat_map(lambda points: points[:, 0], SQUARE, POINTS[:, :1]), "samples"),
    ],
)
def test_unsuitable_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert not plt.get_fignums()
