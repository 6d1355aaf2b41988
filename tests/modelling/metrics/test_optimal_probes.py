import math

import numpy as np
import pytest

from gyoza.modelling import metrics


def draw(counts, distance, seed=0):
    """Instances of normal classes in a row, their log-densities up to a constant, and labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    means = distance * np.arange(len(counts))
    x = np.random.default_rng(seed).normal(size=len(labels)) + means[labels]
    return x, -0.5 * (x[:, None] - means) ** 2 - 7.0, labels


def cumulate(x):
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@pytest.mark.parametrize("distance", [0.5, 2.0])
@pytest.mark.parametrize("counts", [[20_000, 20_000], [40_000, 5_000], [10_000] * 3])
def test_normal_classes(counts, distance):
    right = cumulate(distance / 2.0)  # of a class at an end of the row
    expected = (2.0 * right + (len(counts) - 2) * (2.0 * right - 1.0)) / len(counts)
    _, log_probs, labels = draw(counts, distance)
    result = metrics.optimal_probe_accuracy(log_probs, labels)
    assert result.low < expected < result.high
    np.testing.assert_allclose(result.accuracy, expected, atol=0.01)
    np.testing.assert_allclose(result.expected, expected, atol=0.01)


def test_no_threshold_exceeds_the_bound():
    x, log_probs, labels = draw([500, 500], 1.0)
    high = metrics.optimal_probe_accuracy(log_probs, labels).high
    assert all(np.mean((x > threshold) == labels) < high for threshold in np.sort(x))


def test_the_interval_is_as_wide_as_hoeffding_says():
    _, log_probs, labels = draw([400, 100], 1.0)
    result = metrics.optimal_probe_accuracy(log_probs, labels, confidence=0.9)
    width = math.sqrt(math.log(20.0) * (1.0 / 400 + 1.0 / 100) / 8.0)
    np.testing.assert_allclose(result.high - result.accuracy, width)
    np.testing.assert_allclose(result.accuracy - result.low, width)


def test_wrong_densities_expect_something_else():
    _, log_probs, labels = draw([5000, 5000], 1.0)
    result = metrics.optimal_probe_accuracy(4.0 * log_probs, labels)  # too narrow
    assert result.expected > result.high


def test_the_same_density_and_densities_apart():
    labels = np.array([0, 1, 1, 1])
    assert metrics.optimal_probe_accuracy(np.zeros([4, 2]), labels).accuracy == 0.5
    apart = np.where(np.eye(2)[labels] > 0, 0.0, -np.inf)
    result = metrics.optimal_probe_accuracy(apart, labels)
    np.testing.assert_allclose([result.accuracy, result.expected], 1.0)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"shape \[N, C\].*\(4,\)"):
        metrics.optimal_probe_accuracy(np.zeros([4]), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.optimal_probe_accuracy(np.zeros([4, 2]), [1, 2, 1, 2])
    with pytest.raises(ValueError, match="from 0 to 2, each"):
        metrics.optimal_probe_accuracy(np.zeros([4, 3]), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="Received: 1 instances"):
        metrics.optimal_probe_accuracy([[0.0, 0.0], [np.nan, 0.0]], [0, 1])
    with pytest.raises(ValueError, match=r"confidence=1\.0"):
        metrics.optimal_probe_accuracy(np.zeros([2, 2]), [0, 1], confidence=1.0)
