"""Gaussianization: mixtures of logistics against SciPy, tails, and the start from data."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special, stats

from gyoza.backend import jit, vjp
from gyoza.modelling.flow_layers import FlowModel, MixtureGaussianization, Orthogonal
from gyoza.modelling.functions.log_odds import normal_log_odds, normal_quantile
from gyoza.testing.functions import compile_on_jax as fast


@pytest.fixture
def two_peaks():
    random = np.random.default_rng(0)
    signs = np.where(random.random([4000, 1]) < 0.3, -3.0, 3.0)
    return (signs + 0.5 * random.normal(size=(4000, 1))).astype("float32")


def log_density_of_two_peaks(x):
    return np.logaddexp(
        np.log(0.3) + stats.norm(-3, 0.5).logpdf(x), np.log(0.7) + stats.norm(3, 0.5).logpdf(x)
    )[:, 0]


@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize(("axes", "shape", "count"), [(None, [3], 3), ([2], [2, 2], 2)])
def test_contract(axes, shape, count, check_contract):
    layer = MixtureGaussianization(axes=axes, component_count=count)
    check_contract(layer, shape, is_further_layout=axes is not None)


Z = np.concatenate([[0.0, 1e-8], np.linspace(-9, 9, 181), [-37.0, 37.0, -1e4, 1e4]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_log_odds_are_those_of_scipy(dtype):
    z = Z.astype(dtype).astype("float64")
    log_odds, slopes = map(to_numpy, jit(normal_log_odds)(ops.convert_to_tensor(z, dtype=dtype)))
    tolerance = 20 * np.finfo(dtype).eps
    expected = special.log_ndtr(z) - special.log_ndtr(-z)
    np.testing.assert_allclose(log_odds, expected, rtol=tolerance, atol=tolerance)
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    expected = np.exp(log_density - special.log_ndtr(z)) + np.exp(
        log_density - special.log_ndtr(-z)
    )
    is_near = np.abs(z) < 10  # where differences of logarithms are exact enough
    np.testing.assert_allclose(slopes[is_near], expected[is_near], rtol=10 * tolerance)
    size = np.abs(z[~is_near])
    np.testing.assert_allclose(slopes[~is_near], size + 1 / size, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantile_is_the_inverse_with_the_derivative_of_the_inverse(dtype):
    @jit
    def run(log_odds):
        quantiles, pullback = vjp(normal_quantile, [log_odds])
        return quantiles, pullback(ops.ones_like(quantiles))[0]

    log_odds, slopes = normal_log_odds(ops.convert_to_tensor(Z, dtype=dtype))
    quantiles, gradient = map(to_numpy, run(log_odds))
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(quantiles, Z, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, 1 / to_numpy(slopes), rtol=max(tolerance, 1e-10))


def test_outputs_are_normal_quantiles_of_the_mixture():
    layer = MixtureGaussianization(shape=[1], component_count=2, dtype="float64")
    layer.locations.assign([[-1.0, 2.0]])
    layer.log_scales.assign(np.log([[0.5, 0.2]]))
    layer.logits.assign(np.log([[0.3, 0.7]]))
    x = np.linspace(-4, 4, 33)[:, np.newaxis]
    outputs, log_det = map(to_numpy, jit(layer)(ops.convert_to_tensor(x, dtype="float64")))
    parts = [(0.3, stats.logistic(-1, 0.5)), (0.7, stats.logistic(2, 0.2))]
    expected = stats.norm.ppf(sum(weight * part.cdf(x) for weight, part in parts))
    np.testing.assert_allclose(outputs, expected, atol=1e-7)
    log_density = np.log(sum(weight * part.pdf(x) for weight, part in parts))
    expected = (log_density - stats.norm.logpdf(expected))[:, 0]
    np.testing.assert_allclose(log_det, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_tails_and_gaps_have_finite_values_and_gradients(dtype, scale):
    layer = MixtureGaussianization(shape=[4], component_count=2, dtype=dtype)
    layer.locations.assign(np.tile([[-5.0, 5.0]], (4, 1)))
    layer.log_scales.assign(np.full([4, 2], np.log(scale)))

    @fast
    def run(x):
        (outputs, log_det), pullback = vjp(layer, [x])
        inverse, pull_back = vjp(layer.invert, [outputs])
        gradients = (
            *pullback((ops.ones_like(outputs), ops.ones_like(log_det))),
            *pull_back(ops.ones_like(inverse)),
        )
        return outputs, log_det, inverse, *gradients

    x = np.array([[-1000.0, 1000.0, 30.0, -6.0]], dtype)
    outputs, log_det, inverse, *gradients = map(to_numpy, run(ops.convert_to_tensor(x)))
    for array in (outputs, log_det, *gradients):
        assert np.all(np.isfinite(array))
    assert np.array_equal(np.sign(outputs), np.sign(x))
    np.testing.assert_allclose(inverse, x, rtol=1e-3 if dtype == "float32" else 1e-9)


def test_new_layer_is_nearly_the_identity():
    x = np.linspace(-2, 2, 41)[:, np.newaxis].astype("float32")
    np.testing.assert_allclose(to_numpy(MixtureGaussianization()(x)[0]), x, atol=0.1)


def test_adapted_layer_makes_data_normal(two_peaks):
    model = FlowModel([MixtureGaussianization()])
    model.adapt(two_peaks, batch_size=1000)
    outputs, log_det = map(to_numpy, jit(model)(ops.convert_to_tensor(two_peaks)))
    moments = [float(np.mean(outputs**k)) for k in (1, 2, 3)]
    np.testing.assert_allclose(moments, [0, 1, 0], atol=0.06)
    assert stats.kstest(outputs[:, 0], "norm").statistic < 0.02
    log_density = stats.norm.logpdf(outputs)[:, 0] + log_det
    assert np.mean(log_density_of_two_peaks(two_peaks) - log_density) < 0.02


def test_adaptation_works_along_axes_and_survives_saving(two_peaks, tmp_path):
    data = two_peaks.reshape(1000, 2, 2) * [1.0, 20.0] + [0.0, 5.0]
    model = FlowModel([MixtureGaussianization(axes=[2]), Orthogonal(axes=[2])])
    model.adapt(data.astype("float32"))
    outputs = to_numpy(model._flow_layers_[0](data.astype("float32"))[0])
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), 0, atol=0.05)
    np.testing.assert_allclose(outputs.std(axis=(0, 1)), 1, atol=0.05)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        to_numpy(loaded(data.astype("float32"))[0]), to_numpy(model(data.astype("float32"))[0])
    )


def test_constant_and_discrete_data_keep_scales_positive():
    data = np.stack([np.full(50, 7.0), np.arange(50) % 2], axis=1).astype("float32")
    layer = MixtureGaussianization(component_count=4)
    layer.adapt(data)
    for result in (*layer(data), layer.log_scales):
        assert np.all(np.isfinite(to_numpy(result)))


def test_failed_adaptation_leaves_the_weights_unchanged(two_peaks):
    layer = MixtureGaussianization()
    layer.adapt(two_peaks)
    before = layer.get_weights()
    bad = two_peaks.copy()
    bad[-1] = np.nan
    for data, error, message in (
        (bad, ValueError, "`data` should be finite"),
        (bad[:0], ValueError, "`data` should hold at least one instance"),
        (np.arange(9), TypeError, "`data` should be floating-point"),
    ):
        with pytest.raises(error, match=message):
            layer.adapt(data)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bad_component_count():
    with pytest.raises(ValueError, match="`component_count` should be an integer of at least 2"):
        MixtureGaussianization(component_count=1)


def test_components_of_all_scales_have_finite_results_which_are_mapped_back():
    layer = MixtureGaussianization(shape=[1], component_count=3)
    layer.locations.assign([[-200.0, 0.0, 300.0]])
    layer.log_scales.assign([[-120.0, 100.0, 0.0]])
    x = np.array([[-201.0], [-1e-3], [0.0], [301.0], [1e30]], "float32")
    outputs, log_det = map(to_numpy, layer(x))
    inverse = to_numpy(layer.invert(outputs))
    again, log_det_again = map(to_numpy, layer(inverse))
    for array in (outputs, log_det, inverse, log_det_again):
        assert np.all(np.isfinite(array))
    np.testing.assert_allclose(again, outputs, rtol=1e-6, atol=1e-6)
