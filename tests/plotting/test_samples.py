"""Tests of figures that compare data with densities."""

import numpy as np
import pandas as pd
import pytest

from gyoza.plotting import calibration, pair_plot


def test_calibration_draws_the_share_below_each_level(ax):
    assert calibration([0.2, 0.6, 0.1, 0.9], confidence=None, ax=ax) is ax
    ideal, curve = ax.lines
    np.testing.assert_array_equal(ideal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(curve.get_xdata(), [0, 0.1, 0.2, 0.6, 0.9, 1])
    np.testing.assert_array_equal(curve.get_ydata(), [0, 0.25, 0.5, 0.75, 1, 1])
    assert curve.get_drawstyle() == "steps-post"
    assert not ax.collections


def test_the_band_holds_as_many_curves_as_it_says():
    random = np.random.default_rng(0)
    ax = calibration(random.uniform(size=50), confidence=0.9)
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    width = np.max(vertices[:, 1] - vertices[:, 0])
    u = np.sort(random.uniform(size=[4000, 50]), axis=1)
    steps = np.arange(51) / 50
    gap = np.maximum(np.abs(u - steps[1:]), np.abs(u - steps[:-1])).max(axis=1)
    assert 0.9 < np.mean(gap <= width) < 0.93


def test_calibration_of_several_targets_and_models():
    u = np.random.default_rng(0).uniform(size=[20, 2])
    labels = [line.get_label() for line in calibration(u, names=["a", "b"]).lines]
    assert labels == ["ideal", "a", "b"]
    labels = [line.get_label() for line in calibration({"first": u[:, 0], "x": u[:5, 1]}).lines]
    assert labels == ["ideal", "first", "x"]


@pytest.mark.parametrize(
    ("probabilities", "options", "message"),
    [
        ([[[0.1]]], {}, r"shape \[N\] or \[N, D\]"),
        ([0.1, 1.1], {}, "between 0 and 1, of shape"),
        ([], {}, "between 0 and 1, of shape"),
        ({"a": [[0.1]]}, {}, r"Received: 'a', of shape \(1, 1\)"),
        ([0.1], {"names": ["a", "b"]}, "`names` should have 1 names"),
        ([0.1], {"confidence": 95}, "`confidence` should be between 0 and 1"),
    ],
)
def test_what_is_not_a_probability_is_rejected(probabilities, options, message):
    with pytest.raises(ValueError, match=message):
        calibration(probabilities, **options)


def test_pairs_of_dimensions():
    x = np.random.default_rng(0).normal(size=[50, 3])
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    axes = pair_plot({"data": frame, "samples": 2 * x}, point_count=10, bin_count=5)
    assert axes.shape == (3, 3)
    np.testing.assert_array_equal(axes[2, 1].collections[0].get_offsets(), x[::5, 1:])
    np.testing.assert_array_equal(axes[1, 0].collections[1].get_offsets(), 2 * x[::5, :2])
    assert axes[2, 1].get_xlim() == axes[1, 1].get_xlim()
    assert axes[2, 1].get_xlim()[0] < x[:, 1].min() < x[:, 1].max() < axes[2, 1].get_xlim()[1]
    assert not axes[0, 2].axison
    assert (axes[2, 0].get_xlabel(), axes[2, 0].get_ylabel()) == ("a", "c")
    (legend,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["data", "samples"]
    assert pair_plot(x[:, :1])[0, 0].get_xlabel() == "dimension 0"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(3), r"shape \[N, D\]. Received: data of shapes \[\(3,\)\]"),
        ({}, r"shape \[N, D\]"),
        ({"a": np.zeros([3, 2]), "b": np.zeros([3, 1])}, "as many dimensions each"),
    ],
)
def test_data_that_are_not_vectors_are_rejected(data, message):
    with pytest.raises(ValueError, match=message):
        pair_plot(data)
