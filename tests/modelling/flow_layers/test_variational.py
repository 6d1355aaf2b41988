"""Training by an unnormalised target density."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowModel,
    HeavisidePermutation,
    VariationalModel,
)
from gyoza.modelling.functions import effective_sample_size, log_evidence
from gyoza.modelling.metrics import NegativeLogLikelihood

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by("tensorflow"),
]


def target(x):
    """A normal density with means 3 and -1 and standard deviations 2 and 1/2, times e."""
    z = (x - ops.convert_to_tensor([3.0, -1.0])) / ops.convert_to_tensor([2.0, 0.5])
    return 1.0 - 0.5 * ops.sum(z * z, axis=-1) - np.log(2.0 * np.pi)


@keras.saving.register_keras_serializable(package="gyoza_tests")
def registered_target(x):
    return target(x)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ShiftedTarget:
    """A target with a parameter."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, x):
        return target(x - self.shift)

    def get_config(self):
        return {"shift": self.shift}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def make_flow(**kwargs):
    flow = FlowModel([ActivationNormalization([2])], **kwargs)
    flow.build((None, 2))
    return flow


@pytest.mark.parametrize("learn", ["flow", "base distribution"])
def test_reverse_divergence_finds_the_target_and_its_normalisation(learn):
    flow = make_flow(base_distribution=DiagonalNormal() if learn != "flow" else None)
    flow._flow_layers_[0].trainable = learn == "flow"
    trainer = VariationalModel(flow, target)
    trainer.compile(keras.optimizers.Adam(0.05))
    trainer.fit(batch_size=128, steps_per_epoch=300, verbose=0)
    # All samples contribute -ln Z = -1 to the loss when the flow is the target.
    assert trainer.evaluate(batch_size=1000, steps=2, verbose=0) == pytest.approx(-1.0, abs=0.02)
    samples = ops.convert_to_numpy(flow.sample(4000, seed=0))
    np.testing.assert_allclose(samples.mean(axis=0), [3.0, -1.0], atol=0.2)
    np.testing.assert_allclose(samples.std(axis=0), [2.0, 0.5], rtol=0.1)


def test_densities_and_samples_are_compiled_as_is_asked_for():
    trainer = VariationalModel(make_flow(), target)
    chosen = trainer.flow.jit_compile
    trainer.compile("sgd")
    assert trainer.flow.jit_compile == chosen
    for jit_compile in (True, False):
        trainer.compile("sgd", jit_compile=jit_compile)
        assert trainer.flow.jit_compile == jit_compile


def test_loss_of_an_untrained_flow_has_its_closed_form():
    trainer = VariationalModel(make_flow(), target)
    trainer.compile("adam")
    divergence = 0.5 * ((1 + 9) / 4 - 1) + 0.5 * ((1 + 1) / 0.25 - 1)  # less ln Z, and ln s = 0
    loss = trainer.evaluate(batch_size=5000, steps=4, verbose=0)
    assert loss == pytest.approx(divergence - 1.0, abs=0.2)


@pytest.mark.parametrize("function", [registered_target, ShiftedTarget(0.5)])
def test_trained_model_is_saved_and_goes_on(function, tmp_path):
    trainer = VariationalModel(make_flow(), function, name="trainer")
    trainer.compile(keras.optimizers.Adam(0.05))
    trainer.fit(batch_size=16, steps_per_epoch=2, verbose=0)
    trainer.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, VariationalModel)
    x = ops.convert_to_tensor([[1.0, -2.0], [0.5, 3.0]])
    for name in ("log_prob", "target"):
        expected, received = (
            ops.convert_to_numpy(m.flow.log_prob(x) if name == "log_prob" else m.target_log_prob(x))
            for m in (trainer, loaded)
        )
        np.testing.assert_array_equal(received, expected)
    assert int(loaded.optimizer.iterations) == 2
    loaded.fit(batch_size=16, steps_per_epoch=1, verbose=0)
    assert int(loaded.optimizer.iterations) == 3


def test_targets_that_are_not_finite_are_told_of():
    flow = FlowModel([ActivationNormalization([2])])
    flow.build((None, 2))
    trainer = VariationalModel(flow, lambda x: ops.sum(ops.log(x), axis=-1))
    trainer.compile("sgd")
    with pytest.warns(UserWarning, match="`target_log_prob` is not finite for some samples"):
        trainer.fit(batch_size=16, steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match="`batch_size` should be an integer of at least 1"):
        trainer.fit(batch_size=1.5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: -np.sum(np.exp(x), axis=-1),
        lambda x: stats.norm.logpdf(x).sum(axis=-1),
        lambda x: -ops.sum(np.exp(x), axis=-1),
        lambda x: np.zeros(x.shape[0]),
    ],
)
def test_targets_that_compute_with_numpy_are_told_of(function):
    trainer = VariationalModel(make_flow(), function)
    trainer.compile("sgd")
    with pytest.raises(TypeError, match=r"`target_log_prob` should compute with `keras.ops`"):
        trainer.fit(batch_size=16, steps_per_epoch=1, verbose=0)
    assert trainer.flow.sample(3).shape == (3, 2)  # it still has its weights


