"""Comparisons of numbers that keep all digits, beside those of NumPy."""

import operator

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.functions import tensors
from gyoza.modelling.functions.tensors import (
    clip,
    fill,
    floor,
    is_number,
    larger,
    make_selector,
    smaller,
    to_rows,
    to_tensor,
)

X = np.array([-1.0 - 1e-12, -0.0, 0.1 - 1e-12, 0.1 + 1e-12, 1e60, np.inf, np.nan])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: smaller(0.1, x), np.minimum(0.1, X)),
        (lambda x: larger(0.1, x), np.maximum(0.1, X)),
        (lambda x: smaller(x[:-1], 2.0 * x[:-1]), np.minimum(X, 2.0 * X)[:-1]),
        (lambda x: clip(x, -1.0, 0.1), np.clip(X, -1.0, 0.1)),
        (lambda x: clip(x, 0.1, np.inf), np.clip(X, 0.1, np.inf)),
        (floor, np.floor(X)),
        (lambda x: floor(x[:2] + 2.0**24 + 2.0), [2.0**24 + 1.0, 2.0**24 + 2.0]),
    ],
)
def test_numbers_in_float64_are_compared_with_all_digits(function, expected):
    x = ops.convert_to_tensor(X, dtype="float64")
    np.testing.assert_array_equal(to_numpy(function(x)), expected)


@pytest.mark.parametrize(("value", "expected"), [(None, 0.0), (1.5, 1.5), (np.float64(-0.1), -0.1)])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_number_for_each_example(value, expected, shape, dtype):
    x = ops.ones((4, *shape), "float16")
    inputs = keras.Input(shape, dtype="float16")
    model = keras.Model(inputs, fill(value, inputs, dtype))
    for filled in (fill(value, x, dtype), model(x)):
        assert keras.backend.standardize_dtype(filled.dtype) == dtype
        assert tuple(filled.shape) == (4,)
        np.testing.assert_array_equal(to_numpy(filled), np.full(4, expected, dtype))


@pytest.mark.parametrize(
    ("indices", "is_slice"),
    [
        ([], True),
        ([2], True),
        ([0, 1, 2], True),
        ([1, 3, 5], True),
        ([3, 4], True),
        ([1, 3], True),
        ([4, 3], False),
        ([0, 0], False),
        ([0, 2, 3], False),
        ([0, 1, 0], False),
        ([5, 0], False),
    ],
)
def test_regular_indices_are_slices(indices, is_slice):
    x = np.arange(12.0, dtype="float32").reshape(2, 1, 6)
    select = make_selector(np.array(indices, int))
    selected = to_numpy(select(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(selected, np.take(x, np.array(indices, int), axis=-1))
    assert isinstance(select, operator.itemgetter) == is_slice


class Values(keras.Layer):
    """Has a variable."""

    def __init__(self):
        super().__init__()
        self.values = self.add_weight(shape=(2,), initializer="ones")


def test_whatever_is_like_a_tensor_becomes_one():
    tensor, weight = ops.array([1.0, 1.0]), Values().values
    symbolic = keras.Input((2,))
    pair, several = (tensor, None), [tensor, np.ones(3)]
    for same in (tensor, symbolic, pair, {"x": tensor}, several):
        assert to_tensor(same) is same
        assert to_tensor(same) is same  # also when its type is known
    for like in (np.ones(2, "float32"), [1.0, 1.0], weight, weight.value):
        converted = to_tensor(like)
        assert ops.is_tensor(converted)
        assert not hasattr(converted, "assign")
        np.testing.assert_array_equal(to_numpy(converted), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"^What is to be .* a tensor\. Received: None$"):
        to_tensor(None)


def test_types_of_tensors_are_remembered(monkeypatch):
    monkeypatch.setattr(tensors, "PLAIN_TYPES", set())
    tensor = ops.array([1.0, 1.0])
    assert to_tensor(tensor) is tensor
    assert {type(tensor)} == tensors.PLAIN_TYPES
    to_tensor([2.0])
    to_tensor(keras.Input((2,)))
    to_tensor(Values().values)
    assert {type(tensor)} == tensors.PLAIN_TYPES
    assert to_tensor(tensor) is tensor


class Frame:
    """Is like a data frame."""

    columns = ("a", "b")

    def to_numpy(self):
        return np.array([[1.0, 2.0]])


def test_data_frames_become_tensors():
    tensor = to_tensor(Frame())
    assert ops.is_tensor(tensor)
    np.testing.assert_array_equal(to_numpy(tensor), [[1.0, 2.0]])


@pytest.mark.parametrize("make", [ops.array, np.array, list])
def test_whatever_is_like_an_array_becomes_one(make):
    array = tensors.to_numpy(make([1.0, 2.0]))
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, [1.0, 2.0])


@pytest.mark.parametrize(
    ("x", "expected"),
    [(2.0, True), (np.float32(2), True), (np.ones(()), True), (None, False), (np.ones(1), False)],
)
def test_numbers_are_neither_missing_nor_several(x, expected):
    assert is_number(x) is expected


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 3), (0, 3, 2), (2, 1), (3,)])
def test_rows_keep_all_numbers(shape):
    x = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    expected = x.reshape(len(x), int(np.prod(shape[1:])))
    np.testing.assert_array_equal(to_numpy(to_rows(ops.array(x))), expected)
    assert to_rows(keras.Input((None, 2))).shape == (None, None)
