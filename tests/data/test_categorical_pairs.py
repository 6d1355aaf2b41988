"""Pairs of instances that share a class."""

import keras
import numpy as np
import pytest
from pair_sources import make_categorical, read_epoch
from scipy import stats

from gyoza.data import CategoricalPairs


def test_pairs_share_the_class_of_the_factor_they_were_drawn_for():
    source, labels = make_categorical(correlation=[0.5, 0.7, 0.9])
    for _ in range(5):
        a, b, y = read_epoch(source)
        assert np.all(y[:, 0] == 0)
        assert np.all(np.count_nonzero(y, axis=1) == 1)
        factor = np.argmax(y[:, 1:], axis=1)
        np.testing.assert_allclose(y.max(axis=1), np.array([0.5, 0.7, 0.9])[factor])
        assert np.all(labels[a, factor] == labels[b, factor])
        # Otherwise the pairs would share the classes of all factors, not just of one.
        assert np.mean(labels[a] == labels[b]) < 0.8
        source.on_epoch_end()


def test_factors_are_drawn_equally_often():
    source, _ = make_categorical()
    counts = 0
    for _ in range(20):
        counts += np.count_nonzero(read_epoch(source)[2][:, 1:], axis=0)
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
    source, labels = make_categorical()
    a, b, y = read_epoch(source)
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
    source, labels = make_categorical(correlation=[0.5, 0.7, 0.9], share="all but one")
    counts = 0
    for _ in range(10):
        a, b, y = read_epoch(source)
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
