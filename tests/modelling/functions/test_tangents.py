"""The hyperbolic tangent and its derivative are as exact as their dtype."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.functions.tangents import tanh_and_slope


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 1e-7), ("float64", 1e-16)])
def test_tangents_and_slopes_have_the_precision_of_their_dtype(dtype, precision):
    x = np.array([-30.0, -12.0, -1.0, -1e-3, 0.0, 0.3, 2.0, 12.0, 30.0])
    tangents, slopes = map(ops.convert_to_numpy, tanh_and_slope(ops.convert_to_tensor(x, dtype)))
    assert tangents.dtype == slopes.dtype == dtype
    np.testing.assert_allclose(tangents, np.tanh(x), atol=2 * precision)
    np.testing.assert_allclose(slopes, np.cosh(x) ** -2.0, rtol=40 * precision)
