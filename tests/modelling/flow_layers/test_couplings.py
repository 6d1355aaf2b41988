"""Couplings: transforms, masks and conditioners, and what is computed."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MADE, MLP, ResNet
from gyoza.modelling.flow_layers import (
    AdditiveCoupling,
    AffineCoupling,
    Coupling,
    ElementwiseCoupling,
    FlowModel,
    RationalQuadraticSplineCoupling,
    VolumePreservingCoupling,
)
from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask, Mask
from gyoza.testing.functions import compile_on_jax as fast


class Recorder(keras.layers.Layer):
    """A conditioner that shifts by one, and remembers what it was given."""

    def build(self, input_shape):
        self.built_for = tuple(input_shape)

    def call(self, x):
        self.received = x
        return ops.ones_like(x)


@pytest.mark.parametrize(
    "mask",
    [
        HeavisideMask(axes=[1, 2], shape=[3, 4]),
        CheckerBoardMask(axes=[1, 2], shape=[3, 4]),
        Mask(axes=[1, 2], shape=[3, 4], mask=np.arange(12) % 5 == 1),
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_changed_dimensions_are_shifted_by_what_the_conditioner_makes_of_the_kept_ones(mask):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    conditioner = Recorder()
    outputs = to_numpy(AdditiveCoupling([3, 4], [1, 2], conditioner, mask)(x)[0])
    kept = to_numpy(mask._mask_).reshape(1, 3, 4, 1)
    np.testing.assert_allclose(outputs, x + (1 - kept), rtol=1e-6)
    np.testing.assert_array_equal(to_numpy(conditioner.received), x * kept)
    assert conditioner.built_for == (None, 3, 4, 2)


@pytest.mark.parametrize(
    ("conditioner", "shape", "mask"),
    [
        (MLP([4]), [6], HeavisideMask()),
        (ResNet(4, 0), [2, 4, 3], CheckerBoardMask()),  # sees the whole image
    ],
    ids=["of what is kept", "of everything"],
)
@pytest.mark.parametrize("cls", [AdditiveCoupling, AffineCoupling])
def test_dimensions_that_are_kept_have_parameters_of_zero(cls, conditioner, shape, mask):
    layer = cls(conditioner=type(conditioner).from_config(conditioner.get_config()), mask=mask)
    random = np.random.default_rng(0)
    x = random.normal(size=[5, *shape]).astype("float32")
    layer(x)
    layer.set_weights([random.normal(size=weight.shape) for weight in layer.weights])
    parameters = to_numpy(layer.compute_parameters(ops.convert_to_tensor(x)))
    assert parameters.shape == (x.shape if cls is AdditiveCoupling else (*x.shape, 2))
    is_kept = to_numpy(mask._mask_).reshape(shape) == 1.0
    assert np.all(parameters[:, is_kept] == 0.0)
    assert np.all(parameters[:, ~is_kept] != 0.0)


def test_conditioners_of_couplings_in_a_functional_form_take_any_batch_size():
    inputs = keras.Input([4])
    conditioner = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    layer = AdditiveCoupling(conditioner=conditioner)
    for size in (3, 1, 7):
        assert layer(np.ones([size, 4], "float32"))[0].shape == (size, 4)


def test_transform_is_applied_through_the_documented_methods():
    layer = AdditiveCoupling([2], [1], MLP([4]))
    x, shift = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0]])
    np.testing.assert_array_equal(layer._couple_(x, shift), x + shift)
    np.testing.assert_array_equal(layer._decouple_(x, shift), x - shift)
    assert layer._mask_._shape_ == [2]
    assert layer._compute_coupling_parameters_.hidden_sizes == [4]


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ListTransform(Coupling):
    """A coupling whose parameters are a list of tensors of another shape than the inputs."""

    def _couple_(self, inputs, coupling_parameters):
        scale, shift = coupling_parameters
        return inputs * ops.exp(scale)[:, None] + shift[:, None]

    def _decouple_(self, outputs, coupling_parameters):
        scale, shift = coupling_parameters
        return (outputs - shift[:, None]) * ops.exp(-scale)[:, None]

    def compute_jacobian_determinant(self, x):
        scale, _ = self._compute_coupling_parameters_(self._mask_(x))
        return len(self._mask_.changed_indices) * scale


def test_coupling_parameters_may_be_a_list():
    layer = ListTransform(
        [3],
        [1],
        lambda x: [ops.sum(x, axis=1), ops.max(x, axis=1)],
        HeavisideMask([1], [3]),
    )
    x = np.array([[1.0, 0.2, 0.3]], "float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), [[np.exp(0.5) + 0.3, 0.2, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), [0.5], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, rtol=1e-6)


class OverriddenTransform(AdditiveCoupling):
    """A built-in coupling of which a user overrides the documented methods, in full shape."""

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.arange(1, 5, dtype="float32") + coupling_parameters

    def _decouple_(self, outputs, coupling_parameters):
        return (outputs - coupling_parameters) / ops.arange(1, 5, dtype="float32")

    def compute_jacobian_determinant(self, x):
        return ops.full(ops.shape(x)[:1], np.log(2.0))


def test_documented_methods_of_a_built_in_transform_can_be_overridden():
    layer = OverriddenTransform(conditioner=MLP([4]))
    x = np.ones([1, 4], "float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), [[1, 2, 1, 1]])
    np.testing.assert_allclose(to_numpy(log_det), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x)


def make_network_in_full_shape(count):
    """Returns a network that is not a conditioner, but a function of inputs for all parameters."""

    def network(x):
        x = 0.3 * (x - ops.flip(x, axis=1))
        return x if count == 1 else ops.stack([x * (-0.9) ** k for k in range(count)], axis=-1)

    return network


@pytest.mark.parametrize(
    ("cls", "is_compact"),
    [
        (AdditiveCoupling, True),
        (AdditiveCoupling, False),
        (AffineCoupling, True),
        (AffineCoupling, False),
        (VolumePreservingCoupling, True),
        (RationalQuadraticSplineCoupling, True),
    ],
)
def test_overridden_couplings_are_given_full_shapes(cls, is_compact):
    x = np.random.default_rng(0).normal(size=(3, 2, 3, 2)).astype("float32")
    jump = np.arange(6, dtype="float32").reshape(2, 3, 1)
    jump_tensor = ops.convert_to_tensor(jump)

    class Jumping(cls):
        """Adds another number to each dimension, and sees where dimensions are."""

        def _couple_(self, inputs, coupling_parameters):
            assert tuple(inputs.shape) == x.shape
            assert tuple(coupling_parameters.shape[:4]) == x.shape
            return super()._couple_(inputs, coupling_parameters) + jump_tensor

        def _decouple_(self, outputs, coupling_parameters):
            assert tuple(outputs.shape) == x.shape
            return super()._decouple_(outputs - jump_tensor, coupling_parameters)

    def make(cls):
        mask = CheckerBoardMask([1, 2], [2, 3])
        layer = cls([2, 3], [1, 2], MLP([4]), mask)
        if not is_compact:
            layer = cls([2, 3], [1, 2], make_network_in_full_shape(layer.parameter_count), mask)
        layer.build(x.shape)
        return layer

    plain, layer = make(cls), make(Jumping)
    random = np.random.default_rng(1)
    weights = [random.normal(size=weight.shape) for weight in plain.weights]
    for each in (plain, layer):
        each.set_weights(weights)
    outputs, log_det = map(to_numpy, fast(plain)(ops.convert_to_tensor(x)))
    is_changed = to_numpy(layer._mask_(np.ones_like(x), is_positive=False))
    assert np.abs(outputs - x).max() > 0.1
    expected = [outputs + jump * is_changed, log_det]
    inverse = [x, log_det]
    assert layer.preserves_volume == (cls in (AdditiveCoupling, VolumePreservingCoupling))

    @fast
    def run(x, y):
        return (
            *layer(x),
            *layer.invert_and_log_det(y),
            *layer.recompute(y, ops.zeros_like(x)),
            *(layer.invert(y), layer.compute_jacobian_determinant(x)),
        )

    received = run(ops.convert_to_tensor(x), ops.convert_to_tensor(expected[0]))
    results = (*expected, *inverse, x, *expected, *inverse)
    for result, value in zip(results, received, strict=True):
        np.testing.assert_allclose(to_numpy(value), result, rtol=1e-3, atol=1e-4)


class Stretch(ElementwiseCoupling):
    """A coupling of a user's own, which sees what changes alone, and so do those after it."""

    def _couple_(self, inputs, coupling_parameters):
        assert tuple(inputs.shape) == (1, 2)
        return 2 * inputs

    def _decouple_(self, outputs, coupling_parameters):
        return outputs / 2

    def compute_log_stretch(self, inputs, coupling_parameters):
        return np.log(2.0)


