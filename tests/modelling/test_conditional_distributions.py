"""Distributions whose weights a network changes, given a context."""

import math

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops

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


def to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def make(case, dtype="float64", shape=(3,), network=None, **kwargs):
    """Makes a distribution whose network is far from zero."""
    cls, arguments, _ = CASES[case]
    network = MLP([4], "tanh", dtype=dtype) if network is None else network
    return cls(shape=shape, context_network=network, dtype=dtype, **arguments, **kwargs)


def shake(distribution):
    """Moves all weights, also those of the network, away from where they start."""
    random = np.random.default_rng(0)
    for weight in distribution.weights:
        weight.assign(weight + random.normal(scale=0.4, size=weight.shape))


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
    distribution = make(case)
    log_prob = jit(lambda x, context: distribution.log_prob(x, context=context))
    tensors = [ops.convert_to_tensor(array, dtype="float64") for array in (X, CONTEXT)]
    distribution.log_prob(X[:1], context=CONTEXT[:1])
    shake(distribution)
    parameters = parameters_of(distribution, CONTEXT)
    expected = [CASES[case][2](*row) for row in zip(X, *parameters, strict=True)]
    np.testing.assert_allclose(to_numpy(log_prob(*tensors)), expected, rtol=1e-12)
    assert np.ptp(expected) > 1.0


def test_log_prob_given_context_and_labels_is_that_of_scipy():
    distribution = make("GaussianMixture with classes")
    distribution.log_prob(X, context=CONTEXT)
    shake(distribution)
    expected = [
        mixture(x, *(parameter[[label]] for parameter in row))
        for x, label, *row in zip(X, LABELS, *parameters_of(distribution, CONTEXT), strict=True)
    ]
    received = distribution.log_prob(X, context=CONTEXT, labels=LABELS)
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-12)


@each_case
def test_samples_are_those_of_a_distribution_with_the_changed_weights(case):
    """Each sample is seen in its own context, or all in one."""
    distribution = make(case)
    distribution.log_prob(X, context=CONTEXT)
    shake(distribution)
    plain = CASES[case][0](shape=[3], dtype="float64", **CASES[case][1])
    labels = {"labels": LABELS} if "classes" in case else {}
    received = to_numpy(distribution.sample(5, seed=3, context=CONTEXT, **labels))
    for k in range(5):
        parameters = parameters_of(distribution, CONTEXT[[k]])
        for weight, value in zip(plain.weights, parameters, strict=True):
            weight.assign(value[0])
        expected = to_numpy(plain.sample(5, seed=3, **labels))
        np.testing.assert_allclose(received[k], expected[k], rtol=1e-6)
    for context in (CONTEXT[4], CONTEXT[4:]):
        same = to_numpy(distribution.sample(5, seed=3, context=context, **labels))
        np.testing.assert_allclose(same, expected, rtol=1e-6)


@each_case
def test_mlp_starts_where_the_context_does_not_matter(case):
    distribution = make(case)
    log_prob = distribution.log_prob(X, context=CONTEXT)
    plain = CASES[case][0](shape=[3], dtype="float64", **CASES[case][1])
    plain.set_weights(distribution.get_weights()[: len(plain.weights)])
    np.testing.assert_allclose(to_numpy(log_prob), to_numpy(plain.log_prob(X)), rtol=1e-13)
    np.testing.assert_allclose(
        to_numpy(distribution.sample(5, seed=0, context=CONTEXT)),
        to_numpy(plain.sample(5, seed=0)),
        rtol=1e-6,
    )


@each_case
def test_gradients_reach_weights_and_network(case):
    distribution = make(case, dtype="float32")
    x, context = X.astype("float32"), ops.convert_to_tensor(CONTEXT.astype("float32"))
    distribution.log_prob(x, context=context)
    shake(distribution)
    weights = distribution.trainable_weights

    def run(function):
        def with_weights(context, *values):
            with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
                return function(context)

        def gradients(*primals):
            outputs, pullback = vjp(with_weights, primals)
            return pullback(ops.ones_like(outputs))

        return jit(gradients)(context, *(weight.value for weight in weights))

    for function in (
        lambda context: distribution.log_prob(x, context=context),
        lambda context: distribution.sample(5, seed=0, context=context),
    ):
        names = ["context", *(weight.path for weight in weights)]
        for name, gradient in zip(names, map(to_numpy, run(function)), strict=True):
            assert np.all(np.isfinite(gradient))
            assert np.any(gradient != 0) or "logits" in name


