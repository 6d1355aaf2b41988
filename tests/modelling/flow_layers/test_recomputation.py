"""Memory-efficient models have the gradients of ordinary ones."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling import conditioners, flow_layers, losses
from gyoza.modelling.flow_layers.recomputation import can_be_recomputed
from gyoza.testing.functions import compile_on_jax

pytestmark = pytest.mark.usefixtures("without_xla")

BACKEND = keras.backend.backend()


def mlp(**kwargs):
    return conditioners.MLP([6], **kwargs)


def make_vector_layers():
    return [
        flow_layers.ActivationNormalization(),
        flow_layers.AdditiveCoupling(conditioner=mlp()),
        flow_layers.Reflection(reflection_count=2),
        flow_layers.AffineCoupling(conditioner=mlp()),
        flow_layers.LULinear(),
        flow_layers.VolumePreservingCoupling(conditioner=mlp()),
        flow_layers.TriangularAffine(),
        flow_layers.RationalQuadraticSplineCoupling(conditioner=mlp()),
        flow_layers.ShufflePermutation(seed=0),
        flow_layers.YeoJohnson(),
    ]


def make_few_layers():
    return make_vector_layers()[1:5]


def make_image_layers():
    inner = flow_layers.FlowModel(
        [
            flow_layers.AffineCoupling(axes=[3], conditioner=conditioners.ResNet(4, block_count=0)),
            flow_layers.Squeeze(),
        ]
    )
    return [
        flow_layers.HaarDownsampling(),
        flow_layers.InvertibleConvolution(),
        flow_layers.FactorOut(inner),
    ]


def make_stored_layers():
    return [
        flow_layers.AffineCoupling(conditioner=mlp()),
        flow_layers.HeavisidePermutation(),
        flow_layers.MaskedAffine(conditioner=conditioners.MADE([6])),
        flow_layers.Tanh(),
        flow_layers.Reflection(reflection_count=2),
    ]


CHAINS = {
    "vectors": (make_vector_layers, [4]),
    "images": (make_image_layers, [4, 4, 1]),
    "with layers that are stored": (make_stored_layers, [4]),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_twins(make, x, context=None, model=flow_layers.FlowModel):
    """An ordinary and a memory-efficient model with the same weights, away from their start."""
    twins = [model(make(), memory_efficient=flag) for flag in (False, True)]
    for twin in twins:
        twin.build_for(x, context)
    random = np.random.default_rng(1)
    for weight, other in zip(*(twin.weights for twin in twins), strict=True):
        value = ops.convert_to_numpy(weight)
        if weight.trainable:
            value = value + 0.2 * random.normal(size=value.shape)
        weight.assign(value)
        other.assign(value)
    return twins


def compute_gradients(model, x, context=None):
    """Gradients of log-densities with respect to data, context and weights."""
    variables = model.trainable_variables

    def log_prob(x, context, *values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return model._log_prob(x, None if context.shape[0] == 0 else context)

    @compile_on_jax
    def gradients(*primals):
        outputs, pull_back = vjp(log_prob, primals)
        return pull_back(ops.ones_like(outputs))

    context = np.zeros([0], "float32") if context is None else context
    values = [ops.convert_to_tensor(variable) for variable in variables]
    primals = [ops.convert_to_tensor(x), ops.convert_to_tensor(context), *values]
    return [ops.convert_to_numpy(gradient) for gradient in gradients(*primals)]


def assert_gradients_equal(twins, *data, tolerance=2e-4):
    expected, received = (compute_gradients(twin, *data) for twin in twins)
    assert all(np.all(np.isfinite(gradient)) for gradient in received)
    for ordinary, recomputed in zip(expected, received, strict=True):
        scale = np.max(np.abs(ordinary), initial=0.0)
        np.testing.assert_allclose(recomputed, ordinary, atol=tolerance * scale + 1e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_are_those_of_an_ordinary_model(name):
    make, shape = CHAINS[name]
    x = normal(8, *shape)
    twins = make_twins(make, x)
    assert_gradients_equal(twins, x)


def test_gradients_with_a_context():
    x, context = normal(8, 4), normal(8, 2, seed=2)

    def make():
        return [
            flow_layers.AffineCoupling(conditioner=mlp()),
            flow_layers.HeavisidePermutation(),
            flow_layers.AdditiveCoupling(conditioner=mlp()),
        ]

    assert_gradients_equal(make_twins(make, x, context), x, context)


@pytest.mark.parametrize("inner", [flow_layers.Tanh, flow_layers.Arctanh, flow_layers.Softplus])
def test_gradients_where_outputs_are_rounded(inner):
    """The inverse would be infinite at the bounds, so the layer is stored."""
    x = np.array([[20.0, -30.0], [9.5, -0.5], [0.1, 12.0]], "float32")
    layers = [flow_layers.Affine(scale=0.5), inner(), flow_layers.LULinear()]
    if inner is flow_layers.Softplus:
        x = x - 160.0
    if inner is flow_layers.Arctanh:
        x = np.array([[2.0 - 1.2e-7, -1.9999], [0.5, 0.0]], "float32")  # halves are below 1

    def make():
        return [type(layer).from_config(layer.get_config()) for layer in layers]

    twins = make_twins(make, x)
    outputs, log_det = map(ops.convert_to_numpy, twins[1](x))
    expected, log_det_there = map(ops.convert_to_numpy, twins[0](x))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, log_det_there, rtol=1e-5)
    assert np.all(np.isfinite(log_det))
    assert not can_be_recomputed(inner())
    assert_gradients_equal(twins, x)


def fit(model, *data, **options):
    model.compile(keras.optimizers.SGD(0.01), **options)
    return model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]


def test_it_is_fitted_as_an_ordinary_model():
    x = normal(16, 4)
    twins = make_twins(make_few_layers, x)
    ordinary, efficient = (fit(twin, x) for twin in twins)
    np.testing.assert_allclose(efficient, ordinary, rtol=1e-4)


def test_pairs():
    a, b = normal(2, 16, 4)
    y = np.tile([0.0, 0.9], [16, 1]).astype("float32")
    model = flow_layers.DisentanglingFlowModel
    twins = make_twins(make_few_layers, a, model=model)
    loss = losses.SupervisedFactorLoss([2, 2])
    ordinary, efficient = (fit(twin, (a, b), y, loss=loss) for twin in twins)
    np.testing.assert_allclose(efficient, ordinary, rtol=1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX always compiles by XLA, PyTorch never")
def test_xla():
    x = normal(16, 4)
    twins = make_twins(make_few_layers, x)
    ordinary, efficient = (fit(twin, x, jit_compile=True) for twin in twins)
    np.testing.assert_allclose(efficient, ordinary, rtol=1e-4)


def test_mixed_precision():
    x = normal(8, 4)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twins = make_twins(make_few_layers, x)
    finally:
        keras.config.set_dtype_policy(policy)
    assert_gradients_equal(twins, x, tolerance=0.1)


def test_layers_that_cannot_be_recomputed_are_stored():
    dropout = keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    statistics = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    stored = [
        flow_layers.AdditiveCoupling(conditioner=dropout),
        flow_layers.AdditiveCoupling(conditioner=statistics),
        flow_layers.BatchNormalization(),
        flow_layers.MaskedAffine(),
        flow_layers.Inverse(flow_layers.MaskedAffine()),
        flow_layers.FlowModel([flow_layers.Planar()]),
        flow_layers.UniformDequantization(levels=2),
        flow_layers.Sigmoid(),
        flow_layers.Tanh(),
        flow_layers.Arctanh(),
    ]
    assert not any(can_be_recomputed(layer) for layer in stored)
    assert all(can_be_recomputed(layer) for layer in make_vector_layers() + make_image_layers())


def test_it_is_saved(tmp_path):
    x = normal(8, 4)
    _, efficient = make_twins(make_few_layers, x)
    efficient.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.memory_efficient
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(x)[0]), ops.convert_to_numpy(efficient(x)[0]), rtol=1e-6
    )


def count_bytes(function, *tensors):
    """The memory that a function takes for what it computes on the way, compiled by XLA.

    On TensorFlow, that of the compilation counts, too, since TensorFlow does not give it back.
    """
    if BACKEND == "jax":
        import jax

        compiled = jax.jit(function).lower(*tensors).compile()
        return compiled.memory_analysis().temp_size_in_bytes
    import tensorflow as tf

    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    tf.config.experimental.reset_memory_stats("CPU:0")
    jit(function, xla=True)(*tensors)
    return tf.config.experimental.get_memory_info("CPU:0")["peak"] - before


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch does not count memory on processors")
def test_memory_does_not_grow_with_depth():
    x = ops.convert_to_tensor(normal(4096, 32))

    def count_bytes_of(depth, memory_efficient):
        layers = []
        for _ in range(depth):
            network = conditioners.MLP([64])
            layers += [
                flow_layers.AffineCoupling(conditioner=network),
                flow_layers.HeavisidePermutation(),
            ]
        model = flow_layers.FlowModel(layers, memory_efficient=memory_efficient)
        model.build_for(x)
        variables = model.trainable_variables

        def gradients(x, *values):
            def log_prob(*values):
                with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                    return ops.mean(model._log_prob(x))

            _, pull_back = vjp(log_prob, values)
            return pull_back(ops.ones(()))

        return count_bytes(gradients, x, *(ops.convert_to_tensor(v) for v in variables))

    assert count_bytes_of(6, True) < 1.1 * count_bytes_of(2, True)
    assert count_bytes_of(6, False) > 1.5 * count_bytes_of(2, False)
