"""Layers for chosen columns."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    Columns,
    Flatten,
    FlowModel,
    Inverse,
    Logit,
    Reshape,
    Softplus,
    Standardize,
    UniformDequantization,
)


def make_coupling():
    return AffineCoupling(conditioner=MLP([4]))


def test_contract_by_index_and_chain(check_contract):
    layer = Columns({1: Softplus(), (3, 0): [ActivationNormalization(), make_coupling()]})
    check_contract(layer, [4], fresh_process=False)


def test_contract_by_name_and_context(check_contract):
    layer = Columns({"b": ActivationNormalization(), ("c", "a"): make_coupling()}, names="abc")
    context = np.random.default_rng(0).normal(size=[4, 2])
    check_contract(layer, [3], context=context, is_further_layout=True)


def test_contract_at_all_positions(check_contract):
    layer = Columns({-1: ActivationNormalization(axes=[2])})
    check_contract(layer, [2, 3], is_further_layout=True)


def test_each_layer_sees_its_columns():
    x = np.random.default_rng(0).uniform(0.1, 0.9, size=[5, 4]).astype("float32")
    layer = Columns([((2,), Inverse(Softplus())), ([0, 3], Logit())])
    outputs, log_det = map(to_numpy, layer(x))
    np.testing.assert_array_equal(outputs[:, 1], x[:, 1])
    np.testing.assert_allclose(outputs[:, 2], np.log(np.expm1(x[:, 2])), rtol=1e-4, atol=1e-5)
    ends = x[:, [0, 3]]
    np.testing.assert_allclose(outputs[:, [0, 3]], np.log(ends / (1 - ends)), rtol=1e-4, atol=1e-5)
    expected = -np.log(ends * (1 - ends)).sum(axis=1) - np.log(-np.expm1(-x[:, 2]))
    np.testing.assert_allclose(log_det, expected, rtol=1e-4)


def test_integers_come_back_from_a_model():
    x = np.random.default_rng(0).integers(5, size=[40, 2]).astype("float32")
    x[:, 1] = np.random.default_rng(1).normal(size=40)
    model = FlowModel([Columns({0: UniformDequantization(5)}), Standardize()])
    model.adapt(x)
    z, _ = model(x)
    np.testing.assert_allclose(to_numpy(model.invert(z)), x, atol=1e-5)
    samples = to_numpy(model.sample(50, seed=0))
    assert set(samples[:, 0].tolist()) <= set(range(5))
    assert not set(samples[:, 1].tolist()) & set(range(5))


def test_layers_adapt_to_what_those_before_make_of_their_columns():
    x = np.exp(np.random.default_rng(0).normal(size=[200, 2])).astype("float32")
    normalisation = Standardize()
    layer = Columns({1: [Inverse(Softplus()), normalisation]})
    FlowModel([layer]).adapt(x)
    outputs = to_numpy(layer(x)[0])
    np.testing.assert_allclose(outputs[:, 1].mean(), 0.0, atol=1e-5)
    np.testing.assert_allclose(outputs[:, 1].std(), 1.0, rtol=1e-4)
    np.testing.assert_array_equal(outputs[:, 0], x[:, 0])


def test_adapt_names_columns_that_a_layer_cannot_map():
    x = np.ones([3, 2], "float32")
    x[1, 1] = -2.0
    layer = Columns({"price": Inverse(Softplus())}, names=["area", "price"])
    with pytest.raises(
        ValueError, match=r"Column 'price'.*`Softplus` maps to finite ones.*1 others.*-2 in row 1"
    ):
        FlowModel([layer]).adapt(x)
    with pytest.raises(ValueError, match=r"Column 'b': The inputs of '.*' should be integers"):
        Columns({"b": UniformDequantization(4)}, names="ab").adapt(x)


def test_saved_models_know_their_columns(tmp_path):
    x = np.exp(np.random.default_rng(0).normal(size=[8, 2])).astype("float32")
    model = FlowModel(
        [Columns({"b": [Inverse(Softplus()), Standardize()]}, names="ab"), make_coupling()]
    )
    model.adapt(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded._flow_layers_[0].names == ("a", "b")
    np.testing.assert_allclose(to_numpy(loaded.log_prob(x)), to_numpy(model.log_prob(x)), rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "names", "error", "message"),
    [
        ({0: Softplus(), (1, -3): Softplus()}, None, ValueError, "each column once.*0 are repea"),
        ({3: Softplus()}, None, ValueError, "Columns should be less than 3. Received: 3"),
        ({"d": Softplus()}, "abc", ValueError, r"one of \['a', 'b', 'c'\]. Received: 'd'"),
        ({"a": Softplus()}, "ab", ValueError, "one name for each of the 3 columns"),
        ({"a": Softplus()}, "aba", ValueError, "`names` should be distinct"),
        ({1.5: Softplus()}, None, TypeError, "The keys of `layers` should be columns"),
        ({0: keras.layers.Dense(1)}, None, TypeError, "flow layers, or lists of flow layers"),
        ({(0, 1): Reshape([2, 1])}, None, ValueError, "keep the shape.*columns 0, 1"),
    ],
)
def test_what_does_not_fit_is_rejected(layers, names, error, message):
    with pytest.raises(error, match=message):
        Columns(layers, names=names)(np.ones([2, 3], "float32"))


def test_contexts_that_no_layer_takes_are_rejected():
    with pytest.raises(ValueError, match="has no layers that take a context"):
        Columns({0: Softplus()})(np.ones([2, 3]), context=np.ones([2, 1]))
    with pytest.raises(ValueError, match="a last axis of known length"):
        Columns({0: Flatten()}).build((None, None))