@each_case
def test_saved_functional_model_loads(case, tmp_path):
    inputs = keras.Input([3]), keras.Input([2])
    distribution = make(case, dtype="float32", shape=None)
    model = keras.Model(inputs, distribution(inputs[0], context=inputs[1]))
    shake(distribution)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arrays = X.astype("float32"), CONTEXT.astype("float32")
    np.testing.assert_array_equal(to_numpy(loaded(arrays)), to_numpy(model(arrays)))
    again = next(layer for layer in loaded.layers if isinstance(layer, Distribution))
    assert again.context_size == 2
    np.testing.assert_array_equal(
        to_numpy(again.sample(2, seed=0, context=arrays[1][0])),
        to_numpy(distribution.sample(2, seed=0, context=arrays[1][0])),
    )


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
    context = CONTEXT.astype("float32")
    layer(context)
    model = keras.Sequential([keras.Input([2], batch_size=5), layer])
    shake(layer.distribution)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(context)), to_numpy(model(context)))


@each_case
@pytest.mark.parametrize("xla", [False, True])
def test_compiled_execution(case, xla):
    distribution = make(case, dtype="float32")
    arrays = X.astype("float32"), CONTEXT.astype("float32")
    eager = distribution.log_prob(arrays[0], context=arrays[1])
    shake(distribution)
    eager = distribution.log_prob(arrays[0], context=arrays[1])
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    compiled = jit(lambda x, context: distribution.log_prob(x, context=context), xla=xla)
    np.testing.assert_allclose(to_numpy(compiled(*tensors)), to_numpy(eager), rtol=1e-5)
    sample = jit(lambda context: distribution.sample(5, seed=1, context=context), xla=xla)
    received, expected = (
        to_numpy(sample(tensors[1])),
        distribution.sample(5, seed=1, context=arrays[1]),
    )
    assert np.all(np.isfinite(received))
    if not xla or keras.backend.backend() != "tensorflow":  # XLA has its own random numbers there
        np.testing.assert_allclose(received, to_numpy(expected), rtol=1e-5, atol=1e-5)


@each_case
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(case, policy):
    """The network computes in half precision, and nothing else does."""
    distribution = make(case, dtype=policy)
    arrays = X.astype("float32"), CONTEXT.astype("float32")
    distribution.log_prob(arrays[0], context=arrays[1])
    shake(distribution)
    wide = make(case, dtype="float32")
    wide.log_prob(arrays[0], context=arrays[1])
    wide.set_weights(distribution.get_weights())
    received = distribution.log_prob(arrays[0], context=arrays[1])
    assert keras.backend.standardize_dtype(received.dtype) == "float32"
    np.testing.assert_allclose(
        to_numpy(received), to_numpy(wide.log_prob(arrays[0], context=arrays[1])), rtol=0.05
    )


@pytest.mark.parametrize(
    "network",
    [keras.layers.Dense(6), keras.Sequential([keras.layers.Dense(6)])],
    ids=["layer", "model"],
)
def test_any_layer_can_be_the_network(network):
    distribution = DiagonalNormal(shape=[3], context_network=network)
    assert distribution.accepts_context
    distribution.log_prob(X, context=CONTEXT)
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
    shake(distribution)
    (log_rate,) = parameters_of(distribution, CONTEXT.astype("float32"))
    expected = scipy.stats.expon(scale=np.exp(-log_rate)).logpdf(x).sum(axis=1)
    received = distribution.log_prob(x, context=CONTEXT)
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-4)
    sample = to_numpy(distribution.sample(10_000, seed=0, context=CONTEXT[0]))
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


def test_network_that_is_no_layer():
    with pytest.raises(TypeError, match="`context_network` should be a Keras layer or model"):
        DiagonalNormal(context_network=lambda context: context)
