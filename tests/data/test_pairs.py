"""Tests of the pair sources: what is drawn, how it is distributed, and which input raises."""

import json
import pickle
import sys

import keras
import numpy as np
import pytest
from scipy import stats

from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.data.pairs import continuous


def _categorical(**kwargs):
    """Three independent factors of 2, 3 and 4 classes over 240 instances."""
    rng = np.random.default_rng(1)
    labels = rng.integers([2, 3, 4], size=(240, 3))
    arguments = {"x": np.arange(240.0)[:, None], "labels": labels, "batch_size": 32, "seed": 0}
    return CategoricalPairs(**(arguments | kwargs)), labels


def _continuous(**kwargs):
    """Two independent factors over 240 instances."""
    factors = np.random.default_rng(1).normal(size=(240, 2))
    arguments = {"x": np.arange(240.0)[:, None], "factors": factors, "correlations": [0.9, -0.5]}
    return ContinuousPairs(**(arguments | {"batch_size": 32, "seed": 0} | kwargs)), factors


def _epoch(source):
    """Concatenates the batches of an epoch, as the instances' numbers."""
    batches = [source[i] for i in range(len(source))]
    a = np.concatenate([a for (a, _), _ in batches])[:, 0].astype(int)
    b = np.concatenate([b for (_, b), _ in batches])[:, 0].astype(int)
    return a, b, np.concatenate([y for _, y in batches])


either = pytest.mark.parametrize("make", [_categorical, _continuous])


@either
def test_epoch_covers_every_instance_once_and_never_pairs_it_with_itself(make):
    source, _ = make()
    for _ in range(3):
        a, b, _ = _epoch(source)
        assert sorted(a) == list(range(240))
        assert np.all(a != b)
        source.on_epoch_end()


@either
def test_batches_hold_the_instances_that_pairs_names(make):
    x = np.random.default_rng(2).normal(size=(240, 2, 3)).astype("float16")
    source, _ = make(x=x, batch_size=100)
    assert [len(y) for _, y in source] == [100, 100, 40]
    (a, b), y = source[2]
    np.testing.assert_array_equal(a, x[source.pairs[200:, 0]])
    np.testing.assert_array_equal(b, x[source.pairs[200:, 1]])
    assert (a.dtype, b.dtype, y.dtype) == ("float16", "float16", "float32")
    assert y.shape == (40, 1 + source.factor_count)
    np.testing.assert_array_equal(source[-1][1], y)
    with pytest.raises(IndexError, match="number of batches, 3"):
        source[3]


@either
def test_epochs_differ_and_can_be_drawn_again(make):
    source, _ = make()
    epochs = []
    for epoch in range(3):
        assert source.epoch == epoch
        epochs.append(source.pairs)
        source.on_epoch_end()
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    source.set_epoch(1)
    np.testing.assert_array_equal(source.pairs, epochs[1])


@either
def test_seeds_differ(make):
    assert not np.array_equal(make(seed=0)[0].pairs, make(seed=1)[0].pairs)


@either
def test_without_a_seed_the_seed_of_keras_decides(make):
    keras.utils.set_random_seed(3)
    first, second = make(seed=None)[0], make(seed=None)[0]
    keras.utils.set_random_seed(3)
    again = make(seed=None)[0]
    assert first.seed != second.seed
    np.testing.assert_array_equal(first.pairs, again.pairs)


@either
def test_without_shuffling_pairs_and_order_stay(make):
    source, _ = make(shuffle=False)
    before = source.pairs
    np.testing.assert_array_equal(before[:, 0], np.arange(240))
    source.on_epoch_end()
    np.testing.assert_array_equal(source.pairs, before)


