"""Flow matching, by closed forms of Gaussian flows, and by what training has to reach."""

import functools
import threading
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import OptionalContext, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal, Empirical, GaussianMixture
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowMatchingModel,
    FlowModel,
    Standardize,
    UniformDequantization,
    VariationalModel,
)
from gyoza.modelling.flow_layers.discrete import find_discrete
from gyoza.modelling.flow_layers.interpolation import PATHS, couple_optimally
from gyoza.modelling.metrics import NegativeLogLikelihood

pytestmark = pytest.mark.usefixtures("without_xla")


def compute_slope(time, deviation):
    """The slope of velocities of straight paths from standard normal to normal points."""
    variance = (1.0 - time) ** 2 + (deviation * time) ** 2
    return (deviation**2 * time - (1.0 - time)) / variance


@keras.saving.register_keras_serializable(package="gyoza_tests")
class GaussianVelocity(keras.Layer):
    """The velocity of straight paths from standard normal points to normal data, on average."""

    def __init__(self, mean=2.0, deviation=0.5, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.deviation = mean, deviation

    def call(self, inputs):
        x, time = inputs
        return self.mean + compute_slope(time, self.deviation) * (x - time * self.mean)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}


class MeanVelocity(keras.Layer):
    """The velocity from standard normal points to normal ones with the context as their mean.

    Without a context, those are points around 0 with a deviation of 2.
    """

    def call(self, inputs):
        x, time, codes = inputs
        mean, is_missing = codes[:, :1], codes[:, 1:]
        known = mean + compute_slope(time, 0.5) * (x - time * mean)
        return ops.where(is_missing > 0.5, compute_slope(time, 2.0) * x, known)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def normal(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


def normal_log_prob(x, mean, deviation):
    z = (x[:, 0] - mean) / deviation
    return -0.5 * z**2 - np.log(deviation * np.sqrt(2.0 * np.pi))


def measure_distance(x, y):
    """The energy distance of two samples, which is 0 if their distributions are the same."""

    def mean_of(a, b):
        return np.mean(np.linalg.norm(a[:, None] - b[None], axis=-1))

    return 2.0 * mean_of(x, y) - mean_of(x, x) - mean_of(y, y)


def corners(count, seed=0):
    """Points around the corners of a square."""
    generator = np.random.default_rng(seed)
    centres = 2.0 * generator.integers(2, size=(count, 2)) - 1.0
    return (centres + 0.1 * generator.normal(size=(count, 2))).astype("float32")


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


def test_targets_are_refused_whatever_they_come_in():
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


def test_the_loss_of_optimal_pairs_has_no_variance_left():
    # Between normal distributions, the optimal map is affine, and so is each step on straight
    # paths: 2 + 0.5 x, which go at the velocity 2 - 0.5 x wherever x has come from.
    class OptimalVelocity(keras.Layer):
        def call(self, inputs):
            x, time = inputs
            return 2.0 - 0.5 * (x - 2.0 * time) / (1.0 - 0.5 * time)

        def compute_output_shape(self, input_shape):
            return input_shape[0]

    losses = {}
    for coupling in ("independent", "optimal"):
        model = FlowMatchingModel(OptimalVelocity(), flow_layers=[], coupling=coupling, seed=0)
        model.compile("sgd")
        losses[coupling] = model.evaluate(2.0 + 0.5 * normal(2048, 1), batch_size=256, verbose=0)
    assert losses["optimal"] < 0.05 < 0.5 < losses["independent"]


def test_given_sources_are_joined_as_they_are():
    x = normal(256, 3)
    model = FlowMatchingModel(VelocityMLP([8]), flow_layers=[], coupling="optimal", seed=0)
    model.compile("sgd")
    # A new velocity is 0, so that the loss is the mean square of differences.
    for source in (x, -x, x[::-1] + 1.0):
        loss = model.evaluate({"inputs": x, "source": source}, batch_size=256, verbose=0)
        assert loss == pytest.approx(np.mean((x - source) ** 2), rel=1e-4, abs=1e-6)


def test_samples_can_be_had_in_fewer_steps(gaussian):
    z = to_numpy(gaussian.flow.base_distribution.sample(6, seed=3))
    velocity = to_numpy(gaussian.flow._flow_layers_[-1].compute_velocity(z, 0.0))
    samples = gaussian.sample(6, seed=3, steps=1, solver="euler")
    np.testing.assert_allclose(to_numpy(samples), z + velocity, rtol=1e-5)
    samples, log_prob = gaussian.sample_and_log_prob(6, seed=3, steps=1, solver="euler")
    np.testing.assert_allclose(to_numpy(samples), z + velocity, rtol=1e-5)
    # At the time 0, the velocity has the slope -1.
    np.testing.assert_allclose(to_numpy(log_prob), normal_log_prob(z, 0.0, 1.0) + 1.0, rtol=1e-4)


def test_optimal_pairs_keep_contexts_apart():
    labels = np.arange(64) % 2
    source = normal(64, 2) + 5.0 * labels[:, None]
    data = normal(64, 2, seed=1) + 5.0 * labels[:, None]
    tensors = [ops.convert_to_tensor(x) for x in (source, data, labels[:, None])]
    chosen = to_numpy(couple_optimally(*tensors, seed=0))
    np.testing.assert_array_equal(chosen.mean(axis=1) > 2.5, labels == 1)
    assert np.mean((chosen - data) ** 2) < 0.5 * np.mean((source - data) ** 2)
    # Where no contexts are equal, nor known, pairs stay as they are.
    for context in (normal(64, 1), np.full([64, 1], np.nan, "float32")):
        chosen = couple_optimally(*tensors[:2], ops.convert_to_tensor(context), seed=0)
        np.testing.assert_array_equal(to_numpy(chosen), source)


@pytest.fixture(scope="module")
def trained():
    """Models of the same data, trained for as many steps."""
    models = {}
    for coupling in ("independent", "optimal"):
        keras.utils.set_random_seed(0)
        model = FlowMatchingModel(VelocityMLP([64, 64]), coupling=coupling, seed=0)
        model.adapt(corners(2048))
        schedule = keras.optimizers.schedules.CosineDecay(1e-2, 384)
        model.compile(keras.optimizers.Adam(schedule))
        model.fit(corners(2048), batch_size=64, epochs=12, verbose=0)
        models[coupling] = model
    return models


def measure_few_steps(model):
    samples = to_numpy(model.sample(500, seed=0, steps=2, solver="euler"))
    return measure_distance(samples, corners(500, seed=1))


def test_optimal_pairs_make_few_steps_better(trained):
    assert measure_few_steps(trained["optimal"]) < 0.5 * measure_few_steps(trained["independent"])


def test_reflow_makes_few_steps_better(trained):
    model = trained["independent"]
    before = measure_few_steps(model)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, 400)
    model.compile(keras.optimizers.Adam(schedule))
    history = model.reflow(2048, seed=0, batch_size=128, epochs=25, verbose=0)
    assert len(history.history["loss"]) == 25
    assert measure_few_steps(model) < 0.5 * before


