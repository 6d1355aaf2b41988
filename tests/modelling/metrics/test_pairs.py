"""The correlation of pairs against NumPy's, and against what pairs were drawn with."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.data import CategoricalPairs
from gyoza.modelling.flow_layers import ActivationNormalization, DisentanglingFlowModel
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.metrics import PairCorrelation

pytestmark = pytest.mark.compiled_by("tensorflow")

DIMENSIONS = [2, 1, 3]


def pairs(count=40, seed=0):
    """Pairs of which each is said to correlate in one factor, or in two, or in none."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=[count, 6])
    a, b = (shared * [1, 2, 3, 0, -1, 1] + random.normal(size=[count, 6]) + 4 for _ in "ab")
    choices = np.array([[0, 0.5, 0], [0, 0, -0.9], [0, 0.8, 0.2], [0, 0, 0]])
    y_true = choices[random.integers(4, size=count)]
    return y_true, np.concatenate([a, b, random.normal(size=[count, 2])], axis=1)


def formula(y_true, y_pred, weights):
    """The correlations, group by group, and the mean of their distances from those requested."""
    realised = np.full([3, 3], np.nan)
    requested = np.full([3, 3], np.nan)
    for row in (1, 2):
        group = weights * (y_true[:, row] != 0)
        correlations = []
        for a, b in zip(y_pred[:, :6].T, y_pred[:, 6:12].T, strict=True):
            covariance = np.cov(a, b, aweights=group)
            correlations.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
        realised[row] = [np.mean(block) for block in np.split(correlations, [2, 3])]
        requested[row] = np.average(y_true, axis=0, weights=group)
    return realised, np.nanmean(np.abs(realised - requested))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-10)])
def test_values_are_those_of_numpy_over_all_batches(dtype, rtol):
    y_true, y_pred = pairs()
    weights = np.arange(40.0)
    metric = PairCorrelation(DIMENSIONS, dtype=dtype)
    metric.update_state(y_true[:20], y_pred[:20], weights[:20])
    metric.reset_state()
    for part in (slice(0, 20), slice(20, 40)):
        metric.update_state(y_true[part], y_pred[part], weights[part])
    realised, distance = formula(y_true, y_pred, weights)
    np.testing.assert_allclose(metric.matrix(), realised, rtol=rtol, atol=rtol)
    assert float(metric.result()) == pytest.approx(distance, rel=rtol)


def test_result_is_zero_where_pairs_correlate_as_requested():
    random = np.random.default_rng(0)
    rho = np.repeat([0.0, 0.9, -0.5], DIMENSIONS)
    a = random.normal(size=[20_000, 6])
    b = rho * a + np.sqrt(1 - rho**2) * random.normal(size=a.shape)
    metric = PairCorrelation(DIMENSIONS)
    metric.update_state(
        np.tile([0.0, 0.9, -0.5], [len(a), 1]), np.concatenate([a, b, b[:, :2]], axis=1)
    )
    np.testing.assert_allclose(metric.matrix()[1], [0.0, 0.9, -0.5], atol=0.02)
    assert np.all(np.isnan(metric.matrix()[0]))
    assert float(metric.result()) == pytest.approx(0.0, abs=0.02)


def test_pairs_of_classes_correlate_by_the_share_of_variance_between_classes():
    """The rest of the variance is 1/4 of that of two classes at ±1."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=[4000, 2])
    noise = random.normal(size=[4000, 3])
    x = noise * [1.0, 0.5, 0.5] + np.pad(2 * labels - 1, [(0, 0), (1, 0)])
    metric = PairCorrelation([1, 1, 1])
    for (a, b), y in CategoricalPairs(x, labels, correlation=0.8, batch_size=1000, seed=0):
        metric.update_state(y, np.concatenate([a, b, a[:, :2]], axis=1))
    expected = np.array([[np.nan] * 3, [0.0, 0.8, 0.0], [0.0, 0.0, 0.8]])
    np.testing.assert_allclose(metric.matrix(), expected, atol=0.05)
    assert float(metric.result()) == pytest.approx(0.0, abs=0.03)


def test_fit_shows_it_and_a_loaded_model_too(tmp_path):
    y_true, y_pred = pairs()
    data = tuple(y_pred[:, :12].astype("float32").reshape(40, 2, 6).swapaxes(0, 1))
    model = DisentanglingFlowModel([ActivationNormalization()])
    model.compile(
        "sgd", loss=SupervisedFactorLoss(DIMENSIONS), metrics=[PairCorrelation(DIMENSIONS)]
    )
    history = model.fit(data, y_true, verbose=0, batch_size=16).history
    assert np.isfinite(history["pair_correlation"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    results = loaded.evaluate(data, y_true, batch_size=16, return_dict=True, verbose=0)
    # The layer shifts and scales each dimension, so correlations are those of the data.
    expected = formula(y_true, y_pred, np.ones(40))[1]
    assert results["pair_correlation"] == pytest.approx(expected, rel=1e-3)


def test_what_has_no_correlation():
    y_true, y_pred = pairs()
    metric = PairCorrelation(DIMENSIONS)
    assert float(metric.result()) == 0.0
    assert np.all(np.isnan(metric.matrix()))
    constant = y_pred.copy()
    constant[:, 2] = 4.1
    metric.update_state(y_true, constant)
    np.testing.assert_array_equal(metric.matrix()[1:, 1], 0.0)
    empty = PairCorrelation([3, 0, 3])
    empty.update_state(y_true, y_pred)
    np.testing.assert_array_equal(np.isnan(empty.matrix()), [[1, 1, 1], [0, 1, 0], [0, 1, 0]])
    assert np.isfinite(float(empty.result()))
    y_pred[0, 0] = np.nan
    metric.update_state(y_true, y_pred)
    assert np.isnan(float(metric.result()))


def test_config():
    metric = PairCorrelation([1, 2], name="pairs", dtype="float64")
    config = keras.saving.serialize_keras_object(metric)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == metric.get_config()
    assert copy.dimensions_per_factor == [1, 2]


def test_bad_input():
    for dimensions in ([], [0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="`dimensions_per_factor`"):
            PairCorrelation(dimensions)
    with pytest.raises(TypeError, match="`dimensions_per_factor`"):
        PairCorrelation([1.5])
    metric = PairCorrelation([1, 1])
    with pytest.raises(ValueError, match="`y_true` should have shape"):
        metric.update_state(ops.zeros([4, 3]), ops.zeros([4, 6]))
    with pytest.raises(ValueError, match="`y_pred` should have shape"):
        metric.update_state(ops.zeros([4, 2]), ops.zeros([4, 5]))
    with pytest.raises(ValueError, match="same number of instances"):
        metric.update_state(ops.zeros([4, 2]), ops.zeros([5, 6]))
