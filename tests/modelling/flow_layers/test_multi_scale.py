"""Factoring out: what skips the flow, in which order the latent is, and nested scales."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP, ResNet
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    Flatten,
    FlowModel,
    HaarDownsampling,
    HeavisidePermutation,
    Reflection,
    Squeeze,
)
from gyoza.modelling.flow_layers.multi_scale import FactorOut
from gyoza.testing.functions import compile_on_jax as fast

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by("tensorflow"),
]


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def make_step():
    return [
        ActivationNormalization(axes=[3]),
        AffineCoupling(axes=[3], conditioner=MLP([4], activation="tanh")),
        HeavisidePermutation(axes=[3]),
    ]


def make_scales(**arguments):
    """Makes three scales for images [8, 8, 1]."""
    coarse = FlowModel([Squeeze(), *make_step()], name="coarse")
    middle = FlowModel([Squeeze(), *make_step(), FactorOut(coarse, **arguments)], name="middle")
    return FlowModel([Squeeze(), *make_step(), FactorOut(middle, **arguments)])


def randomise(layer):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(to_numpy(weight) + 0.3 * random.normal(size=weight.shape))


CASES = {
    "layer": (FactorOut(AffineCoupling(conditioner=MLP([4], "tanh"))), [5]),
    "count": (FactorOut(FlowModel([Reflection(axes=[2])]), kept_count=2), [2, 5]),
    "nested": (
        FlowModel([Squeeze(), FactorOut(FlowModel([*make_step(), FactorOut(Reflection())]))]),
        [4, 2, 2],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape = CASES[name]
    check_contract(layer, input_shape, is_further_layout=name != "nested")


def test_the_last_channels_come_first_and_unchanged_then_what_the_flow_makes_of_the_others():
    flow = FlowModel([Squeeze(), Reflection(axes=[3])])
    x = images(3, 2, 4, 6)
    outputs, log_det = FactorOut(flow, kept_count=4)(x)
    latent, flow_log_det = flow(x[..., :4])
    np.testing.assert_array_equal(to_numpy(outputs)[:, :16], x[..., 4:].reshape(3, 16))
    np.testing.assert_array_equal(to_numpy(outputs)[:, 16:], to_numpy(latent).reshape(3, 32))
    np.testing.assert_array_equal(to_numpy(log_det), to_numpy(flow_log_det))


@pytest.mark.parametrize(("channels", "kept_count"), [(2, 1), (5, 3), (6, 3)])
def test_half_of_the_channels_go_on_rounded_up(channels, kept_count):
    flow = ActivationNormalization()
    FactorOut(flow)(images(2, 3, channels))
    assert flow._shape_ == [3, kept_count]


def test_three_scales_by_hand():
    model = make_scales()
    x = images(4, 8, 8, 1)
    model.build_for(x)
    randomise(model)
    outputs, log_det = fast(model)(x)
    assert tuple(outputs.shape) == (4, 64)

    def run(layers, x):
        total = 0.0
        for layer in layers:
            x, log_det = layer(x)
            total = total + to_numpy(log_det)
        return to_numpy(x), total

    fine_layers, middle = model._flow_layers_[:-1], model._flow_layers_[-1].flow
    middle_layers, coarse = middle._flow_layers_[:-1], middle._flow_layers_[-1].flow
    fine, log_det_fine = run(fine_layers, x)
    medium, log_det_medium = run(middle_layers, fine[..., :2])
    rough, log_det_rough = run(coarse._flow_layers_, medium[..., :4])
    expected = [fine[..., 2:], medium[..., 4:], rough]
    expected = np.concatenate([part.reshape(4, -1) for part in expected], axis=1)
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-4, atol=1e-5)
    log_det_expected = log_det_fine + log_det_medium + log_det_rough
    assert np.std(log_det_expected) > 0.1
    np.testing.assert_allclose(to_numpy(log_det), log_det_expected, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(fast(model.invert)(outputs)), x, atol=1e-5)
    inputs, log_det_there = fast(model.invert_and_log_det)(outputs)
    np.testing.assert_allclose(to_numpy(inputs), x, atol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det_there), to_numpy(log_det), atol=1e-3)


def test_only_details_are_factored_out_behind_wavelets():
    model = FlowModel([HaarDownsampling(), FactorOut(Flatten(), kept_count=1)])
    x = images(2, 4, 4, 1)
    outputs = to_numpy(model(x)[0])
    means = 2.0 * x.reshape(2, 2, 2, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(outputs[:, 12:], means.reshape(2, 4), atol=1e-6)


def test_adapt_reaches_layers_of_all_scales():
    model = make_scales()
    x = 3.0 * images(64, 8, 8, 1) + np.linspace(0.0, 5.0, 8, dtype="float32")[:, None]
    model.adapt(x)
    z = to_numpy(fast(model)(x)[0])
    for scale in (z[:, :32].reshape(-1, 2), z[:, 32:48].reshape(-1, 4), z[:, 48:].reshape(-1, 16)):
        np.testing.assert_allclose(scale.mean(axis=0), 0.0, atol=1e-3)
        np.testing.assert_allclose(scale.std(axis=0), 1.0, atol=1e-3)


def test_it_can_be_adapted_on_its_own_and_needs_no_layer_that_can():
    x = 5.0 + images(20, 6)
    layer = FactorOut(ActivationNormalization())
    layer.adapt(iter([x[:15], x[15:]]))
    outputs = to_numpy(layer(x)[0])
    np.testing.assert_array_equal(outputs[:, :3], x[:, 3:])
    np.testing.assert_allclose(outputs[:, 3:].mean(axis=0), 0.0, atol=1e-5)
    FactorOut(Reflection()).adapt(x)


def make_conditional():
    coupling = AffineCoupling(axes=[3], conditioner=ResNet(4, 0))
    return FlowModel([Squeeze(), FactorOut(FlowModel([coupling]))])


def test_a_context_reaches_the_flow():
    model = make_conditional()
    x, context = images(3, 4, 4, 1), images(3, 2)
    model(x, context=context)
    randomise(model)
    outputs, log_det = model(x, context=context)
    other, other_log_det = model(x, context=context + 1.0)
    np.testing.assert_array_equal(to_numpy(other)[:, :8], to_numpy(outputs)[:, :8])
    assert np.all(np.abs(to_numpy(other_log_det) - to_numpy(log_det)) > 1e-3)
    inputs, log_det_there = model.invert_and_log_det(outputs, context=context)
    np.testing.assert_allclose(to_numpy(inputs), x, atol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det_there), to_numpy(log_det), atol=1e-4)
    np.testing.assert_allclose(to_numpy(model.invert(outputs, context=context)), x, atol=1e-5)


def test_a_conditional_model_is_adapted_trained_saved_and_loaded(tmp_path):
    model = make_conditional()
    x, context = images(32, 4, 4, 1), images(32, 2)
    model.adapt({"inputs": x, "context": context})
    model.compile("adam")
    model.fit({"inputs": x, "context": context}, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        to_numpy(loaded(x, context=context)[0]), to_numpy(model(x, context=context)[0]), atol=1e-6
    )


def test_a_flow_without_context_makes_a_layer_without_context():
    layer = FactorOut(Reflection())
    assert not layer.accepts_context
    with pytest.raises((TypeError, ValueError), match="context"):
        layer(images(3, 4), context=images(3, 2))


def test_a_new_layer_can_be_inverted_if_its_shape_is_given():
    y = images(2, 16)
    layer = FactorOut(FlowModel([Squeeze(), Reflection(axes=[3])]), shape=[2, 2, 4])
    x = layer.invert(y)
    assert tuple(x.shape) == (2, 2, 2, 4)
    np.testing.assert_allclose(to_numpy(layer(x)[0]), y, atol=1e-5)
    with pytest.raises(ValueError, match="should be built before `invert` is called"):
        FactorOut(Reflection()).invert(y)


def test_bad_input():
    with pytest.raises(TypeError, match="`flow` should be a `FlowLayer` or a `FlowModel`"):
        FactorOut([Reflection()])
    with pytest.raises(ValueError, match="`kept_count` should be an integer of at least 1"):
        FactorOut(Reflection(), kept_count=0)
    with pytest.raises(ValueError, match=r"should have more than 4 channels.*shape \[2, 4\]"):
        FactorOut(Reflection(), kept_count=4)(images(1, 2, 4))
    with pytest.raises(ValueError, match="should have more than 1 channels"):
        FactorOut(Reflection())(images(1, 3, 1))
    with pytest.raises(ValueError, match="should have more than 1 channels"):
        FactorOut(Reflection(), shape=[1])
