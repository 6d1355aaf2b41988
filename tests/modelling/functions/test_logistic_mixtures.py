"""Log-odds and quantiles of mixtures of logistic distributions, in bulk, tails and gaps."""

from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.logistic_mixtures import mixture_log_odds, mixture_quantile


def to_tensors(*arrays, dtype):
    return [ops.convert_to_tensor(np.asarray(array), dtype=dtype) for array in arrays]


def make_mixture():
    """Makes the log-weights, locations and log-scales of five mixtures of three components."""
    random = np.random.default_rng(0)
    log_weights = scipy.special.log_softmax(random.normal(size=(5, 1, 3)), axis=-1)
    return log_weights, 3 * random.normal(size=(5, 1, 3)), random.normal(size=(5, 1, 3))


@pytest.mark.parametrize(
    ("options", "distribution"),
    [({}, scipy.stats.logistic), ({"components": "normal"}, scipy.stats.norm)],
)
def test_log_odds_are_those_of_distribution_function_and_density(options, distribution):
    x = np.linspace(-4.0, 4.0, 50)
    log_weights, locations, log_scales = make_mixture()
    components = distribution(locations[..., None, :], np.exp(log_scales)[..., None, :])
    below, above, density = (
        np.sum(np.exp(log_weights)[..., None, :] * values, axis=-1)[:, 0]
        for values in (getattr(components, name)(x[:, None]) for name in ("cdf", "sf", "pdf"))
    )
    inputs = to_tensors(np.tile(x, (5, 1)), *make_mixture(), dtype="float64")
    bent, log_slopes = jit(partial(mixture_log_odds, **options))(*inputs)
    np.testing.assert_allclose(to_numpy(bent), np.log(below / above), rtol=1e-6, atol=1e-6)
    expected = np.log(density / below / above)
    np.testing.assert_allclose(to_numpy(log_slopes), expected, rtol=1e-5, atol=1e-6)
    back = to_numpy(jit(partial(mixture_quantile, **options))(bent, *inputs[1:]))
    # Between modes, where the slope is small, rounding of outputs is magnified.
    error = np.abs(back - x) * np.minimum(np.exp(expected), 1.0)
    np.testing.assert_allclose(error, 0.0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)])
def test_the_inverse_is_exact_also_in_the_tails(dtype, tolerance):
    x = np.tile(np.concatenate([np.linspace(-20.0, 20.0, 41), [-1000.0, 1000.0]]), (5, 1))
    x, *mixture = to_tensors(x, *make_mixture(), dtype=dtype)

    @jit
    def round_trip(x, *mixture):
        return mixture_quantile(mixture_log_odds(x, *mixture)[0], *mixture)

    # Between modes, where the slope is small, rounding of outputs is magnified.
    slopes = np.exp(to_numpy(jit(mixture_log_odds)(x, *mixture)[1]))
    error = np.abs(to_numpy(round_trip(x, *mixture)) - to_numpy(x))
    assert np.min(slopes) < 0.2
    assert np.max(error / (1 + np.abs(to_numpy(x))) * np.minimum(slopes, 1.0)) < tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tails_are_those_of_the_widest_component(dtype):
    log_weights, locations, _ = make_mixture()
    log_scales = np.tile([0.5, 1.5, -1.0], (5, 1, 1))
    log_weight, location, log_scale = (v[..., 1] for v in (log_weights, locations, log_scales))
    x = np.tile([-1000.0, 1000.0], (5, 1))
    primals = to_tensors(x, log_weights, locations, log_scales, dtype=dtype)

    @jit
    def run(*primals):
        results, pullback = vjp(mixture_log_odds, primals)
        return results, pullback(tuple(ops.ones_like(result) for result in results))

    (bent, log_slopes), gradients = run(*primals)
    expected = (x - location) / np.exp(log_scale) - np.sign(x) * log_weight
    np.testing.assert_allclose(to_numpy(bent), expected, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(log_slopes), np.tile(-log_scale, (1, 2)), atol=1e-5)
    np.testing.assert_allclose(to_numpy(gradients[0]), np.exp(to_numpy(log_slopes)), rtol=1e-4)
    assert all(np.all(np.isfinite(to_numpy(gradient))) for gradient in gradients)


@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e30), ("float64", 1e60)])
def test_numbers_of_any_size_have_finite_log_odds(dtype, far):
    most = float(np.finfo(dtype).max)
    mixture = to_tensors(np.log([0.5, 0.5]), [-1.0, 1.0], [0.0, 0.0], dtype=dtype)
    log_odds, log_slopes = mixture_log_odds(*to_tensors([-far, far], dtype=dtype), *mixture)
    np.testing.assert_allclose(to_numpy(log_odds), [-far, far], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_slopes), 0.0, atol=1e-6)
    mixture[2] = mixture[2] - 3.0  # by which the largest numbers are scaled beyond all
    for results in mixture_log_odds(*to_tensors([-most, most], dtype=dtype), *mixture):
        assert np.all(np.isfinite(to_numpy(results)))


def test_the_gap_between_modes_has_a_finite_inverse_and_gradient():
    # Half of the mass is at -100 and half at 100: in between, log-odds are zero.
    mixture = to_tensors([np.log([0.5, 0.5])], [[-100.0, 100.0]], [[0.0, 0.0]], dtype="float32")
    x, log_odds = to_tensors([0.0], [0.0], dtype="float32")
    bent, log_slope = mixture_log_odds(x, *mixture)
    np.testing.assert_allclose(to_numpy(bent), 0.0, atol=1e-6)
    np.testing.assert_allclose(to_numpy(log_slope), np.log(4.0) - 100.0, rtol=1e-5)
    x, pullback = vjp(mixture_quantile, [log_odds, *mixture])
    assert np.abs(to_numpy(x)) <= 100.0
    for gradient in pullback(ops.ones_like(x)):
        assert np.all(np.isfinite(to_numpy(gradient)))


def test_nothing_has_no_quantiles():
    mixture = to_tensors(*make_mixture(), dtype="float32")
    assert tuple(mixture_quantile(ops.zeros([5, 0]), *mixture).shape) == (5, 0)
