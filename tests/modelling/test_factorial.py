"""Products of distributions, and labels of their factors, some of them unknown."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.distributions import (
    DiagonalNormal,
    Factorial,
    GaussianMixture,
    LabelledNormal,
    MultivariateNormal,
    StandardNormal,
)
from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel
from gyoza.testing.functions import compile_on_jax as fast

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by(),
]

MEANS = np.array([[0.0, 1.0], [3.0, -1.0], [-2.0, 2.0]])  # of three classes
CENTRES = np.array([[-2.0], [2.0]])  # of two classes
UNKNOWN = np.nan


def make(dtype="float64", **kwargs):
    """Four blocks: without labels, with a class, with a value, and with another class."""
    return Factorial(
        [
            MultivariateNormal(covariance=[[1.0, 0.5], [0.5, 2.0]], dtype=dtype),
            GaussianMixture(1, class_count=3, location=MEANS[:, None], scale=0.5, dtype=dtype),
            LabelledNormal(noise=0.3, location=1.0, scale=2.0, dtype=dtype),
            GaussianMixture(1, class_count=2, location=CENTRES[:, None], dtype=dtype),
        ],
        [2, 2, 1, 1],
        dtype=dtype,
        **kwargs,
    )


def log_prob_by_scipy(x, labels):
    """What `make` gives, for one event."""
    first = scipy.stats.multivariate_normal([0, 0], [[1.0, 0.5], [0.5, 2.0]]).logpdf(x[:2])
    classes = scipy.stats.norm(MEANS, 0.5).logpdf(x[2:4]).sum(axis=1)
    second = scipy.special.logsumexp(classes) - np.log(3) if labels[0] == -1 else classes[labels[0]]
    is_known = not np.isnan(labels[1])
    location, scale = (labels[1], 0.3) if is_known else (1.0, (0.3**2 + 2.0**2) ** 0.5)
    third = scipy.stats.norm(location, scale).logpdf(x[4])
    classes = scipy.stats.norm(CENTRES[:, 0], 1.0).logpdf(x[5])
    fourth = scipy.special.logsumexp(classes) - np.log(2) if labels[2] == -1 else classes[labels[2]]
    return first + second + third + fourth


@pytest.mark.parametrize(
    "labels",
    [
        [(2, 0.5, 1), (0, -1.0, 0), (1, 2.0, 1)],
        [(-1, 0.5, 1), (0, UNKNOWN, 0), (1, 2.0, -1)],
        [(-1, UNKNOWN, -1)] * 3,
    ],
    ids=["supervised", "semi-supervised", "unsupervised"],
)
def test_log_prob_is_the_sum_of_those_of_the_factors(labels):
    distribution = make()
    assert distribution.event_shape == (6,)
    assert distribution.label_count == 3
    x = np.random.default_rng(0).normal(size=(3, 6))
    events, tensor = (ops.convert_to_tensor(a, dtype="float64") for a in (x, np.array(labels)))
    expected = [log_prob_by_scipy(*row) for row in zip(x, labels, strict=True)]
    for given in (tensor, np.array(labels)):
        log_prob = fast(lambda x, given=given: distribution.log_prob(x, labels=given))(events)
        np.testing.assert_allclose(to_numpy(log_prob), expected, rtol=1e-12)
    if labels[0] == labels[1]:
        np.testing.assert_allclose(
            to_numpy(fast(distribution.log_prob)(events)), expected, rtol=1e-12
        )


def test_samples():
    distribution = make("float32")
    labels = np.repeat([[2, 0.5, -1], [-1, UNKNOWN, 1]], 20_000, axis=0)
    sample = fast(lambda: distribution.sample(40_000, seed=0, labels=labels))()
    known, other = np.split(to_numpy(sample), 2)
    np.testing.assert_allclose(np.cov(known[:, :2].T), [[1.0, 0.5], [0.5, 2.0]], atol=0.1)
    expected = [*MEANS[2], 0.5, 0.0]
    np.testing.assert_allclose(known[:, 2:].mean(axis=0), expected, atol=0.07)
    np.testing.assert_allclose(known[:, 2:].std(axis=0), [0.5, 0.5, 0.3, 5**0.5], rtol=0.03)
    expected = [*MEANS.mean(axis=0), 1.0, 2.0]
    np.testing.assert_allclose(other[:, 2:].mean(axis=0), expected, atol=0.07)
    assert other[:, 4].std() == pytest.approx(4.09**0.5, rel=0.03)
    # Factors do not share their random numbers.
    z = (known - known.mean(axis=0))[:, [0, 2, 3, 4]]
    assert np.all(np.abs(np.corrcoef(z.T) - np.eye(4)) < 0.03)
    one = to_numpy(distribution.sample(50, seed=1, labels=[1, 30.0, 0]))
    assert np.all(np.abs(one[:, 4] - 30.0) < 2.0)
    np.testing.assert_array_equal(
        one, to_numpy(distribution.sample(50, seed=1, labels=[[1, 30.0, 0]]))
    )


def test_unlabelled_factors_and_shapes():
    """A product of products, of events with several axes, that takes no labels."""
    inner = Factorial([StandardNormal([1, 2]), GaussianMixture(2, [2])])
    distribution = Factorial([inner, DiagonalNormal([2], 1.0, 2.0)], shape=[2, 3])
    assert not distribution.accepts_labels
    assert not distribution.accepts_context
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    flat = x.reshape(4, 6)
    blocks = distribution.split(x)
    np.testing.assert_array_equal(to_numpy(blocks[0]), flat[:, :4])
    assert inner.split(blocks[0])[0].shape == (4, 1, 2)
    expected = to_numpy(inner.log_prob(flat[:, :4])) + scipy.stats.norm(1, 2).logpdf(
        flat[:, 4:]
    ).sum(axis=1)
    np.testing.assert_allclose(to_numpy(distribution.log_prob(x)), expected, rtol=1e-5)
    assert distribution.sample(5, seed=0).shape == (5, 2, 3)
    with pytest.raises(ValueError, match="`labels` should be omitted"):
        distribution.log_prob(x, labels=[0, 0, 0, 0])
    with pytest.raises(ValueError, match="`context` should be omitted"):
        distribution.log_prob(x, context=np.zeros([4, 1]))


def test_context_reaches_the_factors_that_take_one(tmp_path):
    network = keras.layers.Dense(2, kernel_initializer="ones", use_bias=False)
    distribution = Factorial(
        [
            GaussianMixture(1, [1], class_count=2, location=CENTRES[:, None]),
            DiagonalNormal([1], context_network=network),
        ]
    )
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    context, labels = np.array([[0.0], [0.5], [-0.5]]), [0, 1, -1]
    log_prob = to_numpy(distribution.log_prob(x, context=context, labels=labels))
    # The network changes both location and logarithm of the scale by the context.
    expected = scipy.stats.norm(context[:, 0], np.exp(context[:, 0])).logpdf(x[:, 1])
    classes = scipy.stats.norm(CENTRES, 1.0).logpdf(x[:, 0])
    mean = scipy.special.logsumexp(classes[:, 2]) - np.log(2)
    expected += [classes[0, 0], classes[1, 1], mean]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    sample = to_numpy(distribution.sample(1000, seed=0, context=[1.5], labels=[1]))
    np.testing.assert_allclose(sample.mean(axis=0), [2.0, 1.5], atol=0.5)
    with pytest.raises(ValueError, match="should be given a `context`"):
        distribution.log_prob(x)

    model = FlowModel([ActivationNormalization()], distribution)
    model.compile("adam")
    model.fit({"inputs": x, "context": context.astype("float32")}, np.array(labels), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        to_numpy(loaded.log_prob(x, context)), to_numpy(model.log_prob(x, context))
    )


def test_flow_is_trained_with_some_labels(tmp_path):
    """A quarter of the labels of two factors suffices to name their classes, which start wrong."""
    random = np.random.default_rng(0)
    classes = random.integers(2, size=(600, 2))
    x = (4.0 * classes - 2.0 + random.normal(size=(600, 2))).astype("float32")
    labels = np.where(random.uniform(size=(600, 2)) < 0.25, classes, -1)
    factors = [GaussianMixture(1, [1], 2, location=[[[0.1]], [[-0.1]]]) for _ in range(2)]
    model = FlowModel([ActivationNormalization()], Factorial(factors))
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(x, labels, epochs=6, batch_size=30, verbose=0)
    distribution = model.base_distribution
    z, log_det = model(x)
    expected = -to_numpy(distribution.log_prob(z, labels=labels) + log_det).mean()
    assert model.evaluate(x, labels, verbose=0) == pytest.approx(expected, rel=1e-4)
    marginal = -to_numpy(model.log_prob(x)).mean()
    assert model.evaluate(x, verbose=0) == pytest.approx(marginal, rel=1e-4)
    for factor, block, truth in zip(factors, distribution.split(z), classes.T, strict=True):
        found = to_numpy(factor.class_log_prob(block)).argmax(axis=1)
        assert np.mean(found == truth) > 0.95
    with pytest.raises(ValueError, match="integers from 0 to 1, or -1"):
        model.fit(x, labels + 1, verbose=0)
    with pytest.raises(ValueError, match=r"`labels` should have shape \[batch, 2\]"):
        model.fit(x, labels[:, :1], verbose=0)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.base_distribution.get_config() == distribution.get_config()
    assert loaded.evaluate(x, labels, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_labels_that_do_not_fit():
    distribution = make()
    x = np.zeros([2, 6])
    for labels in ([[0, 0.0, 2]] * 2, [[0, np.inf, 0]] * 2, [[-2, 0.0, 0]] * 2):
        with pytest.raises(ValueError, match="`labels` should be"):
            distribution.log_prob(x, labels=labels)
    with pytest.raises(ValueError, match=r"`labels` should have shape \[batch, 3\]"):
        distribution.log_prob(x, labels=[0, 1])
    with pytest.raises(ValueError, match="`labels` should have as many rows"):
        distribution.log_prob(x, labels=[[0, 0.0, 0]] * 3)
    with pytest.raises(ValueError, match="`labels` should be those of one event"):
        distribution.sample(2, labels=[[0, 0.0, 0]] * 3)


@pytest.mark.parametrize(
    ("make_distribution", "error", "message"),
    [
        (lambda: Factorial([]), ValueError, "at least one distribution"),
        (lambda: Factorial([StandardNormal([1])] * 2), ValueError, "none of them twice"),
        (lambda: Factorial([keras.layers.Dense(1)]), TypeError, "should hold distributions"),
        (lambda: Factorial([StandardNormal()]), ValueError, "`dimensions_per_factor` should be"),
        (lambda: Factorial([StandardNormal([2])], [3]), ValueError, "that of its dimensions"),
        (lambda: Factorial([StandardNormal()], [3, 1]), ValueError, "for each of `distributions`"),
        (lambda: Factorial([StandardNormal()], [0]), ValueError, "a positive number"),
        (lambda: Factorial([StandardNormal([2])], shape=[3]), ValueError, "`shape` should have 2"),
        (lambda: LabelledNormal([2], noise=0.0), ValueError, "`noise` should be positive"),
        (lambda: LabelledNormal([2], scale=[1.0, 1.0, 1.0]), ValueError, "`scale` should broad"),
        (lambda: LabelledNormal().check_labels([0.0]), ValueError, "event shape .* be known"),
    ],
)
def test_bad_arguments(make_distribution, error, message):
    with pytest.raises(error, match=message):
        make_distribution()
