"""Exponentials and logarithms: exact, and made of operations that other formats have."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.exponentials import expm1, exponential_ratio, log1p, scaled_log1p


def logarithm_ratio(z):
    return scaled_log1p(ops.ones_like(z), z)


# Functions, their derivatives, and what limits, at 0 or beyond all bounds, are.
EXACT = {
    expm1: (np.expm1, np.exp),
    log1p: (np.log1p, lambda z: 1 / (1 + z)),
    exponential_ratio: (
        lambda z: np.expm1(z) / z,
        lambda z: (np.exp(z) * z - np.expm1(z)) / z**2,
    ),
    logarithm_ratio: (
        lambda z: np.log1p(z) / z,
        lambda z: (z / (1 + z) - np.log1p(z)) / z**2,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", EXACT, ids=lambda function: function.__name__)
def test_values_and_derivatives_are_exact_also_where_the_series_ends(function, dtype):
    ends = [-0.3, 0.3, np.nextafter(0.3, 0), -0.9, 0.9, 20.0, 1e-30]
    z = np.concatenate([np.linspace(-0.35, 0.35, 41), ends]).astype(dtype)
    z = z[z != 0]

    def differentiate(z):
        outputs, pullback = vjp(function, [z])
        return outputs, pullback(ops.ones_like(outputs))[0]

    inputs = ops.convert_to_tensor(z, dtype=dtype)
    outputs, gradient = map(ops.convert_to_numpy, jit(differentiate, xla=True)(inputs))
    exact = z.astype("longdouble")
    values, derivative = (f(exact).astype("float64") for f in EXACT[function])
    precision = np.finfo(dtype).eps
    np.testing.assert_allclose(outputs, values, rtol=4 * precision)
    is_large = np.abs(z) > 1e-4  # what is to be expected cancels below
    np.testing.assert_allclose(gradient[is_large], derivative[is_large], rtol=40 * precision)


def test_derivatives_of_scaled_logarithms_of_large_numbers_do_not_overflow():
    x = ops.convert_to_tensor([1e35, 1e35], dtype="float32")
    factor = ops.convert_to_tensor([1.0, 0.5], dtype="float32")
    _, pullback = vjp(scaled_log1p, [x, factor])
    by_x, _ = map(ops.convert_to_numpy, pullback(ops.full_like(x, 1e30)))
    np.testing.assert_allclose(by_x, [1e-5, 2e-5], rtol=1e-4)


def test_limits():
    z = ops.convert_to_tensor([0.0, np.inf, np.nan, -1.0])
    np.testing.assert_array_equal(ops.convert_to_numpy(log1p(z)), [0, np.inf, np.nan, -np.inf])
    np.testing.assert_array_equal(ops.convert_to_numpy(expm1(z))[:3], [0, np.inf, np.nan])
    np.testing.assert_array_equal(ops.convert_to_numpy(expm1(-z))[:2], [0, -1])
    for ratio in (exponential_ratio, logarithm_ratio):
        assert ops.convert_to_numpy(ratio(z))[0] == 1


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from gyoza import applications
    from gyoza.modelling import flow_layers
    from gyoza.modelling.conditioners import MLP

    @pytest.mark.parametrize(
        "make_layer",
        [
            lambda: applications.NeuralSplineFlow(1, [4]),
            lambda: applications.NeuralSplineFlow(1, [4], autoregressive=True),
            lambda: flow_layers.CircularSplineCoupling(conditioner=MLP([4])),
            lambda: applications.GaussianizationFlow(2, 2),
            lambda: applications.ResidualFlow(1, [4]),
            lambda: flow_layers.YeoJohnson(),
            lambda: flow_layers.Tanh(),
            lambda: flow_layers.Arctanh(),
            lambda: flow_layers.Planar(),
            lambda: flow_layers.Radial(),
            lambda: flow_layers.Sylvester(),
        ],
    )
    def test_layers_are_computed_by_operations_that_onnx_has(make_layer):
        layer = make_layer()
        layer(np.zeros([2, 3], "float32"))
        function = tf.function(lambda x: layer(x))
        graph = function.get_concrete_function(tf.TensorSpec([None, 3], "float32")).graph
        definition = graph.as_graph_def()
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        assert not {"Expm1", "Log1p", "Qr", "MatrixSolve", "Cholesky"} & {n.op for n in nodes}
