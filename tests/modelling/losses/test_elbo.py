"""Divergences of evidence lower bounds against loops, enumeration and quadrature."""

import itertools

import numpy as np
import pytest
from keras import ops
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import norm

from gyoza.backend import jit
from gyoza.modelling.losses import (
    additive_mixture_kl,
    mixture_kl,
    mixture_log_responsibilities,
    normal_kl,
)


def draws(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def run(function, *arguments, **kwargs):
    """Runs a function compiled, as a training step does."""
    compiled = jit(lambda *tensors: function(*tensors, **kwargs))
    return ops.convert_to_numpy(compiled(*map(ops.convert_to_tensor, arguments)))


def kl_of_normals(mean, log_variance, prior_mean, prior_log_variance):
    variance, prior_variance = np.exp(log_variance), np.exp(prior_log_variance)
    ratio = variance / prior_variance
    return 0.5 * np.sum(ratio - 1 - np.log(ratio) + (mean - prior_mean) ** 2 / prior_variance)


def test_normal_prior():
    mean, log_variance, prior_mean, prior_log_variance = draws((5, 2, 3), (5, 2, 3), (3,), (2, 3))
    expected = [
        kl_of_normals(*q, prior_mean, prior_log_variance)
        for q in zip(mean, log_variance, strict=True)
    ]
    received = run(normal_kl, mean, log_variance, prior_mean, prior_log_variance)
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    standard = [kl_of_normals(*q, 0.0, 0.0) for q in zip(mean, log_variance, strict=True)]
    np.testing.assert_allclose(run(normal_kl, mean, log_variance), standard, rtol=1e-5)


MIXTURE = (5, 3), (5, 3), (4, 3), (4, 3), (4,)  # of five posteriors, four components


def test_mixture_prior_with_given_responsibilities():
    mean, log_variance, means, log_variances, logits, scores = draws(*MIXTURE, (5, 4))
    gamma, pi = softmax(scores, axis=1), softmax(logits)
    expected = np.zeros(5)
    for n, c in itertools.product(range(5), range(4)):
        kl = kl_of_normals(mean[n], log_variance[n], means[c], log_variances[c])
        expected[n] += gamma[n, c] * (kl + np.log(gamma[n, c]) - np.log(pi[c]))
    arguments = mean, log_variance, means, log_variances, logits
    received = run(mixture_kl, *arguments, log_softmax(scores, axis=1))
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    assert np.all(run(mixture_kl, *arguments) < received)


def test_responsibilities_that_give_the_tightest_bound():
    mean, log_variance, means, log_variances, logits = draws(*MIXTURE)
    scores = np.array(
        [
            [-kl_of_normals(m, v, *prior) for prior in zip(means, log_variances, strict=True)]
            for m, v in zip(mean, log_variance, strict=True)
        ]
    )
    best = log_softmax(scores + log_softmax(logits), axis=1)
    arguments = mean, log_variance, means, log_variances, logits
    received = run(mixture_kl, *arguments)
    np.testing.assert_allclose(run(mixture_kl, *arguments, best), received, rtol=1e-5)
    for direction in draws((5, 4), (5, 4), (5, 4)):
        other = log_softmax(best + 0.3 * direction, axis=1)
        assert np.all(run(mixture_kl, *arguments, other) > received)


def test_mixture_prior_bounds_the_divergence_from_the_density():
    mean, log_variance, means, log_variances, logits = draws((5, 1), (5, 1), (4, 1), (4, 1), (4,))
    z = np.linspace(-15, 15, 20_001)
    log_components = norm.logpdf(z[:, None], means[:, 0], np.exp(0.5 * log_variances[:, 0]))
    log_p = logsumexp(log_components + log_softmax(logits), axis=1)
    log_q = norm.logpdf(z, mean, np.exp(0.5 * log_variance))
    exact = np.sum(np.exp(log_q) * (log_q - log_p), axis=1) * (z[1] - z[0])
    bound = run(mixture_kl, mean, log_variance, means, log_variances, logits)
    assert np.all(bound > exact)
    assert np.all(bound < exact + 1.0)


@pytest.mark.parametrize("component_count", [1, 4])
def test_mixture_of_equal_components_is_a_normal_prior(component_count):
    mean, log_variance, prior_mean, prior_log_variance = draws((5, 3), (5, 3), (3,), (3,))
    (logits,) = draws((component_count,))
    prior = (np.tile(values, [component_count, 1]) for values in (prior_mean, prior_log_variance))
    np.testing.assert_allclose(
        run(mixture_kl, mean, log_variance, *prior, logits),
        run(normal_kl, mean, log_variance, prior_mean, prior_log_variance),
        rtol=1e-5,
    )


def test_mixture_per_factor_is_a_sum_over_factors():
    factorial = draws((5, 2, 3), (5, 2, 3), (2, 4, 3), (2, 4, 3), (2, 4))
    expected = 0.0
    for f in range(2):
        posterior = (values[:, f] for values in factorial[:2])
        expected = expected + run(mixture_kl, *posterior, *(values[f] for values in factorial[2:]))
    np.testing.assert_allclose(run(mixture_kl, *factorial), expected, rtol=1e-5)


def test_responsibilities_follow_bayes_rule():
    z, means, log_variances, logits = draws((5, 2, 3), (2, 4, 3), (2, 4, 3), (2, 4))
    log_joint = norm.logpdf(z[:, :, None], means, np.exp(0.5 * log_variances)).sum(axis=-1)
    expected = softmax(log_joint + log_softmax(logits, axis=-1), axis=-1)
    received = np.exp(run(mixture_log_responsibilities, z, means, log_variances, logits))
    np.testing.assert_allclose(received, expected, rtol=1e-4)


def enumerated(activity, m, v, component_logits, activity_logits, mu, log_sigma, pi_logits, alpha):
    """The divergence of one posterior: a sum over all activities and components."""
    factor_count, component_count = component_logits.shape
    log_gamma, log_pi = log_softmax(component_logits, axis=-1), log_softmax(pi_logits, axis=-1)
    if activity == "bernoulli":
        states = list(itertools.product([0, 1], repeat=factor_count))
        log_eta, log_alpha = (
            [np.sum(np.log(np.where(a, expit(x), expit(-x)))) for a in states]
            for x in (activity_logits, alpha)
        )
    else:
        states = np.eye(factor_count)
        log_eta, log_alpha = log_softmax(activity_logits), log_softmax(alpha)
    total = 0.0
    factors = range(factor_count)
    for state, (a, active) in zip(states, zip(log_eta, log_alpha, strict=True), strict=True):
        for c in itertools.product(range(component_count), repeat=factor_count):
            log_q = a + sum(log_gamma[f, c[f]] for f in factors)
            log_p = active + sum(log_pi[f, c[f]] for f in factors)
            location = sum(state[f] * mu[f, c[f]] for f in factors)
            total += np.exp(log_q) * (log_q - log_p + kl_of_normals(m, v, location, log_sigma))
    return total


ADDITIVE = (5, 3), (5, 3), (5, 3, 2), (5, 3), (3, 2, 3), (3,), (3, 2), (3,)


@pytest.mark.parametrize("activity", ["bernoulli", "categorical"])
def test_additive_prior(activity):
    arguments = draws(*ADDITIVE)
    expected = [
        enumerated(activity, *(values[n] for values in arguments[:4]), *arguments[4:])
        for n in range(5)
    ]
    received = run(additive_mixture_kl, *arguments, activity=activity)
    np.testing.assert_allclose(received, expected, rtol=1e-5)


def test_additive_prior_with_one_factor_is_a_mixture_with_common_variances():
    posterior, prior = (
        draws((5, 3), (5, 3), (5, 1, 2), (5, 1)),
        draws((1, 2, 3), (3,), (1, 2), (1,)),
    )
    received = run(additive_mixture_kl, *posterior, *prior, activity="categorical")
    log_variances = np.tile(prior[1], [2, 1])
    mixture = prior[0][0], log_variances, prior[2][0], log_softmax(posterior[2][:, 0], axis=1)
    expected = run(mixture_kl, posterior[0], posterior[1], *mixture)
    np.testing.assert_allclose(received, expected, rtol=1e-5)


@pytest.mark.compiled_by("tensorflow")
def test_all_is_computed_in_the_dtype_of_the_first_argument():
    """Float64 keeps its digits, from arrays and tensors, and half precision is not enough."""
    third = np.full([1, 2], 1 / 3)
    single = np.zeros([1, 2], "float32")
    for mean in (third, ops.convert_to_tensor(third, dtype="float64")):
        for log_variance in (0 * third, ops.convert_to_tensor(single)):
            received = ops.convert_to_numpy(normal_kl(mean, log_variance, 1 / 7))
            assert received.dtype == "float64"
            np.testing.assert_allclose(received, [(1 / 3 - 1 / 7) ** 2], rtol=1e-14)
    for mean in (third.astype("float16"), [[1 / 3, 1 / 3]]):
        received = ops.convert_to_numpy(normal_kl(mean, single, third))
        assert received.dtype == "float32"
        np.testing.assert_allclose(received, 0.0, atol=1e-6)


def test_bad_activity():
    with pytest.raises(ValueError, match='"bernoulli" or "categorical"'):
        additive_mixture_kl(*draws(*ADDITIVE), activity="gaussian")
