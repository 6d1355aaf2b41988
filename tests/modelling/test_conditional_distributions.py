"""Distributions whose weights a network changes, given a context."""

import math

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import (
    DiagonalNormal,
    Distribution,
    GaussianMixture,
    Logistic,
    MultivariateNormal,
    StandardNormal,
    StudentT,
    Uniform,
)
from gyoza.testing.functions import compile_on_jax as fast

pytestmark = pytest.mark.compiled_by()

CONTEXT = np.random.default_rng(1).normal(size=(5, 2))
X = np.random.default_rng(2).normal(scale=2.0, size=(5, 3))
LABELS = np.array([0, 1, 1, 0, 1])


def independent(distribution):
    return lambda x, *parameters: distribution(*parameters).logpdf(x).sum()


def multivariate_normal(x, location, lower, log_diagonal):
    root = np.tril(lower, -1) + np.diag(np.exp(log_diagonal))
    return scipy.stats.multivariate_normal(location, root @ root.T).logpdf(x)


def mixture(x, logits, location, log_scale):
    parts = scipy.stats.norm(location, np.exp(log_scale)).logpdf(x).sum(axis=-1)
    by_class = scipy.special.logsumexp(parts + scipy.special.log_softmax(logits, axis=-1), axis=-1)
    return scipy.special.logsumexp(by_class) - math.log(np.size(by_class))


# Class, its arguments, and SciPy's log-density of one event, given the weights.
CASES = {
    "DiagonalNormal": (
        DiagonalNormal,
        {},
        independent(lambda location, log_scale: scipy.stats.norm(location, np.exp(log_scale))),
    ),
    "MultivariateNormal": (MultivariateNormal, {}, multivariate_normal),
    "Logistic": (
        Logistic,
        {},
        independent(lambda location, log_scale: scipy.stats.logistic(location, np.exp(log_scale))),
    ),
    "StudentT": (
        StudentT,
        {},
        independent(
            lambda location, log_scale, raw: scipy.stats.t(
                0.01 + np.logaddexp(0.0, raw), location, np.exp(log_scale)
            ),
        ),
    ),
    "GaussianMixture": (GaussianMixture, {"component_count": 2}, mixture),
    "GaussianMixture with classes": (
        GaussianMixture,
        {"component_count": 2, "class_count": 2},
        mixture,
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def tensors(dtype="float64"):
    return [ops.convert_to_tensor(array, dtype=dtype) for array in (X, CONTEXT)]


def make(case, dtype="float64", **kwargs):
    """Makes a distribution of three dimensions, and its plain twin without a network."""
    cls, arguments, _ = CASES[case]
    network = MLP([4], "softplus", dtype=dtype)
    return cls(shape=[3], context_network=network, dtype=dtype, **arguments, **kwargs)


def make_plain(case):
    cls, arguments, _ = CASES[case]
    return cls(shape=[3], dtype="float64", **arguments)


def build(distribution):
    """Builds a distribution, and moves all its weights away from where they start."""
    distribution(keras.Input(X.shape[1:]), context=keras.Input(CONTEXT.shape[1:]))
    random = np.random.default_rng(0)
    for weight in distribution.weights:
        weight.assign(to_numpy(weight) + random.normal(scale=0.4, size=weight.shape))
    return distribution


def with_weights(weights, function):
    """Makes a function of weights, and of what it takes itself, of one that uses them."""

    def run(values, *args):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return function(*args)

    return run


def parameters_of(distribution, context):
    """The changed weights of each context, in full shape."""
    count = len(distribution.weights) - len(distribution.context_network.weights)
    weights = distribution.weights[:count]
    changes = to_numpy(distribution.context_network(context))
    ends = np.cumsum([math.prod(weight.shape) for weight in weights])
    parts = np.split(changes, ends[:-1], axis=1)
    return [
        to_numpy(weight) + part.reshape(-1, *weight.shape)
        for weight, part in zip(weights, parts, strict=True)
    ]


@each_case
def test_log_prob_is_that_of_scipy_given_the_changed_weights(case):
    distribution = build(make(case))
    x, context = tensors()
    log_prob = to_numpy(fast(lambda x: distribution.log_prob(x, context=context))(x))
    parameters = parameters_of(distribution, context)
    expected = [CASES[case][2](*row) for row in zip(X, *parameters, strict=True)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-12)
    assert np.ptp(expected) > 1.0


def test_log_prob_given_context_and_labels_is_that_of_scipy():
    distribution = build(make("GaussianMixture with classes"))
    x, context = tensors()
    expected = [
        mixture(x, *(parameter[[label]] for parameter in row))
        for x, label, *row in zip(X, LABELS, *parameters_of(distribution, context), strict=True)
    ]
    received = fast(lambda x: distribution.log_prob(x, context=context, labels=LABELS))(x)
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-12)


@each_case
def test_samples_are_those_of_a_distribution_with_the_changed_weights(case):
    """Each sample is seen in its own context."""
    distribution, plain = build(make(case)), make_plain(case)
    labels = {"labels": LABELS} if "classes" in case else {}
    _, context = tensors()
    received = to_numpy(fast(lambda c: distribution.sample(5, 3, context=c, **labels))(context))
    draw = fast(with_weights(plain.weights, lambda: plain.sample(5, seed=3, **labels)))
    rows = zip(*parameters_of(distribution, context), strict=True)
    for k, values in enumerate(rows):
        expected = to_numpy(draw([ops.convert_to_tensor(value) for value in values]))
        np.testing.assert_allclose(received[k], expected[k], rtol=1e-6)


@pytest.mark.parametrize("case", ["Logistic", "MultivariateNormal", "GaussianMixture"])
def test_all_samples_can_be_seen_in_one_context(case):
    distribution = build(make(case))
    _, context = tensors()

    @fast
    def draw(context):
        return [
            distribution.sample(5, seed=3, context=one)
            for one in (context[0], context[:1], ops.repeat(context[:1], 5, axis=0))
        ]

    first, second, expected = map(to_numpy, draw(context))
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    np.testing.assert_allclose(second, expected, rtol=1e-5)
    assert np.all(np.std(expected, axis=0) > 0.0)


@each_case
def test_mlp_starts_where_the_context_does_not_matter(case):
    distribution, plain = make(case), make_plain(case)
    distribution(keras.Input([3]), context=keras.Input([2]))
    plain.set_weights(distribution.get_weights()[: len(plain.weights)])

    @fast
    def run(x, context):
        log_probs = distribution.log_prob(x, context=context), plain.log_prob(x)
        samples = distribution.sample(5, seed=0, context=context), plain.sample(5, seed=0)
        return log_probs, samples

    for received, expected in run(*tensors()):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-12)


