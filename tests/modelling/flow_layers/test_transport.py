"""Pairs of latents and data: by optimal transport, given ones, and those of a flow itself."""

import keras
import numpy as np
import pytest
from flow_matching_data import GaussianVelocity, normal
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.distributions import Empirical
from gyoza.modelling.flow_layers import FlowMatchingModel, FlowModel, Standardize
from gyoza.modelling.flow_layers.interpolation import couple_optimally

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by(),
]


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
    with pytest.raises(ValueError, match=r"`sample_count` should be .*Received: sample_count=0"):
        model.reflow(0)
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
        with pytest.raises(ValueError, match="has samples, but no density"):
            run()

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.sample(500, seed=0)), samples, atol=1e-4)


def test_flows_whose_latents_are_data_have_samples_alone():
    flow = FlowModel([Standardize()], base_distribution=Empirical(normal(64, 2)))
    flow.adapt(3.0 * normal(512, 2))
    assert flow.sample(5).shape == (5, 2)
    flow.compile("sgd")
    with pytest.raises(ValueError, match="has samples, but no density"):
        flow.fit(normal(64, 2), verbose=0)
