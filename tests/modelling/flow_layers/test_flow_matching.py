"""Flow matching, by closed forms of Gaussian flows, and by what training has to reach."""

import warnings

import keras
import numpy as np
import pytest
from flow_matching_data import (
    GaussianVelocity,
    make_encoder,
    make_labelled_data,
    normal,
    normal_log_prob,
)
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import OptionalContext, VelocityMLP
from gyoza.modelling.distributions import GaussianMixture
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowMatchingModel,
    FlowModel,
    Standardize,
    VariationalModel,
)
from gyoza.modelling.flow_layers.interpolation import PATHS
from gyoza.modelling.metrics import NegativeLogLikelihood

pytestmark = pytest.mark.usefixtures("without_xla")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: FlowMatchingModel(VelocityMLP(), paths="curved"),
            ValueError,
            r"one of \['linear', 'variance_preserving'\]. Received: paths='curved'",
        ),
        (
            lambda: FlowMatchingModel(VelocityMLP(), coupling="best"),
            ValueError,
            r"one of \['independent', 'optimal'\]. Received: coupling='best'",
        ),
        (lambda: OptionalContext(ops.tanh), TypeError, "`encoder` should be a Keras layer"),
        (lambda: OptionalContext(rate=1.5), ValueError, "from 0 to 1. Received: rate=1.5"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_flow_matching_takes_neither_a_loss_nor_targets():
    model = FlowMatchingModel(VelocityMLP([8]))
    with pytest.raises(ValueError, match="compiled without one"):
        model.compile("sgd", loss="mse")
    for name in ("metrics", "weighted_metrics"):
        with pytest.raises(ValueError, match=rf"compiled without metrics.*Received: {name}="):
            model.compile("sgd", **{name: [NegativeLogLikelihood()]})
    model.compile("sgd")
    with pytest.raises(ValueError, match="given no targets `y`"):
        model.fit(normal(8, 2), normal(8, 2), verbose=0)
    with pytest.raises(ValueError, match=r"latents, of shape \(batch, 2\)"):
        model.fit({"inputs": normal(8, 2), "source": normal(8, 3)}, verbose=0)
    for name in ("source", "context"):
        with pytest.raises(ValueError, match=rf"`{name}` should have one row for each .*\(5, 2\)"):
            model.fit({"inputs": normal(8, 2), name: normal(5, 2)}, verbose=0)


def test_targets_are_rejected_whatever_they_come_in():
    """As batches, and where the base distribution takes labels, which paths cannot."""
    model = FlowMatchingModel(VelocityMLP([8]), base_distribution=GaussianMixture(2))
    model.compile("sgd")
    with pytest.raises(ValueError, match="given no targets `y`"):
        model.fit(normal(8, 2), np.arange(8) % 2, verbose=0)
    batches = ((normal(4, 2), normal(4, 2)) for _ in range(2))
    with pytest.raises(ValueError, match="given no targets `y`"):
        model.fit(batches, verbose=0)


def test_training_needs_the_context_that_the_flow_was_built_for():
    model = FlowMatchingModel(VelocityMLP([8]))
    model.compile("sgd")
    model.flow.build_for(normal(2, 3), normal(2, 2))
    for data in (normal(8, 3), {"inputs": normal(8, 3), "context": normal(8, 1)}):
        with pytest.raises(ValueError, match="`context`"):
            model.fit(data, verbose=0)
    other = FlowMatchingModel(VelocityMLP([8]))
    other.compile("sgd")
    other.flow.build_for(normal(2, 3))
    with pytest.raises(ValueError, match="built without a context"):
        other.fit({"inputs": normal(8, 3), "context": normal(8, 1)}, verbose=0)


@pytest.mark.parametrize("name", PATHS)
def test_paths_join_points_at_the_velocity_that_they_say(name):
    source, data = map(ops.convert_to_tensor, normal(2, 5, 3))
    start, _ = PATHS[name](source, data, 0.0)
    stop, _ = PATHS[name](source, data, 1.0)
    np.testing.assert_allclose(to_numpy(start), to_numpy(source), atol=1e-6)
    np.testing.assert_allclose(to_numpy(stop), to_numpy(data), atol=1e-6)
    before, after = (to_numpy(PATHS[name](source, data, time)[0]) for time in (0.29, 0.31))
    velocity = to_numpy(PATHS[name](source, data, 0.3)[1])
    np.testing.assert_allclose((after - before) / 0.02, velocity, atol=1e-3)


@pytest.fixture(scope="module")
def gaussian():
    model = FlowMatchingModel(GaussianVelocity(), flow_layers=[], step_count=32, seed=0)
    model.compile("sgd")
    model.build((None, 1))
    return model


def test_the_best_velocity_has_the_density_of_the_data(gaussian):
    x = np.linspace(0.5, 3.5, 7, dtype="float32")[:, None]
    expected = normal_log_prob(x, 2.0, 0.5)
    np.testing.assert_allclose(to_numpy(gaussian.log_prob(x)), expected, atol=1e-3)
    samples = to_numpy(gaussian.sample(4000, seed=0))
    assert samples.mean() == pytest.approx(2.0, abs=0.04)
    assert samples.std() == pytest.approx(0.5, abs=0.03)
    samples, log_prob = gaussian.sample_and_log_prob(5, seed=0)
    np.testing.assert_allclose(to_numpy(log_prob), to_numpy(gaussian.log_prob(samples)), atol=1e-3)


def test_the_loss_of_the_best_velocity_is_the_variance_that_is_left(gaussian):
    x = 2.0 + 0.5 * normal(20_000, 1)
    time = np.linspace(0.0, 1.0, 2001)
    covariance = 0.25 * time - (1.0 - time)
    variance = (1.0 - time) ** 2 + 0.25 * time**2
    expected = np.mean(1.25 - covariance**2 / variance)
    assert gaussian.evaluate(x, verbose=0) == pytest.approx(expected, abs=0.03)


def test_samples_can_be_had_in_fewer_steps(gaussian):
    z = to_numpy(gaussian.flow.base_distribution.sample(6, seed=3))
    velocity = to_numpy(gaussian.flow._flow_layers_[-1].compute_velocity(z, 0.0))
    samples = gaussian.sample(6, seed=3, steps=1, solver="euler")
    np.testing.assert_allclose(to_numpy(samples), z + velocity, rtol=1e-5)
    samples, log_prob = gaussian.sample_and_log_prob(6, seed=3, steps=1, solver="euler")
    np.testing.assert_allclose(to_numpy(samples), z + velocity, rtol=1e-5)
    # At the time 0, the velocity has the slope -1.
    np.testing.assert_allclose(to_numpy(log_prob), normal_log_prob(z, 0.0, 1.0) + 1.0, rtol=1e-4)


def test_options_of_the_solver_reach_it_and_are_saved():
    options = {"rtol": 0.1, "atol": 0.2, "max_step_count": 7}
    options |= {"exact_limit": 1, "probe": "normal", "probe_count": 3}
    model = FlowMatchingModel(VelocityMLP([4]), solver="dopri5", memory_efficient=True, **options)
    for each in (model, FlowMatchingModel.from_config(model.get_config())):
        config = each.continuous_flow.get_config()
        assert {name: config[name] for name in options} == options
        assert each.flow.memory_efficient
    with pytest.raises(ValueError, match=r"`rtol` should be positive\. Received: rtol=0"):
        FlowMatchingModel(VelocityMLP([4]), rtol=0)


class LooksAtBatches(keras.callbacks.Callback):
    """Lets each execution take one step."""

    def on_train_batch_end(self, batch, logs=None):
        """Does nothing."""


@pytest.mark.parametrize("is_long", [False, True])
def test_averages_of_weights_are_those_of_keras(is_long):
    # With a momentum of 1, the average stays at the weights after the first step.
    x = normal(16 * 8, 2)
    weights = []
    for options, count in (({"use_ema": True, "ema_momentum": 1.0}, len(x)), ({}, 8)):
        keras.utils.set_random_seed(0)
        model = FlowMatchingModel(VelocityMLP([4]), seed=0)
        callbacks = None if is_long else [LooksAtBatches()]
        model.compile(keras.optimizers.SGD(0.1, **options))
        model.fit(x[:count], batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append([to_numpy(weight) for weight in model.trainable_weights])
    for averaged, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(averaged, expected, atol=1e-6)
    assert any(np.any(weight != 0.0) for weight in weights[0][-2:])


def test_training_with_averages_goes_on():
    model = FlowMatchingModel(VelocityMLP([4]), seed=0)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True))
    for _ in range(2):
        model.fit(normal(64, 2), verbose=0)
    assert int(model.optimizer.iterations) == 4