class MoreStretch(Stretch):
    def _couple_(self, inputs, coupling_parameters):
        return super()._couple_(inputs, coupling_parameters) + 1

    def _decouple_(self, outputs, coupling_parameters):
        return super()._decouple_(outputs - 1, coupling_parameters)


def test_transforms_of_a_subclass_of_the_base_class_are_given_changed_dimensions():
    layer = MoreStretch(conditioner=MLP([4]))
    x = np.ones([1, 4], "float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), [[3, 3, 1, 1]])
    np.testing.assert_allclose(to_numpy(log_det), [2 * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.compute_jacobian_determinant(x)), to_numpy(log_det))
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x)


class OtherName(Coupling):
    def _couple_(self, inputs, coupling_parameters):
        return 2 * inputs

    def compute_log_jacobian_determinant(self, x):
        return len(self._mask_.changed_indices) * np.log(2.0)


class OtherNameOfBuiltIn(AffineCoupling):
    def compute_log_jacobian_determinant(self, x):
        return super().compute_log_jacobian_determinant(x) + 1


@pytest.mark.parametrize(("cls", "expected"), [(OtherName, 2 * np.log(2)), (OtherNameOfBuiltIn, 1)])
def test_log_determinants_have_two_names(cls, expected):
    layer, x = cls(conditioner=MLP([4])), np.ones([1, 4], "float32")
    for log_det in (
        layer(x)[1],
        layer.compute_jacobian_determinant(x=x),
        layer.compute_log_jacobian_determinant(x=x),
    ):
        np.testing.assert_allclose(to_numpy(log_det), [expected], rtol=1e-6)


