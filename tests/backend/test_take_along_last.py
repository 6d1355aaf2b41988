"""One entry of each row, as Keras takes it."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import take_along_last, vjp


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 3, 4)])
def test_entries_and_gradients_are_those_of_keras(shape):
    random = np.random.default_rng(0)
    values = [ops.convert_to_tensor(random.normal(size=shape).astype("float32")) for _ in range(2)]
    indices = ops.convert_to_tensor(random.integers(shape[-1], size=[*shape[:-1], 1]), "int32")

    def take(*values):
        return [ops.take_along_axis(value, indices, axis=-1)[..., 0] for value in values]

    (taken, pull_back), (expected, pull_back_expected) = (
        vjp(function, values) for function in (lambda *v: take_along_last(indices, *v), take)
    )
    cotangents = [ops.ones_like(value) * (k + 1.0) for k, value in enumerate(expected)]
    for results in ((taken, expected), (pull_back(cotangents), pull_back_expected(cotangents))):
        for value, of_keras in zip(*results, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (value, of_keras)))
            assert value.shape == of_keras.shape
