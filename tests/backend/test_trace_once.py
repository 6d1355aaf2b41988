"""Functions that are traced once for all that call them."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, jit_batches, trace_once, vjp

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of graphs of TensorFlow")
if_traced = pytest.mark.skipif(BACKEND == "torch", reason="nothing is traced")


@pytest.fixture
def counted():
    """A function with a list of the powers that Python ran it with."""
    powers = []

    @trace_once
    def raise_to(x, power=2):
        powers.append(power)
        return ops.exp(x) ** power, ops.sum(x)

    raise_to.powers = powers
    return raise_to


def apply_thrice(function, x):
    """Returns the function of itself, and of another power, and a number."""
    y, first = function(x)
    y, second = function(0.1 * y)
    y, third = function(0.1 * y, power=3)
    return y, first + second + third


def compute_expected(x):
    """Returns what `apply_thrice` does, and the gradient of its sum."""
    first = np.exp(2.0 * x)
    second = np.exp(0.2 * first)
    third = np.exp(0.3 * second)
    gradient = 1.0 + 0.2 * first + 0.04 * first * second + 0.12 * first * second * third
    return third, np.sum(x + 0.1 * first + 0.1 * second), gradient


@pytest.fixture
def values():
    return np.random.default_rng(0).uniform(-1.0, 0.0, size=[4, 3]).astype("float32")


@if_traced
@pytest.mark.parametrize("xla", [False, True])
def test_batches_are_mapped_by_one_trace_of_each_kind(counted, values, xla):
    compiled = jit_batches(lambda x: apply_thrice(counted, x)[0], xla)
    outputs = compiled(keras.Sequential(), ops.convert_to_tensor(values))
    np.testing.assert_allclose(outputs, compute_expected(values)[0], rtol=1e-5)
    assert counted.powers == [2, 3]
    compiled(keras.Sequential(), ops.zeros([4, 5]))  # has a graph of its own
    assert counted.powers == [2, 3, 2, 3]


@on_tensorflow
def test_batches_can_be_differentiated(counted, values):
    import tensorflow as tf

    x = tf.constant(values)
    compiled = jit_batches(lambda x: counted(x)[0])
    compiled(keras.Sequential(), x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(compiled(keras.Sequential(), x))
    gradient = tf.convert_to_tensor(tape.gradient(total, x))
    np.testing.assert_allclose(gradient, 2.0 * np.exp(2.0 * values), rtol=1e-5)
    assert counted.powers == [2]


@if_traced
@pytest.mark.parametrize("kind", [np.float32, np.int64, ops.convert_to_tensor, keras.Variable])
def test_what_is_like_a_number_is_left_as_it_is(counted, values, kind):
    power = kind(2.0)
    compiled = jit_batches(lambda x: counted(x, power=power)[0])
    outputs = compiled(keras.Sequential(), ops.convert_to_tensor(values))
    np.testing.assert_allclose(outputs, np.exp(2.0 * values), rtol=1e-5)
    assert counted.powers[0] is power


@on_tensorflow
def test_a_variable_is_read_as_it_is(counted, values):
    variable = keras.Variable(np.ones([3], "float32"))
    compiled = jit_batches(lambda x: x + counted(variable)[0])
    for value in (1.0, 2.0):
        variable.assign(np.full([3], value))
        outputs = compiled(keras.Sequential(), ops.convert_to_tensor(values))
        np.testing.assert_allclose(outputs, values + np.exp(2.0 * value), rtol=1e-5)


@pytest.mark.parametrize("xla", [False, True])
def test_what_is_differentiated_elsewhere_is_not_a_trace(counted, values, xla):
    """XLA would compile gradients of TensorFlow's traces anew for each value of constants."""

    def run(x):
        outputs, pull_back = vjp(lambda x: apply_thrice(counted, x), [x])
        return *outputs, *pull_back(tuple(map(ops.ones_like, outputs)))

    results = jit(run, xla)(ops.convert_to_tensor(values))
    for received, expected in zip(results, compute_expected(values), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(received), expected, rtol=1e-5)
    assert counted.powers == [2, 2, 3]


@on_tensorflow
def test_what_a_tape_records_within_batches_is_not_a_trace(counted, values):
    import tensorflow as tf

    def differentiate(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = apply_thrice(counted, x)[0]
        return tape.gradient(outputs, x)

    gradient = jit_batches(differentiate)(None, tf.constant(values))
    first = np.exp(2.0 * values)
    second = np.exp(0.2 * first)
    expected = 0.12 * first * second * np.exp(0.3 * second)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert counted.powers == [2, 2, 3]


def test_where_nothing_is_traced_the_function_is_run(counted):
    apply_thrice(counted, ops.zeros([4, 3]))
    assert counted.powers == [2, 2, 3]