@either
def test_pickled_source_goes_on_alike(make):
    source, _ = make()
    source.on_epoch_end()
    copy = pickle.loads(pickle.dumps(source))
    for _ in range(2):
        for mine, theirs in zip(_epoch(source), _epoch(copy), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        source.on_epoch_end()
        copy.on_epoch_end()


def _distance_model():
    """A model of pairs, whose output has one dimension per column of y."""
    a, b = keras.Input([1]), keras.Input([1])
    outputs = keras.layers.Dense(4)(keras.layers.Subtract()([a, b]))
    model = keras.Model([a, b], outputs)
    model.compile("sgd", lambda y, prediction: keras.ops.mean((y - prediction) ** 2, axis=-1))
    return model


@pytest.mark.parametrize("workers", [{}, {"workers": 2}])
def test_model_fits_pairs(workers):
    x = np.random.default_rng(0).normal(size=(240, 1)).astype("float32")
    source, _ = _categorical(x=x, batch_size=100, **workers)
    validation, _ = _categorical(x=x, shuffle=False)
    model = _distance_model()
    history = model.fit(source, epochs=3, validation_data=validation, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert len(history["val_loss"]) == 3
    assert source.epoch >= 3
    assert model.predict(validation, verbose=0).shape == (240, 4)


def test_keras_sees_every_instance_once_per_pass():
    a, b = keras.Input([1]), keras.Input([1])
    model = keras.Model([a, b], keras.layers.Concatenate()([a, b]))
    # The loss of a batch is the mean number of its 60 instances, and that of a pass of all 240.
    model.compile(loss=lambda y, prediction: prediction[:, 0])
    source, _ = _categorical(batch_size=60)
    for _ in range(2):
        assert model.evaluate(source, verbose=0) == pytest.approx(np.mean(np.arange(240)))


# Categorical factors


def test_pairs_share_the_class_of_the_factor_they_were_drawn_for():
    source, labels = _categorical(correlation=[0.5, 0.7, 0.9])
    for _ in range(5):
        a, b, y = _epoch(source)
        assert np.all(y[:, 0] == 0)
        assert np.all(np.count_nonzero(y, axis=1) == 1)
        factor = np.argmax(y[:, 1:], axis=1)
        np.testing.assert_allclose(y.max(axis=1), np.array([0.5, 0.7, 0.9])[factor])
        assert np.all(labels[a, factor] == labels[b, factor])
        # Otherwise the pairs would share the classes of all factors, not just of one.
        assert np.mean(labels[a] == labels[b]) < 0.8
        source.on_epoch_end()


def test_factors_are_drawn_equally_often():
    source, _ = _categorical()
    counts = 0
    for _ in range(20):
        counts += np.count_nonzero(_epoch(source)[2][:, 1:], axis=0)
        source.on_epoch_end()
    assert stats.chisquare(counts).pvalue > 0.01


def test_partners_are_uniform_over_the_other_members_of_the_class():
    labels = np.array(["x", "y", "x", "x", "y", "x", "x", "y"])
    source = CategoricalPairs(np.arange(8.0), labels, seed=0)
    counts = np.zeros([8, 8])
    for _ in range(2000):
        np.add.at(counts, tuple(source.pairs.T), 1)
        source.on_epoch_end()
    for i in range(8):
        others = (labels == labels[i]) & (np.arange(8) != i)
        assert counts[i].sum() == counts[i, others].sum() == 2000
        assert stats.chisquare(counts[i, others]).pvalue > 0.001


def test_smallest_class_leaves_one_partner():
    source = CategoricalPairs(np.arange(4.0), [0, 1, 1, 0], seed=0)
    assert dict(source.pairs.tolist()) == {0: 3, 3: 0, 1: 2, 2: 1}


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 0, 1, 1], dtype="uint8"),
        np.array([False, False, True, True]),
        ["x", "x", "y", "y"],
        [b"x", b"x", b"y", b"y"],
        np.array([["x", 7], ["x", 8], ["y", 7], ["y", 8]], dtype=object),
    ],
)
def test_kinds_of_labels(labels):
    source = CategoricalPairs(np.arange(4.0), labels, seed=0)
    first_factor = source[0][1][:, 1] > 0
    a, b = source.pairs[first_factor].T
    np.testing.assert_array_equal(a // 2, b // 2)


def test_inputs_may_be_tensors_and_lists():
    x = keras.ops.convert_to_tensor([[0.0], [1.0], [2.0], [3.0]])
    labels = keras.ops.convert_to_tensor([0, 0, 1, 1])
    from_tensors = CategoricalPairs(x, labels, seed=0)
    from_lists = CategoricalPairs([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1], seed=0)
    (a, _), _ = from_tensors[0]
    assert isinstance(a, np.ndarray)
    np.testing.assert_array_equal(a, from_lists[0][0][0])


def test_agreement_is_corrected_for_chance():
    source, labels = _categorical()
    a, b, y = _epoch(source)
    kappa = source.realised_correlation
    assert kappa.shape == (3, 3)
    np.testing.assert_allclose(np.diag(kappa), 1)
    # Computed by hand, and by enumeration of all pairs of different instances.
    i, j = np.nonzero(~np.eye(240, dtype=bool))
    chance = np.mean(labels[i, 2] == labels[j, 2])
    drawn = y[:, 1] > 0
    agreement = np.mean(labels[a[drawn], 2] == labels[b[drawn], 2])
    np.testing.assert_allclose(kappa[0, 2], (agreement - chance) / (1 - chance))


def test_agreement_reveals_dependent_factors():
    rng = np.random.default_rng(0)
    shape, colour = rng.integers(3, size=[2, 3000])
    texture = np.where(rng.uniform(size=3000) < 0.9, shape, rng.integers(3, size=3000))
    labels = np.stack([shape, colour, texture], axis=1)
    kappa = CategoricalPairs(np.arange(3000.0), labels, seed=0).realised_correlation
    assert kappa[0, 2] > 0.7
    assert kappa[2, 0] > 0.7
    np.testing.assert_allclose(kappa[[0, 1, 1, 2], [1, 0, 2, 1]], 0, atol=0.1)


def test_agreement_is_nan_without_pairs():
    source = CategoricalPairs(np.arange(4.0), [[0, 0], [0, 1], [1, 0], [1, 1]], seed=0)
    while np.any(source[0][1][:, 1]):
        source.on_epoch_end()
    np.testing.assert_array_equal(np.isnan(source.realised_correlation), [[True] * 2, [False] * 2])


def test_pairs_that_share_the_classes_of_all_factors_but_one():
    source, labels = _categorical(correlation=[0.5, 0.7, 0.9], share="all but one")
    counts = 0
    for _ in range(10):
        a, b, y = _epoch(source)
        is_shared = y[:, 1:] != 0
        assert np.all(y[:, 0] == 0)
        assert np.all(is_shared.sum(axis=1) == 2)
        np.testing.assert_allclose(y[:, 1:], is_shared * [0.5, 0.7, 0.9], rtol=1e-6)
        assert np.all((labels[a] == labels[b])[is_shared])
        counts += np.sum(~is_shared, axis=0)
        source.on_epoch_end()
    assert stats.chisquare(counts).pvalue > 0.01
    kappa = source.realised_correlation
    np.testing.assert_allclose(kappa[~np.eye(3, dtype=bool)], 1.0)
    np.testing.assert_allclose(np.diag(kappa), 0.0, atol=0.3)


def test_the_factor_that_is_not_shared_is_drawn_anew():
    labels = np.array([[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 1], [1, 2]])
    source = CategoricalPairs(np.arange(8.0), labels, seed=0, share="all but one")
    counts = np.zeros([8, 8])
    for _ in range(3000):
        a, b = source.pairs[source[0][1][:, 1] > 0].T  # the second factor is drawn anew
        np.add.at(counts, (a, b), 1)
        source.on_epoch_end()
    for i in range(8):
        others = (labels[:, 0] == labels[i, 0]) & (np.arange(8) != i)
        assert counts[i].sum() == counts[i, others].sum()
        assert stats.chisquare(counts[i, others]).pvalue > 0.001


# Continuous factors


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


# Bad input


_X = np.zeros([6, 2])
_LABELS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]]).T


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros([0, 2])}, ValueError, r"at least two .*Received: x\.shape=\(0, 2\)"),
        ({"x": np.zeros([1, 2])}, ValueError, r"at least two .*Received: x\.shape=\(1, 2\)"),
        ({"x": 3.0}, ValueError, r"at least two .*Received: x\.shape=\(\)"),
        ({"labels": _LABELS[:5]}, ValueError, r"as `x` .* 6\. Received: labels\.shape=\(5, 2\)"),
        ({"labels": _LABELS[None]}, ValueError, r"should have shape.*\(1, 6, 2\)"),
        ({"labels": 1}, ValueError, r"should have shape.*labels\.shape=\(\)"),
        ({"labels": _LABELS[:, :0]}, ValueError, r"should have shape.*\(6, 0\)"),
        ({"labels": _LABELS / 2}, TypeError, "integers, booleans or strings.*ContinuousPairs"),
        ({"labels": ["a", "a", None, None, "b", "b"]}, TypeError, r"Received: factor 1"),
        ({"labels": [0, 0, 0, 0, 0, 0]}, ValueError, r"two classes.*factor 1 .*single class 0"),
        (
            {"labels": [[0, "p"], [0, "q"], [0, "q"], [1, "q"], [1, "r"], [1, "s"]]},
            ValueError,
            r"factor 2 \(column 1\) with one member of class 'p' and of 2 more",
        ),
        ({"batch_size": 0}, ValueError, r"of at least 1. Received: batch_size=0"),
        ({"batch_size": 2.5}, ValueError, r"of at least 1. Received: batch_size=2\.5"),
        ({"correlation": 1.0}, ValueError, r"\[0, 1\).*Received: correlation=1\.0"),
        ({"correlation": -0.1}, ValueError, r"\[0, 1\).*Received: correlation=-0\.1"),
        ({"correlation": np.nan}, ValueError, r"\[0, 1\).*Received: correlation=nan"),
        ({"correlation": [0, 0.9, 0.9]}, ValueError, r"each of the 2 factors.*Received"),
        ({"share": "all"}, ValueError, r"one of \['one', 'all but one'\]. Received: share='all'"),
        (
            {"labels": _LABELS[:, 0], "share": "all but one"},
            ValueError,
            "at least two factors .* one factor",
        ),
        (
            {"labels": np.c_[_LABELS, [0, 0, 1, 1, 0, 1]], "share": "all but one"},
            ValueError,
            r"2 combinations of one member if factor 1 \(column 0\) is left out",
        ),
        ({"seed": -1}, ValueError, r"of at least 0. Received: seed=-1"),
        ({"seed": 0.5}, ValueError, r"of at least 0. Received: seed=0\.5"),
    ],
)
def test_bad_arguments_of_categorical_pairs(change, error, message):
    arguments = {"x": _X, "labels": _LABELS, "seed": 0} | change
    with pytest.raises(error, match=message):
        CategoricalPairs(**arguments)


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


@pytest.mark.parametrize("epoch", [-1, 0.5])
def test_bad_epoch(epoch):
    source, _ = _categorical()
    with pytest.raises(ValueError, match=f"of at least 0. Received: epoch={epoch}"):
        source.set_epoch(epoch)


@either
def test_a_source_with_the_state_of_another_goes_on_as_that_does(make):
    source, other = make(seed=None)[0], make(seed=7)[0]
    source.set_epoch(4)
    other.set_state(json.loads(json.dumps(source.get_state())))
    for _ in range(2):
        for given, expected in zip(_epoch(other), _epoch(source), strict=True):
            np.testing.assert_array_equal(given, expected)
        source.on_epoch_end()
        other.on_epoch_end()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_count": 241}, "as many instances, 240. Received: .*241"),
        ({"epoch": -1}, "of at least 0. Received: epoch=-1"),
        ({"seed": 0.5}, "of at least 0. Received: seed=0.5"),
        ({"batch": 2}, "'seed', 'epoch', 'instance_count'. Received: "),
    ],
)
def test_bad_states(change, message):
    source, _ = _categorical()
    state = source.get_state()
    with pytest.raises(ValueError, match=message):
        source.set_state(state | change)
    assert source.get_state() == state