@each_case
def test_gradients_reach_weights_and_network(case):
    distribution = build(make(case, dtype="float32"))
    x, context = tensors("float32")
    weights = distribution.trainable_weights
    for function in (
        lambda context: distribution.log_prob(x, context=context),
        lambda context: distribution.sample(5, seed=0, context=context),
    ):

        @jit
        def differentiate(*primals, function=function):
            run = with_weights(weights, function)
            outputs, pullback = vjp(lambda context, *values: run(values, context), primals)
            return pullback(ops.ones_like(outputs))

        gradients = differentiate(context, *(weight.value for weight in weights))
        names = ["context", *(weight.path for weight in weights)]
        for name, gradient in zip(names, map(to_numpy, gradients), strict=True):
            assert np.all(np.isfinite(gradient))
            assert np.any(gradient != 0) or "logits" in name


@each_case
def test_saved_functional_model_loads(case, tmp_path):
    inputs = keras.Input([3]), keras.Input([2])
    cls, arguments, _ = CASES[case]
    distribution = cls(context_network=MLP([4], "softplus"), **arguments)
    model = keras.Model(inputs, distribution(inputs[0], context=inputs[1]))
    build(distribution)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arrays = tensors("float32")
    np.testing.assert_array_equal(to_numpy(fast(loaded)(arrays)), to_numpy(fast(model)(arrays)))
    again = next(layer for layer in loaded.layers if isinstance(layer, Distribution))
    assert again.context_size == 2
    assert again.context_network is not None
    for received, expected in zip(again.get_weights(), distribution.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class OnlySampled(keras.Layer):
    """A layer that holds a distribution without calling it."""

    def __init__(self, distribution, **kwargs):
        super().__init__(**kwargs)
        self.distribution = distribution

    def call(self, context):
        return self.distribution.sample(5, seed=0, context=context)

    def get_config(self):
        part = keras.saving.serialize_keras_object(self.distribution)
        return {**super().get_config(), "distribution": part}

    @classmethod
    def from_config(cls, config):
        part = keras.saving.deserialize_keras_object(config.pop("distribution"))
        return cls(part, **config)


def test_distribution_that_was_only_sampled_loads(tmp_path):
    layer = OnlySampled(make("Logistic", dtype="float32"))
    _, context = tensors("float32")
    model = keras.Sequential([keras.Input([2], batch_size=5), layer])
    build(layer.distribution)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(fast(loaded)(context)), to_numpy(fast(model)(context)))