def test_reflow_draws_nothing_for_a_model_that_is_not_compiled():
    model = FlowMatchingModel(GaussianVelocity(), flow_layers=[])
    model.build((None, 1))
    seeds = model.flow.base_distribution.seed_generator
    before = to_numpy(seeds.state).tolist()
    with pytest.raises(ValueError, match="should be compiled before it is trained on its own"):
        model.reflow(8)
    assert to_numpy(seeds.state).tolist() == before


def test_data_move_to_data(tmp_path):
    source, data = normal(2048, 2) - 1.0, corners(6 * 1024)
    model = FlowMatchingModel(
        VelocityMLP([64, 64]),
        flow_layers=[],
        base_distribution=Empirical(source),
        coupling="optimal",
        step_count=4,
        seed=0,
    )
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(data, batch_size=64, epochs=5, verbose=0)
    noise = measure_distance(corners(500, seed=2), corners(500, seed=1))
    moved = to_numpy(model.invert(normal(500, 2, seed=4) - 1.0))
    assert measure_distance(moved, corners(500, seed=1)) < noise + 0.05
    samples = to_numpy(model.sample(500, seed=0))
    assert measure_distance(samples, corners(500, seed=1)) < noise + 0.05
    for run in (lambda: model.log_prob(data), lambda: model.sample_and_log_prob(3)):
        with pytest.raises(ValueError, match="has samples, and no density"):
            run()

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.sample(500, seed=0)), samples, atol=1e-4)


def test_flows_whose_latents_are_data_have_samples_alone():
    flow = FlowModel([Standardize()], base_distribution=Empirical(normal(64, 2)))
    flow.adapt(3.0 * normal(512, 2))
    assert flow.sample(5).shape == (5, 2)
    flow.compile("sgd")
    with pytest.raises(ValueError, match="has samples, and no density"):
        flow.fit(normal(64, 2), verbose=0)


@pytest.fixture(scope="module")
def guided():
    model = FlowMatchingModel(
        MeanVelocity(), flow_layers=[], context_encoder=OptionalContext(), step_count=32
    )
    model.flow.build_for(np.zeros([2, 1], "float32"), np.zeros([2, 1], "float32"))
    return model


