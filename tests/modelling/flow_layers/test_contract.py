"""Every flow layer fulfils the contract of flow layers."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    CheckerBoardPermutation,
    Coupling,
    DisentanglingFlowModel,
    ElementwiseCoupling,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Permutation,
    Reflection,
    ShufflePermutation,
)
from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask, Mask
from gyoza.testing import check_flow_layer


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Documented(FlowLayer):
    """A layer that overrides the documented methods: y = exp(a) x + b, per entry along `axes`."""

    def __init__(self, shape, axes, **kwargs):
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.a = self.add_weight(shape=shape, initializer="zeros", name="a")
        self.b = self.add_weight(shape=shape, initializer="zeros", name="b")

    def call(self, inputs):
        return inputs * ops.exp(self.a) + self.b, self.compute_jacobian_determinant(inputs)

    def invert(self, outputs):
        return (outputs - self.b) * ops.exp(-self.a)

    def compute_jacobian_determinant(self, x):
        return self.sum_log_det(x, ops.zeros_like(x) + self.a)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class AffineLaw(Coupling):
    """A law in the documented form: full shape, and its own log-determinant."""

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.exp(coupling_parameters) + coupling_parameters

    def _decouple_(self, outputs, coupling_parameters):
        return (outputs - coupling_parameters) * ops.exp(-coupling_parameters)

    def compute_jacobian_determinant(self, x):
        log_scales = self._mask_(self.compute_parameters(x), is_positive=False)
        return ops.sum(log_scales, axis=tuple(range(1, len(x.shape))))


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ElementwiseAffineLaw(ElementwiseCoupling):
    """A law with two parameters per entry."""

    @property
    def parameter_count(self):
        return 2

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.exp(coupling_parameters[..., 0]) + coupling_parameters[..., 1]

    def _decouple_(self, outputs, coupling_parameters):
        return (outputs - coupling_parameters[..., 1]) * ops.exp(-coupling_parameters[..., 0])

    def compute_log_stretch(self, inputs, coupling_parameters):
        return coupling_parameters[..., 0]


@keras.saving.register_keras_serializable(package="gyoza_tests")
def shift_by_mean(x):
    """A conditioner that is no Keras layer, but any callable."""
    return ops.mean(x, axis=-1, keepdims=True) + ops.zeros_like(x)


def dense(units):
    return keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(units)])


def convolution(channels):
    return keras.Sequential(
        [keras.layers.Conv2D(4, 3, padding="same"), keras.layers.Conv2D(channels, 1)]
    )


CASES = {
    "norm-vector": (ActivationNormalization(), [5]),
    "norm-one-entry": (ActivationNormalization(), [1]),
    "norm-channels": (ActivationNormalization(axes=[3]), [2, 3, 2]),
    "norm-pixels": (ActivationNormalization(shape=[2, 3], axes=[1, 2]), [2, 3, 2]),
    "norm-not-contiguous": (ActivationNormalization(axes=[1, 3]), [2, 3, 2]),
    "norm-one-element-axis": (ActivationNormalization(axes=[2]), [3, 1]),
    "permutation-vector": (Permutation(permutation=[2, 0, 1]), [3]),
    "permutation-axes": (Permutation([3, 2], [1, 3], [5, 0, 4, 1, 3, 2]), [3, 1, 2]),
    "shuffle-vector": (ShufflePermutation(seed=1), [7]),
    "shuffle-not-contiguous": (ShufflePermutation(axes=[1, 3], seed=1), [2, 3, 2]),
    "heaviside-even": (HeavisidePermutation(), [4]),
    "heaviside-odd": (HeavisidePermutation(), [5]),
    "heaviside-axes": (HeavisidePermutation(axes=[2, 3]), [2, 3, 3]),
    "checkerboard-odd": (CheckerBoardPermutation(), [5]),
    "checkerboard-image": (CheckerBoardPermutation(axes=[1, 2]), [3, 3, 2]),
    "checkerboard-three-axes": (CheckerBoardPermutation(), [2, 1, 3]),
    "reflection-one": (Reflection(), [3]),
    "reflection-many": (Reflection(reflection_count=7), [4]),
    "reflection-reversed": (Reflection(reflection_count=3, inverse_mode=True), [4]),
    "reflection-not-contiguous": (Reflection(axes=[1, 3], reflection_count=3), [2, 2, 2]),
    "additive-mlp": (AdditiveCoupling(compute_coupling_parameters=MLP([8])), [5]),
    "additive-full-shape": (
        AdditiveCoupling([5], [1], dense(5), HeavisideMask(axes=[1], shape=[5])),
        [5],
    ),
    "additive-callable": (AdditiveCoupling(compute_coupling_parameters=shift_by_mean), [4]),
    "additive-checkerboard": (
        AdditiveCoupling(None, [1, 2], convolution(2), CheckerBoardMask(axes=[1, 2])),
        [3, 3, 2],
    ),
    "additive-checkerboard-vector": (
        AdditiveCoupling(compute_coupling_parameters=MLP([8]), mask=CheckerBoardMask()),
        [5],
    ),
    "additive-channels": (AdditiveCoupling(None, [3], MLP([8])), [2, 2, 4]),
    "additive-not-contiguous": (AdditiveCoupling(None, [1, 3], MLP([8])), [3, 2, 1]),
    "additive-mask": (
        AdditiveCoupling(
            compute_coupling_parameters=MLP([8]),
            mask=Mask(axes=[1], shape=[5], mask=[1, 1, 0, 0, 1]),
        ),
        [5],
    ),
    "additive-keeps-first": (
        AdditiveCoupling(
            compute_coupling_parameters=MLP([8]), mask=Mask(axes=[1], shape=[3], mask=[1, 0, 0])
        ),
        [3],
    ),
    "user-layer": (Documented([3, 2], [1, 2]), [3, 2]),
    "user-law": (AffineLaw([4], [1], dense(4), HeavisideMask([1], [4])), [4]),
    "user-law-mlp": (AffineLaw(compute_coupling_parameters=MLP([8])), [3, 3]),
    "user-elementwise-law": (ElementwiseAffineLaw(compute_coupling_parameters=MLP([8])), [5]),
    "model": (
        FlowModel(
            [
                ActivationNormalization(),
                ElementwiseAffineLaw(compute_coupling_parameters=MLP([8])),
                HeavisidePermutation(),
                FlowModel([AdditiveCoupling(compute_coupling_parameters=MLP([8]))]),
                Reflection(reflection_count=2),
            ]
        ),
        [5],
    ),
    "disentangling-model": (
        DisentanglingFlowModel(
            [ActivationNormalization(), ShufflePermutation(seed=2), Reflection()]
        ),
        [4],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name):
    layer, input_shape = CASES[name]
    check_flow_layer(layer, input_shape)


@pytest.mark.parametrize("name", ["model", "disentangling-model"])
def test_other_processes_load_models_on_every_backend(name):
    layer, input_shape = CASES[name]
    check_flow_layer(layer, input_shape, policies=(), fresh_process=True)


@pytest.mark.parametrize(
    "layer",
    [
        ShufflePermutation(seed=0),
        HeavisidePermutation(),
        Reflection(),
        AdditiveCoupling(compute_coupling_parameters=MLP([4])),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_infinite_inputs_leave_the_log_determinant_of_volume_preserving_layers_alone(layer):
    x = np.array([[np.inf, 1.0, -np.inf, 2.0], [1.0, 2.0, np.nan, 4.0]], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)[1]), [0.0, 0.0])