@each_case
def test_compiled_execution_agrees_with_eager_execution(case):
    distribution = build(make(case))
    x, context = tensors()
    log_prob = to_numpy(distribution.log_prob(x, context=context))

    def run(x, context):
        return distribution.log_prob(x, context=context)

    for xla in (False, True):
        received = to_numpy(jit(run, xla=xla)(x, context))
        np.testing.assert_allclose(received, log_prob, rtol=1e-10)
    sample = jit(lambda c: distribution.sample(5, seed=1, context=c))(context)
    expected = distribution.sample(5, seed=1, context=CONTEXT)
    np.testing.assert_allclose(to_numpy(sample), to_numpy(expected), rtol=1e-6, atol=1e-6)
    if keras.backend.backend() == "tensorflow":  # XLA has random numbers of its own there
        sample = jit(lambda c: distribution.sample(5, context=c), xla=True)(context)
        assert np.all(np.isfinite(to_numpy(sample)))


@pytest.mark.parametrize("case", ["MultivariateNormal", "StudentT"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(case, policy):
    """The network computes in half precision, and nothing else does."""
    narrow, wide = build(make(case, dtype=policy)), build(make(case, dtype="float32"))
    wide.set_weights(narrow.get_weights())
    x, context = tensors("float32")
    received = fast(lambda x: narrow.log_prob(x, context=context))(x)
    expected = fast(lambda x: wide.log_prob(x, context=context))(x)
    assert keras.backend.standardize_dtype(received.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=0.05)


@pytest.mark.parametrize(
    "network",
    [keras.layers.Dense(6), keras.Sequential([keras.layers.Dense(6)])],
    ids=["layer", "model"],
)
def test_any_layer_can_be_the_network(network):
    distribution = build(DiagonalNormal(shape=[3], context_network=network))
    assert len(distribution.trainable_weights) == 4
    location, log_scale = parameters_of(distribution, CONTEXT.astype("float32"))
    expected = scipy.stats.norm(location, np.exp(log_scale)).logpdf(X).sum(axis=1)
    received = distribution.log_prob(X, context=CONTEXT)
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-4)


def test_training_finds_the_parameters_of_each_class():
    random = np.random.default_rng(0)
    context = np.eye(2, dtype="float32")[np.arange(400) % 2]
    noise = random.normal(size=(400, 1)) * (context @ [[0.5], [2.0]])
    x = (noise + context @ [[3.0], [-1.0]]).astype("float32")
    distribution = DiagonalNormal([1], context_network=MLP([8], "tanh"))
    inputs = keras.Input([1]), keras.Input([2])
    model = keras.Model(inputs, distribution(inputs[0], context=inputs[1]))
    model.compile(keras.optimizers.Adam(0.05), loss=lambda _, log_prob: -log_prob)
    steps = [np.tile(array, (150, 1)) for array in (x, context)]  # in one epoch, which costs less
    model.fit(steps, np.zeros(len(steps[0])), batch_size=400, shuffle=False, verbose=0)
    for k in (0, 1):
        sample = to_numpy(distribution.sample(50_000, seed=0, context=np.eye(2)[k]))
        assert sample.mean() == pytest.approx(x[k::2].mean(), abs=0.05)
        assert sample.std() == pytest.approx(x[k::2].std(), rel=0.05)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Exponential(Distribution):
    """A distribution of a user, which takes a context in the documented way."""

    def create_weights(self):
        self.log_rate = self.add_weight(
            shape=self.event_shape, initializer="zeros", name="log_rate", autocast=False
        )

    def compute_log_prob(self, x, changes=None):
        log_rate = self.log_rate + (0.0 if changes is None else changes["log_rate"])
        return ops.sum(log_rate - ops.exp(log_rate) * x, axis=-1)

    def draw(self, sample_count, seed, changes=None):
        log_rate = self.log_rate + (0.0 if changes is None else changes["log_rate"])
        uniform = keras.random.uniform((sample_count, self.dimension_count), seed=seed)
        return -ops.log1p(-uniform) * ops.exp(-log_rate)


def test_subclass_of_a_user():
    distribution = Exponential(shape=[2], context_network=MLP([4]))
    x = np.abs(X[:, :2])
    distribution.log_prob(x, context=CONTEXT)
    for weight in distribution.weights:
        weight.assign(np.random.default_rng(0).normal(scale=0.4, size=weight.shape))
    (log_rate,) = parameters_of(distribution, CONTEXT.astype("float32"))
    expected = scipy.stats.expon(scale=np.exp(-log_rate)).logpdf(x).sum(axis=1)
    received = distribution.log_prob(x, context=CONTEXT)
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-4)
    sample = to_numpy(fast(lambda c: distribution.sample(10_000, 0, context=c))(CONTEXT[0]))
    np.testing.assert_allclose(sample.mean(axis=0), np.exp(-log_rate[0]), rtol=0.06)


