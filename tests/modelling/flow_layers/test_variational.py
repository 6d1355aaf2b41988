"""Training by an unnormalised target density."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel, VariationalModel

pytestmark = pytest.mark.usefixtures("without_xla")


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
            lambda: VariationalModel(make_flow(), lambda x: x)(np.zeros([2, 1], "float32")),
            ValueError,
            r"of shape \[batch\]",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
