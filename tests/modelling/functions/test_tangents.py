"""The hyperbolic tangent and its derivative are as exact as their dtype."""

import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.tangents import tanh, tanh_and_slope

X = np.concatenate([np.linspace(-12.0, 12.0, 241), [-30.0, 30.0, -1e-9, 1e-9, -1e-4, 1e-4]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tangents_and_slopes_have_the_precision_of_their_dtype(dtype):
    x = X.astype(dtype)
    compute = jit(tanh_and_slope, xla=True)
    tangents, slopes = map(ops.convert_to_numpy, compute(ops.convert_to_tensor(x)))
    assert tangents.dtype == slopes.dtype == dtype
    x, precision = x.astype("longdouble"), np.finfo(dtype).eps
    np.testing.assert_allclose(tangents, np.tanh(x).astype("float64"), rtol=4 * precision)
    exact = (np.cosh(x) ** -2.0).astype("float64")
    np.testing.assert_allclose(slopes, exact, rtol=80 * precision)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_keep_their_digits_where_tangents_are_rounded_to_one(dtype):
    def differentiate(x):
        outputs, pullback = vjp(tanh, [x])
        return pullback(ops.ones_like(outputs))[0]

    x = X.astype(dtype)
    slopes = ops.convert_to_numpy(jit(differentiate, xla=True)(ops.convert_to_tensor(x)))
    exact = (np.cosh(x.astype("longdouble")) ** -2.0).astype("float64")
    np.testing.assert_allclose(slopes, exact, rtol=80 * np.finfo(dtype).eps)
