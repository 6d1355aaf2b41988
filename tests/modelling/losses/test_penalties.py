"""The entanglement of latent vectors against a double loop: as function, loss and regulariser."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import vjp
from gyoza.modelling.losses import EntanglementLoss, entanglement
from gyoza.modelling.regularizers import EntanglementRegularizer

Z = np.random.default_rng(0).normal(loc=0.5, size=(6, 4)).astype("float32")


def double_loop(z, covariance=False):
    dimension_count, total = z.shape[1], 0.0
    if covariance:
        z = z - z.mean(axis=0)
    for i in range(dimension_count):
        for j in range(i + 1, dimension_count):
            products = z[:, i] * z[:, j]
            total += np.abs(products.mean()) if covariance else np.abs(products).mean()
    return total * 2 / (dimension_count * (dimension_count - 1))


@pytest.mark.parametrize("covariance", [False, True])
def test_function_and_loss_are_those_of_the_double_loop(covariance):
    values = ops.convert_to_numpy(entanglement(Z, covariance))
    assert values.shape == (6,)
    assert values.mean() == pytest.approx(double_loop(Z, covariance), rel=1e-5)
    loss = EntanglementLoss(covariance)
    assert float(loss(np.zeros([6]), Z)) == pytest.approx(double_loop(Z, covariance), rel=1e-5)


def test_covariance_is_that_of_numpy():
    matrix = np.abs(np.cov(Z.T, bias=True))
    expected = (matrix.sum() - np.trace(matrix)) / 12
    assert float(ops.mean(entanglement(Z, covariance=True))) == pytest.approx(expected, rel=1e-5)


def test_disentangled_codes_have_none():
    on_axes = np.diag([1.0, -2.0, 3.0]).astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(entanglement(on_axes)), 0.0, atol=1e-6)
    crossed = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], "float32")  # independent dimensions
    assert float(ops.mean(entanglement(crossed))) == 1.0
    assert float(ops.mean(entanglement(crossed, covariance=True))) == 0.0


@pytest.mark.parametrize("covariance", [False, True])
def test_regulariser_adds_the_mean_whatever_the_batch_size(covariance):
    layer = keras.layers.Dense(
        4, "linear", False, activity_regularizer=EntanglementRegularizer(0.1, covariance)
    )
    layer.build((None, 4))
    layer.set_weights([np.eye(4)])
    for batch in (Z, np.repeat(Z, 3, axis=0)):
        layer(batch)
        assert float(layer.losses[0]) == pytest.approx(0.1 * double_loop(Z, covariance), rel=1e-4)


@pytest.mark.parametrize("covariance", [False, True])
def test_gradient(covariance):
    z = ops.convert_to_tensor(Z, dtype="float64")
    _, pullback = vjp(lambda z: ops.sum(entanglement(z, covariance)) / len(Z), [z])
    (gradient,) = pullback(ops.ones((), dtype="float64"))
    expected = np.zeros(Z.shape)
    for index in np.ndindex(Z.shape):
        step = np.zeros(Z.shape)
        step[index] = 1e-6
        ends = (double_loop(Z.astype("float64") + sign * step, covariance) for sign in (1, -1))
        expected[index] = np.subtract(*ends) / 2e-6
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected, atol=1e-7)


def test_layer_with_regulariser_is_saved(tmp_path):
    model = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(3, activity_regularizer=EntanglementRegularizer(0.2))]
    )
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras").layers[0].activity_regularizer
    assert isinstance(copy, EntanglementRegularizer)
    assert copy.get_config() == {"factor": 0.2, "covariance": False}


def test_configuration_makes_an_equal_loss():
    loss = EntanglementLoss(covariance=True, name="my_loss", reduction="sum")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()
    assert float(copy(np.zeros([6]), Z)) == float(loss(np.zeros([6]), Z))


def test_bad_input():
    for z in (Z[:, 0], Z[:, :1], Z[None]):
        with pytest.raises(
            ValueError, match=r"^`z` should have shape \[batch, d\] .* Received: z.shape"
        ):
            entanglement(z)
    with pytest.raises(ValueError, match="`factor` should not be negative"):
        EntanglementRegularizer(-1.0)
