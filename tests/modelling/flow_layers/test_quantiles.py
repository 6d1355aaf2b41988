"""Distribution functions, quantiles, and several samples for each context."""

import keras
import numpy as np
import pytest
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import vjp
from gyoza.modelling.conditioners import MADE, MLP, VelocityMLP
from gyoza.modelling.distributions import (
    DiagonalNormal,
    Factorial,
    GaussianMixture,
    Logistic,
    MultivariateNormal,
    StandardNormal,
    StudentT,
    Uniform,
)
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    FlowMatchingModel,
    FlowModel,
    LULinear,
    MaskedAffine,
    RationalQuadraticSplineCoupling,
    Reflection,
    Standardize,
)
from gyoza.testing.copies import move_weights

runs_x64 = keras.backend.backend() != "jax"  # which has float64 only if it is told so
runs_eagerly = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="it is compiled for several batch sizes"
)


def make_scalar_flow(x, context, base=None):
    """Makes a flow that decreases, and depends on a context."""
    model = FlowModel(
        [
            Standardize(shape=[1], location=1.0, scale=2.0),
            RationalQuadraticSplineCoupling(conditioner=MLP([8])),
            Reflection(reflection_count=1),
            AffineCoupling(conditioner=MLP([8])),
        ],
        base,
    )
    model(x, context=context)
    move_weights(model, np.random.default_rng(1))
    return model


@pytest.fixture(scope="module")
def context():
    return np.random.default_rng(0).normal(size=[3, 2]).astype("float32")


@runs_eagerly
def test_cdf_is_the_integral_of_the_density(context):
    grid = np.linspace(-40.0, 40.0, 16001, dtype="float32")
    model = make_scalar_flow(grid[:3, None], context)
    for row in context:
        density = np.exp(to_numpy(model.log_prob(grid[:, None], row)).astype("float64"))
        expected = np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))
        received = to_numpy(model.cdf(grid[1::40, None], row))
        np.testing.assert_allclose(received, expected[::40], atol=2e-4)
        assert np.all(np.diff(received) >= 0)


@runs_eagerly
def test_quantiles_invert_the_cdf(context):
    model = make_scalar_flow(np.ones([3, 1], "float32"), context, Logistic())
    levels = [0.001, 0.3, 0.5, 0.9]
    x = to_numpy(model.quantile(levels, context))
    assert x.shape == (3, 4)
    assert np.all(np.diff(x, axis=1) > 0)
    u = [to_numpy(model.cdf(column[:, None], context)) for column in x.T]
    np.testing.assert_allclose(np.stack(u, axis=1), np.tile(levels, [3, 1]), rtol=1e-3)
    np.testing.assert_allclose(to_numpy(model.quantile(0.3, context)), x[:, 1], rtol=1e-5)
    u = to_numpy(model.cdf({"inputs": x[:, :1], "context": context}))
    np.testing.assert_allclose(u, levels[0], rtol=1e-3)


def test_quantiles_without_a_context_are_known():
    model = FlowModel([Standardize(shape=[1], location=3.0, scale=2.0)])
    model.build((None, 1))
    expected = scipy.stats.norm(3.0, 2.0)
    levels = np.array([0.025, 0.5, 0.975])
    np.testing.assert_allclose(to_numpy(model.quantile(levels)), expected.ppf(levels), rtol=1e-5)
    assert to_numpy(model.quantile(0.5)) == pytest.approx(3.0)
    x = np.array([[0.0], [5.0]])
    np.testing.assert_allclose(to_numpy(model.cdf(x)), expected.cdf(x[:, 0]), rtol=1e-5)


def test_data_can_be_dictionaries_but_not_data_sets():
    model = FlowModel([Standardize(shape=[1], location=3.0, scale=2.0)])
    x = np.array([[0.0], [5.0]], "float32")
    expected = scipy.stats.norm(3.0, 2.0).cdf(x)
    received = model.probability_integral_transform({"inputs": x})
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(model.cdf({"inputs": x})), expected[:, 0], rtol=1e-5)
    for method in (model.log_prob, model.cdf, model.probability_integral_transform):
        for data in (iter([x]), {"inputs": iter([x])}):
            with pytest.raises(TypeError, match=r"`x` should be an array.*each of its batches"):
                method(data)


