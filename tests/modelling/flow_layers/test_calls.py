"""How many functions of gyoza a tensor passes on its way through a layer."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import gyoza
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import StandardNormal
from gyoza.modelling.flow_layers import ActivationNormalization, AffineCoupling, FlowModel

ROOT = str(Path(gyoza.__file__).parent)


def list_calls(function, *args):
    """Returns the functions of gyoza that a call runs, in their order.

    Operations that the backend in use has, and that are functions for another, do not count, nor do
    attributes that Keras sets in each call.
    """
    calls = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            calls.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    apart = "add_product", "tanh", "KerasHooks.__setattr__", "HasOptions.__setattr__"
    return [call for call in calls if call not in apart]


@pytest.fixture
def x():
    return ops.convert_to_tensor(np.random.default_rng(0).normal(size=(5, 4)).astype("float32"))


@pytest.mark.parametrize(
    ("method", "most"), [("__call__", 14), ("invert", 25), ("invert_and_log_det", 25)]
)
def test_few_functions_stand_between_a_tensor_and_its_formula(x, method, most):
    layer = AffineCoupling(conditioner=MLP([8]))
    run = getattr(layer, method)
    layer(x)
    run(x)
    calls = list_calls(run, x)
    assert len(calls) <= most, "\n".join(calls)


def test_few_functions_stand_between_a_tensor_and_a_chain_of_formulas(x):
    layers = [
        AffineCoupling(conditioner=MLP([8])),
        ActivationNormalization(),
    ]
    model = FlowModel(layers)
    model(x)
    model(x)
    calls = list_calls(model, x)
    assert len(calls) <= 30, "\n".join(calls)


def test_a_layer_is_inverted_by_what_was_made_at_first(x):
    layer = AffineCoupling(conditioner=MLP([8]))
    layer(x)
    layer.invert(x)
    calls = list_calls(layer.invert, x)
    assert "Inversion.call" in calls
    assert "Inversion.__init__" not in calls


def test_an_inversion_follows_the_precision_of_its_layer(x):
    layer = AffineCoupling(conditioner=MLP([8]))
    layer(x)
    layer.invert(x)
    layer.dtype_policy = "bfloat16"
    assert keras.backend.standardize_dtype(layer.invert(x).dtype) == "bfloat16"


def test_a_distribution_without_a_context_asks_for_none(x):
    distribution = StandardNormal()
    distribution.log_prob(x)
    calls = list_calls(distribution.log_prob, x)
    assert {call for call in calls if "context" in call} <= {"Conditional.accepts_context"}


def test_both_names_of_the_log_determinant_give_what_call_does(x):
    layer = AffineCoupling(conditioner=MLP([8]))
    layer(x)
    network = layer._compute_coupling_parameters_
    network.set_weights([np.full(w.shape, 0.1) for w in network.weights])
    expected = ops.convert_to_numpy(layer(x)[1])
    assert np.all(expected != 0.0)
    for compute in (layer.log_det, layer.compute_jacobian_determinant):
        np.testing.assert_allclose(ops.convert_to_numpy(compute(x)), expected, rtol=1e-6)


def test_errors_name_the_layer_and_the_method(x):
    layer = AffineCoupling(conditioner=MLP([8]), name="first")
    layer(x)
    for method, name in (
        ("invert", "first_invert"),
        ("invert_and_log_det", "first_invert_and_log_det"),
        ("log_det", "first_compute_jacobian_determinant"),
    ):
        for _ in range(2):
            with pytest.raises(ValueError, match=f"layer .{name}.*shape \\(5, 3\\)"):
                getattr(layer, method)(np.ones([5, 3], "float32"))


def test_a_functional_model_goes_through_an_inverse_twice(x, tmp_path):
    layer = AffineCoupling(conditioner=MLP([8]), name="twice")
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(0.3 * np.random.default_rng(1).normal(size=weight.shape))
    outputs = keras.Input([4])
    model = keras.Model(outputs, layer.invert(layer.invert(outputs)))
    names = [inner.name for inner in model.layers[1:]]
    assert names == ["twice_invert", "twice_invert_2"]
    model.save(tmp_path / "model.keras")
    expected = ops.convert_to_numpy(layer.invert(layer.invert(x)))
    assert np.abs(expected - ops.convert_to_numpy(x)).max() > 0.1
    for copy in (model, keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(ops.convert_to_numpy(copy(x)), expected, rtol=1e-5, atol=1e-6)
