"""Cosines and sines keep the digits that their argument has."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import cos_and_sin, jit

X = np.linspace(-9.0, 9.0, 37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_are_those_of_numpy(dtype):
    x = ops.convert_to_tensor(X, dtype=dtype)
    for run in (cos_and_sin, jit(cos_and_sin)):
        for received, expected in zip(run(x), (np.cos(X), np.sin(X)), strict=True):
            assert keras.backend.standardize_dtype(received.dtype) == dtype
            tolerance = 1e-14 if dtype == "float64" else 1e-6
            np.testing.assert_allclose(to_numpy(received), expected, atol=tolerance)


def test_symbolic_angles_have_symbolic_ones():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, cos_and_sin(inputs))
    cosines, sines = map(to_numpy, model(np.ones((2, 3), "float32")))
    np.testing.assert_allclose(cosines, np.cos(1.0), rtol=1e-6)
    np.testing.assert_allclose(sines, np.sin(1.0), rtol=1e-6)