def test_densities_are_unconditional_where_contexts_are_missing(guided):
    x = np.linspace(-1.0, 3.0, 6, dtype="float32")[:, None]
    context = np.array([[1.0], [np.nan], [2.0], [np.nan], [np.inf], [0.0]], "float32")
    log_prob = to_numpy(guided.log_prob(x, context=context))
    mean = np.nan_to_num(context[:, 0])
    deviation = np.where(np.isnan(context[:, 0]), 2.0, 0.5)
    expected = normal_log_prob(x, mean, deviation)
    expected[4] = np.nan
    np.testing.assert_allclose(log_prob, expected, atol=2e-3)
    every = to_numpy(guided.log_prob(x, context=[np.nan]))
    np.testing.assert_allclose(every, normal_log_prob(x, 0.0, 2.0), atol=2e-3)


def test_guidance_extrapolates_velocities(guided):
    z = to_numpy(guided.flow.base_distribution.sample(9, seed=5))
    one_step = {"seed": 5, "steps": 1, "solver": "euler"}
    for guidance in (0.0, 1.0, 3.0):
        samples = guided.sample(9, context=[2.0], guidance=guidance, **one_step)
        # At the time 0, velocities are -z without a context, and 2 - z with it.
        np.testing.assert_allclose(to_numpy(samples), np.full_like(z, 2.0 * guidance), atol=1e-5)
    as_usual = to_numpy(guided.sample(9, seed=5, context=[2.0]))
    samples, log_prob = guided.sample_and_log_prob(9, seed=5, context=[2.0], guidance=1.0)
    np.testing.assert_allclose(to_numpy(samples), as_usual, atol=1e-4)
    expected = guided.log_prob(samples, context=[2.0])
    np.testing.assert_allclose(to_numpy(log_prob), to_numpy(expected), atol=1e-3)
    # Where the context is missing, there is nothing to be guided to.
    samples = to_numpy(guided.sample(9, seed=5, context=[np.nan], guidance=3.0))
    np.testing.assert_allclose(samples, 2.0 * z, atol=1e-2)


def test_guidance_needs_a_context_that_can_be_left_out(guided, gaussian):
    with pytest.raises(ValueError, match="`guidance` should be given with a `context`"):
        guided.sample(3, guidance=2.0)
    with pytest.raises(ValueError, match=r"is an `OptionalContext`\. Received: guidance=2"):
        gaussian.sample(3, context=[1.0], guidance=2.0)