def test_volume_preserving_couplings_run_no_network_for_their_log_determinant():
    conditioner = Recorder()
    layer = AdditiveCoupling(conditioner=conditioner)
    x = np.ones([2, 4], "float32")
    layer(x)
    del conditioner.received
    np.testing.assert_array_equal(to_numpy(layer.compute_jacobian_determinant(x)), [0, 0])
    assert not hasattr(conditioner, "received")


@pytest.mark.parametrize(
    "network",
    [
        lambda x: ops.sum(x, axis=(1, 2), keepdims=True),
        lambda x: 3.0,
        lambda x: ops.sum(x[:1]),
        lambda x: ops.sum(x, axis=2, keepdims=True),
    ],
)
def test_parameters_may_broadcast(network):
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    mask = HeavisideMask([1], [4])
    kept = to_numpy(mask(x))
    expected = x + np.broadcast_to(to_numpy(network(ops.convert_to_tensor(kept))), x.shape) * (
        np.arange(4) < 2
    ).reshape(1, 4, 1)
    layer = AdditiveCoupling([4], [1], network, mask)
    outputs, _ = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, atol=1e-5)
    affine = AffineCoupling([4], [1], lambda x: ops.stack([0 * x[:, :1], x[:, :1] + 2], -1), mask)
    np.testing.assert_allclose(
        to_numpy(affine(x)[0]),
        x + to_numpy(mask(2 * np.ones_like(x), is_positive=False)),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("cls", "network", "message"),
    [
        (AdditiveCoupling, lambda x: x[:, :1, 0], r"shape \(4, 1\)"),
        (AdditiveCoupling, lambda x: x[0], r"shape \(4, 3\)"),
        (AffineCoupling, lambda x: x, r"shape \(4, 4, 3\)"),
        (AffineCoupling, lambda x: x[..., :1, :1], r"shape \(4, 1, 1\)"),
    ],
)
def test_parameters_that_broadcast_have_all_axes(cls, network, message):
    layer = cls([4], [1], network, HeavisideMask([1], [4]))
    x = np.random.default_rng(0).normal(size=(4, 4, 3)).astype("float32")
    with pytest.raises(
        ValueError, match=f"should return a tensor of shape .*Received: a.*{message}"
    ):
        layer(x)


