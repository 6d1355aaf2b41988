"""Contexts of flow matching, which may be missing, and guidance by them."""

import functools
import threading

import keras
import numpy as np
import pytest
from flow_matching_data import (
    GaussianVelocity,
    compute_slope,
    make_encoder,
    make_labelled_data,
    normal,
    normal_log_prob,
)
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import OptionalContext, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import FlowMatchingModel

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by("jax"),
]


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


def test_guidance_needs_a_context_that_can_be_left_out(guided):
    with pytest.raises(ValueError, match="`guidance` should be given with a `context`"):
        guided.sample(3, guidance=2.0)
    with pytest.raises(ValueError, match=r"is an `OptionalContext`\. Received: guidance=2"):
        FlowMatchingModel(GaussianVelocity()).sample(3, context=[1.0], guidance=2.0)


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


@pytest.mark.compiled_by
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
