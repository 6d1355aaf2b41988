"""Pairs of instances whose factors correlate."""

import sys

import numpy as np
import pytest
from scipy import stats

from gyoza.data import ContinuousPairs
from gyoza.data.pairs import continuous

_MARGINALS = {
    "uniform": lambda rng, n: rng.uniform(size=n),
    "lognormal": lambda rng, n: rng.lognormal(sigma=2.0, size=n),
    "bimodal": lambda rng, n: rng.normal(size=n) + 8 * rng.integers(2, size=n),
}


@pytest.mark.parametrize("marginal", _MARGINALS)
@pytest.mark.parametrize("correlation", [0.9, 0.3, -0.7])
def test_single_factor_has_the_requested_correlation(marginal, correlation):
    factor = _MARGINALS[marginal](np.random.default_rng(0), 4000)
    source = ContinuousPairs(np.arange(4000.0), factor, correlation, seed=0)
    a, b = factor[source.pairs.T]
    # Spearman's correlation of normal variables follows from Pearson's, and sees only the ranks.
    expected = 6 / np.pi * np.arcsin(correlation / 2)
    assert stats.spearmanr(a, b).statistic == pytest.approx(expected, abs=0.03)
    assert source.realised_correlation[0, 0] == pytest.approx(correlation, abs=0.03)


def test_all_pairs_have_the_requested_correlations_in_all_factors():
    rng = np.random.default_rng(0)
    factors = np.stack([draw(rng, 4000) for draw in _MARGINALS.values()], axis=1)
    correlations = [0.9, 0.0, -0.5]
    source = ContinuousPairs(np.arange(4000.0), factors, correlations, seed=0)
    np.testing.assert_allclose(source.realised_correlation, np.diag(correlations), atol=0.05)
    np.testing.assert_allclose(_y(source), np.tile([0, *correlations], [4000, 1]), rtol=1e-6)


@pytest.mark.parametrize("share", ["one", "all but one"])
def test_pairs_that_are_alike_in_one_factor_or_in_all_but_one(share):
    factors = np.stack([draw(np.random.default_rng(0), 6000) for draw in _MARGINALS.values()], 1)
    factors = np.random.default_rng(1).permuted(factors, axis=0)
    correlations = np.array([0.9, 0.3, -0.5])
    source = ContinuousPairs(np.arange(6000.0), factors, correlations, seed=0, share=share)
    is_shared = np.eye(3) if share == "one" else 1 - np.eye(3)
    rows, kinds, counts = np.unique(_y(source), axis=0, return_inverse=True, return_counts=True)
    expected = np.unique(np.c_[np.zeros(3), is_shared * correlations].astype("float32"), axis=0)
    np.testing.assert_array_equal(rows, expected)
    assert stats.chisquare(counts).pvalue > 0.01
    np.testing.assert_allclose(source.realised_correlation, is_shared * correlations, atol=0.07)
    # by ranks, from the pairs themselves
    a, b = factors[source.pairs.T]
    for kind, row in enumerate(rows[:, 1:]):
        chosen = kinds.reshape(-1) == kind
        for k in range(3):
            spearman = stats.spearmanr(a[chosen, k], b[chosen, k]).statistic
            assert spearman == pytest.approx(6 / np.pi * np.arcsin(row[k] / 2), abs=0.07)
    assert np.bincount(source.pairs[:, 1]).max() < 15


def test_a_single_factor_is_one_and_all():
    factor = np.random.default_rng(0).normal(size=100)
    one, every = (
        ContinuousPairs(factor, factor, 0.7, seed=0, share=share) for share in ("one", "all")
    )
    np.testing.assert_array_equal(one.pairs, every.pairs)
    np.testing.assert_array_equal(one.realised_correlation, every.realised_correlation)


def _y(source):
    return np.concatenate([y for _, y in source])


def test_partners_are_distributed_like_the_data():
    factor = np.random.default_rng(0).lognormal(size=4000)
    source = ContinuousPairs(np.arange(4000.0), factor, 0.8, seed=0)
    assert stats.ks_2samp(factor[source.pairs[:, 1]], factor).pvalue > 0.01
    # Draws with replacement would pick the most frequent of 4000 about 7 times.
    assert np.bincount(source.pairs[:, 1]).max() < 15


def test_dependent_factors_have_the_requested_correlation_without_favourites():
    rng = np.random.default_rng(0)
    factors = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=4000)
    source = ContinuousPairs(np.arange(4000.0), factors, 0.9, seed=0)
    expected = [[0.9, 0.81], [0.81, 0.9]]
    np.testing.assert_allclose(source.realised_correlation, expected, atol=0.03)
    # Noise that ignores the dependence would pick the outermost instances dozens of times.
    assert np.bincount(source.pairs[:, 1]).max() < 15


def test_unattainable_correlations_are_reported():
    factor = np.random.default_rng(0).normal(size=1000)
    twice = np.stack([factor, factor], axis=1)
    source = ContinuousPairs(np.arange(1000.0), twice, [0.9, -0.9], seed=0)
    # Both factors are the same, so that their correlations can only be equal.
    realised = source.realised_correlation
    np.testing.assert_allclose(realised, realised[0, 0])
    np.testing.assert_allclose(_y(source)[0], [0, 0.9, -0.9], rtol=1e-6)


def test_noise_has_its_covariance():
    rng = np.random.default_rng(0)
    scores = continuous._normal_scores(rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)))
    correlations = np.array([0.5, 0.4, 0.5])
    root = continuous._noise_root(scores, correlations)
    agreement = np.corrcoef(scores, rowvar=False)
    expected = agreement * (1 - np.outer(correlations, correlations))
    np.testing.assert_allclose(root.T @ root, expected, atol=1e-12)


