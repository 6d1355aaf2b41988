"""The contract checker finds what is wrong with a layer, and says so."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.flow_layers import FlowLayer
from gyoza.testing.flow_layer_checks import check_flow_layer


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Scaling(FlowLayer):
    """A correct layer, y = exp(a) x, of which the broken ones below are made."""

    def create_weights(self):
        self.a = self.add_weight(shape=(self.dimension_count,), initializer="zeros", name="a")

    def transform(self, inputs):
        return inputs * ops.exp(self.a), self.sum_log_derivatives(inputs)

    def sum_log_derivatives(self, inputs):
        return ops.sum(ops.zeros_like(inputs) + self.a, axis=-1)

    def inverse_transform(self, outputs):
        return outputs * ops.exp(-self.a)


def register(cls):
    return keras.saving.register_keras_serializable(package="gyoza_tests")(cls)


@register
class WrongSign(Scaling):
    def sum_log_derivatives(self, inputs):
        return -super().sum_log_derivatives(inputs)


@register
class WrongInverse(Scaling):
    def inverse_transform(self, outputs):
        return outputs * (1 - self.a)


@register
class UnusedWeight(Scaling):
    def create_weights(self):
        super().create_weights()
        self.b = self.add_weight(shape=(), initializer="zeros", name="b")


@register
class MixesInstances(Scaling):
    def transform(self, inputs):
        return super().transform(inputs - ops.mean(inputs, axis=0))


@register
class NotInConfig(Scaling):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def transform(self, inputs):
        outputs, log_det = super().transform(inputs)
        return self.factor * outputs, log_det + self.dimension_count * np.log(self.factor)

    def inverse_transform(self, outputs):
        return super().inverse_transform(outputs / self.factor)


@register
class Float32Only(Scaling):
    def transform(self, inputs):
        outputs, log_det = super().transform(inputs)
        return ops.cast(outputs, "float32"), log_det


@register
class NaNGradient(Scaling):
    def transform(self, inputs):
        outputs, log_det = super().transform(inputs)
        return outputs + ops.where(inputs > 1e3, ops.exp(1e4 * inputs**2), 0.0), log_det


@register
class InverseWithoutGradient(Scaling):
    """As if a loop searched for the inverse, beginning at the outputs."""

    def inverse_transform(self, outputs):
        inputs = super().inverse_transform(outputs)
        return outputs + ops.stop_gradient(inputs - outputs)


@register
class InverseWithFixedWeights(Scaling):
    def inverse_transform(self, outputs):
        return outputs * ops.exp(-ops.stop_gradient(self.a))


@register
class Identity(Scaling):
    def transform(self, inputs):
        return inputs, None

    def inverse_transform(self, outputs):
        return outputs


@register
class OneOutput(Scaling):
    def call(self, inputs):
        return super().call(inputs)[0]


def test_correct_layer_passes():
    check_flow_layer(Scaling(), [3])
    check_flow_layer(Scaling(axes=[2]), [2, 3], inputs=np.ones([2, 2, 3]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WrongSign(), "check their formula in `transform` or `call`, and its sign"),
        (WrongInverse(), r"`invert\(call\(x\)\[0\]\)` should be `x`"),
        (UnusedWeight(), "weight '.*b' should not vanish"),
        (MixesInstances(), "of a single instance should be as in the batch of 4 instances"),
        (NaNGradient(), "The gradient of `call` with respect to inputs should be finite"),
        (
            InverseWithoutGradient(),
            "gradient of `invert` with respect to inputs, pulled back.*find_root",
        ),
        (InverseWithFixedWeights(), "gradient of `invert` with respect to weight '.*a', pulled"),
        (Identity(), "should not be the identity"),
        (NotInConfig(factor=2.0), r"should hold all .* \['factor'\]"),
        (OneOutput(), "should return the pair"),
        (Float32Only(), "With policy float64|With policy mixed_float16"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_broken_layers_are_found_out(layer, message):
    with pytest.raises(AssertionError, match=f"{type(layer).__name__}: .*{message}"):
        check_flow_layer(layer, [3], fresh_process=False)


class NotRegistered(Scaling):
    pass


def test_class_that_is_not_registered_does_not_load_in_another_process():
    with pytest.raises(AssertionError, match=r"(?s)should load in another process.*NotRegistered"):
        check_flow_layer(NotRegistered(), [3], policies=(), fresh_process=True)


def test_class_that_is_not_registered_is_found_out_without_another_process():
    with pytest.raises(AssertionError, match="NotRegistered: The class should be registered"):
        check_flow_layer(NotRegistered(), [3], policies=(), fresh_process=False)


def test_class_defined_in_a_function_is_rejected():
    class Local(Scaling):
        pass

    with pytest.raises(AssertionError, match="at the top of a module"):
        check_flow_layer(Local(), [3], policies=(), fresh_process=True)


@pytest.mark.parametrize(
    ("layer", "input_shape", "message"),
    [
        (Scaling(), np.ones([2, 4]), "`input_shape` should be a list of integers"),
        (Scaling(), 4, r"list of integers\. Received: input_shape=4"),
        (None, [4], r"`layer` should be a `FlowLayer` or a `FlowModel`\. Received: layer=None"),
    ],
)
def test_bad_arguments(layer, input_shape, message):
    with pytest.raises(TypeError, match=message):
        check_flow_layer(layer, input_shape)