def test_errors_of_targets_are_not_taken_for_those_of_numpy():
    def fail(x):
        raise ValueError("one of its own")

    trainer = VariationalModel(make_flow(), fail)
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="one of its own"):
        trainer.fit(batch_size=16, steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("function", [target, lambda x: target(x), DiagonalNormal([2]).log_prob])
def test_model_of_a_target_that_is_not_registered_says_how_to_save_it(function, tmp_path):
    trainer = VariationalModel(make_flow(), function)
    with pytest.raises(ValueError, match=r"`target_log_prob` should be registered .*Received: "):
        trainer.save(tmp_path / "model.keras")
    # Who loads it may know the function.
    with keras.saving.custom_object_scope({"target": target}):
        if function is target:
            trainer.save(tmp_path / "model.keras")
            loaded = keras.saving.load_model(tmp_path / "model.keras")
            assert loaded.target_log_prob is target


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Shift(keras.Layer):
    """A normal target with a mean that is a weight."""

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        return -0.5 * ops.sum((x - self.shift) ** 2, axis=-1)


def make_functional():
    inputs = keras.Input([2])
    return keras.Model(inputs, -ops.sum(keras.layers.Dense(3)(inputs) ** 2, axis=-1))


@pytest.mark.parametrize("make", [lambda: Shift(trainable=False), make_functional])
def test_layer_as_a_target_is_saved_with_its_weights(make, tmp_path):
    layer = make()
    trainer = VariationalModel(make_flow(), layer)
    x = np.ones([3, 2], "float32")
    trainer(x)
    layer.set_weights([np.full_like(w, 0.5) for w in layer.get_weights()])
    assert len(trainer.trainable_variables) == 2 + len(layer.trainable_variables)
    trainer.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded.target_log_prob(x)), to_numpy(layer(x)))
    assert loaded.target_log_prob.trainable == layer.trainable


def make_shifted(distance, log_factor):
    """A standard normal flow, and a target that is shifted by a distance, times a factor."""
    constant = log_factor - np.log(2.0 * np.pi)
    mean = np.array([0.6, 0.8], "float32") * distance

    def log_prob(x):
        return constant - 0.5 * ops.sum((x - ops.convert_to_tensor(mean)) ** 2, axis=-1)

    return VariationalModel(make_flow(), log_prob)


def test_importance_weights_of_a_shifted_normal_have_their_closed_forms():
    """For w = p / q, E[w] = 1 and E[w^2] = exp(d^2)."""
    count, square = 20000, 0.5
    trainer = make_shifted(square**0.5, log_factor=1.5)
    size = float(trainer.effective_sample_size(count, seed=0))
    assert size / count == pytest.approx(np.exp(-square), rel=0.06)
    estimate, error = map(float, trainer.log_evidence(count, seed=0))
    assert error == pytest.approx(np.sqrt(np.expm1(square) / count), rel=0.05)
    assert estimate == pytest.approx(1.5, abs=4.0 * error)
    x, log_weights = map(to_numpy, trainer.sample_and_log_weights(count, seed=0))
    weights = np.exp(log_weights - log_weights.max())
    mean = (weights[:, None] * x).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(mean, np.sqrt(square) * np.array([0.6, 0.8]), atol=0.05)


def test_standard_error_is_that_of_repeated_estimates():
    trainer = make_shifted(0.7, log_factor=-200.0)  # weights are 0 in single precision
    _, log_weights = trainer.sample_and_log_weights(200 * 500, seed=1)
    estimates, errors = map(to_numpy, log_evidence(ops.reshape(log_weights, (500, 200))))
    assert estimates.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.2)
    # To the second order, ln of the mean weight is too small by half its variance.
    bias = np.expm1(0.49) / 500 / 2
    assert estimates.mean() + bias == pytest.approx(-200.0, abs=0.3 * float(estimates.std()))


def test_flow_that_is_the_target_has_equal_weights():
    trainer = make_shifted(0.0, log_factor=3.0)
    assert float(trainer.effective_sample_size(50)) == pytest.approx(50.0, rel=1e-5)
    estimate, error = map(float, trainer.log_evidence(50))
    assert estimate == pytest.approx(3.0, abs=1e-5)
    assert error == pytest.approx(0.0, abs=1e-6)


