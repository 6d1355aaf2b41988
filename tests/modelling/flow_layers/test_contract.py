"""Every flow layer fulfils the contract of flow layers."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    BatchNormalization,
    CheckerBoardPermutation,
    Coupling,
    DisentanglingFlowModel,
    ElementwiseCoupling,
    Flatten,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    LinearMap,
    LULinear,
    MaskedAffine,
    PairAxes,
    Permutation,
    PrincipalRotation,
    Reflection,
    Residual,
    ShufflePermutation,
)
from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask, Mask


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Documented(FlowLayer):
    """A layer that overrides the documented methods: y = exp(a) x + b, for each dimension."""

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
class AffineByHand(Coupling):
    """A coupling in the documented form: full shape, and its own log-determinant."""

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.exp(coupling_parameters) + coupling_parameters

    def _decouple_(self, outputs, coupling_parameters):
        return (outputs - coupling_parameters) * ops.exp(-coupling_parameters)

    def compute_jacobian_determinant(self, x):
        log_scales = self._mask_(self.compute_parameters(x), is_positive=False)
        return ops.sum(log_scales, axis=tuple(range(1, len(x.shape))))


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ElementwiseAffine(ElementwiseCoupling):
    """A coupling with two parameters per dimension."""

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
    """A conditioner that is not a Keras layer, but any callable."""
    return ops.mean(x, axis=-1, keepdims=True) + ops.zeros_like(x)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Mixed(LinearMap):
    """A map that is not the identity, and exact in float32, as is its inverse."""

    def create_weights(self):
        super().create_weights()
        size = self.dimension_count
        matrix = (2.0 * np.eye(size) + np.eye(size, k=1)) @ np.tril(np.ones([size, size]))
        self.set_map(np.arange(size), matrix)


def dense(units):
    return keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(units)])


def convolution(channels):
    return keras.Sequential(
        [keras.layers.Conv2D(4, 3, padding="same"), keras.layers.Conv2D(channels, 1)]
    )


CASES = {
    "norm-vector": (ActivationNormalization(), [5]),
    "norm-one-dimension": (ActivationNormalization(), [1]),
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
    "additive-mlp": (AdditiveCoupling(conditioner=MLP([8])), [5]),
    "additive-full-shape": (
        AdditiveCoupling([5], [1], dense(5), HeavisideMask(axes=[1], shape=[5])),
        [5],
    ),
    "additive-callable": (AdditiveCoupling(conditioner=shift_by_mean), [4]),
    "additive-checkerboard": (
        AdditiveCoupling(None, [1, 2], convolution(2), CheckerBoardMask(axes=[1, 2])),
        [3, 3, 2],
    ),
    "additive-checkerboard-vector": (
        AdditiveCoupling(conditioner=MLP([8]), mask=CheckerBoardMask()),
        [5],
    ),
    "additive-channels": (AdditiveCoupling(None, [3], MLP([8])), [2, 2, 4]),
    "additive-not-contiguous": (AdditiveCoupling(None, [1, 3], MLP([8])), [3, 2, 1]),
    "additive-mask": (
        AdditiveCoupling(
            conditioner=MLP([8]),
            mask=Mask(axes=[1], shape=[5], mask=[1, 1, 0, 0, 1]),
        ),
        [5],
    ),
    "additive-keeps-first": (
        AdditiveCoupling(conditioner=MLP([8]), mask=Mask(axes=[1], shape=[3], mask=[1, 0, 0])),
        [3],
    ),
    "linear-map-vector": (Mixed(), [4]),
    "linear-map-not-contiguous": (Mixed(axes=[1, 3]), [2, 3, 2]),
    "principal-rotation-channels": (PrincipalRotation(axes=[3]), [2, 2, 3]),
    "pair-axes": (PairAxes({"residual": 2, "shape": 1}, shrinkage=0.1), [3]),
    "user-layer": (Documented([3, 2], [1, 2]), [3, 2]),
    "user-coupling": (AffineByHand([4], [1], dense(4), HeavisideMask([1], [4])), [4]),
    "user-coupling-mlp": (AffineByHand(conditioner=MLP([8])), [3, 3]),
    "user-elementwise": (ElementwiseAffine(conditioner=MLP([8])), [5]),
    "model": (
        FlowModel(
            [
                ActivationNormalization(),
                ElementwiseAffine(conditioner=MLP([8])),
                HeavisidePermutation(),
                FlowModel([AdditiveCoupling(conditioner=MLP([8]))]),
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


# Neither dtypes nor saving depend on axes and masks: the other cases of a class are enough there.
FURTHER_LAYOUTS = {
    *("norm-one-dimension", "norm-channels", "norm-pixels", "norm-one-element-axis"),
    *("permutation-vector", "shuffle-vector", "heaviside-odd", "heaviside-axes"),
    *("checkerboard-odd", "checkerboard-three-axes", "linear-map-vector"),
    *("reflection-one", "reflection-reversed", "reflection-not-contiguous", "user-coupling-mlp"),
    *("additive-checkerboard-vector", "additive-channels", "additive-not-contiguous"),
    *("additive-mask", "additive-keeps-first"),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape = CASES[name]
    # Other processes load models on every backend.
    options = {"fresh_process": True} if isinstance(layer, FlowModel) else {}
    check_contract(layer, input_shape, is_further_layout=name in FURTHER_LAYOUTS, **options)


@pytest.mark.parametrize(
    "layer",
    [
        ShufflePermutation(seed=0),
        HeavisidePermutation(),
        Reflection(),
        AdditiveCoupling(conditioner=MLP([4])),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_infinite_inputs_leave_the_log_determinant_of_volume_preserving_layers_alone(layer):
    x = np.array([[np.inf, 1.0, -np.inf, 2.0], [1.0, 2.0, np.nan, 4.0]], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)[1]), [0.0, 0.0])


# One layer for each way in which `call` and `compute_jacobian_determinant` are implemented.
KINDS = {
    "norm": lambda **shape: ActivationNormalization(**shape),
    "batch-norm": lambda **shape: BatchNormalization(**shape),
    "additive": lambda **shape: AdditiveCoupling(conditioner=MLP([2]), **shape),
    "affine": lambda **shape: AffineCoupling(conditioner=MLP([2]), **shape),
    "dense": lambda **shape: AdditiveCoupling(conditioner=keras.layers.Dense(4), **shape),
    "autoregressive": lambda **shape: MaskedAffine(**shape),
    "residual": lambda **shape: Residual(hidden_sizes=[2], **shape),
    "linear": lambda **shape: LULinear(**shape),
    "reflection": lambda **shape: Reflection(reflection_count=2, **shape),
    "permutation": lambda **shape: ShufflePermutation(**shape),
    "reshaping": lambda **shape: Flatten(**shape),
    "inverse": lambda **shape: Inverse(LULinear(**shape)),
}


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    """Returns a function that makes layers, one with weights that change volume, and data."""
    make = KINDS[request.param]
    layer = make()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(ops.convert_to_tensor(weight) + 0.3)
    return make, layer, x


def test_methods_take_whatever_is_like_a_tensor(kind):
    make, layer, x = kind
    outputs, log_det = map(to_numpy, layer(x))
    likes = [x.tolist(), keras.Variable(x), x]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        likes.append(tf.Variable(x))
    for like in likes:
        for call in (layer, layer.call):
            for expected, received in zip((outputs, log_det), call(like), strict=True):
                np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-5, atol=1e-6)
        alone = layer.compute_jacobian_determinant(x=like)
        np.testing.assert_allclose(to_numpy(alone), log_det, rtol=1e-5, atol=1e-6)
    for like in (keras.Variable(outputs), outputs.tolist()):
        np.testing.assert_allclose(to_numpy(layer.invert(y_hat=like)), x, rtol=1e-4, atol=1e-4)
    for call in (make().call, make().compute_jacobian_determinant):  # these build a new layer
        call(x)


def test_symbolic_tensors_are_traced_by_methods_that_are_called_themselves(kind):
    make, layer, x = kind
    symbolic = keras.Input([4])
    outputs, log_det = make().call(inputs=symbolic)
    assert (tuple(outputs.shape), tuple(log_det.shape)) == ((None, 4), (None,))
    assert tuple(make().compute_jacobian_determinant(x=symbolic).shape) == (None,)
    outputs, _ = layer.call(inputs=symbolic)
    alone = layer.compute_jacobian_determinant(x=symbolic)
    # Keras marks the product as sparse.
    model = keras.Model(symbolic, [outputs, alone, layer.invert(1.0 * outputs)])
    assert len(model.weights) == len(layer.weights)
    for expected, received in zip((*layer(x), x), model(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-4, atol=1e-4)


def test_layers_are_built_for_the_shape_that_they_were_given(kind):
    make, layer, x = kind
    copy = make(shape=[4], axes=[1]) if not isinstance(layer, Flatten) else make(shape=[4])
    copy.build(input_shape=None)
    copy(x)
    copy.set_weights(layer.get_weights())
    for expected, received in zip(layer(x), copy(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-5, atol=1e-6)


def test_call_of_a_subclass_may_compute_the_log_determinant(kind):
    _, layer, x = kind

    class Mine(type(layer)):
        def call(self, inputs):
            return super().call(inputs)[0], self.compute_jacobian_determinant(x=inputs)

    mine = Mine.from_config(layer.get_config())
    mine(x)
    mine.set_weights(layer.get_weights())
    for expected, received in zip(layer(x), mine(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-5, atol=1e-6)


class MyModel(FlowModel):
    def call(self, inputs, context=None, training=None):
        return super().call(inputs)[0], self.compute_jacobian_determinant(x=inputs)


def test_call_of_a_model_may_compute_the_log_determinant():
    layer, x = LULinear(), np.ones([2, 3], "float32")
    layer(x)
    layer.factors.assign(ops.ones([3, 3]))
    for expected, received in zip(layer(x), MyModel([layer])(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected), rtol=1e-5)


def test_shape_and_axes_are_needed_where_there_are_no_inputs():
    for make in (LULinear, Flatten, lambda: AdditiveCoupling(conditioner=MLP())):
        with pytest.raises(ValueError, match=r"`input_shape` should be given.*input_shape=None"):
            make().build(None)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are always known")
@pytest.mark.parametrize(
    "layer",
    [
        ActivationNormalization([2, 3], [1, 2]),
        AffineCoupling([2, 3], [1, 2], MLP([2])),
        AdditiveCoupling([2, 3], [1, 2], keras.layers.Dense(2), CheckerBoardMask([1, 2], [2, 3])),
        MaskedAffine([2, 3], [1, 2]),
        Residual([2, 3], [1, 2], hidden_sizes=[2]),
        HeavisidePermutation([2, 3], [1, 2]),
        AdditiveCoupling([3], [2], MLP([2])),
        Flatten([2, 3, 2]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_lengths_are_those_that_were_given_where_tensorflow_knows_none(layer):
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype("float32")
    expected = layer(x)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None])])
    def there_and_back(x):
        outputs, log_det = layer(x)
        return outputs, log_det, layer.invert(outputs)

    for result, received in zip((*expected, x), there_and_back(x), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(result), rtol=1e-5, atol=1e-5)