class OnNumbers(keras.Model):
    """A network that needs numbers, and has weights."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, kernel_initializer="ones")

    def call(self, x):
        x = self.dense(x)
        return ops.convert_to_tensor(1.0 + 0.0 * ops.convert_to_numpy(x)) * x


@pytest.mark.filterwarnings("ignore:Layer 'on_numbers")
def test_networks_that_cannot_be_traced_are_built_when_they_are_run():
    x = np.array([[5.0, 6.0, 1.0, 2.0]], "float32")
    for make in (lambda layer: layer, lambda layer: FlowModel([layer])):
        layer = make(AdditiveCoupling(conditioner=OnNumbers()))
        outputs, _ = layer(x)
        np.testing.assert_allclose(to_numpy(outputs), [[8, 9, 1, 2]])
        np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x)
        assert len(layer.trainable_weights) == 2


def test_networks_that_can_be_traced_are_built_with_the_layer():
    layer = AdditiveCoupling(conditioner=keras.Sequential([keras.layers.Dense(4)]))
    layer.build((None, 4))
    assert len(layer.weights) == 2


def test_precision_is_that_of_the_layer_whatever_that_of_its_mask():
    coupling = AdditiveCoupling(conditioner=keras.layers.Dense(4), dtype="float64")
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(3, 4)), dtype="float64")
    outputs, _ = coupling(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float64"
    np.testing.assert_allclose(to_numpy(coupling.invert(outputs)), to_numpy(x), atol=1e-14)


class MatrixOfLogDeterminants(Coupling):
    def _couple_(self, inputs, coupling_parameters):
        return inputs

    def compute_jacobian_determinant(self, x):
        return x[:, :1]


def test_training_flag_reaches_the_conditioner():
    layer = AdditiveCoupling(
        conditioner=keras.Sequential([keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=0)])
    )
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    calm = to_numpy(layer(x)[0])
    np.testing.assert_array_equal(to_numpy(layer(x)[0]), calm)
    noisy = to_numpy(keras.Sequential([_First(layer)])(x, training=True))
    assert not np.allclose(noisy, calm)


class _First(keras.layers.Layer):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdditiveCoupling([4], [1]), TypeError, "another callable"),
        (lambda: AdditiveCoupling(MADE([8])), TypeError, "a `MADE` is for autoregressive layers"),
        (lambda: AdditiveCoupling([4], [1], 3), TypeError, "another callable"),
        (lambda: AdditiveCoupling([4], [1], MLP(), np.ones(4)), TypeError, "should be a `Mask`"),
        (
            lambda: AdditiveCoupling([4], [1], MLP(), HeavisideMask([1], [5])),
            ValueError,
            r"should have shape=\[4\]",
        ),
        (
            lambda: AdditiveCoupling([4], [1], MLP(), HeavisideMask([2], [4])),
            ValueError,
            r"axes=\[1\]. Received: a mask with shape=\[4\] and axes=\[2\]",
        ),
        (
            lambda: AdditiveCoupling(None, None, MLP(), Mask([1], [2], [1, 1]))(np.ones([2, 2])),
            ValueError,
            "at least one dimension to be changed",
        ),
        (
            lambda: AdditiveCoupling([4], [1], keras.layers.Dense(3))(np.ones([2, 4])),
            ValueError,
            r"should return a tensor of shape \(2, 4\)",
        ),
        (
            lambda: AdditiveCoupling([4], [1], lambda x: x[:1])(np.ones([2, 4])),
            ValueError,
            r"should return a tensor of shape \(2, 4\)",
        ),
        (
            lambda: AdditiveCoupling([4], [1], lambda x: [x])(np.ones([2, 4])),
            ValueError,
            r"should return a tensor of shape \(2, 4\)",
        ),
        (lambda: AdditiveCoupling([4], [1], keras.layers.Dense), TypeError, "another callable"),
        (
            lambda: MatrixOfLogDeterminants([4], [1], keras.layers.Dense(4))(np.ones([2, 4])),
            ValueError,
            r"should have shape \[batch\]",
        ),
        (lambda: Coupling([4], [1], MLP())(np.ones([2, 4])), NotImplementedError, "_couple_"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