def test_options_of_the_solver_reach_it_and_are_saved():
    options = {"rtol": 0.1, "atol": 0.2, "max_step_count": 7}
    options |= {"exact_limit": 1, "probe": "normal", "probe_count": 3}
    model = FlowMatchingModel(VelocityMLP([4]), solver="dopri5", memory_efficient=True, **options)
    for each in (model, FlowMatchingModel.from_config(model.get_config())):
        config = each.flow._flow_layers_[-1].get_config()
        assert {name: config[name] for name in options} == options
        assert each.flow.memory_efficient
    with pytest.raises(ValueError, match=r"`rtol` should be positive\. Received: rtol=0"):
        FlowMatchingModel(VelocityMLP([4]), rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` should be an integer of at least 1. Received: steps=0"),
        ({"steps": 4.0}, "`steps` should be an integer of at least 1. Received: steps=4.0"),
        ({"solver": ["rk4"]}, "`solver` should be one of"),
        ({"solver": "dopri5", "steps": 4}, "`steps` should be omitted for solver 'dopri5'"),
        ({"guidance": np.nan}, "`guidance` should be a finite number. Received: guidance=nan"),
        ({"guidance": "strong"}, "`guidance` should be a finite number"),
    ],
)
def test_bad_ways_of_sampling(options, message, guided):
    guided.sample(2, context=[2.0], steps=4)  # 4.0 is equal to what was asked for before
    with pytest.raises(ValueError, match=message):
        guided.sample(2, context=[2.0], **options)


def test_threads_do_not_change_the_guidance_of_others(guided):
    draw = functools.partial(guided.sample, 4, seed=5, context=[2.0], steps=1, solver="euler")
    wrong = []

    def run(guidance):
        for _ in range(20):
            samples = to_numpy(draw(guidance=guidance))
            if not np.allclose(samples, 2.0 * guidance, atol=1e-5):
                wrong.append(guidance)

    draw(guidance=1.0)
    threads = [threading.Thread(target=run, args=(guidance,)) for guidance in (1.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def make_labelled_data(count):
    labels = np.arange(count)[:, None] % 2
    x = normal(count, 2) * 0.3 + np.array([10.0, 5.0]) + 4.0 * labels * np.array([1.0, 0.0])
    return {"inputs": x.astype("float32"), "context": labels}


def make_encoder(rate=0.2):
    encoder = keras.Sequential([keras.layers.Embedding(2, 4), keras.layers.Flatten()])
    return OptionalContext(encoder, rate, seed=0)


@pytest.mark.parametrize(
    "coupling", ["optimal", pytest.param("independent", marks=pytest.mark.long)]
)
def test_classes_and_their_absence_are_learned_and_saved(coupling, tmp_path):
    data = make_labelled_data(3200)
    model = FlowMatchingModel(
        VelocityMLP([32, 32]),
        context_encoder=make_encoder(0.5),
        coupling=coupling,
        step_count=4,
        seed=0,
    )
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(data, epochs=6, batch_size=64, verbose=0)
    for label, mean, deviation in ((0, 10.0, 0.3), (1, 14.0, 0.3), (-1, 12.0, 2.0)):
        samples = to_numpy(model.sample(400, seed=0, context=[label]))
        np.testing.assert_allclose(samples.mean(axis=0), [mean, 5.0], atol=0.5)
        assert samples[:, 0].std() == pytest.approx(deviation, abs=0.35)

    x, unknown = data["inputs"][:9], np.full([9, 1], -1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for context in (data["context"][:9], unknown):
        expected = to_numpy(model.log_prob(x, context))
        np.testing.assert_allclose(to_numpy(loaded.log_prob(x, context)), expected, atol=1e-3)
    expected = to_numpy(model.sample(9, seed=0, context=[1], guidance=2.0))
    samples = to_numpy(loaded.sample(9, seed=0, context=[1], guidance=2.0))
    np.testing.assert_allclose(samples, expected, atol=1e-3)
    assert loaded.coupling == coupling
    loaded.fit(make_labelled_data(64), verbose=0)  # as it was compiled


def test_contexts_are_left_out_in_training_alone():
    encoder = OptionalContext(rate=0.3, seed=0)
    context = 1.0 + normal(4000, 2) ** 2
    marks = to_numpy(encoder(context))[:, -1]
    np.testing.assert_array_equal(marks, 0.0)
    assert encoder(context[:0]).shape == (0, 3)
    codes = to_numpy(encoder(context, training=True))
    assert codes[:, -1].mean() == pytest.approx(0.3, abs=0.03)
    kept = codes[:, -1] == 0.0
    np.testing.assert_allclose(codes[kept, :-1], context[kept], rtol=1e-6)
    np.testing.assert_array_equal(codes[~kept, :-1], 0.0)


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


def test_discrete_dimensions_are_found():
    x = normal(1000, 4)
    x[:, 1], x[:, 3] = x[:, 1].round(1), 2.0
    assert find_discrete(x).tolist() == [1]
    assert find_discrete(x[:99]).tolist() == []
    pixels = np.random.default_rng(0).integers(256, size=[5000, 2, 2])
    assert find_discrete(pixels / 255.0).tolist() == [0, 1, 2, 3]
    assert find_discrete(normal(100_000, 1)).tolist() == []


@pytest.mark.parametrize(
    "make",
    [lambda: FlowMatchingModel(VelocityMLP([4])), lambda: FlowModel([ActivationNormalization()])],
)
def test_discrete_data_are_warned_of_once(make):
    x = np.random.default_rng(0).integers(8, size=[200, 2]).astype("float32")
    model = make()
    model.compile("sgd")
    message = rf"Model '{model.name}.*in 2 dimensions, those of indices 0, 1\. A density can"
    with pytest.warns(UserWarning, match=message):
        model.adapt(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, verbose=0)


def test_no_other_data_are_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = np.random.default_rng(0).integers(8, size=[200, 2]).astype("float32")
        for data, layers in ((normal(200, 2), None), (x, [UniformDequantization(8)])):
            model = FlowMatchingModel(VelocityMLP([4]), layers)
            model.compile("sgd")
            model.adapt(data)
            model.fit(data, verbose=0)


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


def test_base_distributions_can_have_the_context_that_is_left_out():
    model = FlowMatchingModel(
        VelocityMLP([8]),
        base_distribution=DiagonalNormal(context_network=keras.layers.Dense(4)),
        context_encoder=make_encoder(),
        coupling="optimal",
    )
    model.compile("sgd")
    data = make_labelled_data(64)
    model.fit(data, verbose=0)
    assert model.sample(3, context=[-1], guidance=1.5).shape == (3, 2)
    model.reflow(64, context=data["context"], steps=2, verbose=0)


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


def test_the_flow_of_a_model_can_go_on_by_a_formula():
    model = FlowMatchingModel(VelocityMLP([8]), flow_layers=[], step_count=2)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(normal(64, 2), verbose=0)
    trainer = VariationalModel(model.flow, lambda x: -0.5 * ops.sum((x - 1.0) ** 2, axis=-1))
    trainer.compile(keras.optimizers.Adam(1e-2))
    trainer.fit(batch_size=64, steps_per_epoch=60, verbose=0)
    np.testing.assert_allclose(to_numpy(model.sample(1000, seed=0)).mean(axis=0), 1.0, atol=0.3)
