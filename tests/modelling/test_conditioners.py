"""Conditioners: what they compute, and what they reject."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import AdditiveCoupling


def test_mlp_is_the_composition_of_its_layers():
    mlp = MLP([3], activation="tanh", output_size=2)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    mlp.build(x.shape)
    random = np.random.default_rng(1)
    kernels = [random.normal(size=weight.shape) for weight in mlp.weights]
    mlp.set_weights(kernels)
    expected = np.tanh(x @ kernels[0] + kernels[1]) @ kernels[2] + kernels[3]
    np.testing.assert_allclose(ops.convert_to_numpy(mlp(x)), expected, rtol=1e-5)


def test_new_mlp_makes_a_coupling_the_identity():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    outputs, _ = AdditiveCoupling(conditioner=MLP([8]))(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs), x)


def test_mlp_in_a_coupling_has_no_weights_for_what_is_masked():
    layer = AdditiveCoupling(conditioner=MLP([8]))
    layer(np.ones([2, 7], "float32"))
    assert [tuple(weight.shape) for weight in layer.weights] == [(4, 8), (8,), (8, 3), (3,)]


def test_products_have_all_digits_of_float64():
    network = MLP([5], output_size=3, dtype="float64")
    x = np.random.default_rng(0).normal(size=(7, 2, 4))
    network(ops.convert_to_tensor(x, dtype="float64"))
    weights = [np.random.default_rng(k).normal(size=w.shape) for k, w in enumerate(network.weights)]
    network.set_weights(weights)
    expected = np.maximum(x @ weights[0] + weights[1], 0.0) @ weights[2] + weights[3]
    outputs = ops.convert_to_numpy(network(ops.convert_to_tensor(x, dtype="float64")))
    np.testing.assert_allclose(outputs, expected, rtol=1e-13, atol=1e-13)


@keras.saving.register_keras_serializable(package="test")
class Halved(MLP):
    """Halves what it returns to a caller."""

    def __call__(self, inputs, *args, **kwargs):
        return 0.5 * super().__call__(inputs, *args, **kwargs)


def test_a_coupling_runs_all_that_a_conditioner_of_a_user_does():
    x = np.ones([2, 4], "float32")
    shifts = []
    for network in (MLP([5]), Halved([5])):
        layer = AdditiveCoupling(conditioner=network)
        layer(x)
        network.set_weights([np.full(weight.shape, 0.1) for weight in network.weights])
        shifts.append(ops.convert_to_numpy(layer(x)[0]) - x)
    assert np.any(shifts[0])
    np.testing.assert_allclose(shifts[1], 0.5 * shifts[0], rtol=1e-5)


def test_a_penalty_of_activities_is_added_in_a_coupling():
    network = MLP([5], activity_regularizer=keras.regularizers.L2(1.0))
    layer = AdditiveCoupling(conditioner=network)
    x = np.ones([2, 4], "float32")
    layer(x)
    network.set_weights([np.full(weight.shape, 0.1) for weight in network.weights])
    network(x[:, :2])
    (expected,) = map(float, network.losses)
    shift = ops.convert_to_numpy(layer(x)[0]) - x
    assert float(layer.losses[0]) == pytest.approx(expected)
    # Keras divides by the batch size, from some version on.
    assert np.sum(shift**2) / expected in (pytest.approx(1.0), pytest.approx(2.0))


def test_bad_input():
    with pytest.raises(ValueError, match="`hidden_sizes` should be positive"):
        MLP([8, 0])
    with pytest.raises(ValueError, match="should be given `output_size`"):
        MLP([8])(np.ones([2, 3], "float32"))
    mlp = MLP([8])
    AdditiveCoupling(conditioner=mlp)(np.ones([2, 4], "float32"))
    with pytest.raises(ValueError, match="should have 3 outputs"):
        AdditiveCoupling(conditioner=mlp)(np.ones([2, 6], "float32"))
