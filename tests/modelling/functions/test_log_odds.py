"""Log-odds and quantiles of standard normal numbers, by SciPy's logarithms of probabilities."""

import numpy as np
import pytest
import scipy.special
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.functions import normal_log_odds, normal_quantile

Z = np.concatenate([np.linspace(-8.0, 8.0, 321), [-1e4, -40.0, 0.95, 0.99, 40.0, 1e4]])
LOG_ODDS = scipy.special.log_ndtr(Z) - scipy.special.log_ndtr(-Z)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_odds_and_slopes_have_all_digits(dtype):
    log_odds, slopes = map(to_numpy, normal_log_odds(ops.convert_to_tensor(Z, dtype=dtype)))
    mills = [np.sqrt(np.pi / 2.0) * scipy.special.erfcx(z / np.sqrt(2.0)) for z in (Z, -Z)]
    for found, exact in ((log_odds, LOG_ODDS), (slopes, 1.0 / mills[0] + 1.0 / mills[1])):
        assert found.dtype == dtype
        error = np.abs(found - exact) / np.maximum(1.0, np.abs(exact))
        assert error.max() < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantiles_undo_log_odds(dtype):
    quantiles = to_numpy(normal_quantile(ops.convert_to_tensor(LOG_ODDS, dtype=dtype)))
    assert quantiles.dtype == dtype
    error = np.abs(quantiles - Z) / np.maximum(1.0, np.abs(Z))
    assert error.max() < 20 * np.finfo(dtype).eps
