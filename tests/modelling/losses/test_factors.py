"""The supervised factor loss against the formula it states."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import multivariate_normal

from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    DisentanglingFlowModel,
    Reflection,
)
from gyoza.modelling.losses import SupervisedFactorLoss

DIMENSIONS = [2, 1, 3]


def pairs(count=16, seed=0):
    random = np.random.default_rng(seed)
    y_true = np.stack([np.zeros(count), random.uniform(-1, 1, count), np.ones(count)], axis=1)
    return y_true.astype("float32"), random.normal(size=(count, 14)).astype("float32")


def formula(y_true, y_pred):
    """The loss in NumPy, pair by pair."""
    losses = []
    for correlations, prediction in zip(y_true, y_pred, strict=True):
        rho = np.repeat(correlations, DIMENSIONS).clip(-1 + 1e-6, 1 - 1e-6).astype("float32")
        z_a, z_b, (j_a, j_b) = prediction[:6], prediction[6:12], prediction[12:]
        variance = np.float32(1.0) - np.square(rho)
        prior_a = 0.5 * np.sum(z_a**2)
        prior_b = 0.5 * np.sum((z_b - rho * z_a) ** 2 / variance + np.log(variance))
        losses.append(prior_a + prior_b - (j_a + j_b))
    return np.array(losses)


def test_losses_are_those_of_the_formula():
    y_true, y_pred = pairs()
    losses = SupervisedFactorLoss(DIMENSIONS).call(
        ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(losses), formula(y_true, y_pred), rtol=1e-5)


def test_documented_attributes():
    loss = SupervisedFactorLoss((1, 2, 0, 3))
    masks = ops.convert_to_numpy(loss.__factor_masks__)
    np.testing.assert_array_equal(
        masks, [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    )
    assert masks.dtype == keras.config.floatx()
    assert loss.__dimensions_per_factor__ == [1, 2, 0, 3]


def test_columns_after_those_of_the_pair_are_ignored():
    y_true, y_pred = pairs()
    wide = np.concatenate([y_pred, np.full([len(y_pred), 2], np.nan)], axis=1)
    losses = SupervisedFactorLoss(DIMENSIONS, reduction=None)(y_true, wide)
    np.testing.assert_allclose(ops.convert_to_numpy(losses), formula(y_true, y_pred), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_correlations_that_exceed_1_by_rounding_are_clipped(dtype):
    _, y_pred = pairs()
    above = np.nextafter(np.array([1, -1], dtype), np.array([2, -2], dtype))
    y_true = np.tile(np.array([0, *above], dtype), [16, 1])
    loss = SupervisedFactorLoss(DIMENSIONS, reduction=None)
    loss.check_correlations(y_true)
    for targets in (y_true, ops.convert_to_tensor(y_true)):
        received = ops.convert_to_numpy(loss(targets, y_pred))
        expected = formula(np.tile([0.0, 1.0, -1.0], [16, 1]), y_pred)
        np.testing.assert_allclose(received, expected, rtol=1e-5)


def test_mean_loss_of_pairs_of_the_assumed_density_is_its_entropy():
    """Without the constant n ln 2π, the entropy of the pair is n/2 (1 + ln(1 - ρ²)) + n/2."""
    random = np.random.default_rng(0)
    rho = np.array([0.0, 0.5])
    a = random.normal(size=(200_000, 2))
    b = rho * a + np.sqrt(1 - rho**2) * random.normal(size=a.shape)
    y_pred = np.concatenate([a, b, np.zeros([len(a), 2])], axis=1)
    loss = SupervisedFactorLoss([1, 1])(np.tile(rho, [len(a), 1]), y_pred)
    assert float(loss) == pytest.approx(2 + 0.5 * np.log(1 - 0.25), abs=0.01)


def test_correlations_that_cannot_be_give_nan_where_nothing_can_be_raised():
    y_true, y_pred = pairs(2)
    losses = SupervisedFactorLoss(DIMENSIONS).call(ops.convert_to_tensor(y_true * 1.5), y_pred)
    assert np.all(np.isnan(ops.convert_to_numpy(losses)))


def test_half_precision_is_not_enough_for_full_correlation():
    y_true, y_pred = pairs()
    loss = SupervisedFactorLoss(DIMENSIONS, dtype="float16")
    assert np.isfinite(float(loss(y_true, y_pred / 1e3)))


def test_reductions_and_sample_weights():
    y_true, y_pred = pairs()
    expected = formula(y_true, y_pred)
    weights = np.linspace(0, 2, len(expected)).astype("float32")
    for reduction, value in (
        ("sum_over_batch_size", np.mean(weights * expected)),
        ("sum", np.sum(weights * expected)),
        ("mean_with_sample_weight", np.sum(weights * expected) / np.sum(weights)),
        (None, weights * expected),
    ):
        loss = SupervisedFactorLoss(DIMENSIONS, reduction=reduction)
        received = ops.convert_to_numpy(loss(y_true, y_pred, sample_weight=weights))
        np.testing.assert_allclose(received, value, rtol=1e-4)


def test_positional_arguments_are_those_of_keras():
    loss = SupervisedFactorLoss(DIMENSIONS, "my_loss", "sum", "float64")
    assert (loss.name, loss.reduction, loss.dtype) == ("my_loss", "sum", "float64")


@pytest.mark.parametrize(
    "options", [{}, {"include_constant": True, "correlation": np.array([0.9, 0.3])}]
)
def test_configuration_makes_an_equal_loss(options):
    loss = SupervisedFactorLoss(np.array(DIMENSIONS), name="my_loss", reduction="sum", **options)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(copy, SupervisedFactorLoss)
    assert copy.get_config() == loss.get_config()
    y_true, y_pred = pairs()
    if options:
        y_true = np.arange(16) % 3
    assert float(copy(y_true, y_pred)) == float(loss(y_true, y_pred))


@pytest.mark.parametrize("correlation", [0.9, [0.9, 0.3], [0.0, 0.3]])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_index_of_the_shared_factor_stands_for_its_correlation(correlation, shape):
    _, y_pred = pairs(4)
    sigma = np.broadcast_to(correlation, 2)
    y_true = np.array([[0, 0, 0], [0, sigma[0], 0], [0, 0, sigma[1]], [0, 0, sigma[1]]])
    loss = SupervisedFactorLoss(DIMENSIONS, reduction=None, correlation=correlation)
    received = loss(np.array([0, 1, 2, 2]).reshape(shape), y_pred)
    np.testing.assert_allclose(ops.convert_to_numpy(received), formula(y_true, y_pred), rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float32", 1e-5),
        pytest.param("float64", 1e-12, marks=pytest.mark.compiled_by("tensorflow")),
    ],
)
def test_constant_makes_it_the_density_of_a_normal_distribution(dtype, tolerance):
    rho, y_pred = 0.3, pairs(3)[1]
    y_pred = y_pred[:, [0, 1, 6, 7, 12, 13]].astype("float64")
    loss = SupervisedFactorLoss([1, 1], "loss", None, dtype, include_constant=True, correlation=rho)
    covariance = np.eye(4)
    covariance[1, 3] = covariance[3, 1] = rho  # of a_0, a_1, b_0, b_1
    expected = -multivariate_normal(np.zeros(4), covariance).logpdf(y_pred[:, :4])
    expected -= y_pred[:, 4:].sum(axis=1)
    received = ops.convert_to_numpy(loss(np.ones(3), y_pred))
    np.testing.assert_allclose(received, expected, rtol=tolerance)


def test_model_is_fitted_to_indices_and_checks_them():
    model = DisentanglingFlowModel([ActivationNormalization(), Reflection(reflection_count=2)])
    model.compile("adam", loss=SupervisedFactorLoss([1, 1], correlation=0.9))
    a, b = np.random.default_rng(0).normal(size=[2, 8, 2]).astype("float32")
    shared = np.array([0, 1] * 4)
    history = model.fit((a, b), shared, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    with pytest.raises(ValueError, match="indices of factors, integers from 0 to 1"):
        model.fit((a, b), shared + 1, verbose=0)


def test_indices_that_cannot_be_give_nan_where_nothing_can_be_raised():
    loss = SupervisedFactorLoss(DIMENSIONS, correlation=0.9)
    losses = loss.call(ops.convert_to_tensor([3, 1, -1, 0]), pairs(4)[1])
    assert np.isnan(ops.convert_to_numpy(losses)).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("y_true", "message"),
    [
        (np.zeros([4, 3]), r"^`y_true` should have shape \[batch\] or \[batch, 1\], .* the factor"),
        (np.array([0, 1, 2, 3]), "integers from 0 to 2. Received: values from 0 to 3"),
        (np.array([0, 1, 2, 0.5]), "integers from 0 to 2"),
    ],
)
def test_bad_indices(y_true, message):
    with pytest.raises(ValueError, match=message):
        SupervisedFactorLoss(DIMENSIONS, correlation=0.9)(y_true, pairs(4)[1])


@pytest.mark.parametrize("correlation", [1.0, -0.1, [0.5], [0.5, 0.5, 0.5]])
def test_bad_correlation(correlation):
    with pytest.raises(ValueError, match="`correlation` should be a number in"):
        SupervisedFactorLoss(DIMENSIONS, correlation=correlation)


@pytest.mark.parametrize(
    ("dimensions", "error"),
    [([], ValueError), ([2, -1], ValueError), ([0, 0], ValueError), ([1.5], TypeError)],
)
def test_bad_dimensions(dimensions, error):
    with pytest.raises(error, match="`dimensions_per_factor` should"):
        SupervisedFactorLoss(dimensions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, z: (y[:, :2], z), r"`y_true` should have shape \[batch, 3\]"),
        (lambda y, z: (y[:, 0], z), r"`y_true` should have shape \[batch, 3\]"),
        (
            lambda y, z: (y + 0.1, z),
            r"^`y_true` should hold correlations .* Received: values from -0\.\d* to 1.1",
        ),
        (lambda y, z: (np.full_like(y, np.nan), z), "correlations from -1 to 1"),
        (lambda y, z: (y, z[:, :-1]), r"`y_pred` should have shape \[batch, 14\]"),
        (lambda y, z: (y[:1], z), "same number of instances"),
        (lambda y, z: (y, z[:, None]), r"`y_pred` should have shape \[batch, 14\]"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        SupervisedFactorLoss(DIMENSIONS)(*change(*pairs()))
