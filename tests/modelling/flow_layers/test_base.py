"""What the base class does for all layers: shapes, axes, inputs, weights before the first call."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    Reflection,
    Reshape,
    ShufflePermutation,
    Squeeze,
)


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


class Forgetful(FlowLayer):
    """Returns what it is told to, but no log-determinants."""

    forget = staticmethod(lambda outputs: outputs)

    def transform(self, inputs):
        return self.forget(-inputs)

    def inverse_transform(self, outputs):
        return -outputs


@pytest.mark.parametrize("forget", [lambda x: x, lambda x: (x,), lambda x: (x, None, x)])
def test_transforms_without_log_determinants_are_named(forget):
    layer = Forgetful(name="half")
    layer.forget = forget
    # A batch of two instances could be taken for a pair.
    with pytest.raises(TypeError, match="`transform` of 'half' should return a pair of outputs"):
        layer(np.ones([2, 3], "float32"))


class Stretching(FlowLayer):
    """Doubles its inputs, and returns log-determinants as `form` makes them of a number."""

    def __init__(self, form, by_call, **kwargs):
        super().__init__(**kwargs)
        self.form, self.by_call = form, by_call

    def transform(self, inputs):
        return 2 * inputs, self.form(self.dimension_count * np.log(2.0), inputs)

    def inverse_transform(self, outputs):
        return outputs / 2

    def call(self, inputs):
        if not self.by_call:
            return super().call(inputs)
        return 2 * inputs, self.form(np.prod(inputs.shape[1:]) * np.log(2.0), inputs)


@pytest.mark.parametrize("by_call", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        lambda number, _: float(number),
        lambda number, _: ops.convert_to_tensor(number, dtype="float32"),
    ],
    ids=["number", "scalar"],
)
def test_log_determinants_may_be_one_number(form, by_call):
    layer, x = Stretching(form, by_call, axes=[2]), np.ones([3, 4, 2], "float32")
    expected = np.full(3, 8 * np.log(2))
    np.testing.assert_allclose(to_numpy(layer(x)[1]), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.compute_jacobian_determinant(x)), expected, rtol=1e-6)
    inputs = keras.Input([4, 2])
    model = keras.Model(inputs, layer(inputs))
    assert tuple(model.outputs[1].shape) == (None,)
    np.testing.assert_allclose(to_numpy(model(x)[1]), expected, rtol=1e-6)


def test_columns_of_log_determinants_are_rejected():
    layer = Stretching(lambda number, x: number * x[:, :1, 0], by_call=True)
    with pytest.raises(ValueError, match=r"should have shape \[batch\].*sum_log_det"):
        layer(np.ones([3, 4, 2], "float32"))


class Halving(FlowLayer):
    """Changes the shape, which it does not say."""

    def call(self, inputs):
        count = inputs.shape[1] // 2
        return ops.reshape(inputs, (-1, count, 2)), self.sum_log_det(inputs, None)

    def invert(self, outputs):
        return ops.reshape(outputs, (-1, 2 * outputs.shape[1]))


def test_shapes_that_a_layer_does_not_tell_are_traced():
    model = FlowModel([Halving(), ActivationNormalization(axes=[2])])
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    outputs, _ = model(x)
    assert tuple(outputs.shape) == (3, 3, 2)
    np.testing.assert_allclose(to_numpy(model.invert(outputs)), x, rtol=1e-6)
    layer = model._flow_layers_[0]
    assert layer.compute_output_shape((None, 6)) == ((None, 3, 2), (None,))
    assert layer.compute_input_shape((None, 3, 2)) == (None, 6)
    assert tuple(layer(2.0 * keras.Input([6]))[0].shape) == (None, 3, 2)


class Untraceable(Halving):
    def call(self, inputs):
        outputs = np.reshape(ops.convert_to_numpy(inputs), [len(inputs), -1, 2])
        return ops.convert_to_tensor(outputs), self.sum_log_det(inputs, None)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="traces by running")
def test_a_layer_that_cannot_be_traced_is_named_with_what_to_implement():
    layer, x = Untraceable(name="odd"), np.ones([3, 6], "float32")
    assert tuple(layer(x)[0].shape) == (3, 3, 2)
    with pytest.raises(ValueError, match="'odd' should implement `compute_output_shape"):
        FlowModel([layer, ActivationNormalization(axes=[2])])(x)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float64"])
@pytest.mark.parametrize(
    "layer",
    [ShufflePermutation(seed=1), HeavisidePermutation(), Squeeze(), Inverse(Reshape([16]))],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_move_values_do_so_for_any_dtype(layer, dtype):
    shape = (2, 16) if isinstance(layer, Inverse) else (2, 2, 4, 2)
    x = np.random.default_rng(0).integers(2, size=shape).astype(dtype)
    if isinstance(layer, Inverse):
        layer.layer(np.zeros([1, 2, 4, 2], "float32"))
    outputs, log_det = layer(x)
    expected = layer.compute_dtype if dtype == "float64" else dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == expected
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)
    for result in (log_det, layer.compute_jacobian_determinant(x)):
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(result), [0, 0])
    assert layer(keras.Input(shape[1:], dtype=dtype))[0].dtype == expected


class OldName(Counting):
    def invert(self, y_hat, factor=1.0):
        return -factor * y_hat


def test_invert_of_a_user_may_have_other_arguments():
    layer, x = OldName([2], [1]), np.ones([1, 2], "float32")
    np.testing.assert_array_equal(to_numpy(layer.invert(y_hat=x)), -x)
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs=x)), -x)
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
    alone = layer.compute_jacobian_determinant(inputs)
    keras.Model(
        inputs, [outputs, layer.invert(outputs), alone, *layer.invert_and_log_det(outputs)]
    ).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == 2
    loaded.weights[1].assign([2.0, 3.0, 4.0])
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    _, inverse, *others = loaded(x)
    log_det = np.full(5, -np.log(24))
    for expected, received in zip((x, log_det, x, log_det), (inverse, *others), strict=True):
        np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FlowLayer([2, 3], [1]), ValueError, "same length"),
        (lambda: FlowLayer([2, 3], [2, 1]), ValueError, "strictly ascending"),
        (lambda: FlowLayer([2, 3], [1, 1]), ValueError, "strictly ascending"),
        (lambda: FlowLayer([2], [0]), ValueError, "not contain the batch axis"),
        (lambda: FlowLayer([2, 2], [-1, 1]), ValueError, "at least 1.*or negative ones alone"),
        (lambda: FlowLayer([2, 2], [-1, -2]), ValueError, "strictly ascending"),
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
        lambda *args: AdditiveCoupling(*args, conditioner=MLP([4])),
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


def scale(base):
    """Makes a class whose outputs are twice those of `base`, by `call` and `invert` alone."""

    class Scaled(base):
        def call(self, inputs, **kwargs):
            outputs, log_det = super().call(inputs, **kwargs)
            return 2.0 * outputs, log_det + 4 * np.log(2.0)

        def invert(self, outputs, **kwargs):
            return super().invert(outputs / 2.0, **kwargs)

    return Scaled


@pytest.mark.parametrize(
    "make",
    [
        lambda: scale(AffineCoupling)(conditioner=MLP([4])),
        lambda: scale(ActivationNormalization)(),
        lambda: scale(FlowModel)([AffineCoupling(conditioner=MLP([4]))]),
    ],
)
def test_overridden_directions_are_those_of_all_methods(make):
    layer = make()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(np.random.default_rng(1).uniform(0.5, 1.0, size=weight.shape))
    y, log_det = layer(x)
    inputs, of_inverse = layer.invert_and_log_det(y)
    recomputed = layer.recompute(y, ops.zeros((3, 4)))
    expected = [x, log_det, x, y, log_det]
    for result, value in zip([inputs, of_inverse, *recomputed], expected, strict=True):
        np.testing.assert_allclose(to_numpy(result), to_numpy(value), atol=1e-5)
