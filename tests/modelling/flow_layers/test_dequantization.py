"""Dequantisation: what noise is like, what it costs, and that it can be taken away."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP, ResNet
from gyoza.modelling.distributions import Factorial, Logistic, StandardNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    Affine,
    AffineCoupling,
    Columns,
    FlowModel,
    Logit,
    Reflection,
)
from gyoza.modelling.flow_layers.dequantization import (
    ArgmaxDequantization,
    UniformDequantization,
    VariationalDequantization,
)

pytestmark = pytest.mark.usefixtures("without_xla")


def integers(*shape, levels=4):
    return np.random.default_rng(0).integers(levels, size=shape).astype("float32")


def randomise(layer, scale=0.5):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))


def make_noise_flow():
    coupling = AffineCoupling(conditioner=MLP([8], "tanh"))
    return FlowModel([coupling, Reflection()], Logistic())


def make_layers():
    """Makes one layer of each kind that is built for five integers from 0 to 3."""
    layers = [
        UniformDequantization(4, seed=1),
        VariationalDequantization(4, make_noise_flow(), seed=1),
    ]
    for layer in layers:
        layer.build((None, 5))
        randomise(layer)
    return layers


KINDS = pytest.mark.parametrize("kind", [0, 1], ids=["uniform", "variational"])


@KINDS
def test_noise_stays_between_integers_and_is_taken_away(kind):
    layer, x = make_layers()[kind], integers(500, 5)
    outputs, log_det = layer(x)
    noise = 4 * to_numpy(outputs) - x
    assert np.all((noise > 0.0) & (noise < 1.0))
    assert np.std(noise) > 0.1
    assert tuple(log_det.shape) == (500,)
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)


@KINDS
def test_every_call_draws_other_noise_but_the_same_in_a_layer_of_the_same_seed(kind):
    layer, other, x = make_layers()[kind], make_layers()[kind], integers(3, 5)
    first, second = (to_numpy(layer(x)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, to_numpy(other(x)[0]))
    assert np.all(first != second)
    assert len(np.unique(first - x / 4)) == 15


def test_integers_without_bounds_get_noise_alone():
    x = np.array([[-7.0, 16383.0], [0.0, 2.0]], "float32")
    layer = UniformDequantization(levels=None, seed=0)
    for _ in range(50):
        outputs, log_det = map(to_numpy, layer(x))
        noise = outputs.astype("float64") - x
        assert np.all((noise >= 0.0) & (noise < 1.0))
        np.testing.assert_array_equal(log_det, [0.0, 0.0])
        np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)
    assert np.isnan(to_numpy(layer(ops.convert_to_tensor(x + 0.5))[1])).all()
    with pytest.raises(ValueError, match=r"should be integers, as floating-point.*0\.5"):
        layer(x[1:] + 0.5)
    assert UniformDequantization.from_config(layer.get_config()).levels is None
    with pytest.raises(ValueError, match="`levels` should be an integer"):
        VariationalDequantization(None, make_noise_flow())


def test_integers_that_float32_does_not_have_are_kept_in_float64():
    layer = UniformDequantization(levels=None, dtype="float64", seed=0)
    x = np.array([[2.0**24 + 1.0, -(2.0**30) - 1.0]])
    outputs, log_det = layer(ops.convert_to_tensor(x, dtype="float64"))
    np.testing.assert_array_equal(to_numpy(log_det), [0.0])
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)


def test_rows_of_a_large_batch_have_different_noise():
    model = FlowModel([UniformDequantization(8), ActivationNormalization()])
    log_prob = to_numpy(model.log_prob(np.full([256, 2], 3.0, "float32")))
    assert len(np.unique(log_prob)) > 250


@KINDS
def test_noise_is_new_in_training_steps_and_new_batches(kind):
    layer = make_layers()[kind]
    model = FlowModel([layer])
    model.build((None, 5))
    x = np.ones([4, 5], "float32")
    first, second = (model.predict(x, batch_size=2, verbose=0)[0] for _ in range(2))
    assert len(np.unique(np.concatenate([first, second]))) == 40


@pytest.mark.parametrize(
    ("dtype", "levels"),
    [("float32", 256), ("float32", 65536), ("mixed_float16", 256), ("mixed_bfloat16", 32)],
)
def test_all_integers_survive_rounding(dtype, levels):
    layer = UniformDequantization(levels, dtype=dtype)
    x = np.tile(np.arange(levels, dtype="float32"), (200 if levels < 1000 else 10, 1))
    outputs, log_det = layer(x)
    assert keras.backend.standardize_dtype(log_det.dtype) == "float32"
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    outputs = to_numpy(ops.cast(outputs, "float32"))
    assert np.all((outputs > 0.0) & (outputs < 1.0))
    np.testing.assert_array_equal(to_numpy(ops.cast(layer.invert(outputs), "float32")), x)


def test_uniform_noise_is_uniform_and_costs_the_logarithm_of_the_levels():
    layer = UniformDequantization(256)
    outputs, log_det = layer(np.full([100, 10, 10, 1], 17.0, "float32"))
    np.testing.assert_allclose(to_numpy(log_det), -100 * np.log(256.0), rtol=1e-6)
    noise = 256 * to_numpy(outputs) - 17
    assert scipy.stats.kstest(noise.ravel(), "uniform").pvalue > 0.01


def test_variational_noise_of_a_flow_that_is_the_identity_is_uniform():
    layer = VariationalDequantization(4, FlowModel([Affine()], Logistic()), seed=0)
    outputs, log_det = layer(integers(1000, 5))
    np.testing.assert_allclose(to_numpy(log_det), -5 * np.log(4.0), rtol=1e-4)
    noise = 4 * to_numpy(outputs) - integers(1000, 5)
    assert scipy.stats.kstest(noise.ravel(), "uniform").pvalue > 0.01


def make_conditional_noise():
    """Makes a layer for one integer, whose noise depends on it, and gives noise and densities."""
    coupling = AffineCoupling(conditioner=MLP([8], "tanh"))
    layer = VariationalDequantization(4, FlowModel([coupling], Logistic()), seed=0)
    layer.build((None, 1))
    randomise(coupling)

    def draw(x):
        outputs, log_det = layer(np.full([20000, 1], x, "float32"))
        return 4 * to_numpy(outputs)[:, 0] - x, np.exp(-np.log(4.0) - to_numpy(log_det))

    return draw


def test_variational_noise_has_the_density_that_is_charged_for_it():
    draw = make_conditional_noise()
    results = [draw(x) for x in (0.0, 3.0)]
    for noise, density in results:
        order = np.argsort(noise)
        noise, density = noise[order], density[order]
        # The density is one, and its distribution function is that of the noise.
        cdf = np.concatenate([[0.0], np.cumsum(np.diff(noise) * (density[1:] + density[:-1]) / 2)])
        np.testing.assert_allclose(cdf[-1], 1.0, atol=0.01)
        np.testing.assert_allclose(cdf, np.linspace(0.0, 1.0, len(cdf)), atol=0.02)
        assert np.std(density) > 0.1
    assert scipy.stats.ks_2samp(results[0][0], results[1][0]).pvalue < 1e-6


@pytest.mark.parametrize("is_variational", [False, True])
def test_the_likelihood_of_integers_is_a_lower_bound(is_variational):
    layer = UniformDequantization(3, seed=0)
    if is_variational:
        coupling = AffineCoupling(conditioner=MLP([4], "tanh"))
        layer = VariationalDequantization(3, FlowModel([coupling], Logistic()), seed=0)
    model = FlowModel([layer, Logit(), Affine(scale=2.5, shift=0.3)], Logistic())
    x = np.repeat([[0.0], [1.0], [2.0]], 5000, axis=0).astype("float32")
    model.build(x.shape)
    if is_variational:
        randomise(coupling)
    bound = to_numpy(model.log_prob(x)).reshape(3, 5000).mean(axis=1)
    # The model is a density on (0, 1): its integrals over thirds are the true probabilities.
    edges = 2.5 * scipy.special.logit(np.arange(4) / 3) + 0.3
    probabilities = np.diff(scipy.stats.logistic.cdf(edges))
    np.testing.assert_allclose(probabilities.sum(), 1.0)
    assert np.all(np.exp(bound) < probabilities)
    assert np.exp(bound).sum() > 0.5


def test_both_flows_are_trained_saved_and_loaded(tmp_path):
    noise_flow = make_noise_flow()
    model = FlowModel([VariationalDequantization(4, noise_flow), ActivationNormalization()])
    x = integers(64, 3)
    model.adapt(x)
    model.compile("adam")
    before = [to_numpy(weight) for weight in noise_flow.trainable_weights]
    model.fit(x, epochs=2, verbose=0)
    after = [to_numpy(weight) for weight in noise_flow.trainable_weights]
    assert all(np.any(a != b) for a, b in zip(after, before, strict=True))
    samples = to_numpy(model.sample(20, seed=0))
    assert np.all(np.isin(samples, np.arange(4)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded.sample(20, seed=0)), samples)
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected))


def test_noise_of_images_from_convolutions():
    coupling = AffineCoupling(axes=[3], conditioner=ResNet(4, 0))
    layer = VariationalDequantization(4, FlowModel([coupling], Logistic()), axes=[3])
    x = integers(3, 4, 4, 2)
    outputs, log_det = layer(x)
    # What is kept has another number of channels than what is kept and the context.
    assert tuple(coupling._compute_coupling_parameters_.first.kernel.shape) == (3, 3, 1 + 2, 4)
    np.testing.assert_allclose(to_numpy(log_det), -32 * np.log(4.0), rtol=1e-4)
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)


def test_functional_model_and_configuration():
    for layer in make_layers():
        inputs = keras.Input([5])
        model = keras.Model(inputs, layer.invert(layer(inputs)[0]))
        x = integers(6, 5)
        np.testing.assert_array_equal(model.predict(x, verbose=0), x)
        assert len(model.weights) == len(layer.weights)
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config()["levels"] == 4
        assert copy.get_config()["seed"] == 1


def test_inversion_moves_numbers_outside_to_the_nearest_integer():
    layer = UniformDequantization(4, shape=[4])
    inputs = layer.invert(np.array([[-0.5, 0.0, 1.0, 7.0]], "float32"))
    np.testing.assert_array_equal(to_numpy(inputs), [[0.0, 0.0, 3.0, 3.0]])


@pytest.mark.parametrize("value", [0.5, -1.0, 4.0, np.nan, np.inf])
def test_other_values_are_rejected_in_arrays_and_give_nan_in_tensors(value):
    layer = UniformDequantization(4)
    x = np.array([[1.0, value], [0.0, 3.0]], "float32")
    with pytest.raises(ValueError, match="should be integers from 0 to 3"):
        layer(x)
    log_det = to_numpy(layer(ops.convert_to_tensor(x))[1])
    np.testing.assert_allclose(log_det, [np.nan, -2 * np.log(4.0)], rtol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="`levels` should be an integer of at least 2"):
        UniformDequantization(1)
    with pytest.raises(ValueError, match="`levels` should be an integer of at least 2"):
        UniformDequantization(2.5)
    with pytest.raises(ValueError, match="`seed` should be an integer of at least 0"):
        UniformDequantization(2, seed=-1)
    with pytest.raises(ValueError, match=r"should be few enough.*levels=256, dtype=bfloat16"):
        UniformDequantization(256, dtype="mixed_bfloat16")
    with pytest.raises(TypeError, match="`noise_flow` should be a `FlowModel`"):
        VariationalDequantization(4, Reflection())
    with pytest.raises(TypeError, match="integers should also begin with a `UniformDeq"):
        UniformDequantization(4)(np.array([[1, 2]]))


def codes(categories, count):
    return np.eye(count, dtype="float32")[categories]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
def test_categories_come_back_from_the_largest_entries(dtype):
    categories = np.random.default_rng(0).integers(5, size=(4000, 3))
    x = codes(categories, 5)
    layer = ArgmaxDequantization(axes=[2], seed=0, dtype=dtype)
    outputs, log_det = layer(x)
    np.testing.assert_array_equal(to_numpy(ops.argmax(outputs, axis=-1)), categories)
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)).astype("float32"), x)
    y = to_numpy(ops.cast(outputs, "float64"))
    expected = -np.sum(np.log(5) + scipy.stats.norm.logpdf(y).sum(axis=-1), axis=-1)
    np.testing.assert_allclose(to_numpy(log_det), expected, rtol=1e-4)


def test_noise_of_a_category_is_normal_where_its_entry_is_the_largest():
    layer = ArgmaxDequantization(seed=0)
    copy = ArgmaxDequantization.from_config(layer.get_config())
    y, other = (to_numpy(layer(codes(np.full(8000, 1), 3))[0]) for layer in (layer, copy))
    np.testing.assert_array_equal(y, other)
    normal = np.random.default_rng(0).normal(size=(24000, 3))
    expected = normal[normal.argmax(axis=1) == 1]
    for direction in (*np.eye(3), [1.0, 1.0, 1.0], [1.0, 0.0, -1.0]):
        assert scipy.stats.ks_2samp(y @ direction, expected @ direction).pvalue > 0.01


@pytest.mark.compiled_by("tensorflow")
def test_categories_of_vectors_with_nan_are_nan_and_there_may_be_none():
    layer = ArgmaxDequantization(axes=[2], shape=[3])
    y = np.array([[[0.0, 2.0, 1.0], [np.nan, 2.0, 1.0]], [[-np.inf] * 3, [0.0, np.inf, np.nan]]])
    x = to_numpy(layer.invert(y.astype("float32")))
    np.testing.assert_array_equal(x[:, 0], codes([1, 0], 3))
    assert np.all(np.isnan(x[:, 1]))
    outputs, log_det = layer(np.zeros([0, 2, 3], "float32"))
    assert tuple(outputs.shape) == tuple(layer.invert(outputs).shape) == (0, 2, 3)
    assert tuple(log_det.shape) == (0,)


class Reweighted(StandardNormal):
    """Normal vectors of which those with the largest entry at a place have a probability."""

    probabilities = np.array([0.2, 0.5, 0.3], "float32")

    def compute_log_prob(self, x):
        place = ops.argmax(x, axis=-1)
        ratios = ops.convert_to_tensor(np.log(3.0 * self.probabilities))
        return super().compute_log_prob(x) + ops.take(ratios, place)


def test_the_likelihood_of_categories_is_exact_where_noise_is_not_changed():
    """Two independent categories: one of a flow that weights them, one of equally likely ones."""
    categories = np.random.default_rng(0).choice(3, size=3000, p=Reweighted.probabilities)
    x = np.concatenate([codes(categories, 3), codes(categories % 2, 2)], axis=1)
    layers = Columns({(0, 1, 2): ArgmaxDequantization(), (3, 4): ArgmaxDequantization()})
    base = Factorial([Reweighted([3]), StandardNormal([2])])
    log_prob = to_numpy(FlowModel([layers], base).log_prob(x))
    expected = np.log(Reweighted.probabilities)[categories] - np.log(2)
    np.testing.assert_allclose(log_prob, expected, atol=1e-5)
    # Other flows of the same categories have less, on average.
    entropy = -np.sum(Reweighted.probabilities * np.log(Reweighted.probabilities)) + np.log(2)
    for layer in (Affine(scale=1.2), Affine(shift=[0.1, 0.3, 0.2, 0.0, 0.0])):
        assert np.mean(to_numpy(FlowModel([layers, layer], base).log_prob(x))) < -entropy - 0.01


@pytest.mark.parametrize("value", [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [np.nan, 1.0]])
def test_other_vectors_than_one_hot_ones_are_rejected(value):
    layer, x = ArgmaxDequantization(), np.array([[1.0, 0.0], value], "float32")
    with pytest.raises(ValueError, match=r"should be one-hot vectors.*first one at index \[1\]"):
        layer(x)
    np.testing.assert_array_equal(np.isnan(layer(ops.convert_to_tensor(x))[1]), [False, True])
