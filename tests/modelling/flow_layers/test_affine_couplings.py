"""Affine couplings: their formula, their bound, and the volume they keep."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP, Conditioner
from gyoza.modelling.flow_layers import FlowModel, HeavisidePermutation
from gyoza.modelling.flow_layers.affine_couplings import AffineCoupling, VolumePreservingCoupling
from gyoza.modelling.masks import CheckerBoardMask, Mask

LAYERS = [AffineCoupling, VolumePreservingCoupling]


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Constant(Conditioner):
    """A conditioner that returns the same parameters for all instances."""

    def __init__(self, values, **kwargs):
        super().__init__(**kwargs)
        self.values = values

    def call(self, inputs):
        values = ops.convert_to_tensor(np.ravel(self.values), dtype=self.compute_dtype)
        return ops.broadcast_to(values, (*ops.shape(inputs)[:-1], len(np.ravel(self.values))))


def make(layer_class, values, **kwargs):
    """A layer that keeps the last dimension, with given raw log-scales and shifts of the others."""
    mask = np.arange(len(values) + 1) == len(values)
    return layer_class(
        conditioner=Constant(np.transpose(values)),
        mask=Mask(axes=[1], shape=[len(values) + 1], mask=mask),
        **kwargs,
    )


CASES = {
    "vector": ({}, [5]),
    "channels": ({"axes": [3]}, [2, 2, 4]),
    "checkerboard": ({"mask": CheckerBoardMask(axes=[1, 2])}, [2, 3, 2]),
    "mask": ({"mask": Mask(axes=[1], shape=[6], mask=[0, 1, 1, 0, 0, 1])}, [6]),
    "unbounded": ({"log_scale_bound": None}, [4]),
}


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_contract(layer_class, case, check_contract):
    arguments, input_shape = CASES[case]
    layer = layer_class(conditioner=MLP([8]), **arguments)
    # Neither dtypes nor saving depend on the axes: one case is enough.
    check_contract(layer, input_shape, is_further_layout=case != "vector")


def test_affine_transform_is_the_formula():
    layer = make(AffineCoupling, [[0.5, 3.0], [-1.0, 0.25]], log_scale_bound=0.8)
    x = np.array([[1.0, -2.0, 7.0], [0.0, 4.0, -7.0]], "float32")
    outputs, log_det = layer(x)
    log_scales = 0.8 * np.tanh([0.5 / 0.8, -1.0 / 0.8])
    expected = np.concatenate([x[:, :2] * np.exp(log_scales) + [3.0, 0.25], x[:, 2:]], axis=1)
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), [log_scales.sum()] * 2, rtol=1e-6)


def test_network_in_full_shape_returns_log_scales_and_shifts_along_a_last_axis():
    layer = AffineCoupling(
        conditioner=lambda x: ops.stack([ops.flip(x, axis=-1), ops.flip(x, axis=-1) + 5.0], -1),
        mask=Mask(axes=[1], shape=[2], mask=[0, 1]),
        log_scale_bound=None,
    )
    outputs, log_det = layer(np.array([[2.0, 0.5]], "float32"))
    np.testing.assert_allclose(to_numpy(outputs), [[2.0 * np.exp(0.5) + 5.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), [0.5], rtol=1e-6)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_new_layer_is_exactly_the_identity(layer_class):
    x = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    layer = layer_class(conditioner=MLP([8]))
    outputs, log_det = layer(x)
    np.testing.assert_array_equal(to_numpy(outputs), x)
    np.testing.assert_array_equal(to_numpy(log_det), 0.0)
    np.testing.assert_array_equal(to_numpy(layer.invert(x)), x)


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_log_scales_stay_within_the_bound(bound):
    layer = make(AffineCoupling, [[1e6, 0.0], [-1e6, 0.0], [1e-3, 0.0]], log_scale_bound=bound)
    outputs, _ = layer(np.ones([1, 4], "float32"))
    expected = np.exp([[bound, -bound, 1e-3, 0.0]])
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-6)


def test_without_a_bound_log_scales_are_what_the_network_returns():
    layer = make(AffineCoupling, [[7.0, 0.0], [-9.0, 0.0]], log_scale_bound=None)
    outputs, log_det = layer(np.ones([1, 3], "float32"))
    np.testing.assert_allclose(to_numpy(outputs), np.exp([[7.0, -9.0, 0.0]]), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), [-2.0], rtol=1e-6)


def test_volume_preserving_transform_is_the_formula():
    layer = make(VolumePreservingCoupling, [[0.5, 3.0], [-1.0, 0.25], [0.8, 0.0]])
    x = np.array([[1.0, -2.0, 3.0, 7.0]], "float32")
    log_scales = 2.0 * np.tanh(np.array([0.5, -1.0, 0.8]) / 2.0)
    log_scales -= log_scales.mean()
    expected = np.append(x[0, :3] * np.exp(log_scales) + [3.0, 0.25, 0.0], 7.0)
    np.testing.assert_allclose(to_numpy(layer(x)[0])[0], expected, rtol=1e-6)


def test_volume_is_preserved_at_every_position_of_the_other_axes():
    # Each pixel would have another log-scale; the sum is zero per pixel, not only per image.
    layer = VolumePreservingCoupling(axes=[3], conditioner=MLP([8]))
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 6)).astype("float32")
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    changed = [0, 1, 2]
    stretched = to_numpy(layer(x + np.isin(np.arange(6), changed).astype("float32"))[0])
    scales = (stretched - to_numpy(layer(x)[0]))[..., changed]
    assert np.ptp(np.log(scales)) > 0.5
    np.testing.assert_allclose(np.log(scales).sum(axis=-1), 0.0, atol=1e-5)


def test_single_changed_dimension_is_only_shifted():
    layer = make(VolumePreservingCoupling, [[1.0, 3.0]])
    np.testing.assert_allclose(to_numpy(layer(np.ones([1, 2], "float32"))[0]), [[4.0, 1.0]])


def test_infinite_inputs_leave_the_log_determinant_alone():
    layer = make(VolumePreservingCoupling, [[0.5, 0.0], [1.0, 0.0]])
    x = np.array([[np.inf, 1.0, 2.0], [1.0, np.nan, 2.0]], "float32")
    np.testing.assert_array_equal(to_numpy(layer(x)[1]), [0.0, 0.0])


@pytest.mark.parametrize("layer_class", LAYERS)
def test_round_trip_of_eight_layers(layer_class):
    layers = []
    for _ in range(8):
        layers += [layer_class(conditioner=MLP([16])), HeavisidePermutation()]
    model = FlowModel(layers)
    x = np.random.default_rng(0).normal(size=(500, 6)).astype("float32")
    model.build(x.shape)
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) / np.sqrt(weight.shape[0]) / 2)
    outputs, log_det = model(x)
    assert np.mean(np.abs(to_numpy(outputs) - x)) > 0.5
    assert (np.std(to_numpy(log_det)) > 0.3) == (layer_class is AffineCoupling)
    np.testing.assert_allclose(to_numpy(model.invert(outputs)), x, atol=1e-5)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan])
def test_bad_bound(bound):
    with pytest.raises(ValueError, match=r"`log_scale_bound`.*Received: log_scale_bound="):
        AffineCoupling(conditioner=MLP([8]), log_scale_bound=bound)
