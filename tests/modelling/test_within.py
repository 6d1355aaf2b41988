"""Networks and layers within others are run as Keras runs them where that makes a difference."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import list_interceptors
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    BatchNormalization,
    ContinuousFlow,
    Flatten,
    FlowLayer,
    FlowModel,
    Permutation,
)

X = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")


def make_coupling():
    network = MLP([3])
    return AffineCoupling(network), network


def make_continuous():
    network = VelocityMLP([3])
    return ContinuousFlow(network, solver="euler", step_count=2), network


makers = pytest.mark.parametrize("make", [make_coupling, make_continuous])


@makers
def test_recomputation_of_a_network_or_of_its_layers_is_kept(make):
    _, network = make()
    assert not any(list_interceptors(network))
    with keras.RematScope(mode="full"):
        layer, network = make()
        layer(X)
    assert all(any(list_interceptors(part)) for part in [network, *network.dense_layers])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@makers
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("within", [False, True])
def test_hooks_of_a_network_and_of_its_layers_are_run(make, kind, within):
    layer, network = make()
    layer(X)
    expected = ops.convert_to_numpy(layer(X)[0])
    seen = []
    observed = network.dense_layers[0] if within else network
    handle = getattr(observed, kind)(lambda module, *tensors: seen.append(module))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(X)[0]), expected, rtol=1e-6)
    count = len(seen)
    assert count > 0
    handle.remove()
    layer(X)
    assert len(seen) == count


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@makers
def test_hooks_can_change_what_a_network_computes(make):
    layer, network = make()
    layer(X)
    unchanged = ops.convert_to_numpy(layer(X)[0])
    network.register_forward_hook(lambda module, inputs, outputs: outputs + 1.0)
    assert np.abs(ops.convert_to_numpy(layer(X)[0]) - unchanged).max() > 0.1


def make_chain(**options):
    layers = [
        Permutation([1, 0, 3, 2], **options),
        ActivationNormalization(**options),
        AffineCoupling(MLP([3], **options), **options),
    ]
    model = FlowModel(layers, **options)
    model(X)
    for k, weight in enumerate(model.trainable_weights):
        weight.assign(0.3 * np.random.default_rng(k).normal(size=weight.shape))
    return model, layers


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@pytest.mark.parametrize("index", [0, 1, 2])
def test_hooks_of_the_layers_of_a_chain_are_run(index):
    model, layers = make_chain()
    seen = []
    layers[index].register_forward_hook(lambda module, *tensors: seen.append(module))
    model(X)
    assert seen == [layers[index]]


def test_a_call_that_somebody_replaced_is_run():
    model, (_, layer, _) = make_chain()
    outputs, log_det = map(ops.convert_to_numpy, model(X))
    call = layer.call

    def call_and_add(inputs):
        outputs, log_det = call(inputs)
        return outputs, log_det + 1.0

    layer.call = call_and_add
    changed, changed_log_det = map(ops.convert_to_numpy, model(X))
    np.testing.assert_allclose(changed, outputs, rtol=1e-6)
    np.testing.assert_allclose(changed_log_det, log_det + 1.0, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_precision_is_that_of_the_layers_however_a_chain_is_run(policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("is not enabled")
    model, _ = make_chain(dtype=policy)
    x = ops.convert_to_tensor(X, dtype=model.compute_dtype)
    for run in (model, model.call):
        outputs, log_det = run(x)
        assert keras.backend.standardize_dtype(outputs.dtype) == model.compute_dtype
        assert keras.backend.standardize_dtype(log_det.dtype) == model.log_det_dtype
        back = ops.convert_to_numpy(ops.cast(model.invert(outputs), "float32"))
        np.testing.assert_allclose(back, X, atol=1e-5 if policy == "float64" else 0.1)


def test_layers_of_a_chain_are_told_whether_they_are_trained():
    model = FlowModel([Permutation([1, 0, 3, 2]), BatchNormalization()])
    model(X)
    moving = [ops.convert_to_numpy(model(X)[0]), ops.convert_to_numpy(model(X, training=False)[0])]
    np.testing.assert_array_equal(*moving)
    outputs = ops.convert_to_numpy(model(X, training=True)[0])
    np.testing.assert_allclose(outputs.mean(axis=0), 0.0, atol=1e-5)
    assert np.abs(outputs - moving[0]).max() > 0.1


@pytest.mark.parametrize("width", [1, 3, 5])
def test_inputs_and_outputs_of_another_width_are_rejected(width):
    model, _ = make_chain()
    x = ops.convert_to_tensor(np.ones([5, width], "float32"))
    for run in (model, model.call, model.invert, model.invert_and_log_det):
        with pytest.raises(ValueError, match=f"\\(5, {width}\\)"):
            run(x)


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_inputs_other_than_floating_point_numbers_are_rejected(dtype):
    model, _ = make_chain()
    x = ops.convert_to_tensor(np.ones([5, 4], dtype))
    for run in (model, model.call, model.invert):
        with pytest.raises(TypeError, match="should be floating-point numbers"):
            run(x)


def test_shapes_that_a_later_layer_was_not_built_for_are_rejected():
    model = FlowModel([Flatten(), ActivationNormalization()])
    x = ops.ones([5, 2, 2])
    for _ in range(2):
        outputs, _ = model(x)
        assert model.invert(outputs).shape == (5, 2, 2)
    for shape in ([5, 1, 1], [5, 2, 3]):
        for run in (model, model.call, model.log_prob):
            with pytest.raises(ValueError, match="incompatible with the layer"):
                run(ops.ones(shape))


def test_what_keras_casts_for_a_layer_it_casts_each_time():
    class Doubles(FlowLayer):
        def transform(self, x):
            return ops.cast(x, "float64"), ops.zeros(ops.shape(x)[:1], "float32")

        def inverse_transform(self, x):
            return ops.cast(x, "float64")

    model = FlowModel([Permutation([1, 0, 3, 2]), Doubles(), ActivationNormalization()])
    for _ in range(3):
        outputs, _ = model(X)
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"


def test_a_context_where_there_was_none_is_rejected():
    model, _ = make_chain()
    for _ in range(2):
        model(X)
    for run in (model, model.call, model.log_prob):
        with pytest.raises(ValueError, match="context"):
            run(ops.convert_to_tensor(X), context=ops.ones([5, 2]))


class Spy(keras.layers.Layer):
    """Notes whether it is trained."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def call(self, x, training=None):
        self.seen.append(training)
        return x


