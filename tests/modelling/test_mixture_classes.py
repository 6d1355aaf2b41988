"""Mixtures whose components belong to classes, of which labels are known or not."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from distribution_cases import LOCATIONS, SCALES, events, make, sample_of, shake
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import GaussianMixture


def test_log_prob_given_labels_is_that_of_the_class():
    distribution = make("GaussianMixture with classes", dtype="float64")
    shake(distribution)
    logits, location, log_scale = map(to_numpy, distribution.weights)
    x, labels = events(), np.arange(64) % 2
    parts = scipy.stats.norm(location[:, :, None], np.exp(log_scale)[:, :, None]).logpdf(x)
    log_weights = scipy.special.log_softmax(logits, axis=1)[..., None]
    expected = scipy.special.logsumexp(parts.sum(axis=-1) + log_weights, axis=1)
    given = to_numpy(distribution.log_prob(x, labels=labels))
    np.testing.assert_allclose(given, expected[labels, np.arange(64)], rtol=1e-12)
    column = ops.convert_to_tensor(labels[:, None].astype("float32"))
    np.testing.assert_array_equal(to_numpy(distribution.log_prob(x, labels=column)), given)
    np.testing.assert_allclose(
        to_numpy(distribution.log_prob(x)),
        scipy.special.logsumexp(expected, axis=0) - np.log(2),
        rtol=1e-12,
    )


def test_samples_are_from_the_classes_of_their_labels():
    distribution = GaussianMixture(
        2, [1], class_count=3, location=10.0 * np.arange(6.0).reshape(3, 2, 1), scale=0.1
    )
    distribution.logits.assign([[0.0, 0.0], [0.0, np.log(3.0)], [0.0, -np.inf]])
    labels = np.arange(30_000) % 3
    component = np.round(sample_of(distribution, 30_000, seed=0, labels=labels)[:, 0] / 10)
    shares = [np.mean(component[labels == c] == k) for c, k in ((0, 1), (1, 3), (2, 4))]
    np.testing.assert_allclose(shares, [0.5, 0.75, 1.0], atol=0.02)
    assert np.all(component // 2 == labels)
    component = np.round(sample_of(distribution, 1000, seed=0, labels=1)[:, 0] / 10)
    assert set(component) == {2, 3}
    component = np.round(sample_of(distribution, 30_000, seed=0)[:, 0] / 10)
    np.testing.assert_allclose(
        np.bincount(component.astype(int), minlength=6) / 30_000,
        np.array([0.5, 0.5, 0.25, 0.75, 1.0, 0.0]) / 3,
        atol=0.02,
    )


def test_functional_model_with_labels(tmp_path):
    x, labels = keras.Input([3]), keras.Input([], dtype="int32")
    outputs = make("GaussianMixture with classes", shape=None)(x, labels=labels)
    model = keras.Model([x, labels], outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arrays = events().astype("float32"), np.arange(64) % 2
    expected = make("GaussianMixture with classes").log_prob(arrays[0], labels=arrays[1])
    np.testing.assert_array_equal(to_numpy(loaded(arrays)), to_numpy(expected))


def test_unknown_labels():
    """-1, or NaN: a mixture of all classes, and samples from any of them."""
    distribution = make("GaussianMixture with classes", dtype="float64")
    shake(distribution)
    x = events(6)
    log_prob, marginal, given = (
        to_numpy(distribution.log_prob(x, labels=labels))
        for labels in ([0, -1, np.nan, 1, -1, 1], None, [0, 0, 0, 1, 1, 1])
    )
    known = [True, False, False, True, False, True]
    np.testing.assert_array_equal(log_prob, np.where(known, given, marginal))
    assert not np.any(marginal == given)
    tensor = ops.convert_to_tensor([0.0, -1.0, np.nan, 1.0, -1.0, 1.0])
    run = jit(lambda labels: distribution.log_prob(ops.convert_to_tensor(x), labels=labels))
    np.testing.assert_allclose(to_numpy(run(tensor)), log_prob, rtol=1e-6)

    distribution = GaussianMixture(1, [1], 3, np.arange(3.0)[:, None, None], scale=0.01)
    labels = np.repeat([-1, 2], 10_000)
    classes = np.round(sample_of(distribution, 20_000, seed=0, labels=labels)[:, 0])
    np.testing.assert_allclose(np.bincount(classes[:10_000].astype(int)) / 1e4, 1 / 3, atol=0.02)
    assert np.all(classes[10_000:] == 2)


def test_class_log_prob_is_bayes_rule():
    distribution = make("GaussianMixture with classes", dtype="float64")
    shake(distribution)
    x = events()
    given = [to_numpy(distribution.log_prob(x, labels=np.full(64, label))) for label in (0, 1)]
    received = to_numpy(distribution.class_log_prob(x))
    np.testing.assert_allclose(
        received, scipy.special.log_softmax(np.stack(given, axis=1), axis=1), atol=1e-12
    )
    unbuilt = GaussianMixture(2, None, 2, LOCATIONS, SCALES, dtype="float64")
    unbuilt.class_log_prob(x)
    assert unbuilt.event_shape == (3,)
    message = "should have classes: pass `class_count` to its constructor. Received: class_count=N"
    with pytest.raises(ValueError, match=message):
        make("GaussianMixture").class_log_prob(x)


def test_class_log_prob_depends_on_the_context():
    network = MLP([4], "softplus", dtype="float64")
    distribution = GaussianMixture(2, [3], 3, scale=2.0, context_network=network, dtype="float64")
    x, context = events(6), np.random.default_rng(1).normal(size=(6, 2))
    distribution.log_prob(x, context=context)
    for k, weight in enumerate(network.weights):
        weight.assign(np.random.default_rng(k).normal(size=weight.shape))
    given = [to_numpy(distribution.log_prob(x, context=context, labels=[c] * 6)) for c in range(3)]
    received = to_numpy(distribution.class_log_prob(x, context=context))
    np.testing.assert_allclose(
        received, scipy.special.log_softmax(np.stack(given, axis=1), axis=1), atol=1e-12
    )
    assert np.ptp(to_numpy(distribution.class_log_prob(x[[0] * 6], context)), axis=0).max() > 0.1
    with pytest.raises(ValueError, match="context"):
        distribution.class_log_prob(x, context[:5])
    with pytest.raises(ValueError, match="context"):
        distribution.class_log_prob(x)


def test_one_class_alone_is_allowed():
    distribution = GaussianMixture(2, [3], class_count=1, location=LOCATIONS[:1], scale=SCALES[:1])
    x = events(4).astype("float32")
    expected = to_numpy(make("GaussianMixture").log_prob(x))
    np.testing.assert_allclose(to_numpy(distribution.log_prob(x, labels=[0] * 4)), expected)
    np.testing.assert_allclose(to_numpy(distribution.class_log_prob(x)), 0.0)


@pytest.mark.parametrize("name", ["location", "scale"])
def test_errors_name_the_parameter(name):
    with pytest.raises(ValueError, match=f"^`{name}` should be .*Received: {name}="):
        GaussianMixture(1, [1], **{name: np.nan})


def test_components_start_at_standard_normal_draws():
    keras.utils.set_random_seed(0)
    location = to_numpy(GaussianMixture(5000, [2]).location)
    assert scipy.stats.kstest(location.ravel(), "norm").pvalue > 0.01


def test_weights_of_components_are_not_rounded_in_mixed_precision():
    distribution = GaussianMixture(
        2, [1], location=[[0.0], [9.0]], scale=1.0, dtype="mixed_bfloat16"
    )
    logits = [-1.001, 1.001]  # -1 and 1 in bfloat16
    distribution.logits.assign(logits)
    x = ops.zeros([1, 1], "bfloat16")
    expected = scipy.stats.norm.logpdf(0.0) + scipy.special.log_softmax(logits)[0]
    assert to_numpy(distribution(x)).item() == pytest.approx(expected, abs=1e-4)


def test_labels_out_of_range():
    distribution = make("GaussianMixture with classes")
    x = events(3).astype("float32")
    for labels in ([0, 1, 2], [0, -2, 1], [0, 0.5, 1]):
        with pytest.raises(ValueError, match="`labels` should be integers from 0 to 1"):
            distribution.log_prob(x, labels=labels)
        with pytest.raises(ValueError, match="`labels` should be integers from 0 to 1"):
            distribution.sample(3, labels=labels)
    labels = ops.convert_to_tensor([0, -2, 2])
    is_nan = np.isnan(to_numpy(jit(lambda labels: distribution.log_prob(x, labels=labels))(labels)))
    np.testing.assert_array_equal(is_nan, [False, True, True])
    is_nan = np.isnan(to_numpy(distribution.sample(3, seed=0, labels=labels))).all(axis=1)
    np.testing.assert_array_equal(is_nan, [False, True, True])


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="`labels` should be omitted"):
        make("GaussianMixture").log_prob(events(2), labels=[0, 1])
    with pytest.raises(ValueError, match="`labels` should be those of one event, or of each"):
        make("GaussianMixture with classes").sample(3, labels=[0, 1])
    with pytest.raises(ValueError, match="`labels` should have as many rows"):
        make("GaussianMixture with classes").log_prob(events(3), labels=[0, 1])
