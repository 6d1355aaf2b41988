"""Callbacks for training."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.callbacks import TerminateOnNonFinite
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowLayer,
    FlowMatchingModel,
    FlowModel,
)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Root(FlowLayer):
    """Takes the square root, which is not a number for negative inputs."""

    def transform(self, inputs):
        return ops.sqrt(inputs), -ops.sum(0.5 * ops.log(inputs) + np.log(2.0), axis=-1)

    def inverse_transform(self, outputs):
        return outputs * outputs


def train(x, layers, learning_rate=1e-3):
    model = FlowModel(layers)
    model.compile(keras.optimizers.SGD(learning_rate))
    callback = TerminateOnNonFinite(x, batch_size=16)
    with pytest.warns(UserWarning, match="The loss is not finite"):
        history = model.fit(x, batch_size=8, epochs=5, callbacks=[callback], verbose=0)
    assert len(history.epoch) < 5
    return model, callback


def test_it_names_contexts_that_are_not_finite(x):
    context = x.copy()
    context[20] = np.nan
    data = {"inputs": x, "context": context}
    model = FlowModel([AffineCoupling(MLP([4]))])
    model.compile("sgd")
    callback = TerminateOnNonFinite(data)
    with pytest.warns(UserWarning, match="The context is not finite in 1 of 32 .* has index 20"):
        model.fit(data, callbacks=[callback], verbose=0)


@pytest.fixture
def x():
    return 1.0 + np.random.default_rng(0).uniform(size=(32, 2)).astype("float32")


def test_it_names_instances_that_are_not_finite(x):
    x[20, 1] = np.nan
    x[25, 0] = np.inf
    _, callback = train(x, [ActivationNormalization()])
    assert callback.layer is None
    assert "in 2 of 16 instances, the first of which has index 20" in callback.message


@pytest.mark.parametrize("shape", [[-1], [-1, 1]])
def test_it_names_weights_that_are_not_finite(x, shape):
    weights = np.where(np.arange(32) == 7, np.nan, 1.0).reshape(shape)
    for model in (FlowModel([ActivationNormalization()]), make_matching()):
        model.compile("sgd", jit_compile=keras.backend.backend() == "jax")
        callback = TerminateOnNonFinite(x)
        message = "`sample_weight` of `fit` is not finite in 1 of 32 .* has index 7."
        with pytest.warns(UserWarning, match=message):
            model.fit(x, sample_weight=weights, verbose=0, callbacks=callback)
        assert callback.layer is None
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.fit(x, verbose=0, callbacks=callback)


def test_it_names_the_first_layer_and_gives_the_weights_back(x):
    x[5] = -100.0
    model, callback = train(x, [ActivationNormalization(), Root(), Root(name="second")])
    assert callback.layer is model._flow_layers_[1]
    assert f"'{callback.layer.name}' are the first" in callback.message
    assert "in 1 of 16 instances, the first of which has index 5." in callback.message
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_it_knows_when_no_layer_is_to_blame(x):
    _, callback = train(1e3 * x, [ActivationNormalization()], learning_rate=1e38)
    assert callback.layer is None
    assert "learning rate" in callback.message


def make_matching():
    return FlowMatchingModel(VelocityMLP([4]), flow_layers=[])


def test_it_looks_into_the_flow_that_a_model_trains(x):
    model = make_matching()
    model.compile(keras.optimizers.SGD(1e30), jit_compile=keras.backend.backend() == "jax")
    callback = TerminateOnNonFinite(x)
    with pytest.warns(UserWarning, match="training diverged"):
        model.fit(x, batch_size=4, verbose=0, callbacks=[callback])
    assert callback.layer is None


@pytest.mark.parametrize("make", [lambda: FlowModel([ActivationNormalization()]), make_matching])
def test_a_loss_that_is_not_finite_is_told_of_once_without_the_callback(x, make):
    model = make()
    model.compile("adam", jit_compile=keras.backend.backend() == "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, verbose=0)
    bad = np.where(np.arange(32)[:, None] == 20, np.nan, x)
    with pytest.warns(UserWarning, match="loss of model .* in epoch 1: .*TerminateOnNon") as caught:
        model.fit(bad, epochs=3, verbose=0)
    assert [warning.filename for warning in caught if warning.category is UserWarning] == [__file__]
    with pytest.warns(UserWarning, match="The data are not finite in 1 of 32") as caught:
        model.fit(bad, epochs=3, verbose=0, callbacks=TerminateOnNonFinite(bad))
    assert sum(warning.category is UserWarning for warning in caught) == 1
    message = r"validation loss .* in epoch 1: .*`log_prob"
    for callbacks in ([], [TerminateOnNonFinite(x)]):
        model = make()
        model.compile("adam", jit_compile=keras.backend.backend() == "jax")
        with pytest.warns(UserWarning, match=message) as caught:
            model.fit(x, validation_data=(bad,), epochs=3, verbose=0, callbacks=callbacks)
        assert sum(warning.category is UserWarning for warning in caught) == 1


def test_it_leaves_finite_training_alone(x):
    model = FlowModel([ActivationNormalization()])
    model.compile("adam")
    callback = TerminateOnNonFinite(x)
    assert len(model.fit(x, epochs=2, callbacks=[callback], verbose=0).epoch) == 2
    assert callback.message is None
