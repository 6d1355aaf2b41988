"""Axes that are counted from the last one, of all layers and masks that take axes."""

import inspect

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling import flow_layers
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.distributions import Logistic
from gyoza.modelling.flow_layers import AffineCoupling, FlowModel, Reflection
from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask
from gyoza.modelling.transforms import AffineTransform
from gyoza.testing.copies import move_weights

# Arguments of those that need some.
ARGUMENTS = {
    "Permutation": lambda: {"permutation": [2, 0, 3, 1]},
    "Elementwise": lambda: {"transformer": AffineTransform()},
    "PairAxes": lambda: {"dimensions_per_factor": {"residual": 2, "shape": 2}},
    "ContinuousFlow": lambda: {"velocity": VelocityMLP([4]), "step_count": 2},
    "UniformDequantization": lambda: {"levels": 2, "seed": 0},
    "VariationalDequantization": lambda: {"levels": 2, "noise_flow": make_noise(), "seed": 0},
    "ArgmaxDequantization": lambda: {"seed": 0},
}
BASE = {"FlowLayer", "ConditionalFlowLayer", "Coupling", "ElementwiseCoupling"}


def make_noise():
    return FlowModel([Reflection(reflection_count=1)], Logistic())


def takes_axes(name):
    arguments = inspect.signature(getattr(flow_layers, name).__init__).parameters
    return "axes" in arguments and name not in BASE | {"MaskedAutoregressive"}


def make_layer(name, **arguments):
    arguments = {**ARGUMENTS.get(name, dict)(), **arguments}
    if name.endswith("Coupling"):
        arguments["conditioner"] = MLP([4])
    return getattr(flow_layers, name)(**arguments)


@pytest.mark.parametrize("name", list(filter(takes_axes, flow_layers.__all__)))
def test_negative_axes_are_those_counted_from_the_last_one(name):
    # A flow in continuous time moves whole instances.
    axes = [-2, -1] if name == "ContinuousFlow" else [-1]
    shape = [8, 4][2 - len(axes) :]
    x = np.random.default_rng(0).uniform(0.1, 0.9, size=[2, 8, 4]).astype("float32")
    expected = make_layer(name, axes=[axis + 3 for axis in axes])
    expected(keras.KerasTensor((None, 8, 4)))
    move_weights(expected, np.random.default_rng(0))
    for options in ({}, {"shape": shape}):
        layer = make_layer(name, axes=axes, **options)
        assert layer._axes_ == layer.get_config()["axes"] == axes
        layer = type(layer).from_config(layer.get_config())
        assert tuple(layer.compute_output_shape((None, 8, 4))[0]) == (None, 8, 4)
        layer(keras.KerasTensor((None, 8, 4)))
        assert layer._axes_ == layer.get_config()["axes"] == expected._axes_
        layer.set_weights(expected.get_weights())
        if "Dequantization" in name:
            continue  # it takes other inputs, and draws others each time
        for received, wanted in zip(layer(x), expected(x), strict=True):
            np.testing.assert_array_equal(to_numpy(received), to_numpy(wanted))
        outputs = expected(x)[0]
        inverse = [to_numpy(each.invert(outputs)) for each in (layer, expected)]
        np.testing.assert_array_equal(*inverse)
    with pytest.raises(ValueError, match=r"after the batch axis. Received: axes=\[-3"):
        make_layer(name, axes=[-3, *axes]).build((8, 8, 4))


def test_masks_and_couplings_agree():
    x = np.random.default_rng(0).normal(size=[2, 3, 4]).astype("float32")
    for kind in (HeavisideMask, CheckerBoardMask):
        for axes in ([-1], [-2, -1]):
            mask, expected = kind(axes=axes), kind(axes=[axis + 3 for axis in axes])
            np.testing.assert_array_equal(to_numpy(mask(x)), to_numpy(expected(x)))
            assert mask._axes_ == expected._axes_
            for made in (
                AffineCoupling(MLP([4]), mask=kind(axes=axes)),
                AffineCoupling(MLP([4]), axes=axes, mask=kind(axes=axes)),
                AffineCoupling(MLP([4]), axes=axes, mask=kind()),
            ):
                made(x)
                assert made._axes_ == made._mask_._axes_ == expected._axes_
    with pytest.raises(ValueError, match="`mask` should have the axes of the coupling"):
        AffineCoupling(MLP([4]), axes=[1], mask=HeavisideMask(axes=[-1]))
    with pytest.raises(ValueError, match="before `re_arrange`"):
        HeavisideMask(axes=[-1], shape=[4]).re_arrange(x)


def test_models_of_layers_with_negative_axes_are_saved(tmp_path):
    layers = [Reflection(axes=[-1]), AffineCoupling(MLP([4]), axes=[-2, -1])]
    model = FlowModel(layers)
    x = np.random.default_rng(0).normal(size=[2, 3, 4]).astype("float32")
    model(x)
    move_weights(model, np.random.default_rng(0))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded.log_prob(x)), to_numpy(model.log_prob(x)))
