"""Training by an unnormalised target density."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel, VariationalModel


def target(x):
    """A normal density with means 3 and -1 and standard deviations 2 and 1/2, times e."""
    z = (x - ops.convert_to_tensor([3.0, -1.0])) / ops.convert_to_tensor([2.0, 0.5])
    return 1.0 - 0.5 * ops.sum(z * z, axis=-1) - np.log(2.0 * np.pi)


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
