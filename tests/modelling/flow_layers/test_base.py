"""What the base class does for all layers: shapes, axes, inputs, weights before the first call."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    FlowLayer,
    Reflection,
)


def to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize(
    "axes", [[1], [3], [1, 2], [2, 3], [1, 3], [1, 2, 3], [0, 2], list(range(4))]
)
def test_vectors_run_through_axes_in_row_major_order_and_back(axes):
    x = np.arange(120.0).reshape(5, 2, 3, 4)
    rest = [axis for axis in range(4) if axis not in axes]
    expected = np.transpose(x, rest + axes).reshape([x.shape[axis] for axis in rest] + [-1])
    vectors = to_vectors(ops.convert_to_tensor(x), axes)
    np.testing.assert_array_equal(to_numpy(vectors), expected)
    shape = [x.shape[axis] for axis in axes]
    np.testing.assert_array_equal(to_numpy(from_vectors(vectors, axes, shape)), x)


@pytest.mark.parametrize("shape", [[3], (3,), np.array([3]), "TensorShape"])
def test_shape_may_be_any_sequence(shape):
    if isinstance(shape, str):
        shape = pytest.importorskip("tensorflow").TensorShape([3])
    layer = Reflection(shape=shape, axes=(1,))
    assert layer._shape_ == [3]
    assert layer._axes_ == [1]
    assert tuple(layer._reflection_normals_.shape) == (1, 3)


def test_weights_exist_before_the_first_call_if_the_shape_is_given():
    layer = Reflection([2, 3], [1, 3], reflection_count=4)
    assert tuple(layer._reflection_normals_.shape) == (4, 6)
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 3)).astype("float32")
    before = to_numpy(layer._reflection_normals_)
    inverse = layer.invert(x)
    np.testing.assert_allclose(to_numpy(layer(inverse)[0]), x, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(layer._reflection_normals_), before)
    assert len(layer.weights) == 1


def test_positions_are_transformed_alike():
    layer = Reflection(axes=[2], reflection_count=2)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    expected = np.stack([to_numpy(layer(x)[0])[:, i] for i in range(3)], axis=1)
    single = Reflection(axes=[1], reflection_count=2)
    single(x[:, 0])
    single.set_weights(layer.get_weights())
    for i in range(3):
        np.testing.assert_allclose(to_numpy(single(x[:, i])[0]), expected[:, i], rtol=1e-5)


def test_unknown_lengths_of_other_axes_are_possible():
    inputs = keras.Input([None, None, 2])
    layer = Reflection(axes=[3])
    norm = ActivationNormalization(axes=[3])
    norm_outputs, log_det = norm(layer(inputs)[0])
    norm._scale_.assign([2.0, 2.0])
    model = keras.Model(inputs, [norm_outputs, log_det, norm.invert(norm_outputs)])
    for size in (2, 3):
        outputs, log_det, _ = model(np.ones([1, size, size, 2], "float32"))
        assert tuple(outputs.shape) == (1, size, size, 2)
        np.testing.assert_allclose(to_numpy(log_det), -(size**2) * 2 * np.log(2), rtol=1e-6)


class Counting(FlowLayer):
    """Calls to `invert` of a subclass may go through that of its base class."""

    def transform(self, inputs):
        return -inputs, None

    def inverse_transform(self, outputs):
        return -outputs

    def invert(self, outputs):
        return super().invert(outputs)


def test_invert_may_call_that_of_the_base_class():
    layer = Counting([2], [1])
    np.testing.assert_array_equal(to_numpy(layer.invert(np.ones([1, 2], "float32"))), [[-1, -1]])


class OldName(Counting):
    def invert(self, y_hat, factor=1.0):
        return -factor * y_hat


def test_invert_of_a_user_may_have_other_arguments():
    layer, x = OldName([2], [1]), np.ones([1, 2], "float32")
    np.testing.assert_array_equal(to_numpy(layer.invert(y_hat=x)), -x)
    np.testing.assert_array_equal(to_numpy(layer.invert(x, factor=3.0)), -3 * x)


def test_inputs_of_other_libraries():
    tf, torch = pytest.importorskip("tensorflow"), pytest.importorskip("torch")
    layer = ActivationNormalization()
    array = np.ones([2, 3], "float32")
    for x in (array, array.astype("float64"), tf.constant(array), torch.tensor(array)):
        outputs, _ = layer(x)
        assert ops.is_tensor(outputs)
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(layer.invert(x)), array)


def test_inverse_in_a_functional_model_shares_its_weights_after_loading(tmp_path):
    layer = ActivationNormalization()
    inputs = keras.Input([3])
    outputs, _ = layer(inputs)
    keras.Model(inputs, [outputs, layer.invert(outputs)]).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == 2
    loaded.weights[1].assign([2.0, 3.0, 4.0])
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(loaded(x)[1]), x, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FlowLayer([2, 3], [1]), ValueError, "same length"),
        (lambda: FlowLayer([2, 3], [2, 1]), ValueError, "strictly ascending"),
        (lambda: FlowLayer([2, 3], [1, 1]), ValueError, "strictly ascending"),
        (lambda: FlowLayer([2], [0]), ValueError, "not contain the batch axis"),
        (lambda: FlowLayer([2], [-1]), ValueError, "at least 1"),
        (lambda: FlowLayer([0], [1]), ValueError, "positive lengths"),
        (lambda: FlowLayer(3, [1]), TypeError, "`shape` should be a list of integers"),
        (lambda: FlowLayer([3], ["a"]), TypeError, "`axes` should be a list of integers"),
        (lambda: FlowLayer().dimension_count, ValueError, "not known yet"),
        (lambda: FlowLayer([2])(np.ones([3, 2])), NotImplementedError, "`transform`"),
    ],
)
def test_bad_construction(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        ActivationNormalization,
        Reflection,
        lambda *args: AdditiveCoupling(*args, compute_coupling_parameters=MLP([4])),
    ],
)
def test_bad_inputs(make):
    with pytest.raises(ValueError, match="value 3, but received input with shape"):
        make([3], [1])(np.ones([2, 4], "float32"))
    with pytest.raises(ValueError, match="min_ndim=3"):
        make([3], [2])(np.ones([2, 3], "float32"))
    with pytest.raises(ValueError, match=r"shape \[3\] along axes \[1\]"):
        make([3], [1]).build((None, 4))
    with pytest.raises(ValueError, match="should be known"):
        make(None, [1])(keras.Input([None]))
    with pytest.raises(TypeError, match="floating-point"):
        make([3], [1])(np.ones([2, 3], int))
    with pytest.raises(TypeError, match="floating-point"):
        make([3], [1]).invert(np.ones([2, 3], int))
    with pytest.raises(ValueError, match="should be built before `invert`"):
        make().invert(np.ones([2, 3], "float32"))
    with pytest.raises(ValueError, match=r"shape \[3\] along axes \[1\]"):
        make([3], [1]).invert(np.ones([2, 4], "float32"))
