"""Distributions against SciPy, numerical integration and their own samples."""

import fractions
import math

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from distribution_cases import (
    CASES,
    COVARIANCE,
    LOCATION,
    events,
    log_prob_of,
    make,
    sample_of,
    shake,
)
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.integrate import trapezoid

from gyoza.backend import jit, vjp
from gyoza.modelling.distributions import (
    DiagonalNormal,
    Distribution,
    GaussianMixture,
    Logistic,
    MultivariateNormal,
    StandardNormal,
    StudentT,
    Uniform,
    tools,
)
from gyoza.modelling.distributions.location_scale import LocationScale
from gyoza.modelling.distributions.tools import log_gamma_step
from gyoza.testing.functions import compile_on_jax as fast

pytestmark = pytest.mark.compiled_by("tensorflow")

each_case = pytest.mark.parametrize("case", CASES)


each_learnt_case = pytest.mark.parametrize(
    "case", [k for k in CASES if k not in ("StandardNormal", "Uniform", "LabelledNormal")]
)


def with_weights(distribution, function):
    """Makes a function of the trainable weights of one that uses them."""

    def run(*values):
        mapping = list(zip(distribution.trainable_weights, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function()

    return run


@each_case
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_log_prob_is_that_of_scipy(case, dtype, tolerance):
    x = events()
    log_prob = log_prob_of(make(case, dtype=dtype), x, dtype)
    assert log_prob.dtype == dtype
    expected = CASES[case][1](x)
    assert case == "Uniform" or np.all(np.isfinite(expected))
    np.testing.assert_allclose(log_prob, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "distribution",
    [
        StandardNormal([1], dtype="float64"),
        DiagonalNormal([1], 1.0, 0.3, dtype="float64"),
        MultivariateNormal([1], 1.0, [[0.3]], dtype="float64"),
        Uniform([1], -1.0, 2.5, dtype="float64"),
        Logistic([1], 1.0, 0.3, dtype="float64"),
        StudentT([1], 1.0, 0.3, 1.5, dtype="float64"),
        GaussianMixture(5, [1], scale=0.3, dtype="float64"),
    ],
    ids=lambda distribution: type(distribution).__name__,
)
def test_densities_integrate_to_one(distribution):
    """Also after the weights have moved, by the substitution x = sinh t."""
    shake(distribution)
    t = np.linspace(-20.0, 20.0, 400_001)
    density = np.exp(log_prob_of(distribution, np.sinh(t)[:, None]))
    assert trapezoid(density * np.cosh(t), t) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (StandardNormal([2]), scipy.stats.norm()),
        (DiagonalNormal([2], 1.0, 0.3), scipy.stats.norm(1.0, 0.3)),
        (MultivariateNormal([2], 1.0, [[0.3, 0.1], [0.1, 0.3]]), scipy.stats.norm(1.0, 0.3**0.5)),
        (Uniform([2], -1.0, 2.5), scipy.stats.uniform(-1.0, 3.5)),
        (Logistic([2], 1.0, 0.3), scipy.stats.logistic(1.0, 0.3)),
        (StudentT([2], 1.0, 0.3, 0.7), scipy.stats.t(0.7, 1.0, 0.3)),
        (StudentT([2], 1.0, 0.3, 1e6), scipy.stats.norm(1.0, 0.3)),
        (GaussianMixture(1, [2], location=[[1.0]], scale=0.3), scipy.stats.norm(1.0, 0.3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_samples_have_the_cumulative_distribution_of_scipy(distribution, expected):
    sample = sample_of(distribution, 100_000, seed=1)
    for dimension in sample.T:
        assert scipy.stats.kstest(dimension, expected.cdf).pvalue > 1e-3


@each_case
def test_moments_of_samples(case):
    """Mean and covariance, where there are any, are those that importance weights give."""
    distribution = make(case)
    sample = sample_of(distribution, 100_000, seed=2).astype("float64")
    proposal = scipy.stats.t(2.5, 0.5, 2.0)
    x = proposal.rvs(size=(400_000, 3), random_state=0)
    weights = np.exp(log_prob_of(distribution, x) - proposal.logpdf(x).sum(axis=1))
    for function in (lambda x: np.tanh(x), lambda x: np.tanh(x[:, [0, 0, 1]] * x[:, [1, 2, 2]])):
        expected, received = function(x) * weights[:, None], function(sample)
        error = np.sqrt(expected.var(axis=0) / len(x) + received.var(axis=0) / len(sample))
        gap = np.abs(expected.mean(axis=0) - received.mean(axis=0))
        assert np.all(gap < 4.5 * error)


def test_covariance_of_multivariate_samples():
    distribution = make("MultivariateNormal")
    sample = sample_of(distribution, 100_000, seed=3)
    np.testing.assert_allclose(sample.mean(axis=0), LOCATION, atol=0.02)
    np.testing.assert_allclose(np.cov(sample.T), COVARIANCE, atol=0.03)
    np.testing.assert_allclose(to_numpy(distribution.covariance), COVARIANCE, rtol=1e-5)


@each_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_in_the_tails_are_finite(case, dtype):
    distribution = make(case, dtype=dtype)
    weights = distribution.trainable_weights
    x = ops.convert_to_tensor(
        np.concatenate([sign * 10.0**k * np.ones([1, 3]) for sign in (-1, 1) for k in (0, 1, 3)]),
        dtype=dtype,
    )

    def run(x, *values):
        return with_weights(distribution, lambda: distribution.log_prob(x))(*values)

    @fast
    def differentiate(*primals):
        log_prob, pullback = vjp(run, primals)
        return log_prob, pullback(ops.ones_like(log_prob))

    log_prob, gradients = differentiate(x, *(weight.value for weight in weights))
    assert case == "Uniform" or np.all(np.isfinite(to_numpy(log_prob)))
    for gradient in map(to_numpy, gradients):
        assert np.all(np.isfinite(gradient))
        assert case == "Uniform" or np.any(gradient != 0)


def test_gradient_of_student_t_where_its_squared_distance_is_the_degrees_of_freedom():
    """There the formula that avoids overflow changes its form; f'(x) = -(ν + 1) x / (ν + x²)."""
    x = ops.convert_to_tensor([[-2.0], [2.0], [1.9], [2.1]])
    distribution = StudentT([1], degrees_of_freedom=4.0)
    # Exactly 4, not up to the rounding of the inverse of softplus.
    distribution.get_shapes = lambda changes: (ops.convert_to_tensor([4.0]),)

    @fast
    def differentiate(x):
        log_prob, pullback = vjp(distribution.log_prob, [x])
        return pullback(ops.ones_like(log_prob))

    (gradient,) = differentiate(x)
    x = to_numpy(x)
    np.testing.assert_allclose(to_numpy(gradient), -5.0 * x / (4.0 + x**2), rtol=1e-5)


def test_student_t_far_out():
    """Where squares overflow."""
    x = np.array([[1e25], [-1e30]], "float32")
    log_prob = log_prob_of(StudentT([1], degrees_of_freedom=0.5), x)
    expected = scipy.stats.t(0.5).logpdf(x.astype("float64"))[:, 0]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    distribution = StudentT([1], degrees_of_freedom=0.02)
    sample = sample_of(distribution, 1000, seed=0)
    assert np.all(np.isfinite(sample))
    assert np.all(np.isfinite(log_prob_of(distribution, sample)))


@each_learnt_case
def test_samples_are_differentiable(case):
    """The gradient of the sum of x / (1 + x²), by automatic and finite differences of one seed."""
    distribution = make(case, dtype="float64")
    weights = distribution.trainable_weights

    def summarise():
        sample = distribution.sample(200, seed=5)
        return ops.sum(sample / (1.0 + ops.square(sample)))

    function = fast(with_weights(distribution, summarise))
    values = [to_numpy(weight.value) for weight in weights]
    value, pullback = vjp(function, [ops.convert_to_tensor(v, dtype="float64") for v in values])
    gradients = pullback(ops.ones_like(value))
    random = np.random.default_rng(0)
    for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        direction = random.normal(size=weight.shape)
        ends = []
        for step in (-1e-6, 1e-6):
            moved = [v + step * direction if i == index else v for i, v in enumerate(values)]
            ends.append(
                float(
                    to_numpy(function(*(ops.convert_to_tensor(v, dtype="float64") for v in moved)))
                )
            )
        received = np.sum(to_numpy(gradient) * direction)
        assert received == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-5, abs=1e-8)
        assert received != 0 or "logits" in weight.path


@each_case
def test_seeds(case):
    distribution = make(case)
    sample = to_numpy(distribution.sample(20, seed=3))
    assert sample.shape == (20, 3)
    np.testing.assert_array_equal(sample, to_numpy(distribution.sample(20, seed=np.int64(3))))
    np.testing.assert_array_equal(sample, to_numpy(make(case).sample(20, seed=3)))
    assert not np.any(sample == to_numpy(distribution.sample(20, seed=4)))
    assert not np.any(to_numpy(distribution.sample(20)) == to_numpy(distribution.sample(20)))
    keras.utils.set_random_seed(1)
    again = to_numpy(make(case).sample(20))
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(again, to_numpy(make(case).sample(20)))


@each_case
def test_compiled_samples(case):
    """They are as those that are not compiled, and without a seed, every call gives others."""
    distribution = make(case)
    seeded = jit(lambda: distribution.sample(20, seed=3))
    np.testing.assert_allclose(
        to_numpy(seeded()), to_numpy(distribution.sample(20, seed=3)), rtol=1e-5, atol=1e-5
    )
    state = distribution.seed_generator.state

    @jit
    def unseeded(value):
        # What Keras does on JAX, where compiled functions cannot assign to variables.
        with keras.StatelessScope(state_mapping=[(state, value)]) as scope:
            sample = distribution.sample(20)
        return sample, scope.get_current_value(state)

    first, value = unseeded(state.value)
    second, _ = unseeded(value)
    assert not np.any(to_numpy(first) == to_numpy(second))
    if keras.backend.backend() == "tensorflow":
        for xla in (False, True):
            sample = jit(lambda: distribution.sample(20), xla=xla)
            assert not np.any(to_numpy(sample()) == to_numpy(sample()))
        count = ops.convert_to_tensor(7)
        dynamic = jit(lambda count: distribution.sample(count, seed=3))(count)
        np.testing.assert_allclose(
            to_numpy(dynamic), to_numpy(distribution.sample(7, seed=3)), rtol=1e-5, atol=1e-5
        )


@each_case
def test_compiled_log_prob_is_that_of_eager_execution(case):
    distribution = make(case)
    x = ops.convert_to_tensor(events().astype("float32"))
    expected = to_numpy(distribution.log_prob(x))
    for xla in (False, True):
        received = to_numpy(jit(distribution, xla=xla)(x))
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)


@each_case
def test_saved_functional_model_loads(case, tmp_path):
    inputs = keras.Input([3])
    outputs = make(case, shape=None)(inputs)
    assert tuple(outputs.shape) == (None,)
    model = keras.Model(inputs, outputs)
    shake(model.layers[-1])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()
    x = events().astype("float32")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    np.testing.assert_array_equal(
        to_numpy(loaded.layers[-1].sample(4, seed=0)), to_numpy(model.layers[-1].sample(4, seed=0))
    )


@each_case
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_nothing(case, policy):
    """Neither weights nor events nor log-densities."""
    distribution = make(case, dtype=policy)
    x = events(scale=30.0).astype("float32")
    log_prob = distribution.log_prob(x)
    assert keras.backend.standardize_dtype(log_prob.dtype) == "float32"
    np.testing.assert_array_equal(to_numpy(log_prob), to_numpy(make(case).log_prob(x)))
    sample = distribution.sample(3, seed=0)
    assert keras.backend.standardize_dtype(sample.dtype) == "float32"
    np.testing.assert_array_equal(to_numpy(sample), to_numpy(make(case).sample(3, seed=0)))


@pytest.mark.parametrize("case", [k for k in CASES if k != "Factorial"])
def test_shape_is_read_from_the_input(case):
    distribution = make(case, shape=None)
    assert distribution.event_shape is None
    with pytest.raises(ValueError, match=r"event shape .* should be known"):
        distribution.sample(2)
    distribution.build((None, 3))
    assert distribution.event_shape == (3,)
    np.testing.assert_array_equal(
        to_numpy(distribution.sample(2, seed=0)), to_numpy(make(case).sample(2, seed=0))
    )


@pytest.mark.parametrize(
    "make_distribution",
    [
        StandardNormal,
        DiagonalNormal,
        MultivariateNormal,
        Uniform,
        Logistic,
        StudentT,
        lambda shape: GaussianMixture(2, shape, location=0.0),
    ],
)
def test_events_with_several_axes(make_distribution):
    image, vector = make_distribution([2, 3]), make_distribution([6])
    if image.trainable_weights:
        start = np.arange(6.0) * np.ones([*vector.location.shape])
        vector.location.assign(start)
        image.location.assign(start.reshape(image.location.shape))
    x = np.random.default_rng(0).uniform(size=(5, 2, 3)).astype("float32")
    np.testing.assert_allclose(
        log_prob_of(image, x), log_prob_of(vector, x.reshape(5, 6)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(
        sample_of(image, 4, seed=0), sample_of(vector, 4, seed=0).reshape(4, 2, 3)
    )


def test_training_finds_the_likeliest_parameters():
    x = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], size=(256, 2)).astype("float32")
    distribution = DiagonalNormal()
    model = keras.Sequential([keras.Input([2]), distribution])
    model.compile(keras.optimizers.Adam(0.1), loss=lambda _, log_prob: -log_prob)
    steps = np.tile(x, (200, 1))  # in one epoch, which costs less
    model.fit(steps, np.zeros(len(steps)), batch_size=256, shuffle=False, verbose=0)
    np.testing.assert_allclose(to_numpy(distribution.location), x.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(to_numpy(distribution.scale), x.std(axis=0), rtol=0.02)


@each_case
def test_fixed_distributions_are_not_trained(case):
    distribution = make(case, trainable=False)
    assert distribution.trainable_weights == []
    assert not type(distribution).from_config(distribution.get_config()).trainable


@each_case
def test_nan_and_infinite_events(case):
    x = np.array([[np.nan, 0.5, 3.0], [0.5, -np.inf, 3.0], [0.5, -1.0, 3.0]], "float32")
    log_prob = log_prob_of(make(case), x)
    assert np.isnan(log_prob[0])
    assert np.isneginf(log_prob[1])
    assert np.isfinite(log_prob[2])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize("cls", [DiagonalNormal, Logistic, StudentT])
def test_tiny_and_huge_scales(cls, scale):
    z = np.array([[0.0], [2.0]], "float32")
    shifted = log_prob_of(cls([1], scale=scale), z * np.float32(scale))
    expected = log_prob_of(cls([1]), z) - math.log(scale)
    np.testing.assert_allclose(shifted, expected, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 4e-15), ("float32", 1e-6)])
def test_log_gamma_step(dtype, tolerance):
    """Γ(n + 1/2) / Γ(n) = √π n binom(2n, n) / 4ⁿ for integers, SciPy's value for small numbers."""
    expected = {x: scipy.special.gammaln(x + 0.5) - scipy.special.gammaln(x) for x in (0.005, 0.3)}
    for n in (1, 2, 3, 7, 20, 100, 5000):
        expected[n] = 0.5 * math.log(math.pi) + math.log(
            fractions.Fraction(n * math.comb(2 * n, n), 4**n)
        )
    expected[1e9] = 0.5 * math.log(1e9) - 0.125e-9
    x = ops.convert_to_tensor(np.array(list(expected)), dtype=dtype)
    received = to_numpy(fast(log_gamma_step)(x))
    np.testing.assert_allclose(received, list(expected.values()), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("make_distribution", "message"),
    [
        (lambda: StandardNormal([0]), "`shape` should hold positive lengths"),
        (lambda: DiagonalNormal(scale=0.0), "`scale` should be positive"),
        (lambda: DiagonalNormal(location=np.nan), "^`location` should be finite"),
        (lambda: MultivariateNormal(location=np.nan), "^`location` should be finite"),
        (lambda: MultivariateNormal([3], [1.0, 2.0]), "^`location` should broadcast to shape"),
        (lambda: GaussianMixture(1, location=np.nan), "^`location` should be finite"),
        (lambda: GaussianMixture(1, [3], location=[1.0, 2.0]), "^`location` should broadcast"),
        (lambda: GaussianMixture(1, scale=0.0), "^`scale` should be positive"),
        (lambda: GaussianMixture(1, [3], scale=[1.0, 2.0]), "^`scale` should broadcast"),
        (lambda: StudentT(degrees_of_freedom=np.inf), "^`degrees_of_freedom` should be finite"),
        (
            lambda: StudentT([3], degrees_of_freedom=[1.0, 2.0]),
            "^`degrees_of_freedom` should broad",
        ),
        (lambda: MultivariateNormal(covariance=np.nan), "^`covariance` should be finite"),
        (
            lambda: tools.check_values("labels", np.array([0.0, np.inf, np.nan])),
            r"^`labels` should be finite, .*Received: labels=\[inf\]",
        ),
        (
            lambda: tools.check_classes("labels", np.array([0.0, 3.0, np.nan]), 2),
            r"^`labels` should be integers from 0 to 1, .*Received: labels=\[3.0\]",
        ),
        (lambda: Uniform(low=np.nan), "^`low` should be finite"),
        (lambda: Uniform(high=np.inf), "^`high` should be finite"),
        (
            lambda: Uniform([3], high=[1.0, 2.0]),
            r"^`high` should broadcast to shape \(3,\). Received: high.shape=\(2,\)",
        ),
        (lambda: DiagonalNormal([3], location=[1.0, 2.0]), "`location` should broadcast to shape"),
        (lambda: Logistic([3], scale=[1.0, 2.0]), "`scale` should broadcast to shape"),
        (lambda: Uniform(low=1.0, high=[2.0, 1.0]), "`low` should be less than `high`"),
        (lambda: Uniform([3], low=[0.0, 0.5]), "`low` should broadcast to shape"),
        (lambda: StudentT(degrees_of_freedom=0.0), "`degrees_of_freedom` should be greater"),
        (lambda: StudentT(degrees_of_freedom=0.01), "`degrees_of_freedom` should be greater"),
        (lambda: MultivariateNormal(covariance=[[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: MultivariateNormal(covariance=[[1.0, 0.2], [0.0, 1.0]]), "symmetric"),
        (lambda: MultivariateNormal(covariance=np.ones([2, 3])), "^`covariance` should be a symm"),
        (
            lambda: MultivariateNormal(covariance=[[0.0]]),
            r"^`covariance` should be a symmetric and positive definite matrix. Received: covaria",
        ),
        (lambda: MultivariateNormal([3], covariance=np.eye(2)), r"`covariance` should have shape"),
        (lambda: GaussianMixture(0), "`component_count` should be an integer of at least 1"),
        (lambda: GaussianMixture(2, class_count=0), "`class_count` should be an integer"),
        (lambda: StandardNormal().build((None, None)), "axes of known length"),
        (lambda: StandardNormal([3]).build((None, 3, 1)), r"should have shape \(batch, \*\(3,\)\)"),
        (lambda: StandardNormal([3])(np.zeros([2, 4])), "incompatible with the layer"),
        (lambda: StandardNormal([3]).sample(-1), "`sample_count` should be an integer"),
        (lambda: StandardNormal([3]).sample(2.0), "`sample_count` should be an integer"),
        (lambda: StandardNormal([3]).sample(2, seed=-1), "`seed` should be an integer"),
    ],
)
def test_bad_arguments(make_distribution, message):
    with pytest.raises(ValueError, match=message):
        make_distribution()


@pytest.mark.parametrize(
    "make_distribution",
    [
        lambda: MultivariateNormal(np.zeros(4), np.eye(4)),
        lambda: MultivariateNormal([1.0, 2.0], np.eye(2)),
        lambda: DiagonalNormal(np.ones(4), np.ones(4)),
        lambda: Uniform(-1.0, 1.0),
    ],
)
def test_parameters_in_the_place_of_the_shape_are_told_of(make_distribution):
    with pytest.raises(TypeError, match=r"`shape` should be a list of integers.* by name"):
        make_distribution()


def test_subclass_without_methods():
    with pytest.raises(NotImplementedError, match="Distribution should implement `draw"):
        Distribution([2]).sample(1)
    with pytest.raises(
        NotImplementedError, match=r"^LocationScale should implement `standard_draw"
    ):
        LocationScale([2]).sample(1)
    with pytest.raises(NotImplementedError, match="LocationScale should implement `standard_log_"):
        LocationScale([2]).log_prob(np.zeros([1, 2]))


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("DiagonalNormal", ["location", "log_scale"]),
        ("MultivariateNormal", ["location", "lower", "log_diagonal"]),
        ("StudentT", ["location", "log_scale", "degrees_of_freedom"]),
        ("GaussianMixture", ["logits", "location", "log_scale"]),
    ],
)
def test_names_of_weights(case, names):
    assert [weight.name for weight in make(case).weights] == names


@each_learnt_case
def test_configurations_hold_the_first_parameters(case):
    distribution = make(case)
    copy = type(distribution).from_config(distribution.get_config())
    for weight, other in zip(distribution.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(other))


@pytest.mark.parametrize("cls", [StandardNormal, DiagonalNormal, MultivariateNormal, Uniform])
def test_samples_have_the_digits_of_float64(cls):
    sample = sample_of(cls([1], dtype="float64"), 50, seed=0)
    assert np.mean(sample == sample.astype("float32")) < 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neither_end_of_an_open_interval_is_drawn(dtype, monkeypatch):
    ends = [0.0, 0.5, 1.0]
    monkeypatch.setattr(
        tools, "draw_uniform", lambda shape, dtype, seed: ops.convert_to_tensor(ends, dtype=dtype)
    )
    received = to_numpy(tools.draw_open_uniform([3], dtype, 0))
    assert received.dtype == dtype
    zero, one = np.array([0.0, 1.0], dtype)
    expected = np.array([np.finfo(dtype).epsneg, 0.5, np.nextafter(one, zero)], dtype)
    np.testing.assert_array_equal(received, expected)


def test_seeds_are_split():
    seeds = tools.split_seed(3, 2)
    assert len(set(seeds)) == 2
    assert len({*seeds, *tools.split_seed(4, 3)}) == 5
    generator = keras.random.SeedGenerator(0)
    assert tools.split_seed(generator, 2) == [generator, generator]


def test_bounds_belong_to_the_uniform_distribution():
    log_prob = log_prob_of(Uniform([2], -1.0, [1.0, 3.0]), [[-1.0, 3.0], [1.0, -1.0]])
    np.testing.assert_allclose(log_prob, -np.log(8.0), rtol=1e-6)
