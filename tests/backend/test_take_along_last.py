"""One entry of each row, as Keras takes it."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import take_along_last, vjp


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 3, 4)])
def test_entries_and_gradients_are_those_of_keras(shape, is_shared):
    random = np.random.default_rng(0)
    of_values = (1, *shape[1:]) if is_shared and len(shape) > 1 else shape
    draws = (random.normal(size=of_values).astype("float32") for _ in range(2))
    values = list(map(ops.convert_to_tensor, draws))
    indices = ops.convert_to_tensor(random.integers(shape[-1], size=[*shape[:-1], 1]), "int32")

    def take(*values):
        return [ops.take_along_axis(value, indices, axis=-1)[..., 0] for value in values]

    (taken, pull_back), (expected, pull_back_expected) = (
        vjp(function, values) for function in (lambda *v: take_along_last(indices, *v), take)
    )
    cotangents = [ops.ones_like(value) * (k + 1.0) for k, value in enumerate(expected)]
    for results in ((taken, expected), (pull_back(cotangents), pull_back_expected(cotangents))):
        for value, of_keras in zip(*results, strict=True):
            arrays = map(keras.ops.convert_to_numpy, (value, of_keras))
            np.testing.assert_allclose(*arrays, rtol=1e-6)  # sums of gradients
            assert value.shape == of_keras.shape
