"""The log-density of the logistic distribution, by its formula, and its derivatives."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.logistic import logistic_log_density

X = np.array([-800.0, -40.0, -21.0, -19.0, -3.0, -1e-9, 0.0, 0.5, 3.0, 19.0, 21.0, 40.0, 800.0])


def differentiate(function):
    def compute_slopes(x):
        outputs, pullback = vjp(function, [x])
        return pullback(ops.ones_like(outputs))[0]

    return compute_slopes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_densities_and_derivatives_keep_all_digits(dtype):
    slopes = differentiate(logistic_log_density)
    x = ops.convert_to_tensor(X, dtype=dtype)
    size = np.abs(ops.convert_to_numpy(x).astype("longdouble"))
    logarithms = -size - 2 * np.log1p(np.exp(-size))
    precision = 8 * np.finfo(dtype).eps
    for function, expected, tolerance in (
        (logistic_log_density, logarithms, 0),
        (slopes, -np.sign(X) * np.tanh(size / 2), precision),  # a difference, which is 0 at 0
        (differentiate(slopes), -2 * np.exp(logarithms), 0),
    ):
        received = ops.convert_to_numpy(jit(function)(x))
        assert received.dtype == dtype
        expected = expected.astype(dtype)
        np.testing.assert_allclose(received, expected, rtol=precision, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_log_densities_in_half_precision(dtype):
    received = logistic_log_density(ops.cast(X[1:-1], dtype))
    assert keras.backend.standardize_dtype(received.dtype) == dtype
    expected = -np.abs(X) - 2 * np.log1p(np.exp(-np.abs(X)))
    received = ops.convert_to_numpy(ops.cast(received, "float32"))
    np.testing.assert_allclose(received, expected[1:-1], rtol=0.01)


def test_limits():
    x = ops.convert_to_tensor([np.inf, -np.inf, np.nan])
    received = ops.convert_to_numpy(logistic_log_density(x))
    np.testing.assert_array_equal(received, [-np.inf, -np.inf, np.nan])
