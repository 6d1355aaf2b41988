"""Couplings: laws, masks and conditioners, and what is computed."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import AdditiveCoupling, Coupling
from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask, Mask


def to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


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
def test_changed_entries_are_shifted_by_what_the_conditioner_makes_of_the_kept_ones(mask):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    conditioner = Recorder()
    outputs = to_numpy(AdditiveCoupling([3, 4], [1, 2], conditioner, mask)(x)[0])
    kept = to_numpy(mask._mask_).reshape(1, 3, 4, 1)
    np.testing.assert_allclose(outputs, x + (1 - kept), rtol=1e-6)
    np.testing.assert_array_equal(to_numpy(conditioner.received), x * kept)
    assert conditioner.built_for == (None, 3, 4, 2)


def test_conditioners_of_couplings_in_a_functional_form_take_any_batch_size():
    inputs = keras.Input([4])
    conditioner = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    layer = AdditiveCoupling(compute_coupling_parameters=conditioner)
    for size in (3, 1, 7):
        assert layer(np.ones([size, 4], "float32"))[0].shape == (size, 4)


def test_law_is_applied_through_the_documented_methods():
    layer = AdditiveCoupling([2], [1], MLP([4]))
    x, shift = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0]])
    np.testing.assert_array_equal(layer._couple_(x, shift), x + shift)
    np.testing.assert_array_equal(layer._decouple_(x, shift), x - shift)
    assert layer._mask_._shape_ == [2]
    assert layer._compute_coupling_parameters_.hidden_sizes == [4]


@keras.saving.register_keras_serializable(package="gyoza_tests")
class ListLaw(Coupling):
    """A law whose parameters are a list of tensors of another shape than the inputs."""

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
    layer = ListLaw(
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


class OverriddenLaw(AdditiveCoupling):
    """A built-in law of which a user overrides the documented methods, in full shape."""

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.arange(1, 5, dtype="float32") + coupling_parameters

    def _decouple_(self, outputs, coupling_parameters):
        return (outputs - coupling_parameters) / ops.arange(1, 5, dtype="float32")

    def compute_jacobian_determinant(self, x):
        return ops.full(ops.shape(x)[:1], np.log(2.0))


def test_documented_methods_of_a_built_in_law_can_be_overridden():
    layer = OverriddenLaw(compute_coupling_parameters=MLP([4]))
    x = np.ones([1, 4], "float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), [[1, 2, 1, 1]])
    np.testing.assert_allclose(to_numpy(log_det), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x)


def test_precision_is_that_of_the_layer_whatever_that_of_its_mask():
    law = AdditiveCoupling(compute_coupling_parameters=keras.layers.Dense(4), dtype="float64")
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(3, 4)), dtype="float64")
    outputs, _ = law(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float64"
    np.testing.assert_allclose(to_numpy(law.invert(outputs)), to_numpy(x), atol=1e-14)


class MatrixOfLogDeterminants(Coupling):
    def _couple_(self, inputs, coupling_parameters):
        return inputs

    def compute_jacobian_determinant(self, x):
        return x[:, :1]


def test_training_flag_reaches_the_conditioner():
    layer = AdditiveCoupling(
        compute_coupling_parameters=keras.Sequential(
            [keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=0)]
        )
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
            "at least one entry to be changed",
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
