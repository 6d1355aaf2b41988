"""The supervised factor loss against the formula it states."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.losses import SupervisedFactorLoss

DIMENSIONS = [2, 1, 3]


def pairs(count=16, seed=0):
    random = np.random.default_rng(seed)
    y_true = np.stack([np.zeros(count), random.uniform(-1, 1, count), np.ones(count)], axis=1)
    return y_true.astype("float32"), random.normal(size=(count, 14)).astype("float32")


def formula(y_true, y_pred):
    """The loss in NumPy, entry by entry."""
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


def test_configuration_makes_an_equal_loss():
    loss = SupervisedFactorLoss(np.array(DIMENSIONS), name="my_loss", reduction="sum")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(copy, SupervisedFactorLoss)
    assert copy.get_config() == loss.get_config()
    y_true, y_pred = pairs()
    assert float(copy(y_true, y_pred)) == float(loss(y_true, y_pred))


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
        (lambda y, z: (y + 0.1, z), "correlations from -1 to 1"),
        (lambda y, z: (np.full_like(y, np.nan), z), "correlations from -1 to 1"),
        (lambda y, z: (y, z[:, :-1]), r"`y_pred` should have shape \[batch, 14\]"),
        (lambda y, z: (y[:1], z), "same number of instances"),
        (lambda y, z: (y, z[:, None]), r"`y_pred` should have shape \[batch, 14\]"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        SupervisedFactorLoss(DIMENSIONS)(*change(*pairs()))
