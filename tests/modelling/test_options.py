"""Options that change after functions were compiled."""

import copy

import keras
import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza import applications
from gyoza.backend import CHANGES
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    FlowMatchingModel,
    FlowModel,
)

X = np.random.default_rng(0).normal(size=[32, 2]).astype("float32")


def draw_weights(model):
    """Sets weights that are not special, as the zeros are that networks start with."""
    random = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape))


def make_coupling(bound):
    model = FlowModel([AffineCoupling(conditioner=MLP([4]), log_scale_bound=bound)])
    model.build([None, 2])
    draw_weights(model)
    model.compile("sgd")
    return model


def run_all(model):
    results = {
        "log_prob": model.log_prob(X),
        "sample": model.sample(3, seed=1),
        "evaluate": model.evaluate(X, verbose=0),
        "predict": model.predict(X, verbose=0)[1],
    }
    return {name: to_numpy(result) for name, result in results.items()}


def test_compiled_functions_know_the_last_value_of_an_option():
    model = make_coupling(0.5)
    before = run_all(model)
    model._flow_layers_[0].log_scale_bound = 3.0
    after, expected = run_all(model), run_all(make_coupling(3.0))
    for name, result in after.items():
        assert np.abs(result - before[name]).max() > 1e-3, name
        np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_training_knows_the_last_value_of_an_option():
    def fit(batch_size=32, **options):
        return model.fit(X, batch_size=batch_size, verbose=0, **options).history["loss"]

    losses = []
    for bound in (0.5, 3.0):
        model = make_coupling(bound)
        model.compile(keras.optimizers.SGD(0.0))
        losses += fit()
    assert np.abs(np.diff(losses)) > 0.1
    layer = model._flow_layers_[0]
    layer.log_scale_bound = 0.5
    np.testing.assert_allclose(fit(), losses[:1], rtol=1e-4)
    layer.log_scale_bound = 3.0
    np.testing.assert_allclose(model.train_on_batch(X), losses[1], rtol=1e-4)

    class Raise(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            layer.log_scale_bound = [0.5, 3.0][epoch]

    for batch_size in (32, 8):  # in several steps per execution, too
        history = fit(batch_size, epochs=2, callbacks=[Raise()])
        np.testing.assert_allclose(history, losses, rtol=1e-3)


def test_other_ways_to_solve_know_the_last_value_of_an_option():
    model = FlowMatchingModel(VelocityMLP([8]), flow_layers=[], rtol=0.9, atol=0.9)
    model.flow.build([None, 2])
    draw_weights(model.flow)
    rough = to_numpy(model.sample(8, seed=1, solver="dopri5"))
    model.continuous_flow.rtol = model.continuous_flow.atol = 1e-6
    fine = to_numpy(model.sample(8, seed=1, solver="dopri5"))
    expected = to_numpy(model.sample(8, seed=1, solver="rk4", steps=100))
    assert np.abs(rough - expected).max() > 1e-3
    np.testing.assert_allclose(fine, expected, atol=1e-4)
    assert len(model._flows) == 2  # those of old options are forgotten


def test_options_that_a_constructor_passes_on_count():
    class Passing(AffineCoupling):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)

    layer = Passing(conditioner=MLP([4]), log_scale_bound=0.5)
    layer(X)
    count = CHANGES.count
    layer.log_scale_bound = 3.0
    assert CHANGES.count == count + 1


def test_copies_and_files_change_no_option(tmp_path):
    flow = applications.RealNVP(layer_count=2, hidden_sizes=[4])
    autoregressive = applications.MAF(layer_count=2, hidden_sizes=[4])
    count = CHANGES.count
    for model in (flow, autoregressive):
        model.adapt(X)
        model.compile("sgd")
        model.fit(X, verbose=0)
        copy.deepcopy(model)
        model.save(tmp_path / "model.keras")
        keras.saving.load_model(tmp_path / "model.keras")
    assert CHANGES.count == count


def test_nothing_is_compiled_anew_without_a_change():
    counts = []

    class Counting(AffineCoupling):
        def __init__(self, trainable=True, last=None, scale=1.0, **kwargs):
            super().__init__(trainable=trainable, **kwargs)
            self.last, self.scale = last, scale

        def call(self, inputs, context=None):
            counts.append(1)
            self.last, self.scale = ops.sum(inputs), 2.0  # as a call may do
            return super().call(inputs, context)

    layer = Counting(conditioner=MLP([4]))
    model = FlowModel([layer])
    model.compile("sgd")
    model.fit(X, verbose=0)
    model.log_prob(X)
    model.fit(X, verbose=0)
    model.log_prob(X)
    count = len(counts)
    layer.log_scale_bound = 2.0  # as before
    layer.trainable = False
    make_coupling(1.0).fit(X, verbose=0)
    model.log_prob(X)
    layer.trainable = True
    model.fit(X, verbose=0)
    if keras.backend.backend() != "torch":
        assert len(counts) == count
