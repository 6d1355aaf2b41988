"""What is particular to distributions with heavy tails."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.distributions import Logistic, StudentT

is_double = str(ops.convert_to_numpy(ops.zeros((), "float64")).dtype) == "float64"


@pytest.mark.skipif(not is_double, reason="JAX computes in float32 unless told otherwise")
@pytest.mark.parametrize("cls", [Logistic, StudentT])
def test_samples_have_the_digits_of_their_dtype(cls):
    samples = to_numpy(cls([2], dtype="float64").sample(100, seed=0))
    assert samples.dtype == "float64"
    # A number of float32 that was transformed in float64 would take few values: 2^24 at most.
    more = to_numpy(cls([1], dtype="float64").sample(100_000, seed=0))
    assert len(np.unique(more)) == more.size


def test_degrees_of_freedom_are_above_the_minimum():
    for degrees in (StudentT.MINIMUM, 0.0, [1.0, StudentT.MINIMUM]):
        with pytest.raises(ValueError, match="`degrees_of_freedom` should be greater than"):
            StudentT(degrees_of_freedom=degrees)
    assert np.all(to_numpy(StudentT([1], degrees_of_freedom=0.011).degrees_of_freedom) > 0.01)


def test_quantiles_of_the_middle_are_zero():
    base = StudentT([3], degrees_of_freedom=[0.5, 2.0, 50.0])
    quantiles = to_numpy(base.compute_quantiles(ops.zeros([1, 3]), None))
    np.testing.assert_array_equal(quantiles, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_odds_have_the_dtype_of_the_computation(dtype):
    if dtype == "float64" and not is_double:
        pytest.skip("JAX computes in float32 unless told otherwise")
    base = StudentT([3], degrees_of_freedom=[0.5, 2.0, 50.0], dtype=dtype)
    log_odds = base.compute_log_odds(ops.ones([1, 3], dtype), None)
    assert to_numpy(log_odds).dtype == dtype