def test_noise_keeps_its_variance_where_its_covariance_is_impossible():
    score = continuous._normal_scores(np.random.default_rng(0).normal(size=(500, 1)))
    correlations = np.array([0.9, 0.0])
    root = continuous._noise_root(np.repeat(score, 2, axis=1), correlations)
    covariance = root.T @ root
    np.testing.assert_allclose(np.diag(covariance), 1 - correlations**2, atol=1e-12)
    # As dependent as two variables can be.
    np.testing.assert_allclose(np.linalg.det(covariance), 0, atol=1e-12)


def test_partner_is_the_nearest_other_instance():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(60, 3))
    source = ContinuousPairs(np.arange(60.0), factors, 0.9, seed=0)
    first = np.arange(60)
    # Half of the targets coincide with the instance itself, which must not be taken.
    targets = np.where(first[:, None] % 2, rng.normal(size=(60, 3)), source._scores)
    distance = np.linalg.norm(source._scores - targets[:, None], axis=-1)
    distance[first, first] = np.inf
    second = source._nearest_others(rng, targets, first)
    np.testing.assert_array_equal(second, np.argmin(distance, axis=1))


def test_equal_instances_are_drawn_equally_often():
    levels = np.repeat(np.arange(4), [5, 1, 6, 4])
    source = ContinuousPairs(np.arange(16.0), levels, 0.5, seed=0)
    counts = np.zeros([16, 16])
    for _ in range(2000):
        np.add.at(counts, tuple(source.pairs.T), 1)
        source.on_epoch_end()
    assert np.all(np.diag(counts) == 0)
    for level in (0, 2, 3):
        members = levels == level
        from_elsewhere = counts[~members][:, members].sum(axis=0)
        assert stats.chisquare(from_elsewhere).pvalue > 0.001
        # Within the level, the instance itself is left out and the others are equal.
        within = counts[members][:, members][~np.eye(members.sum(), dtype=bool)]
        assert stats.chisquare(within).pvalue > 0.001


def test_normal_scores_depend_on_ranks_alone():
    values = np.array([[3.0], [-1.0], [100.0], [0.0], [3.0]])
    scores = continuous._normal_scores(values)
    np.testing.assert_allclose(scores, continuous._normal_scores(np.exp(values / 50)))
    np.testing.assert_allclose([scores.mean(), scores.var()], [0, 1], atol=1e-12)
    ranks = stats.rankdata(values.ravel())
    expected = stats.norm.ppf((ranks - 0.5) / 5)
    np.testing.assert_allclose(np.corrcoef(scores.ravel(), expected)[0, 1], 1)
    assert scores[0] == scores[4]


def test_two_instances_are_each_others_partners():
    source = ContinuousPairs(np.arange(2.0), [1.0, 5.0], 0.9, seed=0)
    assert dict(source.pairs.tolist()) == {0: 1, 1: 0}
    np.testing.assert_allclose(source.realised_correlation, [[-1]])


def test_correlation_with_a_constant_is_nan():
    source = ContinuousPairs(np.arange(4.0), [0, 0, 0, 1], 0.9, seed=0)
    while np.any(source.pairs[:, 1] == 3):
        source.on_epoch_end()
    np.testing.assert_array_equal(source.realised_correlation, [[np.nan]])


def test_missing_scipy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(ImportError, match=r'pip install "gyoza\[data\]"'):
        ContinuousPairs(np.arange(4.0), np.arange(4.0), 0.9)


_X = np.zeros([6, 2])


_LABELS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]]).T


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": _X[:1], "factors": [1.0]}, ValueError, r"at least two .*x\.shape=\(1, 2\)"),
        ({"factors": np.arange(5.0)}, ValueError, r"as `x` .* 6\. Received: factors\.shape=\(5,\)"),
        ({"factors": np.zeros([6, 1, 1])}, ValueError, r"should have shape.*\(6, 1, 1\)"),
        ({"factors": list("abcdef")}, TypeError, r"real numbers.*CategoricalPairs.*dtype=<U1"),
        ({"factors": _LABELS * 1j}, TypeError, r"real numbers.*dtype=complex128"),
        (
            {"factors": _LABELS * [1, 0] + [0, 2]},
            ValueError,
            r"factor 2 \(column 1\) with the single value 2",
        ),
        (
            {"factors": [[0, 1], [np.nan, 2], [np.inf, 3], [1, 4], [2, 5], [3, 6]]},
            ValueError,
            r"should be finite. Received: 2 non-finite values in factor 1 \(column 0\)",
        ),
        ({"correlations": [0.5, 1.0]}, ValueError, r"\(-1, 1\). Received: correlations="),
        ({"correlations": -1}, ValueError, r"\(-1, 1\). Received: correlations=-1"),
        ({"correlations": [np.nan, 0]}, ValueError, r"\(-1, 1\). Received: correlations="),
        (
            {"correlations": [0, 0.5, 0.5]},
            ValueError,
            r"each of the 2 factors \(the residual factor is not one of them\)",
        ),
        ({"share": "none"}, ValueError, r"one of \['all', 'one', 'all but one'\]. Received"),
        (
            {"factors": np.arange(6.0), "share": "all but one"},
            ValueError,
            "at least two factors .* one factor",
        ),
        ({"batch_size": -3}, ValueError, r"of at least 1. Received: batch_size=-3"),
    ],
)
def test_bad_arguments_of_continuous_pairs(change, error, message):
    factors = np.random.default_rng(0).normal(size=(6, 2))
    arguments = {"x": _X, "factors": factors, "correlations": 0.5, "seed": 0} | change
    with pytest.raises(error, match=message):
        ContinuousPairs(**arguments)
