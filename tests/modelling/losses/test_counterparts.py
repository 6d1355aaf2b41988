"""The losses and metrics that the page `docs/losses.md` names, against the formulas given there."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit, log_softmax
from sklearn.metrics import explained_variance_score

from gyoza.modelling import losses, metrics
from gyoza.modelling.attributes import AttributeCode

pytestmark = pytest.mark.compiled_by("tensorflow")

random = np.random.default_rng(0)
X, X_HAT = random.normal(size=(2, 6, 4))
LABELS = random.integers(4, size=6)
ONE_HOT = np.eye(4)[LABELS]
SCORES = random.normal(size=(6, 4))
SIGNS = random.choice([-1.0, 1.0], size=6)


def value(result):
    return ops.convert_to_numpy(result)


def unreduced(loss, **kwargs):
    """Returns the loss of each row, or of each element if rows are columns of length 1."""
    return lambda y_true, y_pred: value(loss(reduction=None, **kwargs)(y_true, y_pred))


@pytest.mark.parametrize("delta", [0.5, 1.0])
def test_huber(delta):
    error = np.abs(X_HAT - X)
    expected = np.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta))
    received = unreduced(keras.losses.Huber, delta=delta)
    np.testing.assert_allclose(received(X, X_HAT), expected.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(received(X[..., None], X_HAT[..., None]), expected, rtol=1e-5)


def test_squared_differences():
    expected = (X - X_HAT) ** 2
    received = unreduced(keras.losses.MeanSquaredError)
    np.testing.assert_allclose(received(X, X_HAT), expected.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(value(ops.square(X - X_HAT)), expected, rtol=1e-5)


def test_explained_variance_is_r2_without_the_bias():
    y, residuals = X, X - X_HAT
    explained = 1 - residuals.var(axis=0) / y.var(axis=0)
    np.testing.assert_allclose(
        explained_variance_score(y, X_HAT, multioutput="raw_values"), explained
    )
    metric = keras.metrics.R2Score(class_aggregation=None)
    r2 = explained - residuals.mean(axis=0) ** 2 / y.var(axis=0)
    np.testing.assert_allclose(value(metric(y, X_HAT)), r2, rtol=1e-4)
    metric.reset_state()
    unbiased = X_HAT + residuals.mean(axis=0)
    np.testing.assert_allclose(value(metric(y, unbiased)), explained, rtol=1e-4)


def test_pooled_explained_variance():
    """In batches, without weights and with them."""
    scales, shifts = np.array([1, 2, 3, 4]), np.array([0.5, 3, 0, 0])
    y, y_hat = X * scales + shifts, X_HAT + shifts[::-1]
    metric = metrics.ExplainedVariance()
    assert float(metric.result()) == 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        metric.update_state(y[rows], y_hat[rows])
    assert float(metric.result()) == pytest.approx(1 - np.var(y - y_hat) / np.var(y), rel=1e-4)
    metric.reset_state()
    for rows in (slice(0, 4), slice(4, 6)):
        metric.update_state(y[rows], y_hat[rows], sample_weight=np.arange(6)[rows])
    rows = np.repeat(np.arange(6), np.arange(6))
    expected = 1 - np.var((y - y_hat)[rows]) / np.var(y[rows])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-4)


def test_pooled_explained_variance_in_float64():
    """Far from zero, where sums in float32 have no digits left for the variance."""
    metric = metrics.ExplainedVariance(dtype="float64")
    metric.update_state(X + 1e4, X_HAT + 1e4)
    expected = 1 - np.var(X - X_HAT) / np.var(X)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


def test_explained_variance_of_constants():
    for y_pred, expected in ((np.ones(3), 1.0), (np.arange(3.0), 0.0)):
        metric = metrics.ExplainedVariance()
        metric.update_state(np.full(3, 4.1), y_pred)
        assert float(metric.result()) == expected
    metric.update_state(np.full(3, np.nan), np.ones(3))
    assert np.isnan(float(metric.result()))
    with pytest.raises(ValueError, match="the same shape"):
        metric.update_state(np.zeros(3), np.zeros([3, 1]))


def test_softmax_cross_entropies():
    expected = -log_softmax(SCORES, axis=1)[np.arange(6), LABELS]
    sparse = unreduced(keras.losses.SparseCategoricalCrossentropy, from_logits=True)
    np.testing.assert_allclose(sparse(LABELS, SCORES), expected, rtol=1e-5)
    dense = unreduced(keras.losses.CategoricalCrossentropy, from_logits=True)
    np.testing.assert_allclose(dense(ONE_HOT, SCORES), expected, rtol=1e-5)
    soft = 0.5 * ONE_HOT + 0.125
    expected = -np.sum(soft * log_softmax(SCORES, axis=1), axis=1)
    np.testing.assert_allclose(dense(soft, SCORES), expected, rtol=1e-5)


def test_sigmoid_cross_entropy():
    expected = np.log1p(np.exp(SCORES)) - SCORES * ONE_HOT
    np.testing.assert_allclose(
        expected, -np.log(np.where(ONE_HOT == 1, expit(SCORES), expit(-SCORES)))
    )
    mean = unreduced(keras.losses.BinaryCrossentropy, from_logits=True)
    np.testing.assert_allclose(mean(ONE_HOT, SCORES), expected.mean(axis=1), rtol=1e-5)
    total = unreduced(losses.BernoulliLoss)
    np.testing.assert_allclose(total(ONE_HOT, SCORES), expected.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("delta", [0.5, 1.0])
def test_hinge(delta):
    expected = np.maximum(0, delta - SIGNS * SCORES[:, 0])
    hinge = unreduced(losses.HingeLoss, delta=delta)
    np.testing.assert_allclose(hinge(SIGNS, SCORES[:, 0]), expected, rtol=1e-5)
    np.testing.assert_allclose(hinge(SIGNS > 0, SCORES[:, 0]), expected, rtol=1e-5)
    columns = hinge(SIGNS[:, None] * [1, -1], SCORES[:, :1] * [1, -1])
    np.testing.assert_allclose(columns, expected, rtol=1e-5)
    assert np.isnan(hinge(np.array([2.0, 1.0]), np.zeros(2))).tolist() == [True, False]
    scaled = delta * unreduced(keras.losses.Hinge)(SIGNS[:, None], SCORES[:, :1] / delta)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


@pytest.mark.parametrize("delta", [0.5, 1.0])
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_multiclass_hinge(delta, shift):
    scores = expit(SCORES) + shift
    others = np.where(ONE_HOT == 1, -np.inf, scores).max(axis=1)
    expected = np.maximum(0, others - scores[np.arange(6), LABELS] + delta)
    hinge = unreduced(losses.MulticlassHingeLoss, delta=delta)
    for targets in (LABELS, LABELS[:, None], LABELS.astype("float32"), ONE_HOT):
        np.testing.assert_allclose(hinge(targets, scores), expected, rtol=1e-5)
    assert np.isnan(hinge(np.array([-1, 4, 3]), scores[:3])).tolist() == [True, True, False]
    # Keras counts 0 among the other scores, which changes nothing if these are not all negative.
    of_keras = delta * unreduced(keras.losses.CategoricalHinge)(ONE_HOT, scores / delta)
    assert np.allclose(of_keras, expected, rtol=1e-5) == (shift == 0.0)


@pytest.mark.parametrize("kind", [losses.HingeLoss, losses.MulticlassHingeLoss])
def test_margins_are_checked_and_saved(kind):
    loss = kind(0.5, name="mine", reduction="sum", dtype="float64")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(copy, kind)
    assert copy.get_config() == loss.get_config()
    assert copy.delta == 0.5
    with pytest.raises(ValueError, match="`delta` should be"):
        kind(delta=0.0)
    if kind is losses.MulticlassHingeLoss:
        for y_true, y_pred in (
            (ONE_HOT[:, :3], SCORES),
            (LABELS, SCORES[:, :1]),
            (LABELS, SCORES[:, 0]),
            (LABELS, np.zeros([6, 4, 4])),
        ):
            shapes = re.escape(f"y_pred.shape={y_pred.shape}, y_true.shape={y_true.shape}")
            message = f"^`y_pred` should have shape .* or that of `y_pred`. Received: {shapes}$"
            with pytest.raises(ValueError, match=message):
                loss(y_true, y_pred)


def test_margins_in_float64():
    """Of any number of axes, and of two classes, where the hinge losses are the same."""
    expected = np.maximum(0, 0.1 - SIGNS * SCORES[:, 0])
    hinge = unreduced(losses.HingeLoss, delta=0.1, dtype="float64")
    np.testing.assert_allclose(hinge(SIGNS, SCORES[:, 0]), expected, rtol=1e-14)
    shape = [1, 2, 3]
    several = hinge(SIGNS.reshape(shape), SCORES[:, 0].reshape(shape))
    np.testing.assert_allclose(several, expected.reshape(shape).mean(axis=2), rtol=1e-14)
    hinge = unreduced(losses.MulticlassHingeLoss, delta=0.1, dtype="float64")
    of_classes = hinge(SIGNS > 0, SCORES[:, :1] * [0, 1])
    np.testing.assert_allclose(of_classes, expected, rtol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        losses.BernoulliLoss,
        losses.NormalLoss,
        losses.EntanglementLoss,
        losses.HingeLoss,
        losses.MulticlassHingeLoss,
        lambda **kwargs: losses.SupervisedFactorLoss([1, 1], **kwargs),
        lambda **kwargs: losses.AttributeLoss(AttributeCode({"shape": 3}), **kwargs),
    ],
)
def test_losses_have_the_options_of_those_of_keras(make):
    loss = make(name="mine", reduction="sum", dtype="float64")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    for one in (loss, copy):
        assert (one.name, one.reduction, one.dtype) == ("mine", "sum", "float64")


def test_accuracy():
    predicted = SCORES.argmax(axis=1)
    expected = np.mean(predicted == LABELS)
    sparse = keras.metrics.SparseCategoricalAccuracy()
    assert float(sparse(LABELS, SCORES)) == pytest.approx(expected)
    assert float(keras.metrics.Accuracy()(LABELS, predicted)) == pytest.approx(expected)


def gaussian_term(mean, variance, prior_mean, prior_variance):
    """The expectation of -2 ln N(z | prior) - ln 2π over the posterior, dimension by dimension."""
    return np.log(prior_variance) + (variance + (mean - prior_mean) ** 2) / prior_variance


MEAN, LOG_VARIANCE = random.normal(size=(2, 6, 2))
VARIANCES = np.exp(LOG_VARIANCE)
RECONSTRUCTION = 0.5 * np.sum((X - X_HAT) ** 2 + np.log(2 * np.pi), axis=1)
ENTROPY = 0.5 * np.sum(np.log(2 * np.pi * VARIANCES) + 1, axis=1)


def test_elbo_with_a_normal_prior():
    cross = 0.5 * np.sum(gaussian_term(MEAN, VARIANCES, 0, 1) + np.log(2 * np.pi), axis=1)
    received = losses.normal_kl(MEAN, LOG_VARIANCE) - losses.normal_log_likelihood(X, X_HAT)
    np.testing.assert_allclose(value(received), RECONSTRUCTION + cross - ENTROPY, rtol=1e-5)


@pytest.mark.parametrize("factors", [(), (2,)], ids=["one mixture", "a mixture per factor"])
def test_elbo_with_a_mixture_prior(factors):
    shape = (6, *factors, 2)
    mean, log_variance = random.normal(size=(2, *shape))
    means, log_variances = random.normal(size=(2, *factors, 3, 2))
    logits = random.normal(size=(*factors, 3))
    log_pi = log_softmax(logits, axis=-1)

    distances = (mean[..., None, :] - means) ** 2 / np.exp(log_variances)
    log_joint = log_pi - 0.5 * np.sum(np.log(2 * np.pi) + log_variances + distances, axis=-1)
    log_gamma = log_softmax(log_joint, axis=-1)
    gamma = np.exp(log_gamma)
    term = gaussian_term(
        mean[..., None, :], np.exp(log_variance)[..., None, :], means, np.exp(log_variances)
    )
    cross = 0.5 * np.sum(gamma * np.sum(term, axis=-1), axis=-1)
    entropy = 0.5 * np.sum(1 + log_variance, axis=-1)
    kl = cross - entropy + np.sum(gamma * (log_gamma - log_pi), axis=-1)
    expected = RECONSTRUCTION + kl.reshape(6, -1).sum(axis=1)

    prior = means, log_variances, logits
    responsibilities = losses.mixture_log_responsibilities(mean, *prior)
    np.testing.assert_allclose(value(responsibilities), log_gamma, rtol=1e-4)
    kl = losses.mixture_kl(mean, log_variance, *prior, log_responsibilities=responsibilities)
    received = kl - losses.normal_log_likelihood(X, X_HAT)
    np.testing.assert_allclose(value(received), expected, rtol=1e-5)


@pytest.mark.parametrize("activity", ["bernoulli", "categorical"])
def test_elbo_with_an_additive_prior(activity):
    """Term by term, where activities and components were expected one after the other."""
    component_logits, activity_logits = random.normal(size=(6, 3, 4)), random.normal(size=(6, 3))
    mu, log_sigma = random.normal(size=(3, 4, 2)), random.normal(size=2)
    log_pi = log_softmax(random.normal(size=(3, 4)), axis=-1)
    alpha_logits, log_noise = random.normal(size=3), random.normal(size=4)
    log_gamma = log_softmax(component_logits, axis=-1)
    gamma, sigma = np.exp(log_gamma), np.exp(log_sigma)
    if activity == "bernoulli":
        eta, alpha = expit(activity_logits), expit(alpha_logits)
        rest = (1 - eta) * (np.log(1 - eta) - np.log(1 - alpha))
    else:
        eta, alpha = (
            np.exp(log_softmax(activity_logits, axis=-1)),
            np.exp(log_softmax(alpha_logits)),
        )
        rest = 0.0

    likelihood = -0.5 * np.sum((X - X_HAT) ** 2 / np.exp(log_noise) + log_noise, axis=1)
    likelihood = likelihood - 0.5 * 4 * np.log(2 * np.pi)
    cross = -0.5 * np.sum(np.log(2 * np.pi) + log_sigma + (VARIANCES + MEAN**2) / sigma, axis=1)
    cross = cross + np.einsum("nf,nfc,fck,nk->n", eta, gamma, mu, MEAN / sigma)
    cross = cross - 0.5 * np.einsum("nf,nfc,fck,k->n", eta, gamma, mu**2, 1 / sigma)
    if activity == "bernoulli":
        for f in range(3):
            for g in range(3):
                added = [np.einsum("n,nc,ck->nk", eta[:, h], gamma[:, h], mu[h]) for h in (f, g)]
                cross = cross - 0.5 * (f != g) * np.sum(added[0] * added[1] / sigma, axis=1)
    components = np.sum(gamma * (log_pi - log_gamma), axis=(1, 2))
    activities = -np.sum(eta * (np.log(eta) - np.log(alpha)) + rest, axis=1)
    expected = -(likelihood + cross + ENTROPY + components + activities)

    kl = losses.additive_mixture_kl(
        MEAN,
        LOG_VARIANCE,
        component_logits,
        activity_logits,
        mu,
        log_sigma,
        log_pi,
        alpha_logits,
        activity=activity,
    )
    received = kl - losses.normal_log_likelihood(X, X_HAT, log_noise)
    np.testing.assert_allclose(value(received), expected, rtol=1e-5)