@runs_eagerly
def test_flow_matching_in_one_dimension_has_quantiles():
    layers = [Standardize(shape=[1], location=1.0)]
    model = FlowMatchingModel(VelocityMLP([8]), layers, step_count=4)
    grid = np.linspace(-9.0, 11.0, 201, dtype="float32")[:, None]
    context = np.ones([201, 2], "float32")
    model(grid, context)
    move_weights(model.flow, np.random.default_rng(1))
    density = np.exp(to_numpy(model.log_prob(grid, context)).astype("float64"))
    expected = np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid[:, 0]))
    received = to_numpy(model.cdf(grid, context))
    np.testing.assert_allclose(received[1:], expected, atol=1e-3)
    x = to_numpy(model.quantile([0.1, 0.6], context[:2]))
    for level, column in zip([0.1, 0.6], x.T, strict=True):
        u = model.probability_integral_transform(column[:, None], context[:2])
        np.testing.assert_allclose(to_numpy(u), level, atol=1e-3)
    planar = FlowMatchingModel(VelocityMLP([8]))
    planar(np.ones([3, 2], "float32"))
    with pytest.raises(ValueError, match="are defined for flows of one dimension"):
        planar.quantile(0.5)


@runs_eagerly
def test_transformed_data_have_the_density_of_the_flow():
    # The derivatives of conditional probabilities are conditional densities.
    layers = [MaskedAffine(conditioner=MADE([8], dtype="float64"), dtype="float64")]
    model = FlowModel(layers, dtype="float64")
    x = np.random.default_rng(0).normal(size=[5, 3])
    model(x)
    move_weights(model, np.random.default_rng(1))
    step = 1e-5
    slopes = [
        to_numpy(model.probability_integral_transform(x + step * unit))
        - to_numpy(model.probability_integral_transform(x - step * unit))
        for unit in np.eye(3)
    ]
    slopes = np.stack(slopes, axis=-1) / (2 * step)
    np.testing.assert_allclose(slopes, np.tril(slopes), atol=1e-9)
    u = to_numpy(model.probability_integral_transform(x))
    inverse = to_numpy(model.invert_probability_integral_transform(u))
    np.testing.assert_allclose(inverse, x, rtol=1e-8)
    density = np.prod(np.diagonal(slopes, axis1=1, axis2=2), axis=1)
    np.testing.assert_allclose(density, np.exp(to_numpy(model.log_prob(x))), rtol=1e-6)