def test_functions_of_weights_are_as_defined():
    weights = np.array([[1.0, 2.0, 3.0, 0.5], [4.0, 0.0, 0.0, 0.0]], "float32").T
    with np.errstate(divide="ignore"):
        log_weights = ops.convert_to_tensor(np.log(weights))
    expected = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    np.testing.assert_allclose(to_numpy(effective_sample_size(log_weights)), expected, rtol=1e-5)
    estimate, error = map(to_numpy, log_evidence(log_weights))
    np.testing.assert_allclose(estimate, np.log(weights.mean(axis=0)), rtol=1e-5)
    errors = weights.std(axis=0, ddof=1) / 2.0 / weights.mean(axis=0)
    np.testing.assert_allclose(error, errors, rtol=1e-5)


def test_seed_and_batches_do_not_change_the_weights():
    trainer = make_shifted(1.0, log_factor=0.0)
    x, log_weights = trainer.sample_and_log_weights(50, seed=3)
    parts = trainer.sample_and_log_weights(50, seed=3, batch_size=20)
    for received, expected in zip(parts, (x, log_weights), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-4, atol=1e-5)
    expected = float(effective_sample_size(log_weights))
    assert float(trainer.effective_sample_size(50, seed=3)) == pytest.approx(expected, rel=1e-5)
    assert float(trainer.effective_sample_size(50)) != pytest.approx(expected, rel=1e-5)


# A linear model: x is standard normal, and c is normal around A x with standard deviation 1/2.
A = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.8]], "float32")
NOISE = 0.5
COVARIANCE = np.linalg.inv(np.eye(2) + A.T @ A / NOISE**2)  # of x given c
CONTEXTS = np.array([[0.5, -0.2, 1.0], [-1.5, 1.0, 0.0], [0.0, 0.0, 0.0]], "float32")


@keras.saving.register_keras_serializable(package="gyoza_tests")
def joint_log_prob(x, c):
    residuals = (c - ops.matmul(x, ops.convert_to_tensor(A.T))) / NOISE
    squares = ops.sum(x**2, axis=-1) + ops.sum(residuals**2, axis=-1)
    return -0.5 * squares - 2.5 * np.log(2.0 * np.pi) - 3.0 * np.log(NOISE)


def make_conditional():
    couplings = [AffineCoupling(conditioner=MLP([])) for _ in range(2)]
    flow = FlowModel([couplings[0], HeavisidePermutation(), couplings[1]])
    flow.build_for(np.zeros([1, 2], "float32"), CONTEXTS[:1])
    return flow


