"""What probes read from codes, on constructed codes and against another library."""

import builtins

import numpy as np
import pytest

from gyoza.modelling.metrics import (
    disentanglement_completeness_informativeness,
    leakage,
    separated_attribute_predictability,
)

ROTATION = np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)


def make_labels(count=600, sizes=(3, 4), seed=0):
    return np.random.default_rng(seed).integers(sizes, size=[count, len(sizes)])


def make_noise(count, dimension_count, seed=1):
    return np.random.default_rng(seed).normal(size=[count, dimension_count])


@pytest.mark.parametrize("probe", ["linear", "nearest"])
def test_leakage_of_disentangled_codes_is_the_identity(probe):
    labels = make_labels()
    codes = np.concatenate([make_noise(600, 2), labels + 0.01 * make_noise(600, 2)], axis=1)
    scores = leakage(codes, labels, [2, 1, 1], probe=probe)
    np.testing.assert_allclose(scores, [[0, 0], [1, 0], [0, 1]], atol=0.15)
    real = codes[:, 2:] + make_noise(600, 2, seed=2)
    scores = leakage(np.concatenate([codes[:, :2], real], axis=1), real, [2, 1, 0, 1], probe=probe)
    np.testing.assert_allclose(scores, [[0, 0], [1, 0], [0, 0], [0, 1]], atol=0.15)


def test_leakage_is_the_explained_variance_of_noisy_codes():
    """A label of variance 1 behind noise of variance 1/3 is explained to 3/4."""
    labels = make_noise(20_000, 2)
    codes = labels + make_noise(20_000, 2, seed=2) / np.sqrt(3)
    np.testing.assert_allclose(leakage(codes, labels), [[0.75, 0], [0, 0.75]], atol=0.02)
    np.testing.assert_allclose(leakage(labels @ ROTATION, labels), np.full([2, 2], 0.5), atol=0.02)


