"""One entry of each row, as Keras takes it."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import SHORT_AXIS, take_along_short, vjp


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 4), (2, 3, 4), (2, 1, 4), (0, 3, 4)])
def test_entries_and_gradients_are_those_of_keras(shape, is_shared):
    random = np.random.default_rng(0)
    of_values = (1, *shape[1:]) if is_shared and len(shape) > 1 else shape
    draws = (random.normal(size=of_values).astype("float32") for _ in range(2))
    values = [ops.convert_to_tensor(np.moveaxis(draw, -1, SHORT_AXIS)) for draw in draws]
    draw = random.integers(shape[-1], size=[*shape[:-1], 1]).astype("int32")
    indices = ops.convert_to_tensor(np.moveaxis(draw, -1, SHORT_AXIS))

    def take(*values):
        taken = (ops.take_along_axis(value, indices, axis=SHORT_AXIS) for value in values)
        return [ops.squeeze(value, axis=SHORT_AXIS) for value in taken]

    (taken, pull_back), (expected, pull_back_expected) = (
        vjp(function, values) for function in (lambda *v: take_along_short(indices, *v), take)
    )
    cotangents = [ops.ones_like(value) * (k + 1.0) for k, value in enumerate(expected)]
    for results in ((taken, expected), (pull_back(cotangents), pull_back_expected(cotangents))):
        for value, of_keras in zip(*results, strict=True):
            arrays = map(keras.ops.convert_to_numpy, (value, of_keras))
            np.testing.assert_allclose(*arrays, rtol=1e-6)  # sums of gradients
            assert value.shape == of_keras.shape


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are known elsewhere")
@pytest.mark.parametrize("xla", [False, True])
def test_entries_that_are_shared_are_found_where_lengths_are_unknown(xla):
    import tensorflow as tf

    random = np.random.default_rng(0)
    values = random.normal(size=[1, 2, 4]).astype("float32")
    indices = random.integers(4, size=[5, 2, 1]).astype("int32")
    kinds = [tf.TensorSpec([None, 2, 1], "int32"), tf.TensorSpec([None, 2, 4], "float32")]
    take = tf.function(take_along_short, jit_compile=xla, input_signature=kinds)
    expected = np.take_along_axis(np.broadcast_to(values, [5, 2, 4]), indices, axis=-1)[..., 0]
    np.testing.assert_array_equal(take(indices, values)[0], expected)
    assert take(indices[:0], values[:0])[0].shape == (0, 2)
