"""Distribution functions, quantiles, and several samples for each context."""

import keras
import numpy as np
import pytest
import scipy.stats
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.distributions import (
    DiagonalNormal,
    Factorial,
    GaussianMixture,
    Logistic,
    StandardNormal,
    StudentT,
    Uniform,
)
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    FlowModel,
    LULinear,
    MaskedAffine,
    RationalQuadraticSplineCoupling,
    Reflection,
    Standardize,
)
from gyoza.testing.copies import move_weights

runs_eagerly = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="it is compiled for several batch sizes"
)


def make_scalar_flow(x, context, base=None):
    """Makes a flow that decreases, and depends on a context."""
    model = FlowModel(
        [
            Standardize(shape=[1], location=1.0, scale=2.0),
            RationalQuadraticSplineCoupling(compute_coupling_parameters=MLP([8])),
            Reflection(reflection_count=1),
            AffineCoupling(compute_coupling_parameters=MLP([8])),
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


def test_quantiles_without_a_context_are_known():
    model = FlowModel([Standardize(shape=[1], location=3.0, scale=2.0)])
    model.build((None, 1))
    expected = scipy.stats.norm(3.0, 2.0)
    levels = np.array([0.025, 0.5, 0.975])
    np.testing.assert_allclose(to_numpy(model.quantile(levels)), expected.ppf(levels), rtol=1e-5)
    assert to_numpy(model.quantile(0.5)) == pytest.approx(3.0)
    x = np.array([[0.0], [5.0]])
    np.testing.assert_allclose(to_numpy(model.cdf(x)), expected.cdf(x[:, 0]), rtol=1e-5)


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
    mixed = FlowModel([AffineCoupling(compute_coupling_parameters=MLP([4])), LULinear()])
    mixed(x)
    move_weights(mixed, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"The flow should be triangular.*by later dimensions"):
        mixed.probability_integral_transform(x)
    model = FlowModel([Standardize()])
    model(x)
    for run in (lambda: model.cdf(x), lambda: model.quantile(0.5)):
        with pytest.raises(ValueError, match="asked of flows of one dimension"):
            run()
    for levels in (0.0, [0.5, 1.0], [[0.5]]):
        with pytest.raises(ValueError, match=r"should be between 0 and 1|one number or a list"):
            FlowModel([Standardize(shape=[1])], StandardNormal([1])).quantile(levels)
    for base in (GaussianMixture(2), StudentT()):
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
    ],
)
def test_log_odds_are_those_of_distribution_functions(distribution, expected):
    x = np.array([[-3.0, 0.5], [1.0, 1.5]])
    log_odds = to_numpy(distribution.log_odds(x))
    np.testing.assert_allclose(
        log_odds, expected.logcdf(x) - expected.logsf(x), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(to_numpy(distribution.quantiles(log_odds)), x, rtol=1e-4)


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
