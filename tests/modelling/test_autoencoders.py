"""Variational autoencoders against a linear model, whose likelihood is known."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import DiagonalNormal, GaussianMixture, StandardNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    Affine,
    AffineCoupling,
    FlowModel,
    LULinear,
)
from gyoza.modelling.metrics import BitsPerDimension

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by(),
]

# x = W z + b + noise, where W has orthogonal columns: then posteriors have diagonal covariances.
W = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
B = np.array([0.5, -1.0, 0.0, 2.0])
VARIANCE = 0.5
POSTERIOR_VARIANCE = 1 / (1 + np.sum(W**2, axis=0) / VARIANCE)
POSTERIOR_WEIGHT = W / VARIANCE * POSTERIOR_VARIANCE
EVIDENCE = multivariate_normal(B, W @ W.T + VARIANCE * np.eye(4))
X = EVIDENCE.rvs(200, random_state=0).astype("float32")


def make_encoder(log_variance=0.0, weight=POSTERIOR_WEIGHT, context=False):
    """Returns the means of the true posterior, if `weight` is right."""
    inputs = keras.Input([4])
    mean, spread = keras.layers.Dense(2, name="mean"), keras.layers.Dense(2, name="spread")
    outputs = [mean(inputs), spread(inputs)] + ([keras.layers.Dense(3)(inputs)] if context else [])
    encoder = keras.Model(inputs, outputs)
    mean.set_weights([weight, -B @ weight])
    spread.set_weights([np.zeros([4, 2]), np.zeros(2) + log_variance])
    return encoder


def make_decoder():
    decoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    decoder.set_weights([W.T, B])
    return decoder


def make_model(encoder=None, **kwargs):
    if encoder is None:
        encoder = make_encoder(np.log(POSTERIOR_VARIANCE))
    kwargs = {"likelihood": "normal", "variance": VARIANCE, **kwargs}
    return VariationalAutoencoder(encoder, make_decoder(), **kwargs)


def compute_loss(model, x=X, **kwargs):
    return float(model.compute_loss(x, y_pred=model(x), **kwargs))


def shift_and_scale():
    """A flow that turns posteriors that are wrong by shift and scale into the true ones."""
    return Affine([2], scale=np.sqrt(POSTERIOR_VARIANCE), shift=[0.3, -0.2])


def make_model_with_flow():
    root = np.sqrt(POSTERIOR_VARIANCE)
    encoder = make_encoder(0.0, POSTERIOR_WEIGHT / root)
    layer = encoder.get_layer("mean")
    layer.bias.assign(layer.bias - np.array([0.3, -0.2]) / root)
    return make_model(encoder, posterior_flow=shift_and_scale())


@pytest.mark.parametrize("make", [make_model, make_model_with_flow])
def test_exact_posterior_gives_the_evidence_with_any_sample(make):
    model = make()
    received = ops.convert_to_numpy(model.log_prob(X[:20], sample_count=1))
    np.testing.assert_allclose(received, EVIDENCE.logpdf(X[:20]), rtol=1e-4)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.encode(X)), (X - B) @ POSTERIOR_WEIGHT, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_loss_exceeds_that_of_the_evidence_by_the_divergence_from_the_true_posterior(ratio):
    model = make_model(make_encoder(np.log(ratio * POSTERIOR_VARIANCE)), seed=0)
    expected = -EVIDENCE.logpdf(X).mean() + ratio - 1 - np.log(ratio)
    assert compute_loss(model, np.repeat(X, 100, axis=0)) == pytest.approx(expected, abs=0.1)


def test_many_samples_close_the_gap():
    model = make_model(make_encoder(np.log(4 * POSTERIOR_VARIANCE)))
    exact = EVIDENCE.logpdf(X).mean()
    one, many, again = (
        np.mean(ops.convert_to_numpy(model.log_prob(X, sample_count=count, seed=0)))
        for count in (1, 300, 300)
    )
    assert one < exact - 1.0
    assert many == pytest.approx(exact, abs=0.05)
    assert many == again


def test_fit_finds_the_posterior():
    model = make_model(make_encoder(-1.0, weight=np.zeros([4, 2])))
    model.decoder.trainable = False
    model.compile(keras.optimizers.Adam(0.1))
    x = np.tile(X, [6, 1])
    losses = model.fit(x, batch_size=200, epochs=10, verbose=0).history["loss"]
    assert losses[0] > losses[-1] + 1.0
    assert losses[-1] == pytest.approx(-EVIDENCE.logpdf(X).mean(), abs=0.2)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.encode(X)), (X - B) @ POSTERIOR_WEIGHT, atol=0.4
    )


@pytest.mark.parametrize(
    "prior",
    [
        DiagonalNormal([2]),
        GaussianMixture(2, [2], location=[[0.0, 0.0], [0.0, 0.0]]),
        FlowModel([ActivationNormalization([2])]),
    ],
)
def test_sampled_divergence_from_another_form_of_the_same_prior_is_the_exact_one_on_average(prior):
    x = np.repeat(X[:5], 2000, axis=0)
    kl = [
        ops.convert_to_numpy(make_model(prior=p, seed=0)(x)["kl"]).reshape(5, 2000).mean(axis=1)
        for p in (prior, None)
    ]
    np.testing.assert_allclose(*kl, atol=0.1)


def test_all_parts_are_trained_and_saved(tmp_path):
    model = make_model(
        make_encoder(context=True),
        prior=FlowModel([ActivationNormalization(), LULinear()]),
        posterior_flow=FlowModel([AffineCoupling(conditioner=MLP([4]))]),
        entanglement_weight=0.1,
        seed=0,
    )
    model.compile("adam", metrics=[BitsPerDimension(name="bits")])
    model.build((None, 4))
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.trainable_weights]
    history = model.fit(X, batch_size=50, verbose=0).history
    assert history.keys() == {"loss", "kl", "bits"}
    for weight, value in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(weight), value), weight.path

    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    for method in (
        lambda m: m.encode(X),
        lambda m: m.log_prob(X, sample_count=3, seed=1),
        lambda m: m.sample(4, seed=1),
    ):
        received, expected = (ops.convert_to_numpy(method(m)) for m in (copy, model))
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


def test_losses_that_are_means_over_dimensions():
    """The loss 0.001 KL + cross-entropy + 0.0001 entanglement, with means in place of sums."""
    inputs = keras.Input([2, 3])
    flat = keras.layers.Flatten()(inputs)
    encoder = keras.Model(inputs, [keras.layers.Dense(4)(flat), keras.layers.Dense(4)(flat)])
    decoder = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(6), keras.layers.Reshape([2, 3])]
    )
    model = VariationalAutoencoder(
        encoder, decoder, kl_weight=2 * 0.001 * 6 / 4, entanglement_weight=0.0001 * 6
    )
    x = np.random.default_rng(0).uniform(size=(5, 2, 3)).astype("float32")
    y_pred = model(x)
    mu, log_variance = (ops.convert_to_numpy(values) for values in encoder(x))
    p = 1 / (1 + np.exp(-ops.convert_to_numpy(y_pred["decoded"])))
    crossent = -np.mean(x * np.log(p) + (1 - x) * np.log(1 - p), axis=(1, 2))
    kl = np.mean(mu**2 + np.exp(log_variance) - 1 - log_variance, axis=1)
    entangled = np.mean([np.abs(mu[:, i] * mu[:, j]) for i in range(4) for j in range(i)], axis=0)
    expected = 6 * np.mean(0.001 * kl + crossent + 0.0001 * entangled)
    assert float(model.compute_loss(x, y_pred=y_pred)) == pytest.approx(expected, rel=1e-5)


def test_bernoulli_model_decodes_to_probabilities():
    model = VariationalAutoencoder(make_encoder(), make_decoder())
    z = np.array([[0.3, -0.7]], "float32")
    expected = 1 / (1 + np.exp(-(z @ W.T + B)))
    np.testing.assert_allclose(ops.convert_to_numpy(model.decode(z)), expected, rtol=1e-5)
    model(np.zeros([1, 4]))
    samples = ops.convert_to_numpy(model.sample(50, seed=0))
    assert samples.shape == (50, 4)
    assert 0.0 < samples.min() < samples.max() < 1.0


def test_sampled_evidence_of_a_bernoulli_model_sums_to_one():
    model = VariationalAutoencoder(make_encoder(), make_decoder())
    x = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T.astype("float32")
    log_probs = ops.convert_to_numpy(model.log_prob(x, sample_count=3000, seed=0))
    assert logsumexp(log_probs) == pytest.approx(0.0, abs=0.05)


def test_weights_of_instances():
    model, x = make_model(), X[:4]
    y_pred = model(x)
    single = [
        float(model.compute_loss(x[i : i + 1], y_pred={k: v[i : i + 1] for k, v in y_pred.items()}))
        for i in range(4)
    ]
    weights = np.array([0.0, 1.0, 2.0, 0.5], "float32")
    received = float(model.compute_loss(x, y_pred=y_pred, sample_weight=weights))
    assert received == pytest.approx(np.mean(weights * single), rel=1e-5)


def test_mixed_precision():
    model = make_model(dtype="mixed_float16")
    assert keras.backend.standardize_dtype(model(X)["kl"].dtype) == "float32"
    assert np.isfinite(compute_loss(model))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_model(encoder=np.tanh), TypeError, "`encoder` should be a Keras layer"),
        (lambda: make_model(prior=3), TypeError, "`prior` should be a `Distribution`"),
        (lambda: make_model(posterior_flow=StandardNormal()), TypeError, "`posterior_flow` should"),
        (lambda: make_model(likelihood="poisson"), ValueError, "`likelihood` should be"),
        (lambda: make_model(variance=0.0), ValueError, "`variance` should be positive"),
        (lambda: make_model(kl_weight=-1.0), ValueError, "`kl_weight` should not be negative"),
        (lambda: make_model(make_decoder())(X[:, :2]), ValueError, "should return a list"),
        (lambda: make_model().log_prob(X, sample_count=0), ValueError, "`sample_count` should be"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_decoder_of_another_shape():
    decoder = keras.layers.Dense(3)
    with pytest.raises(ValueError, match=r"`decoder` should return outputs of shape \(None, 4\)"):
        VariationalAutoencoder(make_encoder(), decoder)(X)
