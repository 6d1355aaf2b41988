"""Block neural autoregressive layers: their formula, and their inverse everywhere."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import vjp
from gyoza.modelling.flow_layers import BlockNeuralAutoregressive
from gyoza.testing.functions import compile_on_jax as fast


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(*input_shape, context_size=None, scale=1.0, dtype="float32", **arguments):
    """A layer with random weights."""
    layer = BlockNeuralAutoregressive(dtype=dtype, **arguments)
    context = None if context_size is None else keras.Input([context_size])
    layer(keras.Input(input_shape), context=context)
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))
    return layer


@pytest.mark.compiled_by("tensorflow")
def test_contract(check_contract):
    layer = BlockNeuralAutoregressive(hidden_sizes=[3, 2])
    check_contract(layer, [2], policies=("mixed_float16",))


def test_contract_conditional_axes(check_contract):
    check_contract(
        BlockNeuralAutoregressive(axes=[1, 3], hidden_sizes=[3]),
        [2, 2, 1],
        context=normal(4, 2, seed=1),
        is_further_layout=True,
    )


def test_contract_one_dimension(check_contract):
    layer = BlockNeuralAutoregressive(shape=[1], hidden_sizes=[4])
    check_contract(layer, [1], is_further_layout=True)


@pytest.mark.parametrize("context_size", [None, 2])
def test_layer_is_the_formula(context_size):
    layer = make(2, hidden_sizes=[3], context_size=context_size)
    x, context = normal(5, 2), normal(5, 2, seed=2)
    kernels, log_diagonals = map(to_numpy, layer.kernels), map(to_numpy, layer.log_diagonals)
    biases, gates = [to_numpy(bias) for bias in layer.biases], to_numpy(layer.gates)
    (first, last), (first_diagonal, last_diagonal) = kernels, log_diagonals
    # From dimension, (from unit,) to dimension, unit.
    w1, w2 = np.zeros([2, 2, 3]), np.zeros([2, 3, 2])
    w1[0, 1] = first.reshape(2, 2, 3)[0, 1]
    w2[0, :, 1] = last.reshape(2, 3, 2)[0, :, 1]
    for i in range(2):
        w1[i, i] = np.exp(first_diagonal[i, 0])
        w2[i, :, i] = np.exp(last_diagonal[i, :, 0]) / 3
    before = np.einsum("bi,ijk->bjk", x, w1) + biases[0]
    if context_size:
        before += (context @ to_numpy(layer.context_kernel)).reshape(5, 2, 3)
    hidden = np.einsum("bik,ikj->bj", np.tanh(before), w2) + biases[1][:, 0]
    alpha = 1.0 / (1.0 + np.exp(-gates))
    outputs, _ = layer(x, context=context if context_size else None)
    expected = (1 - alpha) * x + alpha * hidden
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("gate", [-5.0, 5.0])
def test_outputs_and_inputs_take_all_values(gate):
    layer = make(3, hidden_sizes=[4, 3], scale=2.0, dtype="float64")
    if ops.convert_to_numpy(layer(np.ones([1, 3]))[0]).dtype != "float64":
        pytest.skip("JAX computes in float32")
    layer.gates.assign([gate] * 3)
    y = np.random.default_rng(3).normal(size=(20, 3)) * np.logspace(-3, 4, 20)[:, None]
    x = fast(layer.invert)(ops.convert_to_tensor(y, dtype="float64"))
    np.testing.assert_allclose(to_numpy(layer(x)[0]), y, rtol=1e-9, atol=1e-9)


def test_log_determinant_is_finite_where_all_units_are_saturated():
    layer = make(2, hidden_sizes=[4, 4])
    _, log_det = layer(np.array([[1e4, -1e4], [-1e6, 1e6]], "float32"))
    expected = -np.sum(np.log1p(np.exp(to_numpy(layer.gates))))  # all that is left of the slopes
    np.testing.assert_allclose(to_numpy(log_det), expected, rtol=1e-5)


@pytest.mark.parametrize("gate", [-50.0, 50.0])
@pytest.mark.parametrize("log_slope", [-100.0, 100.0])
def test_gradients_are_finite_for_the_steepest_and_flattest_networks(gate, log_slope):
    layer = make(2, hidden_sizes=[3], scale=30.0)
    for log_diagonal in layer.log_diagonals:
        log_diagonal.assign(ops.full(log_diagonal.shape, log_slope))
    layer.gates.assign([gate, gate])

    def compute(x, *values):
        with keras.StatelessScope(
            state_mapping=list(zip(layer.trainable_weights, values, strict=True))
        ):
            return layer(x)[1]

    weights = [weight.value for weight in layer.trainable_weights]
    log_det, pullback = vjp(compute, [ops.convert_to_tensor(3.0 * normal(64, 2)), *weights])
    for gradient in pullback(ops.ones_like(log_det)):
        assert np.all(np.isfinite(to_numpy(gradient)))


def test_outputs_increase_with_their_dimension_and_depend_on_none_after_it():
    layer = make(3, hidden_sizes=[4])
    x = np.repeat(normal(1, 3), 50, axis=0)
    for i in range(3):
        moved = x.copy()
        moved[:, i] = np.linspace(-5.0, 5.0, 50)
        outputs = to_numpy(layer(moved)[0])
        assert np.all(np.diff(outputs[:, i]) > 0.0)
        assert np.all(np.ptp(outputs[:, :i], axis=0) < 1e-6)  # PyTorch rounds rows differently
        assert np.all(np.ptp(outputs[:, i + 1 :], axis=0) > 1e-3)


def test_gradient_of_the_inverse_is_the_inverse_jacobian():
    layer = make(3, hidden_sizes=[4, 3])
    x = normal(4, 3)

    def differentiate(function):
        def run(x, cotangents):
            return vjp(function, [x])[1](cotangents)[0]

        return fast(run)

    cotangents = ops.convert_to_tensor(normal(4, 3, seed=2))
    there = differentiate(lambda x: layer(x)[0])(ops.convert_to_tensor(x), cotangents)
    back = differentiate(layer.invert)(layer(x)[0], there)
    np.testing.assert_allclose(to_numpy(back), to_numpy(cotangents), rtol=1e-3, atol=1e-3)


def test_gradient_of_the_inverse_by_a_weight_is_the_difference_quotient():
    layer = make(2, hidden_sizes=[3])
    y = ops.convert_to_tensor(normal(4, 2))
    weights = [layer.kernels[0], layer.gates, layer.log_diagonals[1]]
    values = [weight.value for weight in weights]

    def invert(*values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return ops.sum(layer.invert(y)[:, 1])

    gradients = fast(lambda *values: vjp(invert, values)[1](ops.ones(())))(*values)
    run = fast(invert)
    for i, gradient in enumerate(map(to_numpy, gradients)):
        index = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        ends = []
        for sign in (1.0, -1.0):
            moved = to_numpy(values[i]).copy()
            moved[index] += 1e-2 * sign
            moved = ops.convert_to_tensor(moved)
            ends.append(float(to_numpy(run(*values[:i], moved, *values[i + 1 :]))))
        np.testing.assert_allclose(gradient[index], (ends[0] - ends[1]) / 2e-2, rtol=2e-2)


def test_weights_exist_right_after_construction_where_the_shape_is_given():
    layer = BlockNeuralAutoregressive(shape=[3], hidden_sizes=[2])
    assert [tuple(weight.shape) for weight in layer.weights] == [
        (3, 6),
        (3, 1, 2),
        (3, 2),
        (6, 3),
        (3, 2, 1),
        (3, 1),
        (3,),
    ]


def test_bad_hidden_sizes():
    with pytest.raises(ValueError, match="`hidden_sizes` should hold at least one"):
        BlockNeuralAutoregressive(hidden_sizes=[])
    with pytest.raises(ValueError, match="`hidden_sizes` should be positive"):
        BlockNeuralAutoregressive(hidden_sizes=[4, 0])