def test_properties():
    assert not DiagonalNormal().accepts_context
    assert make("Logistic").accepts_context
    assert not make("GaussianMixture").accepts_labels
    assert make("GaussianMixture with classes").accepts_labels
    assert not StandardNormal().accepts_labels


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: StandardNormal(context_network=MLP([4])), "`context_network` should be omitted"),
        (lambda: Uniform(context_network=MLP([4])), "`context_network` should be omitted"),
        (lambda: make("Logistic").log_prob(X), "should be given a `context`"),
        (lambda: make("Logistic").sample(2), "should be given a `context`"),
        (
            lambda: DiagonalNormal([3]).log_prob(X, context=CONTEXT),
            r"`context` should be omitted.*Received: context.shape=\(5, 2\)",
        ),
        (lambda: DiagonalNormal([3]).sample(5, context=CONTEXT), "`context` should be omitted"),
        (
            lambda: make("Logistic").log_prob(X, context=CONTEXT[:4]),
            r"should have shape \(5, context_size\).*Received: context.shape=\(4, 2\)",
        ),
        (
            lambda: make("Logistic").log_prob(X, context=CONTEXT[0]),
            r"should have shape .*Received: context.shape=\(2,\)",
        ),
        (
            lambda: make("Logistic").sample(4, context=CONTEXT),
            r"should have shape \(1 or 4, context_size\)",
        ),
        (
            lambda: DiagonalNormal([3], context_network=keras.layers.Dense(5)).sample(
                5, context=CONTEXT
            ),
            r"outputs of shape \(batch, 6\).*Received: outputs of shape \(None, 5\)",
        ),
    ],
)
def test_bad_arguments(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_context_of_another_size():
    distribution = make("Logistic")
    distribution.sample(5, context=CONTEXT)
    with pytest.raises(ValueError, match=r"should have shape \(5, 2\).*context.shape=\(5, 1\)"):
        distribution.log_prob(X, context=CONTEXT[:, :1])


def test_network_that_is_not_a_layer():
    with pytest.raises(TypeError, match="`context_network` should be a Keras layer or model"):
        DiagonalNormal(context_network=lambda context: context)
