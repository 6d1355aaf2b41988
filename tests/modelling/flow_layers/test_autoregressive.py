"""Masked autoregressive layers: their formula, their order, and the gradient of their inverse."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    FlowModel,
    HeavisidePermutation,
    Inverse,
    MaskedAffine,
    MaskedAutoregressive,
    MaskedRationalQuadraticSpline,
)
from gyoza.modelling.functions.splines import rational_quadratic_spline

LAYERS = [MaskedAffine, MaskedRationalQuadraticSpline]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer, scale=0.7):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))
    return layer


def make(layer_class, x, context=None, **arguments):
    """A built layer with random weights."""
    layer = layer_class(conditioner=MADE([8], "tanh", order=[1, 2, 0]), **arguments)
    layer(x, context=context)
    return randomize(layer)


@pytest.mark.parametrize("context", [None, normal(4, 2, seed=1)], ids=["plain", "conditional"])
def test_contract_affine(context, check_contract):
    layer = MaskedAffine(conditioner=MADE([8], "tanh", order=[1, 2, 0]))
    check_contract(layer, [3], context=context, is_further_layout=context is not None)


def test_contract_axes(check_contract):
    layer = MaskedAffine(None, [1, 3], MADE([8, 8], "tanh", residual=True), log_scale_bound=None)
    check_contract(layer, [2, 2, 2], is_further_layout=True)


def test_contract_one_dimension(check_contract):
    check_contract(MaskedAffine(), [1], is_further_layout=True)


def test_contract_spline(check_contract):
    layer = MaskedRationalQuadraticSpline(conditioner=MADE([4], "tanh"), bin_count=3)
    check_contract(layer, [2], is_further_layout=True)


def test_affine_transform_is_the_formula():
    x = normal(5, 3)
    layer = make(MaskedAffine, x, log_scale_bound=0.8)
    parameters = to_numpy(layer.conditioner(x))
    log_scales = 0.8 * np.tanh(parameters[..., 0] / 0.8)
    outputs, log_det = layer(x)
    expected = x * np.exp(log_scales) + parameters[..., 1]
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det), log_scales.sum(axis=1), rtol=1e-4, atol=1e-5)


def test_spline_transform_is_the_spline():
    x = normal(5, 3)
    layer = make(MaskedRationalQuadraticSpline, x, bin_count=4, bound=2.0, minimum_slope=0.1)
    parameters = to_numpy(layer.conditioner(x))
    expected, log_slopes = rational_quadratic_spline(
        ops.convert_to_tensor(x),
        parameters[..., :4],
        parameters[..., 4:8],
        parameters[..., 8:],
        bound=2.0,
        minimum_slope=0.1,
    )
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(expected), rtol=1e-5, atol=1e-5)
    expected = to_numpy(log_slopes).sum(axis=1)
    np.testing.assert_allclose(to_numpy(log_det), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_dimension_changes_no_output_before_its_own(layer_class):
    x = normal(5, 3)
    layer = make(layer_class, x)
    outputs = to_numpy(layer(x)[0])
    for position, dimension in enumerate([1, 2, 0]):
        moved = x.copy()
        moved[:, dimension] += 0.5
        changes = np.any(to_numpy(layer(moved)[0]) != outputs, axis=0)
        np.testing.assert_array_equal(changes[[1, 2, 0]], np.arange(3) >= position)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_new_layer_is_exactly_the_identity(layer_class):
    x = normal(50, 6)
    layer = layer_class()
    outputs, log_det = layer(x)
    np.testing.assert_array_equal(to_numpy(outputs), x)
    np.testing.assert_array_equal(to_numpy(log_det), 0.0)
    np.testing.assert_array_equal(to_numpy(layer.invert(x)), x)


def test_gradient_of_the_inverse_is_the_inverse_jacobian():
    x = normal(4, 3)
    layer = make(MaskedAffine, x)
    outputs = layer(x)[0]

    def differentiate(function):
        def run(x, cotangents):
            return vjp(function, [x])[1](cotangents)[0]

        # Under XLA, TensorFlow rejects gradients of loops that it cannot bound.
        return jit(run, xla=True)

    forward, backward = differentiate(lambda x: layer(x)[0]), differentiate(layer.invert)
    cotangents = ops.convert_to_tensor(normal(4, 3, seed=2))
    there = forward(ops.convert_to_tensor(x), cotangents)
    np.testing.assert_allclose(
        to_numpy(backward(outputs, there)), to_numpy(cotangents), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("layer_class", LAYERS)
def test_inverse_comes_with_the_log_determinant(layer_class):
    x = normal(4, 3)
    layer = make(layer_class, x)
    randomize(layer, 0.2)
    outputs, log_det = layer(x)
    inputs, received = jit(layer.invert_and_log_det)(outputs)
    np.testing.assert_allclose(to_numpy(inputs), x, atol=1e-5)
    np.testing.assert_allclose(to_numpy(received), to_numpy(log_det), atol=1e-5)


def test_context_reaches_all_dimensions_and_can_differ_between_positions():
    x, context = normal(4, 2, 3), normal(4, 2, 5, seed=1)
    layer = make(MaskedAffine, x, context, axes=[2])
    outputs, _ = layer(x, context=context)
    for i in range(5):
        moved = context.copy()
        moved[:, 1, i] += 1.0
        changes = to_numpy(layer(x, context=moved)[0]) - to_numpy(outputs)
        assert np.all(changes[:, 0] == 0.0)
        assert np.all(changes[:, 1] != 0.0)
    received = jit(lambda y, c: layer.invert(y, context=c))(outputs, ops.convert_to_tensor(context))
    np.testing.assert_allclose(to_numpy(received), x, atol=1e-5)


def test_layers_that_share_a_conditioner_still_do_so_after_loading(tmp_path):
    made = MADE([4])
    model = FlowModel(
        [MaskedAffine(conditioner=made), HeavisidePermutation(), MaskedAffine(conditioner=made)]
    )
    x = normal(4, 3)
    model(x)
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 4
    np.testing.assert_allclose(to_numpy(loaded(x)[0]), to_numpy(model(x)[0]), rtol=1e-5)


class Sliced(MADE):
    """Takes a slice by a tensor, whose length is not known where TensorFlow traces it."""

    def call(self, inputs, context=None, entry=None):
        parameters = super().call(inputs, context)
        return parameters if entry is None else parameters[:, entry : entry + 1]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX rejects such a slice")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_networks_may_return_a_slice_for_one_dimension(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch runs eagerly")
    layer = MaskedAffine(Sliced([4]))
    model = FlowModel([layer])
    model.compile("sgd", jit_compile=jit_compile)
    model.build((None, 4))
    randomize(layer)
    samples, log_prob = model.sample_and_log_prob(8, seed=0)
    np.testing.assert_allclose(
        to_numpy(log_prob), to_numpy(model.log_prob(samples)), rtol=1e-4, atol=1e-4
    )


def test_bad_input():
    for make in (lambda: MaskedAffine(conditioner=MLP([8])), lambda: MaskedAffine(MLP([8]))):
        with pytest.raises(TypeError, match=r"`conditioner` should be a `MADE`, such as `MADE\("):
            make()
    with pytest.raises(ValueError, match="`log_scale_bound` should be a positive"):
        MaskedAffine(log_scale_bound=0.0)
    with pytest.raises(ValueError, match="`bin_count` should be"):
        MaskedRationalQuadraticSpline(bin_count=1)
    with pytest.raises(ValueError, match="parameters per dimension"):
        MaskedAffine(conditioner=MADE([8], parameter_count=3))(normal(2, 3))
    with pytest.raises(NotImplementedError, match="should implement `_couple_`"):
        MaskedAutoregressive()


@pytest.mark.compiled_by("jax")
@pytest.mark.parametrize(
    ("layer", "size", "context_size"),
    [
        (MaskedAffine(conditioner=MADE([4])), 1, 0),
        (MaskedAffine(conditioner=MADE([4])), 1, 2),
        (MaskedRationalQuadraticSpline(conditioner=MADE([4]), bin_count=2), 2, 0),
    ],
)
def test_the_inverse_is_trained_in_compiled_code(layer, size, context_size):
    model = FlowModel([Inverse(layer)])
    x = 3 + normal(16, size)
    data = {"inputs": x, "context": normal(16, context_size)} if context_size else x
    model.compile(keras.optimizers.SGD(0.1), jit_compile=keras.backend.backend() != "torch")
    before, after = model.fit(data, batch_size=16, epochs=2, verbose=0).history["loss"]
    assert after < before