@pytest.mark.compiled_by("jax")
@pytest.mark.parametrize("options", [{"dtype": "mixed_bfloat16"}, {"dtype": "float64"}])
def test_other_dtypes(options):
    data = make_labelled_data(64)
    data["inputs"] -= data["inputs"].mean(axis=0)
    model = FlowMatchingModel(
        VelocityMLP([8], **options),
        context_encoder=OptionalContext(
            keras.Sequential(
                [keras.layers.Embedding(2, 4, **options), keras.layers.Flatten(**options)]
            ),
            **options,
        ),
        coupling="optimal",
        step_count=2,
        **options,
    )
    model.adapt(data)
    model.compile("adam")
    history = model.fit(data, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    samples, log_prob = model.sample_and_log_prob(3, context=[1], guidance=2.0)
    assert np.isfinite(to_numpy(samples).astype("float64")).all()
    wide = "float64" if options["dtype"] == "float64" else "float32"
    assert keras.backend.standardize_dtype(log_prob.dtype) == wide


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_can_be_compiled_or_not(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles by a compiler of its own, which takes minutes")
    losses = []
    for compiled in (jit_compile, "auto"):
        keras.utils.set_random_seed(0)
        encoder = make_encoder(0.3)
        model = FlowMatchingModel(
            VelocityMLP([8]), context_encoder=encoder, coupling="optimal", seed=0
        )
        model.compile("sgd", jit_compile=compiled)
        data = make_labelled_data(64)
        losses.append(model.fit(data, verbose=0, shuffle=False).history["loss"])
    # Pairs can be drawn otherwise, where plans are rounded otherwise.
    np.testing.assert_allclose(*losses, rtol=0.1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_densities_and_samples_are_compiled_as_the_model_is(jit_compile):
    model = FlowMatchingModel(VelocityMLP([8]), step_count=2)
    model.adapt(normal(8, 2))
    flows = [model.flow]

    def add_flow(steps):
        with model._solve_with(None, steps, None, None) as flow:
            flows.append(flow)

    add_flow(1)
    chosen = model.flow.jit_compile
    model.compile("sgd", jit_compile=jit_compile)
    add_flow(3)
    assert [flow.jit_compile for flow in flows] == 3 * [jit_compile]
    model.compile("sgd")
    assert [flow.jit_compile for flow in flows] == 3 * [chosen]


def test_other_layers_and_the_base_are_left_as_they_are():
    base = FlowModel([ActivationNormalization()])
    base.adapt(normal(64, 2))
    before, encoder = ActivationNormalization(), keras.layers.Dense(1, use_bias=False)
    model = FlowMatchingModel(VelocityMLP([8]), [before], base, context_encoder=encoder)
    data = {"inputs": 2.0 * normal(64, 2), "context": normal(64, 3)}
    model.adapt(data)
    fixed = [*before.weights, *base.weights]
    values = [to_numpy(weight) for weight in fixed]
    trained = {id(weight) for weight in model.trainable_weights}
    assert len(trained) == 5
    assert trained.isdisjoint(map(id, fixed))
    for pairs in (
        (model.weights, model.trainable_weights, model.non_trainable_weights),
        (model.variables, model.trainable_variables, model.non_trainable_variables),
    ):
        every, *parts = ([id(variable) for variable in variables] for variables in pairs)
        assert sorted(every) == sorted([*parts[0], *parts[1]])
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.5))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Gradients do not exist")
        model.fit(data, batch_size=64, verbose=0)
    for weight, value in zip(fixed, values, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)
    assert len(model.flow.trainable_weights) == 9  # which likelihood would train
    lines = []
    model.summary(print_fn=lines.append)
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert f" Trainable params: {count} " in "\n".join(lines)


def test_flow_matching_learns_and_is_saved(tmp_path):
    labels = np.random.default_rng(0).integers(2, size=2560)
    context = np.eye(2, dtype="float32")[labels]
    x = normal(2560, 2) * 0.3 + np.array([[10.0, 5.0], [14.0, 5.0]])[labels]
    data = {"inputs": x.astype("float32"), "context": context}
    model = FlowMatchingModel(VelocityMLP([32, 32]), step_count=4, seed=0)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(data, epochs=3, batch_size=64, verbose=0)
    assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]
    contexts = np.repeat(context[:2], 100, axis=0)
    samples = to_numpy(model.sample(200, seed=0, context=contexts))
    means = samples.reshape(2, 100, 2).mean(axis=1)
    expected = np.array([[10.0, 5.0], [14.0, 5.0]])[labels[:2]]
    np.testing.assert_allclose(means, expected, atol=0.4)
    assert isinstance(model.flow._flow_layers_[0], Standardize)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = to_numpy(loaded.sample(200, seed=0, context=contexts))
    np.testing.assert_allclose(again, samples, rtol=1e-4, atol=1e-4)


@pytest.mark.compiled_by("jax")
def test_the_flow_of_a_model_can_go_on_by_a_formula():
    model = FlowMatchingModel(VelocityMLP([8]), flow_layers=[], step_count=2)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(normal(64, 2), verbose=0)
    trainer = VariationalModel(model.flow, lambda x: -0.5 * ops.sum((x - 1.0) ** 2, axis=-1))
    trainer.compile(keras.optimizers.Adam(1e-2))
    trainer.fit(batch_size=64, steps_per_epoch=60, verbose=0)
    np.testing.assert_allclose(to_numpy(model.sample(1000, seed=0)).mean(axis=0), 1.0, atol=0.3)