def test_leakage_is_the_balanced_accuracy_above_chance():
    """Of four classes, the probe is shown which pair: half are right, 1/3 above chance."""
    labels = np.arange(4000) % 4
    scores = leakage((labels // 2)[:, None], labels, probe="linear")
    assert scores[0, 0] == pytest.approx((0.5 - 0.25) / 0.75, abs=0.02)
    rare = (np.arange(4000) % 20 == 0).astype(int)
    assert leakage(make_noise(4000, 1), rare)[0, 0] < 0.15


def test_neighbours_read_what_lines_cannot():
    labels = make_labels(800, (2, 2))
    codes = 2.0 * labels - 1 + 0.2 * make_noise(800, 2)
    either = labels[:, 0] ^ labels[:, 1]
    assert leakage(codes, either, [2])[0, 0] < 0.3
    assert leakage(codes, either, [2], probe="nearest")[0, 0] > 0.95


def test_leakage_does_not_depend_on_order_sign_and_scale():
    labels = make_labels()
    codes = labels + make_noise(600, 2)
    scores = leakage(codes, labels, probe="nearest")
    changed = leakage(codes[:, ::-1] * [-2.0, 5.0] + 3, labels, probe="nearest")
    np.testing.assert_allclose(scores, changed[::-1])
    assert not np.array_equal(scores, leakage(codes, labels, probe="nearest", seed=1))


def test_predictability_of_constructed_codes():
    score = separated_attribute_predictability
    real = make_noise(2000, 2)
    assert score(real, real) == pytest.approx(1.0, abs=0.01)
    assert score(np.concatenate([real, -real], axis=1), real) == pytest.approx(0.0, abs=0.01)
    assert score(np.concatenate([real, -real], axis=1)[:, [0, 2, 1, 3]], real, [2, 2]) > 0.99
    assert score(real @ ROTATION, real) == pytest.approx(0.0, abs=0.06)
    assert score(make_noise(2000, 2, seed=2), real) < 0.01
    # Perfect on four classes is 3/4 better than chance.
    labels = make_labels(2000, (4, 4))
    assert score(labels + 0.01 * real, labels) == pytest.approx(0.75, abs=0.05)


def test_disentanglement_completeness_and_informativeness_of_constructed_codes():
    score = disentanglement_completeness_informativeness
    labels = make_labels(200, (2, 3))
    np.testing.assert_allclose(score(labels, labels), 1.0, atol=1e-6)
    assert score(np.zeros([200, 2]), labels) == (0.0, 0.0, 0.0)
    # Three copies of a label are disentangled but not complete, unless they are one factor.
    copies = labels[:, [0, 0, 0, 1]] + 1e-3 * make_noise(200, 4)
    disentangled, complete, informative = score(copies, labels, estimator="random_forest")
    assert disentangled > 0.99
    assert complete < 0.9
    assert informative == 1.0
    together = score(copies, labels, [3, 1], estimator="random_forest")
    np.testing.assert_allclose(together, 1.0, atol=0.01)
    # One dimension that holds both labels is complete but not disentangled.
    both = np.stack([labels @ [3, 1], np.zeros(200)], axis=1)
    np.testing.assert_allclose(score(both, labels), [0.0, 1.0, 1.0], atol=1e-6)
    real = make_noise(200, 2)
    assert max(score(real @ ROTATION, real)[:2]) < 0.1
    assert score(make_noise(200, 2, seed=2), real).informativeness == 0.0


def test_useless_dimensions_leave_scores_between_0_and_1():
    """Trees find importances of about -1e-17 there."""
    labels = make_labels(200, (2, 2))
    codes = np.concatenate([labels + 0.05 * make_noise(200, 2), make_noise(200, 50, 2)], axis=1)
    scores = disentanglement_completeness_informativeness(codes, labels)
    np.testing.assert_allclose(scores, 1.0, atol=0.05)
    assert max(scores) <= 1.0


def test_percentages_are_announced_as_classes():
    percentages = 5.0 * np.random.default_rng(0).integers(21, size=[600, 2])
    score = separated_attribute_predictability
    with pytest.warns(UserWarning, match=r"in columns \[0, 1\] of `labels`") as caught:
        as_classes = score(percentages, percentages)
    assert [warning.filename for warning in caught] == [__file__]
    assert as_classes < 0.5
    assert score(percentages, percentages, categorical=False) > 0.99


def test_values_are_those_of_another_library():
    """Those of disentanglement_lib 1.5: dci.py, and sap_score.py for continuous factors.

    It divides other instances, and does not hold any out for continuous factors.
    """
    random = np.random.default_rng(0)
    labels = random.integers(2, size=[900, 2])
    codes = labels @ [[1.0, 0.2, 0.5], [0.0, 1.0, 0.5]] + 0.3 * random.normal(size=[900, 3])
    disentangled, complete, informative = disentanglement_completeness_informativeness(
        codes, labels
    )
    assert disentangled == pytest.approx(0.753, abs=0.04)
    assert complete == pytest.approx(0.677, abs=0.04)
    # Its accuracy is 0.962, and that of chance is 1/2.
    assert informative == pytest.approx(2 * 0.962 - 1, abs=0.03)

    random = np.random.default_rng(0)
    labels = random.integers([3, 4, 5], size=[3000, 3])
    random.normal(size=[3000, 4])
    real = labels + random.uniform(size=labels.shape)
    mixing = np.array([[1.0, 0.2, 0.0, 0.5], [0.0, 1.0, 0.3, 0.0], [0.0, 0.0, 1.0, 0.5]])
    score = separated_attribute_predictability(real @ mixing, real)
    assert score == pytest.approx(0.6402, abs=0.01)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (leakage, {"probe": "cubic"}, "`probe` should be one of"),
        (
            leakage,
            {"labels": np.arange(600), "categorical": True},
            "at least two instances of each class",
        ),
        (leakage, {"codes": np.ones([5, 2])}, r"`labels` should have shape \[5, K\]"),
        (leakage, {"labels": np.ones(600)}, "`labels` should vary"),
        (leakage, {"dimensions_per_factor": [1]}, "should sum to 2"),
        (
            separated_attribute_predictability,
            {"dimensions_per_factor": [2]},
            "at least 2 dimensions or factors",
        ),
        (
            disentanglement_completeness_informativeness,
            {"labels": make_labels()[:, 0]},
            "K of at least 2",
        ),
        (
            disentanglement_completeness_informativeness,
            {"estimator": "lasso"},
            "`estimator` should be one of",
        ),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(**{"codes": make_noise(600, 2), "labels": make_labels()} | arguments)


def test_a_missing_library_is_named(monkeypatch):
    def fail(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    import_module = builtins.__import__
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ImportError, match=r'scikit-learn.*pip install "gyoza\[metrics\]"'):
        leakage(make_noise(600, 2), make_labels())
