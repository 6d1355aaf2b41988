"""Subclasses that users derive from couplings and autoregressive layers."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    ConditionalFlowLayer,
    ElementwiseCoupling,
    FlowLayer,
    FlowModel,
    MaskedAffine,
)

X = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")


class Power(ElementwiseCoupling):
    """Has a number of parameters that is known only after the constructor of its base class."""

    def __init__(self, count=2, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    @property
    def parameter_count(self):
        return self.count

    def _couple_(self, inputs, coupling_parameters):
        return inputs + ops.sum(coupling_parameters, axis=-1)

    def _decouple_(self, outputs, coupling_parameters):
        return outputs - ops.sum(coupling_parameters, axis=-1)

    def compute_log_stretch(self, inputs, coupling_parameters):
        return ops.zeros_like(inputs)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ContextShift(ConditionalFlowLayer):
    """Implements nothing but what a layer with a context has to."""

    def build(self, input_shape=None):
        super().build(input_shape)
        self.network = keras.layers.Dense(self.dimension_count, dtype=self.dtype_policy)
        self.network.build((None, self.context_size))

    def call(self, inputs, context=None):
        return inputs + self.network(context), ops.zeros(ops.shape(inputs)[:1], self.log_det_dtype)

    def invert(self, outputs, context=None):
        return outputs - self.network(context)


class Steep(MaskedAffine):
    """Has log-scales of its own."""

    def compute_log_stretch(self, inputs, coupling_parameters):
        return 3.0 * super().compute_log_stretch(inputs, coupling_parameters)


class OneParameter(AffineCoupling):
    """Scales by one parameter, which is in another place than an affine coupling has it."""

    parameter_count = 1

    def compute_log_scales(self, coupling_parameters):
        return ops.tanh(coupling_parameters)

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.exp(self.compute_log_scales(coupling_parameters))

    def _decouple_(self, outputs, coupling_parameters):
        return outputs * ops.exp(-self.compute_log_scales(coupling_parameters))


@pytest.mark.parametrize(
    "layer",
    [
        Power(conditioner=MLP([3])),
        Steep(conditioner=MADE([3])),
        OneParameter(conditioner=MLP([3])),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_log_determinants_and_inverses_are_those_of_what_it_does(layer):
    layer(X)
    random = np.random.default_rng(1)
    layer.set_weights([random.normal(size=w.shape) / 3.0 for w in layer.get_weights()])
    outputs, log_det = (to_numpy(value) for value in layer(X))
    assert np.abs(outputs - X).max() > 0.1
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), X, atol=1e-4)
    steps = 1e-2 * np.eye(4, dtype="float32")
    rows = [(to_numpy(layer(X + h)[0]) - to_numpy(layer(X - h)[0])) / 2e-2 for h in steps]
    expected = np.linalg.slogdet(np.stack(rows, axis=1).astype("float64"))[1]
    np.testing.assert_allclose(log_det, expected, atol=1e-2)


def test_a_conditional_layer_needs_call_and_invert_alone(check_contract, tmp_path):
    context = X[:, :2] + 1.0
    check_contract(ContextShift(), [4], context=context[:4])
    model = FlowModel([ContextShift(), Steep(MADE([8]))])
    model.compile("adam")
    model.fit({"inputs": X, "context": context}, verbose=0)
    assert model.compute_output_shape((None, 4)) == ((None, 4), (None,))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", {"Steep": Steep})
    expected = to_numpy(model.log_prob(X, context))
    np.testing.assert_allclose(to_numpy(loaded.log_prob(X, context)), expected, rtol=1e-5)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class WithoutSuper(FlowLayer):
    """Forgets to call the `build` that it overrides."""

    def build(self, input_shape):
        self.log_scale = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="s")

    def transform(self, inputs):
        log_det = ops.broadcast_to(ops.sum(self.log_scale), ops.shape(inputs)[:-1])
        return inputs * ops.exp(self.log_scale), log_det

    def inverse_transform(self, outputs):
        return outputs * ops.exp(-self.log_scale)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class CouplingWithoutSuper(AffineCoupling):
    def build(self, input_shape=None):
        return


@pytest.mark.parametrize(
    "layer",
    [WithoutSuper(), WithoutSuper(axes=[-1]), CouplingWithoutSuper([4], [1], MLP([8]))],
)
def test_a_build_need_not_call_the_one_that_it_overrides(check_contract, layer):
    check_contract(layer, [4], is_further_layout=layer._axes_ is not None)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"expected axis (1|-1) of input shape to have value 4"):
        layer(X[:, :3])


def test_a_layer_with_a_call_of_its_own_is_built_by_its_build_alone():
    class OfAnyLength(WithoutSuper):
        def build(self, input_shape):
            return

        def call(self, inputs):
            return 2.0 * inputs, np.log(2.0) * inputs.shape[-1]

    layer = OfAnyLength()
    for length in (4, 3):
        assert to_numpy(layer(X[:, :length])[1])[0] == pytest.approx(length * np.log(2.0))


def test_a_build_that_needs_the_shape_is_told_how_to_know_it():
    class TooEarly(WithoutSuper):
        def build(self, input_shape):
            self.log_scale = self.add_weight(shape=(self.dimension_count,), name="s")

    with pytest.raises(ValueError, match=r"should begin with `super\(\)\.build\(input_shape\)`"):
        TooEarly()(X)
