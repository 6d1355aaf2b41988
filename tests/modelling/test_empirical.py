"""The distribution of a data set."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import Empirical


def test_rows_are_drawn_with_the_same_probability():
    data = np.arange(20.0).reshape(5, 2, 2)
    distribution = Empirical(data)
    assert distribution.event_shape == (2, 2)
    rows = to_numpy(distribution.sample(5000, seed=0))
    indices = rows[:, 0, 0] / 4.0
    np.testing.assert_array_equal(rows, data[indices.astype(int)])
    np.testing.assert_allclose(np.bincount(indices.astype(int)) / 5000, 0.2, atol=0.03)
    assert not np.array_equal(to_numpy(distribution.sample(9)), to_numpy(distribution.sample(9)))


def test_data_are_saved_as_weights_that_are_not_trained(tmp_path):
    distribution = Empirical(np.arange(6.0).reshape(3, 2))
    assert distribution.trainable_weights == []
    config = distribution.get_config()
    assert "[0.0, 1.0]" not in str(config)
    copy = Empirical.from_config(config)
    np.testing.assert_array_equal(to_numpy(copy.sample(4)), 0.0)
    copy.set_weights(distribution.get_weights())
    expected = to_numpy(distribution.sample(4, seed=0))
    np.testing.assert_array_equal(to_numpy(copy.sample(4, seed=0)), expected)


def test_there_is_no_density():
    distribution = Empirical(np.ones([3, 2]), name="source")
    with pytest.raises(ValueError, match="Distribution 'source' has samples, but no density"):
        distribution.log_prob(np.ones([4, 2]))


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_samples_have_the_dtype_of_densities(dtype):
    sample = Empirical(np.full([3, 2], 1.0 / 3.0), dtype=dtype).sample(2)
    expected = "float64" if dtype == "float64" else "float32"
    assert keras.backend.standardize_dtype(sample.dtype) == expected
    np.testing.assert_array_equal(to_numpy(sample), np.full([2, 2], 1.0 / 3.0, expected))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Empirical(np.zeros([0, 2])), r"Received: data.shape=\(0, 2\)"),
        (lambda: Empirical(np.zeros(3)), r"Received: data.shape=\(3,\)"),
        (lambda: Empirical([[1.0, np.nan]]), "`data` should be finite"),
        (lambda: Empirical(np.ones([3, 2]), context_network=MLP([2])), "should be omitted"),
    ],
)
def test_bad_data(make, message):
    with pytest.raises(ValueError, match=message):
        make()
