"""Tests of the figures of edited pictures."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from gyoza.plotting import swap_grid, traversal_strips

RNG = np.random.default_rng(0)
RESULTS = RNG.uniform(size=(2, 3, 5, 4, 3))
ROWS, COLUMNS = RNG.uniform(size=(2, 5, 4, 3)), RNG.uniform(size=(3, 5, 4, 3))


def _cut(image, row_count, column_count):
    """Cuts the drawn picture into cells, without their frames."""
    mosaic = np.asarray(image.get_array())
    cells = [np.split(row, column_count, axis=1) for row in np.split(mosaic, row_count)]
    return np.array(cells)[:, :, 1:-1, 1:-1]


def _frames(image, row_count, column_count):
    mosaic = np.asarray(image.get_array())
    cells = [np.split(row, column_count, axis=1) for row in np.split(mosaic, row_count)]
    frames = np.array(cells)
    frames[:, :, 1:-1, 1:-1] = 0
    return frames


def test_swap_grid_shows_results_between_rows_and_columns(ax):
    assert swap_grid(RESULTS, ROWS, COLUMNS, "digits", "colours", ax, interpolation="none") is ax
    results, rows, columns = ax.images
    np.testing.assert_allclose(_cut(results, 2, 3), RESULTS)
    np.testing.assert_allclose(_cut(rows, 2, 1)[:, 0], ROWS)
    np.testing.assert_allclose(_cut(columns, 1, 3)[0], COLUMNS)
    assert not _frames(results, 2, 3).any()
    # Extents are left, right, bottom and top; the vertical axis points downwards.
    assert results.get_extent() == [0, 3, 2, 0]
    left, right, *heights = rows.get_extent()
    assert right - left == 1
    assert right < 0
    assert heights == [2, 0]
    *widths, bottom, top = columns.get_extent()
    assert bottom - top == 1
    assert bottom < 0
    assert widths == [0, 3]
    assert ax.get_xlim() == (left, 3)
    assert ax.get_ylim() == (2, top)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("digits", "colours")
    assert ax.xaxis.get_label_position() == "top"
    assert {image.get_interpolation() for image in ax.images} == {"none"}


def test_grey_pictures_are_shown_in_grey():
    for grey in (RESULTS[..., 0], RESULTS[..., :1]):
        ax = swap_grid(grey, ROWS[..., :1], COLUMNS[..., 0])
        expected = np.repeat(RESULTS[..., :1], 3, axis=-1)
        np.testing.assert_allclose(_cut(ax.images[0], 2, 3), expected)


def test_strips_show_pictures_step_by_step(ax):
    drawn = traversal_strips(RESULTS, ["digit", "colour"], ["−1", "0", "1"], ax=ax)
    assert drawn is ax
    (image,) = ax.images
    np.testing.assert_allclose(_cut(image, 2, 3), RESULTS)
    assert image.get_extent() == [0, 3, 2, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["digit", "colour"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−1", "0", "1"]
    np.testing.assert_allclose(ax.get_yticks(), [0.5, 1.5])
    np.testing.assert_allclose(ax.get_xticks(), [0.5, 1.5, 2.5])


def test_strips_without_names_have_no_ticks():
    ax = traversal_strips(10 * RESULTS - 5)
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    np.testing.assert_allclose(_cut(ax.images[0], 2, 3), (10 * RESULTS - 5).clip(0, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swap_grid(RESULTS, COLUMNS, ROWS), "row_images"),
        (lambda: swap_grid(RESULTS, ROWS, COLUMNS[:, :4]), "column_images"),
        (lambda: swap_grid(RESULTS[0], ROWS, COLUMNS), "row_images"),
        (lambda: swap_grid(ROWS[0], ROWS, COLUMNS), "results"),
        (lambda: traversal_strips(RESULTS[..., :2]), "images"),
        (lambda: traversal_strips(RESULTS[:0]), "images"),
        (lambda: traversal_strips(RESULTS, row_names=["digit"]), "row_names"),
        (lambda: traversal_strips(RESULTS, column_names=["0"]), "column_names"),
    ],
)
def test_unsuitable_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert not plt.get_fignums()
