"""Comparisons of numbers that keep all digits, beside those of NumPy."""

import operator

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.functions.tensors import clip, fill, larger, make_selector, smaller

X = np.array([-1.0 - 1e-12, -0.0, 0.1 - 1e-12, 0.1 + 1e-12, 1e60, np.inf, np.nan])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: smaller(0.1, x), np.minimum(0.1, X)),
        (lambda x: larger(0.1, x), np.maximum(0.1, X)),
        (lambda x: smaller(x[:-1], 2.0 * x[:-1]), np.minimum(X, 2.0 * X)[:-1]),
        (lambda x: clip(x, -1.0, 0.1), np.clip(X, -1.0, 0.1)),
        (lambda x: clip(x, 0.1, np.inf), np.clip(X, 0.1, np.inf)),
    ],
)
def test_numbers_in_float64_are_compared_with_all_digits(function, expected):
    x = ops.convert_to_tensor(X, dtype="float64")
    np.testing.assert_array_equal(to_numpy(function(x)), expected)


@pytest.mark.parametrize(("value", "expected"), [(None, 0.0), (1.5, 1.5), (np.float64(-2.0), -2.0)])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_the_same_number_for_each_example(value, expected, shape):
    x = ops.ones((4, *shape), "float16")
    inputs = keras.Input(shape, dtype="float16")
    model = keras.Model(inputs, fill(value, inputs, "float32"))
    for filled in (fill(value, x, "float32"), model(x)):
        assert keras.backend.standardize_dtype(filled.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(filled), np.full(4, expected, "float32"))


@pytest.mark.parametrize(
    ("indices", "is_slice"),
    [
        ([], True),
        ([2], True),
        ([0, 1, 2], True),
        ([1, 3, 5], True),
        ([3, 4], True),
        ([4, 3], False),
        ([0, 0], False),
        ([0, 2, 3], False),
        ([0, 1, 0], False),
        ([5, 0], False),
    ],
)
def test_regular_indices_are_slices(indices, is_slice):
    x = np.arange(12.0, dtype="float32").reshape(2, 6)
    select = make_selector(np.array(indices, int))
    selected = to_numpy(select(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(selected, np.take(x, np.array(indices, int), axis=-1))
    assert isinstance(select, operator.itemgetter) == is_slice
