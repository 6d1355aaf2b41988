"""Inverted layers and models."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    Flatten,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    LULinear,
    MaskedAffine,
    Softplus,
    Squeeze,
    TriangularAffine,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_contract_inverse_autoregressive_flow(check_contract):
    check_contract(
        Inverse(MaskedAffine(conditioner=MADE([8], "tanh"))), [3], policies=("mixed_float16",)
    )


def test_contract_conditional(check_contract):
    layer = Inverse(AffineCoupling(conditioner=MLP([8], "tanh")))
    check_contract(layer, [4], context=normal(4, 2, seed=1), is_further_layout=True)


def test_contract_change_of_shape(check_contract):
    check_contract(Inverse(Squeeze()), [2, 2, 4], policies=("float64",))


def test_contract_model(check_contract):
    model = FlowModel(
        [ActivationNormalization(), TriangularAffine(), HeavisidePermutation(), LULinear(seed=1)]
    )
    check_contract(Inverse(model), [3], is_further_layout=True)


def test_outputs_and_log_determinants_are_those_of_the_inverse_function():
    x = np.array([[0.5, 2.0, 7.0]], "float32")
    outputs, log_det = Inverse(Softplus())(x)
    np.testing.assert_allclose(to_numpy(outputs), np.log(np.expm1(x)), rtol=1e-5)
    expected = np.sum(x - np.log(np.expm1(x)), axis=1)
    np.testing.assert_allclose(to_numpy(log_det), expected, rtol=1e-5)


def test_turned_round_twice_a_layer_is_itself():
    layer = LULinear(shape=[3], seed=0)
    layer.factors.assign(to_numpy(layer.factors) + 0.1 * normal(3, 3))
    x = normal(4, 3)
    for received, expected in zip(Inverse(Inverse(layer))(x), layer(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-5, atol=1e-6)


def test_inverse_and_log_determinant_are_those_of_the_call():
    layer = Inverse(LULinear(shape=[3], seed=0))
    layer.layer.factors.assign(to_numpy(layer.layer.factors) + 0.1 * normal(3, 3))
    x = normal(4, 3)
    outputs, log_det = layer(x)
    inputs, received = layer.invert_and_log_det(outputs)
    assert np.all(np.abs(to_numpy(log_det)) > 0.01)
    np.testing.assert_allclose(to_numpy(inputs), x, atol=1e-5)
    np.testing.assert_allclose(to_numpy(received), to_numpy(log_det), rtol=1e-5)


def test_flow_with_layers_in_both_directions_is_a_density_and_loads(tmp_path):
    # exp of a standard normal, through a model whose last layer is inverted
    model = FlowModel([TriangularAffine(), Inverse(Softplus()), Inverse(LULinear(seed=0))])
    x = 1.0 + np.abs(normal(4, 3))
    log_prob = to_numpy(model.log_prob(x))
    z = model.invert_and_log_det(model(x)[0])
    np.testing.assert_allclose(to_numpy(z[0]), x, rtol=1e-5)
    normal_part = -0.5 * np.sum(to_numpy(model(x)[0]) ** 2, axis=1) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, normal_part + to_numpy(z[1]), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.log_prob(x)), log_prob, rtol=1e-5)


def test_weights_are_shared_with_the_layer():
    layer = ActivationNormalization(shape=[2])
    inverse = Inverse(layer)
    layer._scale_.assign([2.0, 4.0])
    outputs, log_det = inverse(np.ones([1, 2], "float32"))
    np.testing.assert_allclose(to_numpy(outputs), [[2.0, 4.0]])
    np.testing.assert_allclose(to_numpy(log_det), [np.log(8.0)], rtol=1e-6)
    assert len(inverse.trainable_weights) == 2


def test_inverse_autoregressive_flow_can_be_trained_under_xla():
    layer = Inverse(MaskedAffine(conditioner=MADE([4], "tanh")))
    x = ops.convert_to_tensor(normal(4, 3))
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(normal(*weight.shape, seed=1))
    weights = layer.trainable_weights

    def log_det(*values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return ops.sum(layer(x)[1])

    def gradients(*values):
        return vjp(log_det, values)[1](ops.ones(()))

    values = [weight.value for weight in weights]
    received = [to_numpy(gradient) for gradient in jit(gradients, xla=True)(*values)]
    index = np.unravel_index(np.argmax(np.abs(received[0])), received[0].shape)
    step = np.zeros_like(received[0])
    step[index] = 1e-2
    ends = [
        float(to_numpy(jit(log_det)(values[0] + ops.convert_to_tensor(s), *values[1:])))
        for s in (step, -step)
    ]
    np.testing.assert_allclose(received[0][index], (ends[0] - ends[1]) / 2e-2, rtol=2e-2)


@pytest.mark.parametrize("built_first", [False, True])
def test_a_layer_that_changes_the_shape_is_turned_round_if_its_input_shape_is_known(built_first):
    flatten = Flatten() if built_first else Flatten(shape=[2, 3])
    if built_first:
        flatten(normal(4, 2, 3))
    layer = Inverse(flatten)
    assert tuple(layer(normal(4, 6))[0].shape) == (4, 2, 3)
    assert layer.compute_input_shape((None, 2, 3)) == (None, 6)
    with pytest.raises(ValueError, match="should be built before"):
        Inverse(Flatten())(normal(4, 6))


def test_a_model_that_changes_the_shape_has_to_be_built_first():
    layers = [Squeeze(), AffineCoupling(axes=[3], conditioner=MLP([4]))]
    with pytest.raises(ValueError, match="should be built before"):
        Inverse(FlowModel(layers))(normal(2, 2, 2, 4))


def test_context_is_rejected_where_the_layer_takes_none():
    layer = Inverse(Softplus())
    assert not layer.accepts_context
    with pytest.raises(ValueError, match="does not take a context"):
        layer(np.ones([2, 3], "float32"), context=np.ones([2, 1], "float32"))


def test_bad_layer():
    with pytest.raises(TypeError, match="`layer` should be a `FlowLayer`"):
        Inverse(keras.layers.Dense(3))
