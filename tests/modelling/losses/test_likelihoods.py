"""Log-likelihoods of data against those of SciPy, and the losses made of them."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit
from scipy.stats import bernoulli, norm

from gyoza.modelling.losses import (
    BernoulliLoss,
    NormalLoss,
    bernoulli_log_likelihood,
    normal_log_likelihood,
)

random = np.random.default_rng(0)
LOGITS = 3 * random.normal(size=(4, 2, 3)).astype("float32")
BITS = random.integers(2, size=LOGITS.shape).astype("float32")


def test_bernoulli():
    expected = bernoulli(expit(LOGITS)).logpmf(BITS).sum(axis=(1, 2))
    received = ops.convert_to_numpy(bernoulli_log_likelihood(BITS, LOGITS))
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    loss = BernoulliLoss()
    assert float(loss(BITS, LOGITS)) == pytest.approx(-expected.mean(), rel=1e-5)
    mean = keras.losses.BinaryCrossentropy(from_logits=True)
    assert float(loss(BITS, LOGITS)) == pytest.approx(6 * float(mean(BITS, LOGITS)), rel=1e-5)


def test_grey_values_are_expectations_and_others_are_not_numbers():
    p, logit = 0.3, np.array([[1.5]], "float32")
    values = ops.convert_to_numpy(
        bernoulli_log_likelihood(np.array([[0.0], [1.0], [p], [-0.1], [1.1], [np.nan]]), logit)
    )
    assert values[2] == pytest.approx((1 - p) * values[0] + p * values[1], rel=1e-5)
    assert np.all(np.isnan(values[3:]))


def test_extreme_logits():
    bits = np.array([[0.0], [1.0], [0.0], [1.0]])
    logits = np.array([[1e3], [-1e3], [-1e3], [1e3]])
    received = ops.convert_to_numpy(bernoulli_log_likelihood(bits, logits))
    np.testing.assert_allclose(received, [-1e3, -1e3, 0.0, 0.0])


def test_normal():
    log_variance = np.array([0.3, -1.0, 2.0], "float32")
    expected = norm(LOGITS, np.exp(0.5 * log_variance)).logpdf(BITS).sum(axis=(1, 2))
    received = ops.convert_to_numpy(normal_log_likelihood(BITS, LOGITS, log_variance))
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    expected = norm(LOGITS, np.sqrt(0.2)).logpdf(BITS).sum(axis=(1, 2))
    received = float(NormalLoss(variance=0.2)(BITS, LOGITS))
    assert received == pytest.approx(-expected.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "loss", [BernoulliLoss(name="bits", reduction="sum"), NormalLoss(0.2, dtype="float64")]
)
def test_configuration_makes_an_equal_loss(loss):
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()
    assert float(copy(BITS, LOGITS)) == float(loss(BITS, LOGITS))


def test_bad_variance():
    with pytest.raises(ValueError, match="`variance` should be positive"):
        NormalLoss(variance=0.0)
