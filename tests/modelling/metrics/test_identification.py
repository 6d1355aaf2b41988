"""The mean correlation coefficient on constructed codes."""

import itertools

import numpy as np
import pytest
import scipy.stats

from gyoza.modelling.metrics import mean_correlation_coefficient

SOURCES = np.random.default_rng(0).uniform(size=[500, 3])


def test_order_sign_and_scale_do_not_matter():
    codes = SOURCES[:, [1, 2, 0]] * [-1.0, 2.0, 3.0] + 7.0
    assert mean_correlation_coefficient(codes, SOURCES) == pytest.approx(1.0)


def test_ranks_recover_sources_behind_monotonic_functions():
    codes = np.stack([np.exp(9 * SOURCES[:, 0]), -(SOURCES[:, 1] ** 5), SOURCES[:, 2]], axis=1)
    assert mean_correlation_coefficient(codes, SOURCES, "spearman") == pytest.approx(1.0)
    assert mean_correlation_coefficient(codes, SOURCES) < 0.95


def test_value_is_the_best_over_all_permutations():
    codes = SOURCES @ np.random.default_rng(1).normal(size=[3, 4])
    for name, function in (
        ("pearson", scipy.stats.pearsonr),
        ("spearman", scipy.stats.spearmanr),
    ):
        correlations = [[abs(function(z, s)[0]) for s in SOURCES.T] for z in codes.T]
        best = max(
            np.mean([correlations[i][k] for k, i in enumerate(chosen)])
            for chosen in itertools.permutations(range(4), 3)
        )
        assert mean_correlation_coefficient(codes, SOURCES, name) == pytest.approx(best)


def test_rotated_duplicated_missing_and_random_sources():
    normal = np.random.default_rng(0).normal(size=[50_000, 2])
    rotated = normal @ [[1.0, 1.0], [-1.0, 1.0]]
    score = mean_correlation_coefficient
    assert score(rotated, normal) == pytest.approx(np.sqrt(0.5), abs=0.01)
    duplicated = normal[:, [0, 0]]
    assert score(duplicated, normal) == pytest.approx(0.5, abs=0.01)
    assert score(normal[:, :1], normal) == pytest.approx(0.5)
    assert score(np.pad(normal[:, :1], [(0, 0), (0, 1)]), normal) == pytest.approx(0.5)
    other = np.random.default_rng(1).normal(size=[50_000, 2])
    assert score(other, normal) == pytest.approx(0.0, abs=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match="same number of instances"):
        mean_correlation_coefficient(SOURCES[:5], SOURCES)
    with pytest.raises(ValueError, match="`sources` should vary"):
        mean_correlation_coefficient(SOURCES, SOURCES * [1, 0, 1])
    with pytest.raises(ValueError, match="`sources` should be finite"):
        mean_correlation_coefficient(SOURCES, SOURCES * [1, np.nan, 1])
    with pytest.raises(ValueError, match="`sources` should have shape"):
        mean_correlation_coefficient(SOURCES, SOURCES[:, 0])
    with pytest.raises(ValueError, match="`correlation` should be"):
        mean_correlation_coefficient(SOURCES, SOURCES, "kendall")
