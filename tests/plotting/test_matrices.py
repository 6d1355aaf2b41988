"""Tests of the figures of matrices."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from gyoza.plotting import correlation_heat_map, heat_map, leakage_heat_map

MATRIX = np.array([[0.0, -0.254, 1.0], [0.5, 0.125, -1.0]])


def test_heat_map_shows_matrix_and_names(ax):
    drawn = heat_map(MATRIX, ["a", "b"], ["x", "y", "z"], label="score", ax=ax, vmax=2.0)
    assert drawn is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), MATRIX)
    assert image.get_clim() == (-1.0, 2.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z"]
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {
        (0, 0): "0.00", (1, 0): "-0.25", (2, 0): "1.00",
        (0, 1): "0.50", (1, 1): "0.12", (2, 1): "-1.00",
    }  # fmt: skip
    assert [other.get_ylabel() for other in ax.figure.axes[2:]] == ["score"]


def test_heat_map_without_names_values_and_colour_bar(ax):
    heat_map(MATRIX, value_format="", ax=ax)
    assert not ax.texts
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert len(ax.figure.axes) == 2


def test_values_stand_out_from_their_cells():
    ax = heat_map([[0.0, 1.0]], vmin=0, vmax=1, cmap="gray")
    assert [text.get_color() for text in ax.texts] == ["white", "black"]


def test_correlations_are_on_a_symmetric_scale(ax):
    assert correlation_heat_map([[1.0, 0.2], [0.2, 1.0]], ["a", "b"], ax=ax) is ax
    image = ax.images[0]
    assert image.get_clim() == (-1, 1)
    red, green, blue, _ = image.to_rgba(0.0)
    assert min(red, green, blue) > 0.9
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


def test_only_square_correlations_share_names():
    ax = correlation_heat_map(MATRIX, ["a", "b"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]


def test_leakage_is_on_a_scale_from_0_to_1(ax):
    assert leakage_heat_map(np.full((3, 2), 0.5), list("abc"), list("xy"), ax=ax) is ax
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("label", "block")


@pytest.mark.parametrize("draw", [heat_map, correlation_heat_map, leakage_heat_map])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 0.5],), "matrix"),
        ((MATRIX, ["a"]), "row_names"),
        ((MATRIX, ["a", "b"], ["x", "y"]), "column_names"),
    ],
)
def test_unsuitable_arguments_raise(draw, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments)
    assert not plt.get_fignums()
