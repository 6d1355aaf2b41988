"""Errors of solvers in densities, by the closed form of a linear velocity."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.flow_layers import (
    ContinuousFlow,
    FlowMatchingModel,
    FlowModel,
    Reflection,
    UniformDequantization,
)

pytestmark = pytest.mark.compiled_by("jax")

RATE = 12.0
# Latents are normal if the equation is solved exactly.
DATA = np.exp(-RATE) * np.random.default_rng(0).normal(size=(32, 2)).astype("float32")


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Decay(keras.Layer):
    """The velocity -a x, with a weight a."""

    def build(self, input_shape):
        self.rate = self.add_weight(shape=(), initializer=keras.initializers.Constant(RATE))

    def call(self, inputs):
        return -self.rate * inputs[0]

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def make(**options):
    return FlowModel([ContinuousFlow(Decay(), **options)])


def fit(model):
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(DATA, verbose=0)


def expected_log_prob(x, step_count):
    """A step of RK4 multiplies points by a polynomial; the trace is integrated exactly."""
    h = RATE / step_count
    z = x.astype("float64") * (1 + h + h**2 / 2 + h**3 / 6 + h**4 / 24) ** step_count
    return np.sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) + RATE, axis=-1)


def test_errors_of_few_steps_are_those_of_their_polynomial():
    model = make(step_count=4)
    np.testing.assert_allclose(to_numpy(model.log_prob(DATA)), expected_log_prob(DATA, 4), 1e-4)
    error = np.mean(np.abs(expected_log_prob(DATA, 4) - expected_log_prob(DATA, 8)))
    assert error > 0.2
    # The density would integrate to more than 5.
    assert np.mean(expected_log_prob(DATA, 4) - expected_log_prob(DATA, 1000)) > 0.5
    with pytest.warns(UserWarning, match=r"by 4 steps of 'rk4', differ by 0\.\d+ nats"):
        assert model.check_steps(DATA) == pytest.approx(error, rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert model.check_steps(DATA, tolerance=1.0) == pytest.approx(error, rel=1e-3)


@pytest.mark.compiled_by("tensorflow")
def test_more_steps_count_once_they_are_set():
    model = make(step_count=4)
    model.log_prob(DATA)
    model.layers[0].step_count = 40
    np.testing.assert_allclose(to_numpy(model.log_prob(DATA)), expected_log_prob(DATA, 40), 1e-4)


def test_a_flow_matching_model_checks_the_steps_of_its_flow():
    model = FlowMatchingModel(Decay(), flow_layers=[], step_count=4)
    error = np.mean(np.abs(expected_log_prob(DATA, 4) - expected_log_prob(DATA, 8)))
    with pytest.warns(UserWarning, match="by 4 steps of 'rk4'"):
        assert model.check_steps(DATA) == pytest.approx(error, rel=1e-3)


@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("options", [{"step_count": 32}, {"solver": "dopri5", "atol": 1e-10}])
def test_fine_steps_are_silent(options):
    model = make(**options)
    fit(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.log_prob(DATA)
        assert model.check_steps(DATA) < 0.01


def test_rows_that_few_steps_lose_are_infinitely_wrong():
    """Squares of latents are just finite after one step of 13, and infinite after two of 7."""
    model = make(solver="euler", step_count=1)
    x = np.array([[1e18, 0.0], [np.nan, 0.0]], "float32")
    assert model.check_steps(x[1:]) == 0.0
    with pytest.warns(UserWarning, match="differ by inf nats"):
        assert model.check_steps(x) == np.inf


@pytest.mark.parametrize("method", ["log_prob", "evaluate"])
def test_steps_are_checked_once_after_training(method):
    model = make(step_count=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.log_prob(DATA)
        fit(model)
    with pytest.warns(UserWarning, match="by 4 steps of 'rk4'") as caught:
        getattr(model, method)(DATA)
    assert {w.filename for w in caught if w.category is UserWarning} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.log_prob(DATA)
        model.evaluate(DATA, verbose=0)


def test_steps_are_checked_after_flow_matching():
    model = FlowMatchingModel(Decay(), [Reflection()], step_count=4)
    fit(model)
    with pytest.warns(UserWarning, match="by 4 steps of 'rk4'") as caught:
        model.log_prob(DATA)
    assert {w.filename for w in caught if w.category is UserWarning} == {__file__}


def test_random_numbers_are_the_same_for_both_lengths_of_steps():
    layer = ContinuousFlow(VelocityMLP([8], "tanh"), exact_limit=0, probe="normal")
    model = FlowModel([UniformDequantization(4), layer])
    x = np.random.default_rng(0).integers(4, size=(16, 3)).astype("float32")
    model(x)
    for k, weight in enumerate(model.trainable_weights):
        weight.assign(0.3 * np.random.default_rng(k).normal(size=weight.shape))
    draws = [to_numpy(model.log_prob(x)) for _ in range(2)]
    assert np.mean(np.abs(draws[0] - draws[1])) > 0.05
    assert model.check_steps(x) < 1e-3
    assert np.mean(np.abs(to_numpy(model.log_prob(x)) - draws[1])) > 0.05


def test_contexts_are_passed_on():
    class Shift(keras.Layer):
        def call(self, inputs):
            x, _, context = inputs
            return ops.cast(context, x.dtype) * x

        def compute_output_shape(self, input_shape):
            return input_shape[0]

    model = FlowModel([ContinuousFlow(Shift(), step_count=1)])
    x, context = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")
    assert model.check_steps(x, context) == 0.0
    with pytest.warns(UserWarning, match="by 1 steps of 'rk4'"):
        assert model.check_steps({"inputs": x, "context": context - 3.0}) > 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="should have a `ContinuousFlow` among its layers"):
        FlowModel([Reflection()]).check_steps(DATA)
    with pytest.raises(ValueError, match="`tolerance` should be positive"):
        make().check_steps(DATA, tolerance=0.0)
