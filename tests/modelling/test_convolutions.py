"""Convolutions by products of matrices: that they are convolutions, and where they are used."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza import backend
from gyoza.modelling.conditioners import ResNet, convolutions
from gyoza.modelling.conditioners.convolutions import Convolution

BACKEND = keras.backend.backend()


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("channels", "filters"), [(2, 25), (25, 2)])
@pytest.mark.parametrize("image_shape", [(6, 5), (1, 2)])
def test_products_are_the_convolution(monkeypatch, size, channels, filters, image_shape):
    x = ops.convert_to_tensor(draw(3, *image_shape, channels))
    cotangent = ops.convert_to_tensor(draw(3, *image_shape, filters))
    kernel = ops.convert_to_tensor(draw(size, size, channels, filters))
    layer = Convolution(filters, size)

    def differentiate(x, kernel, cotangent):
        outputs, pullback = backend.vjp(layer.convolution_op, [x, kernel])
        return outputs, *pullback(cotangent)

    results = []
    for by_products in (True, False):
        monkeypatch.setattr(convolutions, "has_slow_convolutions", lambda by=by_products: by)
        function = backend.jit(lambda *tensors: differentiate(*tensors))
        results.append(function(x, kernel, cotangent))
    for result, expected in zip(*results, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(result), ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-4
        )


def compile_text(network, x):
    """Returns the code of a network, compiled by XLA, before the compiler changes it."""
    if BACKEND == "jax":
        import jax

        return jax.jit(network).lower(x).as_text()
    import tensorflow as tf

    compiled = tf.function(lambda x: network(x), jit_compile=True)
    return compiled.experimental_get_compiler_ir(x)(stage="hlo")


@pytest.mark.skipif(BACKEND == "torch", reason="is not compiled")
@pytest.mark.parametrize(("block_count", "expected"), [(0, 0), (1, 2)])
def test_compiled_convolutions_of_few_channels_are_products(block_count, expected):
    network = ResNet(16, block_count, output_size=3)
    x = ops.convert_to_tensor(draw(2, 4, 4, 3))
    network(x)
    text = compile_text(network, x)
    assert text.count("convolution(") == expected
    assert text.count(" dot(") + text.count("dot_general") == 3


def test_convolutions_are_not_slow_in_code_that_is_not_compiled():
    assert not backend.has_slow_convolutions()
