"""What layers that draw their outputs promise: the way back is exact, whatever the noise."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from layer_cases import BACKEND, DISCRETE, LONG

from gyoza.backend import forget_gradients, vjp
from gyoza.modelling import flow_layers
from gyoza.testing.copies import copy_layer, move_weights

# Quick on PyTorch alone.
pytestmark = [] if BACKEND == "torch" else [LONG]
EVERY = pytest.mark.parametrize("name", DISCRETE)


def make(name, shape=None, dtype="float32", factor=1.0):
    """Makes a layer with random weights, `factor` times as large as usual."""
    make_layer, usual_shape, _ = DISCRETE[name]
    layer = copy_layer(make_layer(getattr(flow_layers, name)), dtype)
    layer.build((None, *(shape or usual_shape)))
    move_weights(layer, np.random.default_rng(0))
    for weight in layer.trainable_weights:
        weight.assign(factor * to_numpy(weight))
    return layer


def draw(name, count, shape=None):
    """Draws integers, or the one-hot vectors of some."""
    _, usual_shape, levels = DISCRETE[name]
    shape, random = shape or usual_shape, np.random.default_rng(1)
    if levels is None:
        size = int(np.prod(shape))
        return np.eye(size, dtype="float32")[random.integers(size, size=count)].reshape(-1, *shape)
    return random.integers(levels, size=[count, *shape]).astype("float32")


def as_numbers(*results):
    return [to_numpy(ops.cast(result, "float64")) for result in results]


def there(layer, x):
    """Returns outputs and contributions to the log-likelihood, by the same noise every time."""
    layer.seed_generator.state.assign(make_state())
    x = ops.convert_to_tensor(x, dtype=layer.compute_dtype)
    return as_numbers(*layer(x))


def make_state():
    return keras.random.SeedGenerator(5).state.value


def back(layer, y):
    return as_numbers(layer.invert(ops.convert_to_tensor(y, dtype=layer.compute_dtype)))[0]


def check_round_trip(layer, x):
    with forget_gradients():
        outputs, log_det = there(layer, x)
        assert outputs.shape == x.shape
        assert log_det.shape == x.shape[:1]
        assert np.all(np.isfinite(outputs))
        assert np.all(np.isfinite(log_det))
        np.testing.assert_array_equal(back(layer, outputs), x)
    return outputs


@EVERY
@pytest.mark.parametrize("factor", [1.0, 10.0, 100.0])
def test_integers_come_back_whatever_the_weights(name, factor):
    check_round_trip(make(name, factor=factor), draw(name, 4096))


@EVERY
@pytest.mark.parametrize("shape", [[1], [1, 1], [2], [17], [3, 5], [3, 2, 5], [4096]], ids=str)
def test_integers_of_every_shape_come_back(name, shape):
    check_round_trip(make(name, shape), draw(name, 5, shape))


@EVERY
@pytest.mark.parametrize("count", [0, 1, pytest.param(10**6, marks=LONG)])
def test_batches_of_every_size_come_back(name, count):
    check_round_trip(make(name), draw(name, count))


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_integers_come_back_in_every_dtype(name, dtype):
    check_round_trip(make(name, dtype=dtype), draw(name, 4096))


@EVERY
def test_rows_of_other_numbers_leave_others_alone(name):
    layer, x = make(name), draw(name, 4096)
    outputs, log_det = there(layer, x)
    other = x.copy()
    for first, value in enumerate((np.nan, np.inf, -np.inf, 1e30, -0.5, 0.5)):
        other[2 * first :: 12] = value
    others, other_log_det = there(layer, other)
    np.testing.assert_array_equal(others[1::2], outputs[1::2])
    np.testing.assert_array_equal(other_log_det[1::2], log_det[1::2])
    assert np.all(np.isnan(other_log_det[::2]))


@EVERY
def test_latents_of_any_magnitude_are_mapped_to_integers_and_nan_to_nan(name):
    layer, random = make(name), np.random.default_rng(0)
    allowed = np.arange(DISCRETE[name][2] or 2)
    y = random.normal(size=(4096, 3))
    y *= random.choice([1e-40, 1.0, 1e3, 1e6, 1e30, 0.0], size=(4096, 1))
    x = back(layer, y)
    assert np.all(np.isin(x, allowed))
    y[::2] = np.where(random.random((2048, 3)) < 0.4, np.nan, y[::2])
    lost = np.isnan(y).any(axis=1)
    assert 1000 < lost.sum() < 2048
    x_with_nan = back(layer, y)
    np.testing.assert_array_equal(x_with_nan[~lost], x[~lost])
    assert np.all(np.isnan(x_with_nan[lost]).any(axis=1))


@EVERY
def test_log_determinants_of_both_ways_are_those_of_a_density(name):
    """With the same noise, they are equal; that of uniform noise does not depend on it."""
    layer, x = make(name), draw(name, 64)
    outputs, log_det = there(layer, x)
    layer.seed_generator.state.assign(make_state())
    inputs, inverse_log_det = as_numbers(*layer.invert_and_log_det(outputs.astype("float32")))
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_allclose(inverse_log_det, log_det, rtol=1e-6)


@EVERY
@pytest.mark.parametrize("factor", [1.0, 10.0, 100.0])
def test_gradients_are_finite(name, factor):
    """Those of weights, which only variational noise has, and of inputs."""
    layer, x = make(name, factor=factor), ops.convert_to_tensor(draw(name, 64))
    layer.seed_generator.state.assign(make_state())
    values = [weight.value for weight in layer.trainable_weights]

    def compute(x, *values):
        mapping = list(zip(layer.trainable_weights, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return layer(x)

    outputs, pullback = vjp(compute, [x, *values])
    gradients = as_numbers(*pullback(tuple(map(ops.ones_like, outputs))))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    if factor == 1.0:  # larger ones saturate hidden units
        assert all(np.any(gradient != 0.0) for gradient in gradients[1:])