@runs_eagerly
def test_what_has_no_distribution_function_says_so():
    x = np.random.default_rng(0).normal(size=[5, 2]).astype("float32")
    mixed = FlowModel([AffineCoupling(conditioner=MLP([4])), LULinear()])
    mixed(x)
    move_weights(mixed, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"The flow should be triangular.*by later dimensions"):
        mixed.probability_integral_transform(x)
    model = FlowModel([Standardize()])
    model(x)
    for run in (lambda: model.cdf(x), lambda: model.quantile(0.5)):
        with pytest.raises(ValueError, match="are defined for flows of one dimension"):
            run()
    scalar = FlowModel([Standardize(shape=[1])], StandardNormal([1]))
    context = np.zeros([100, 3], "float32")
    expected = r"`levels` should be .*above 0 and below 1.*Received: "
    for levels, received in [
        (0.0, "0$"),
        ([0.5, 1.0], "1$"),
        ([5, 95], "5, 95$"),
        (np.arange(1, 101), "1, 2, 3, 4, 5, …$"),
        (context, r"levels of shape \(100, 3\)$"),
    ]:
        with pytest.raises(ValueError, match=expected + received):
            scalar.quantile(levels, context)
    for u, message in [
        (np.array([[0.5], [2.0]]), "`probabilities` should be above 0 and below 1.*Received: 2$"),
        (context, r"have shape \[instances, 1\]. Received: probabilities of shape \(100, 3\)$"),
    ]:
        with pytest.raises(ValueError, match=message):
            scalar.invert_probability_integral_transform(u)
    for base in (GaussianMixture(2), MultivariateNormal()):
        with pytest.raises(NotImplementedError, match=f"A {type(base).__name__} is not known"):
            FlowModel([Standardize()], base).probability_integral_transform(x)
    with pytest.raises(ValueError, match=r"`x` should be vectors.*\(5, 2, 1\)"):
        FlowModel([Standardize()]).probability_integral_transform(x[..., None])


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (StandardNormal([2]), scipy.stats.norm()),
        (DiagonalNormal([2], 1.0, 3.0), scipy.stats.norm(1.0, 3.0)),
        (Logistic([2], 1.0, 3.0), scipy.stats.logistic(1.0, 3.0)),
        (Uniform([2], -4.0, 2.0), scipy.stats.uniform(-4.0, 6.0)),
        (StudentT([2], 1.0, 3.0, [1.5, 40.0]), scipy.stats.t([1.5, 40.0], 1.0, 3.0)),
        (GaussianMixture(1, [2], None, 1.0, 3.0), scipy.stats.norm(1.0, 3.0)),
    ],
)
def test_log_odds_are_those_of_distribution_functions(distribution, expected):
    x = np.array([[-3.0, 0.5], [1.0, 1.5]])
    log_odds = to_numpy(distribution.log_odds(x))
    np.testing.assert_allclose(
        log_odds, expected.logcdf(x) - expected.logsf(x), rtol=1e-4, atol=1e-6
    )
    if runs_x64 or not isinstance(distribution, StudentT | GaussianMixture):
        # The others are found by a loop, which JAX compiles for long.
        np.testing.assert_allclose(to_numpy(distribution.quantiles(log_odds)), x, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=runs_eagerly)])
def test_student_t_is_exact_in_both_tails(dtype):
    degrees = np.array([0.03, 0.5, 1.0, 2.0, 3.7, 10.0, 100.0, 1e4, 1e7])
    base = StudentT([9], degrees_of_freedom=degrees, dtype=dtype)
    degrees = to_numpy(base.degrees_of_freedom).astype("float64")
    positive = np.geomspace(1e-4, 1e6, 21, dtype=dtype)
    x = np.concatenate([-positive[::-1], [0.0], positive])[:, None] * np.ones([1, 9], dtype)
    expected = scipy.stats.t.logcdf(x, degrees) - scipy.stats.t.logsf(x, degrees)
    is_known = np.abs(expected) < 600  # where that of SciPy does not underflow
    received = to_numpy(base.log_odds(x)).astype("float64")
    tolerance = {"float32": 2e-6, "float64": 1e-10}[dtype]  # scipy itself is off by 6e-11
    error = np.abs(received - expected)[is_known] / np.maximum(1.0, np.abs(expected))[is_known]
    assert np.max(error) < tolerance
    assert np.all(np.diff(received, axis=0) >= -tolerance)
    if runs_x64:
        levels = np.array([[1e-6], [0.01], [0.5], [0.999]])
        log_odds = np.log(levels / (1.0 - levels)) * np.ones([1, 9])
        quantiles = to_numpy(base.quantiles(log_odds))
        expected = scipy.stats.t.ppf(levels, degrees)
        is_known = np.abs(expected) < 1e30  # others are clipped
        np.testing.assert_allclose(
            quantiles[is_known], expected[is_known], rtol=10 * tolerance, atol=tolerance
        )