@pytest.mark.parametrize("training", [True, False])
def test_networks_of_later_layers_are_told_whether_they_are_trained(training):
    spy = Spy()
    network = keras.Sequential([keras.layers.Dense(4), spy])
    model = FlowModel([Permutation([1, 0, 3, 2]), AdditiveCoupling(network)])
    model(X)
    x = ops.convert_to_tensor(X)
    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    for run in (model, model.call, functools.partial(model.stateless_call, *weights)):
        spy.seen.clear()
        run(x, training=training)
        assert spy.seen == [training]


def test_training_of_a_chain_trains_the_networks_of_later_layers():
    spy = Spy()
    network = keras.Sequential([keras.layers.Dense(4), spy])
    model = FlowModel([Permutation([1, 0, 3, 2]), AdditiveCoupling(network)])
    model(X)
    model.compile("sgd", jit_compile=False)
    spy.seen.clear()
    model.fit(X, batch_size=5, verbose=0)
    assert set(spy.seen) == {True}


def test_a_subclass_need_not_pass_on_whether_it_is_trained():
    class Plain(FlowModel):
        def call(self, inputs):
            return super().call(inputs)

    model = Plain([Permutation([1, 0, 3, 2]), BatchNormalization()])
    model(X)
    outputs = ops.convert_to_numpy(model(X, training=True)[0])
    np.testing.assert_allclose(outputs.mean(axis=0), 0.0, atol=1e-5)


class Noted(VelocityMLP):
    """A velocity with a layer that notes whether it is trained."""

    def build(self, input_shape):
        super().build(input_shape)
        self.spy = Spy()

    def call(self, inputs):
        return self.spy(super().call(inputs))


def test_a_velocity_is_trained_by_flow_matching_and_not_by_solving():
    network = Noted([3])
    layer = ContinuousFlow(network, solver="euler", step_count=2)
    model = FlowModel([layer])
    model(X)
    network.spy.seen.clear()
    model(X, training=True)
    assert set(network.spy.seen) == {False}
    network.spy.seen.clear()
    layer.compute_velocity(ops.convert_to_tensor(X), 0.5, training=True)
    assert network.spy.seen == [True]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="is a mode of PyTorch")
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_log_determinants_are_right_in_inference_mode(solver):
    import torch

    layer = ContinuousFlow(VelocityMLP([3]), solver=solver, step_count=2)
    layer(X)
    for k, weight in enumerate(layer.trainable_weights):
        weight.assign(np.random.default_rng(k).normal(size=weight.shape))
    outputs, log_det = layer(X)
    assert np.abs(ops.convert_to_numpy(log_det)).min() > 1e-3
    with torch.inference_mode():
        x = torch.as_tensor(X).clone()
        for inputs in (X, x):
            received = layer(inputs)
            for value, expected in zip(received, (outputs, log_det), strict=True):
                np.testing.assert_allclose(
                    ops.convert_to_numpy(value), ops.convert_to_numpy(expected), rtol=1e-5
                )


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="is of PyTorch")
def test_products_keep_their_digits_where_pytorch_casts():
    import torch

    network = MLP([3], output_size=2)
    network(X)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(X).dtype == network(X[:, None]).dtype == torch.float32
