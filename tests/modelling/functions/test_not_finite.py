"""Contexts that are not finite make what depends on them NaN, on every path."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    AdditiveCoupling,
    BlockNeuralAutoregressive,
    FlowModel,
    Inverse,
    MaskedAffine,
    Reflection,
)
from gyoza.modelling.functions.not_finite import mark_rows


def dense(size):
    return keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(size)])


def concatenate_and(network):
    first, second = keras.Input([3]), keras.Input([2])
    return keras.Model([first, second], network(ops.concatenate([first, second], axis=-1)))


MODELS = {
    "mlp": lambda: FlowModel([AdditiveCoupling(conditioner=MLP([4]))]),
    "tanh": lambda: FlowModel([AdditiveCoupling(conditioner=MLP([4], "tanh"))]),
    "keras": lambda: FlowModel([AdditiveCoupling(conditioner=concatenate_and(dense(3)))]),
    "made": lambda: FlowModel([MaskedAffine(conditioner=MADE([4]))]),
    "inverse-made": lambda: FlowModel([Inverse(MaskedAffine(conditioner=MADE([4])))]),
    "block": lambda: FlowModel([BlockNeuralAutoregressive(hidden_sizes=[2])]),
    "encoder": lambda: FlowModel(
        [AdditiveCoupling(conditioner=MLP([4]))], context_encoder=dense(2)
    ),
    "base": lambda: FlowModel(
        [Reflection()],
        base_distribution=DiagonalNormal(context_network=MLP([4])),
    ),
}


@pytest.mark.parametrize(("name", "jit_compile"), [("mlp", True), *((n, False) for n in MODELS)])
def test_only_rows_that_are_not_finite_are_marked(name, jit_compile):
    random = np.random.default_rng(0)
    x, context = (random.normal(size=[5, n]).astype("float32") for n in (3, 2))
    model = MODELS[name]()
    model(x, context=context)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape))
    model.compile("sgd", jit_compile=jit_compile)
    context[1, 0], context[3, 1] = np.nan, np.inf
    x[4, 2] = np.nan
    log_prob = ops.convert_to_numpy(model.log_prob(x, context=context))
    np.testing.assert_array_equal(np.isfinite(log_prob), [1, 0, 1, 0, 0])
    samples = ops.convert_to_numpy(model.sample(5, seed=0, context=context))
    np.testing.assert_array_equal(np.isfinite(samples).all(axis=1), [1, 0, 1, 0, 1])


def test_outputs_may_have_any_structure():
    context = ops.convert_to_tensor([[1.0, np.nan], [np.inf, 0.0], [1.0, 2.0]])
    wide, scalar = mark_rows([ops.ones([3, 2, 2]), ops.ones([])], context)
    np.testing.assert_array_equal(ops.convert_to_numpy(wide)[2], 1)
    assert np.isnan(ops.convert_to_numpy(wide)[:2]).all()
    assert float(scalar) == 1
    for dtype in ("int32", "bool"):
        unmarked = mark_rows(ops.ones([3, 1]), ops.ones([3], dtype=dtype))
        np.testing.assert_array_equal(ops.convert_to_numpy(unmarked), 1)
    assert mark_rows([wide], None)[0] is wide


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_outputs_keep_their_dtype(dtype):
    marked = mark_rows(ops.ones([2, 1], dtype), ops.ones([2, 1], "float32"))
    assert keras.backend.standardize_dtype(marked.dtype) == dtype
