"""Bounded log-scales, by their formula."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.functions.scales import bound_log_scales, check_log_scale_bound

RAW = np.array([-1e4, -3.0, -0.5, 0.0, 0.25, 2.0, 1e4])


@pytest.mark.parametrize("bound", [0.5, 3.0, None])
def test_log_scales_are_those_of_the_formula(bound):
    expected = RAW if bound is None else bound * np.tanh(RAW / bound)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-2)):
        bounded = bound_log_scales(ops.convert_to_tensor(RAW, dtype=dtype), bound)
        received = keras.backend.standardize_dtype(bounded.dtype)
        assert received == ("float32" if dtype == "float16" else dtype)
        np.testing.assert_allclose(to_numpy(bounded), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan, "wide"])
def test_wrong_bounds(bound):
    message = "^`log_scale_bound` should be a positive, finite number, or None. Received: "
    with pytest.raises(ValueError, match=message):
        check_log_scale_bound(bound)