@pytest.fixture(scope="module")
def amortised():
    """A model of the posterior, trained for contexts from the linear model."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(4096, 2))
    contexts = (x @ A.T + NOISE * random.normal(size=(4096, 3))).astype("float32")
    trainer = VariationalModel(make_conditional(), joint_log_prob)
    trainer.compile(keras.optimizers.Adam(0.05))
    history = trainer.fit(
        context=contexts, batch_size=256, epochs=8, validation_data=contexts[:256], verbose=0
    )
    return trainer, contexts, history.history


def test_amortised_flow_finds_the_evidence_of_each_context(amortised):
    trainer, contexts, history = amortised
    marginal = stats.multivariate_normal(np.zeros(3), A @ A.T + NOISE**2 * np.eye(3))
    # The loss tends to the entropy of the contexts.
    loss = trainer.evaluate(context=contexts, verbose=0)
    assert loss == pytest.approx(-marginal.logpdf(contexts).mean(), abs=0.03)
    assert history["val_loss"][-1] == pytest.approx(
        -marginal.logpdf(contexts[:256]).mean(), abs=0.1
    )
    options = {"sample_count": 1024, "seed": 0, "batch_size": 1024}
    estimates, errors = map(to_numpy, trainer.log_evidence(context=CONTEXTS, **options))
    assert estimates.shape == errors.shape == (3,)
    assert np.all(errors < 0.02)
    assert np.all(abs(estimates - marginal.logpdf(CONTEXTS)) < 4.0 * errors + 1e-4)
    sizes = to_numpy(trainer.effective_sample_size(context=CONTEXTS, **options))
    assert np.all((sizes > 900.0) & (sizes <= 1024.1))
    one, _ = trainer.log_evidence(context=CONTEXTS[0], **options)
    assert one.shape == ()
    assert float(one) == pytest.approx(marginal.logpdf(CONTEXTS[0]), abs=0.05)


def test_amortised_flow_finds_the_posterior_of_each_context(amortised):
    trainer, _, _ = amortised
    x, log_weights = map(
        to_numpy, trainer.sample_and_log_weights(4096, 1, CONTEXTS, batch_size=1024)
    )
    assert x.shape == (4096, 3, 2)
    assert log_weights.shape == (4096, 3)
    means = CONTEXTS @ A @ COVARIANCE / NOISE**2
    for k, mean in enumerate(means):
        samples, logs = x[:, k], log_weights[:, k]
        np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.1)  # of the flow itself
        weights = np.exp(logs - logs.max())
        np.testing.assert_allclose(np.average(samples, axis=0, weights=weights), mean, atol=0.03)
        covariance = np.cov(samples.T, aweights=weights)
        np.testing.assert_allclose(covariance, COVARIANCE, atol=0.02)


def test_amortised_model_is_saved(amortised, tmp_path):
    trainer, _, _ = amortised
    trainer.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.target_log_prob is joint_log_prob
    for received, expected in zip(loaded.get_weights(), trainer.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert int(loaded.optimizer.iterations) == int(trainer.optimizer.iterations)
    assert tuple(loaded(CONTEXTS).shape) == (3,)


def test_losses_and_metrics_of_predictions_are_rejected_and_own_metrics_are_not(tmp_path):
    trainer = VariationalModel(make_flow(), registered_target)
    for loss in ("mse", keras.losses.MeanSquaredError(), lambda y, y_pred: y_pred):
        with pytest.raises(ValueError, match=r"has a loss of its own.* Received: loss="):
            trainer.compile("sgd", loss)
    for metric in ("mse", keras.metrics.MeanSquaredError(), NegativeLogLikelihood()):
        for name in ("metrics", "weighted_metrics"):
            with pytest.raises(
                ValueError, match=r"`effective_sample_size\(\)`.* Received: metrics"
            ):
                trainer.compile("sgd", **{name: [metric]})
    trainer.compile("sgd", metrics=[mean_contribution])
    history = trainer.fit(batch_size=8, steps_per_epoch=1, verbose=0).history
    assert history["mean_contribution"] == pytest.approx(history["loss"])
    trainer.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled
    assert int(loaded.optimizer.iterations) == 1


@keras.saving.register_keras_serializable(package="gyoza_tests")
def mean_contribution(y, y_pred):
    assert y is None
    return ops.mean(y_pred)


@pytest.mark.parametrize("given", [np.zeros([50, 2], "float32"), [[0.0, 1.0]]])
def test_data_are_rejected(given):
    trainer = VariationalModel(make_flow(), target)
    trainer.compile("sgd")
    received = r"of shape \(50, 2\)$" if hasattr(given, "shape") else "a <class 'list'>$"
    for run, name in [
        (lambda: trainer.fit(given), "batch_size"),
        (lambda: trainer.fit(x=given, verbose=0), "x"),
        (lambda: trainer.evaluate(given), "batch_size"),
    ]:
        message = r"no data, .*`fit\(batch_size=…, epochs=…\)`.* Received: "
        with pytest.raises(ValueError, match=message + f"{name} {received}"):
            run()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: VariationalModel(ActivationNormalization(), target), TypeError, "a `FlowModel`"),
        (lambda: VariationalModel(make_flow(), 3.0), TypeError, "should be a function"),
        (
            lambda: VariationalModel(FlowModel([ActivationNormalization()]), target),
            ValueError,
            "should be built",
        ),
        (
            lambda: VariationalModel(make_conditional(), joint_log_prob).fit(),
            ValueError,
            "should be given a `context`",
        ),
        (
            lambda: VariationalModel(make_conditional(), joint_log_prob).log_evidence(5),
            ValueError,
            "should be given a `context`",
        ),
        (
            lambda: VariationalModel(make_flow(), target).fit(context=CONTEXTS),
            ValueError,
            "built without a context",
        ),
        (
            lambda: VariationalModel(make_conditional(), joint_log_prob).fit(context=A[:, :1]),
            ValueError,
            r"`context` should have shape \(3, 3\)",
        ),
        (
            lambda: VariationalModel(make_flow(), target).log_evidence(1),
            ValueError,
            "`sample_count` should be an integer of at least 2",
        ),
        (
            lambda: VariationalModel(make_flow(), lambda x: x)(np.zeros([2, 1], "float32")),
            ValueError,
            r"of shape \[batch\]",
        ),
        (
            lambda: VariationalModel(make_flow(), lambda x: None)(np.zeros([2, 1], "float32")),
            ValueError,
            r"of shape \[batch\]. Received: None",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