@runs_eagerly
@pytest.mark.parametrize("method", ["compute_log_odds", "compute_quantiles"])
def test_functions_of_student_t_are_differentiated(method):
    base = StudentT([5], degrees_of_freedom=[0.7, 3.0, 3.0, 30.0, 30.0], dtype="float64")
    others = {name: np.zeros([1, 5]) for name in ("location", "log_scale")}

    def run(x, change):
        changes = {**others, "degrees_of_freedom": change}
        changes = {name: ops.convert_to_tensor(change) for name, change in changes.items()}
        return getattr(base, method)(x, changes)

    arguments = [np.array([[-2.0, 0.0, 0.5, 3.0, -1.0]]), np.zeros([1, 5])]
    _, pullback = vjp(run, [ops.convert_to_tensor(argument) for argument in arguments])
    step, unit = 1e-5, ops.ones([1, 5], "float64")
    for i, gradient in enumerate(pullback(unit)):
        moved = [
            [x + sign * step * (i == j) for j, x in enumerate(arguments)] for sign in (1.0, -1.0)
        ]
        above, below = (to_numpy(run(*map(ops.convert_to_tensor, values))) for values in moved)
        expected = (above - below) / (2 * step)
        np.testing.assert_allclose(to_numpy(gradient), expected, rtol=1e-6, atol=1e-8)


@runs_eagerly
def test_base_distributions_with_other_tails_and_modes_have_quantiles(context):
    """The cdf of a flow that shifts and scales a mixture is known; that of classes is a mean."""
    mixture = GaussianMixture(2, [1], None, [[-2.0], [1.0]], [[0.5], [2.0]])
    classes = GaussianMixture(1, [1], 2, [[[-2.0]], [[1.0]]], [[[0.5]], [[2.0]]])
    parts = [scipy.stats.norm(1.0, 1.0), scipy.stats.norm(7.0, 4.0)]  # 5 + 2 x
    x = np.linspace(-2.0, 15.0, 20)[:, None]
    for base in (mixture, classes):
        model = FlowModel([Standardize(shape=[1], location=5.0, scale=2.0)], base)
        cdf = to_numpy(model.cdf(x))
        np.testing.assert_allclose(
            cdf, np.mean([part.cdf(x[:, 0]) for part in parts], 0), rtol=1e-5
        )
        np.testing.assert_allclose(to_numpy(model.quantile(cdf)), x[:, 0], rtol=1e-4)
    for base in (GaussianMixture(3, context_network=MLP([4])), StudentT(context_network=MLP([4]))):
        model = make_scalar_flow(np.ones([3, 1], "float32"), context, base)
        levels = [0.01, 0.4, 0.95]
        x = to_numpy(model.quantile(levels, context))
        for column, level in zip(x.T, levels, strict=True):
            u = to_numpy(model.cdf(column[:, None], context))
            np.testing.assert_allclose(u, level, rtol=1e-3)
        samples = to_numpy(model.sample_each(500, context, seed=0))[:, :, 0]
        np.testing.assert_allclose(np.mean(samples < x[:, 1], axis=0), 0.4, atol=0.08)


@runs_eagerly
def test_log_odds_of_products_are_those_of_their_factors():
    normal = DiagonalNormal(context_network=MLP([4]))
    product = Factorial([normal, Logistic()], [2, 1])
    x = np.random.default_rng(0).normal(size=[4, 3]).astype("float32")
    context = np.random.default_rng(1).normal(size=[4, 2]).astype("float32")
    product.log_prob(x, context=context)
    move_weights(normal, np.random.default_rng(1))
    log_odds = to_numpy(product.log_odds(x, context=context))
    expected = to_numpy(normal.log_odds(x[:, :2], context=context))
    np.testing.assert_allclose(log_odds[:, :2], expected, rtol=1e-5)
    np.testing.assert_allclose(log_odds[:, 2], x[:, 2], rtol=1e-5)
    inverse = to_numpy(product.quantiles(log_odds, context=context))
    np.testing.assert_allclose(inverse, x, atol=1e-5)


@runs_eagerly
def test_each_context_has_samples_of_its_own(context):
    model = make_scalar_flow(np.ones([3, 1], "float32"), context)
    samples = to_numpy(model.sample_each(500, context, seed=0))
    assert samples.shape == (500, 3, 1)
    expected = to_numpy(model.sample(1500, seed=0, context=np.tile(context, [500, 1])))
    np.testing.assert_allclose(samples.reshape(-1, 1), expected, rtol=1e-5)
    for column, row in zip(samples.transpose(1, 0, 2), context, strict=True):
        u = to_numpy(model.cdf(column, row))
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    assert tuple(model.sample_each(2, context[:1]).shape) == (2, 1, 1)
