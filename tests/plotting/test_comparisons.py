import numpy as np
import pytest
from matplotlib.colors import to_hex

from gyoza.interpretation import AnswersBySize, Comparison
from gyoza.plotting import comparison_bars, size_curves


@pytest.fixture
def comparison():
    scores = {
        ("units", "trained"): [0.6, 0.8],
        ("units", "labels shuffled"): [0.2, 0.2],
        ("flow", "trained"): [0.9, 0.9],
        ("flow", "labels shuffled"): [0.1, 0.3],
    }
    return Comparison(
        {"method": method, "network": network, "seed": seed, "sizes": {}, "score": value}
        for (method, network), values in scores.items()
        for seed, value in enumerate(values)
    )


def test_bars_are_means_with_errors(comparison, ax):
    assert comparison_bars(comparison, ax=ax) is ax
    bars = [container for container in ax.containers if hasattr(container, "patches")]
    assert [bar.get_label() for bar in bars] == ["trained", "labels shuffled"]
    np.testing.assert_allclose([bar.get_height() for bar in bars[0]], [0.7, 0.9])
    np.testing.assert_allclose([bar.get_height() for bar in bars[1]], [0.2, 0.2])
    # Side by side, and methods apart.
    places = np.array([[bar.get_x() for bar in container] for container in bars])
    np.testing.assert_allclose(places, [[-0.4, 0.6], [0.0, 1.0]], atol=1e-12)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["units", "flow"]
    lengths = [np.ptp(line[:, 1]) / 2 for line in bars[0].errorbar.lines[2][0].get_segments()]
    np.testing.assert_allclose(lengths, [0.1, 0.0], atol=1e-12)
    with pytest.raises(ValueError, match="`column` should be one of"):
        comparison_bars(comparison, "other", ax=ax)


def test_curves_are_means_in_bands_of_errors(ax):
    answers = AnswersBySize(
        [1, 2, 4], {"method": np.array([[0.2, 0.4], [0.6, 0.6], [1.0, 1.0]]), "random": [[0.1]] * 3}
    )
    assert size_curves(*answers, ax=ax, lw=3) is ax
    method, random = ax.lines
    np.testing.assert_allclose(method.get_xydata(), [[1, 0.3], [2, 0.6], [4, 1.0]])
    np.testing.assert_allclose(random.get_ydata(), 0.1)
    assert method.get_linewidth() == 3
    (band,) = ax.collections  # a single seed has none
    assert to_hex(band.get_facecolor()[0]) == to_hex(method.get_color())
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [0.2, 1.0])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]
    with pytest.raises(ValueError, match=r"shape \[2, seeds\]"):
        size_curves([1, 2], answers.follows, ax=ax)
