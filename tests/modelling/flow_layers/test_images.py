"""Layers that change the shape of images."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel, Reflection
from gyoza.modelling.flow_layers.images import (
    Flatten,
    HaarDownsampling,
    Reshape,
    Squeeze,
    Unsqueeze,
)

pytestmark = pytest.mark.compiled_by("tensorflow")


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


CASES = {
    "squeeze": (Squeeze(), [2, 4, 3]),
    "squeeze-shape": (Squeeze([2, 4, 1]), [2, 4, 1]),
    "unsqueeze": (Unsqueeze(), [1, 2, 4]),
    "haar": (HaarDownsampling(), [4, 2, 2]),
    "flatten": (Flatten(), [2, 1, 3]),
    "flatten-vector": (Flatten([3]), [3]),
    "reshape": (Reshape([2, 3]), [6]),
    "reshape-shape": (Reshape([4], [2, 2]), [2, 2]),
    "model": (
        FlowModel(
            [
                Squeeze(),
                ActivationNormalization(axes=[3]),
                HaarDownsampling(),
                Reflection(axes=[3]),
                Unsqueeze(),
                Flatten(),
                ActivationNormalization(),
            ]
        ),
        [4, 4, 1],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape = CASES[name]
    is_further = name in ("squeeze-shape", "flatten-vector", "reshape-shape")
    check_contract(layer, input_shape, is_further_layout=is_further)


def test_squeeze_moves_each_dimension_where_the_formula_says():
    x = images(2, 4, 6, 3)
    outputs, log_det = Squeeze()(x)
    expected = np.empty([2, 2, 3, 12])
    for h, w, c in np.ndindex(4, 6, 3):
        expected[:, h // 2, w // 2, c + 3 * (2 * (h % 2) + w % 2)] = x[:, h, w, c]
    np.testing.assert_array_equal(to_numpy(outputs), expected)
    np.testing.assert_array_equal(to_numpy(log_det), [0, 0])
    np.testing.assert_array_equal(to_numpy(Unsqueeze()(outputs)[0]), x)


def test_haar_is_orthonormal_and_starts_with_the_means_of_blocks():
    x = images(3, 4, 6, 2)
    outputs = to_numpy(HaarDownsampling()(x)[0])
    np.testing.assert_allclose(
        (outputs**2).sum(axis=(1, 2, 3)), (x**2).sum(axis=(1, 2, 3)), rtol=1e-5
    )
    means = x.reshape(3, 2, 2, 3, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(outputs[..., :2], 2 * means, atol=1e-5)
    difference = x[:, ::2, ::2] - x[:, ::2, 1::2] + x[:, 1::2, ::2] - x[:, 1::2, 1::2]
    np.testing.assert_allclose(outputs[..., 2:4], difference / 2, atol=1e-5)


def test_smooth_images_have_no_details():
    outputs = to_numpy(HaarDownsampling()(np.full([1, 4, 4, 3], 5.0, "float32"))[0])
    np.testing.assert_array_equal(outputs[..., 3:], 0)
    np.testing.assert_array_equal(outputs[..., :3], 10)


def test_flatten_and_reshape_keep_row_major_order():
    x = images(3, 2, 4, 3)
    np.testing.assert_array_equal(to_numpy(Flatten()(x)[0]), x.reshape(3, 24))
    reshape = Reshape((4, 6))
    np.testing.assert_array_equal(to_numpy(reshape(x)[0]), x.reshape(3, 4, 6))
    np.testing.assert_array_equal(to_numpy(reshape.invert(x.reshape(3, 4, 6))), x)


@pytest.mark.parametrize("layer_class", [Squeeze, HaarDownsampling])
def test_a_new_squeeze_can_be_inverted_since_its_inputs_follow_from_its_outputs(layer_class):
    x = images(2, 4, 2, 3)
    outputs = layer_class()(x)[0]
    layer = layer_class()
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, atol=1e-6)
    assert layer._shape_ == [4, 2, 3]
    unsqueeze = Unsqueeze()
    np.testing.assert_array_equal(to_numpy(unsqueeze.invert(x)), to_numpy(Squeeze()(x)[0]))
    assert unsqueeze._shape_ == [2, 1, 12]


def test_a_new_flatten_can_be_inverted_only_if_its_shape_is_given():
    y = images(2, 12)
    np.testing.assert_array_equal(to_numpy(Flatten([2, 2, 3]).invert(y)), y.reshape(2, 2, 2, 3))
    np.testing.assert_array_equal(to_numpy(Reshape([12], [3, 4]).invert(y)), y.reshape(2, 3, 4))
    for layer in (Flatten(), Reshape([12])):
        with pytest.raises(ValueError, match="should be built before `invert` is called"):
            layer.invert(y)
    with pytest.raises(ValueError, match="should be built before `invert` is called"):
        Squeeze().compute_input_shape((None, None, None, 4))


def test_a_model_knows_the_shapes_of_its_layers():
    model = FlowModel([Squeeze(), Flatten(), Reflection()])
    model.build((None, 4, 4, 2))
    assert model._flow_layers_[1]._shape_ == [2, 2, 8]
    assert model._flow_layers_[2]._shape_ == [32]
    assert tuple(model.invert(images(3, 32)).shape) == (3, 4, 4, 2)


def test_empty_batches_keep_their_shape():
    layer = Squeeze()
    outputs, log_det = layer(np.zeros([0, 2, 4, 3], "float32"))
    assert tuple(outputs.shape) == (0, 1, 2, 12)
    assert tuple(log_det.shape) == (0,)


@pytest.mark.parametrize("layer_class", [Squeeze, HaarDownsampling])
def test_odd_sizes_are_named(layer_class):
    for call in (
        lambda: layer_class()(images(1, 5, 4, 3)),
        lambda: layer_class([5, 4, 3]),
        lambda: layer_class().compute_output_shape((None, 5, 4, 3)),
        lambda: FlowModel([layer_class()]).build((None, 5, 4, 3)),
    ):
        with pytest.raises(ValueError, match=r"even height and width. Received: height=5, width=4"):
            call()


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"a multiple of 4. Received: channels=6"):
        Unsqueeze()(images(1, 2, 2, 6))
    with pytest.raises(ValueError, match=r"a multiple of 4. Received: channels=6"):
        Squeeze().invert(images(1, 2, 2, 6))
    with pytest.raises(ValueError, match=r"shape \[height, width, channels\] after the batch"):
        Squeeze()(images(1, 4, 4))
    with pytest.raises(ValueError, match=r"as `target_shape`, \[2, 3\].*of shape \[5\]"):
        Reshape([2, 3])(images(1, 5))
    with pytest.raises(ValueError, match=r"as `target_shape`, \[2, 3\].*of shape \[5\]"):
        Reshape([2, 3], [5])
    with pytest.raises(ValueError, match=r"`shape` should hold positive lengths"):
        Reshape([2, -1])
    with pytest.raises(ValueError, match="length of the input along axes"):
        Flatten().compute_output_shape((None, None, 3))


@pytest.mark.parametrize("layer", [Flatten(), Squeeze()], ids=["flatten", "squeeze"])
def test_inputs_of_another_shape_are_rejected(layer):
    outputs = layer(images(1, 2, 2, 3))[0]
    with pytest.raises(ValueError, match=r"expected shape=\(None, 2, 2, 3\)"):
        layer(images(1, 2, 4, 3))
    with pytest.raises(ValueError, match=r"expected shape=\(None, "):
        layer.invert(images(1, *[length + 1 for length in outputs.shape[1:]]))
    assert tuple(layer.invert(outputs).shape) == (1, 2, 2, 3)
