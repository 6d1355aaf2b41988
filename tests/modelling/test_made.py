"""MADE: what depends on what, and what does not."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.conditioners import MADE, MLP

CONTEXT_SIZE = 2


def make(size, context_size=None, seed=0, **arguments):
    """A network with random weights, two parameters per dimension."""
    made = MADE(**{"hidden_sizes": [8, 8], "activation": "tanh", "parameter_count": 2, **arguments})
    made.build((None, size), None if context_size is None else (None, context_size))
    random = np.random.default_rng(seed)
    for weight in made.weights:
        weight.assign(0.5 * random.normal(size=weight.shape))  # or `tanh` would be flat
    return made


def dependence(made, *inputs):
    """Returns for each parameter on which numbers of each of the `inputs` it depends."""
    inputs = [ops.convert_to_tensor(x) for x in inputs]

    @jit
    def row(unit, *inputs):
        _, pullback = vjp(made, inputs)
        return pullback(unit)

    units = np.eye(made.parameter_count * inputs[0].shape[-1], dtype="float32")
    shape = (1, inputs[0].shape[-1], made.parameter_count)
    rows = [row(ops.convert_to_tensor(unit.reshape(shape)), *inputs) for unit in units]
    return [
        np.stack([to_numpy(r[i])[0] != 0.0 for r in rows]).reshape(*shape[1:], -1)
        for i in range(len(inputs))
    ]


@pytest.mark.parametrize("order", ["natural", "reversed", [2, 0, 3, 1]])
@pytest.mark.parametrize(
    "options",
    [
        {"hidden_sizes": [8, 8]},
        {"hidden_sizes": [9, 9, 5], "residual": True},
        {"hidden_sizes": [4]},
        {"hidden_sizes": []},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_context", [False, True])
def test_parameters_depend_on_all_dimensions_before_in_the_order_and_on_no_other(
    order, options, has_context
):
    made = make(4, CONTEXT_SIZE if has_context else None, order=order, **options)
    random = np.random.default_rng(1)
    tensors = [random.normal(size=(1, 4)).astype("float32")]
    if has_context:
        tensors.append(random.normal(size=(1, CONTEXT_SIZE)).astype("float32"))
    on_inputs, *on_context = dependence(made, *tensors)
    ranks = np.argsort({"natural": [0, 1, 2, 3], "reversed": [3, 2, 1, 0]}.get(str(order), order))
    expected = np.broadcast_to((ranks[:, None] > ranks)[:, None], on_inputs.shape)
    np.testing.assert_array_equal(on_inputs, expected)
    assert all(np.all(is_nonzero) for is_nonzero in on_context)


@pytest.mark.parametrize("size", [3, 7])
def test_smallest_hidden_layers_still_let_every_dimension_depend_on_all_before(size):
    made = make(size, hidden_sizes=[size - 1, size - 1])
    on_inputs, *_ = dependence(made, np.random.default_rng(0).normal(size=(1, size)))
    np.testing.assert_array_equal(on_inputs[:, 0], np.tri(size, k=-1, dtype=bool))
    with pytest.raises(ValueError, match=f"should be at least {size - 1}"):
        make(size, hidden_sizes=[size - 1, size - 2])


def test_parameters_without_hidden_layers_are_a_triangular_linear_map():
    made = make(3, CONTEXT_SIZE, hidden_sizes=[])
    random = np.random.default_rng(1)
    x, context = random.normal(size=(5, 3)), random.normal(size=(5, CONTEXT_SIZE))
    kernel, context_kernel, bias = map(to_numpy, made.weights)
    kernel = kernel.reshape(3, 3, 2) * np.tri(3, k=-1).T[..., None]
    expected = np.einsum("bi,ijp->bjp", x, kernel)
    expected += (context @ context_kernel + bias).reshape(5, 3, 2)
    received = made(x.astype("float32"), context=context.astype("float32"))
    np.testing.assert_allclose(to_numpy(received), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context_size", [None, CONTEXT_SIZE])
def test_parameters_of_one_dimension_are_computed_alone(context_size):
    made = make(4, context_size, order=[1, 3, 0, 2])
    random = np.random.default_rng(1)
    x = random.normal(size=(5, 2, 4)).astype("float32")
    arguments = {}
    if context_size is not None:
        arguments["context"] = random.normal(size=(5, context_size)).astype("float32")
    everything = to_numpy(made(x, **arguments))
    for dimension in range(4):
        alone = made(x, entry=ops.convert_to_tensor(dimension, dtype="int32"), **arguments)
        np.testing.assert_allclose(
            to_numpy(alone), everything[:, :, dimension : dimension + 1], rtol=1e-5, atol=1e-5
        )


def test_context_can_differ_between_positions():
    made = make(3, CONTEXT_SIZE)
    random = np.random.default_rng(1)
    x = random.normal(size=(2, 5, 3)).astype("float32")
    context = random.normal(size=(2, 5, CONTEXT_SIZE)).astype("float32")
    received = to_numpy(made(x, context=context))
    for i in range(5):
        alone = to_numpy(made(x[:, i], context=context[:, i]))
        np.testing.assert_allclose(received[:, i], alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="should have the shape"):
        made(x[:, 0], context=context)


def test_single_dimension_has_parameters_that_are_weights():
    made = make(1)
    assert [tuple(weight.shape) for weight in made.weights] == [(2,)]
    received = to_numpy(made(np.ones([3, 1], "float32")))
    np.testing.assert_allclose(received, np.broadcast_to(to_numpy(made.weights[0]), (3, 1, 2)))


def test_single_dimension_has_parameters_that_depend_on_the_context():
    made = make(1, CONTEXT_SIZE)
    on_inputs, on_context = dependence(
        made, np.ones([1, 1], "float32"), np.ones([1, CONTEXT_SIZE], "float32")
    )
    assert not np.any(on_inputs)
    assert np.all(on_context)


def test_new_network_returns_zeros():
    made = MADE([8, 8], parameter_count=3)
    np.testing.assert_array_equal(to_numpy(made(np.ones([2, 4], "float32"))), np.zeros([2, 4, 3]))


def test_masks_are_not_weights_and_stay_when_the_network_is_saved_and_loaded(tmp_path):
    inputs = keras.Input([3])
    model = keras.Model(inputs, MADE([4], parameter_count=2, order=[1, 2, 0])(inputs))
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    assert [tuple(weight.shape) for weight in model.weights] == [(3, 4), (4,), (4, 6), (6,)]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(loaded(x)), to_numpy(model(x)), rtol=1e-6)


def test_residual_mlp_adds_hidden_layers_of_equal_size_to_their_input():
    mlp = MLP([4, 4, 3], activation="tanh", output_size=2, residual=True)
    mlp.build((None, 4))
    random = np.random.default_rng(0)
    for weight in mlp.weights:
        weight.assign(random.normal(size=weight.shape))
    (w1, b1, w2, b2, w3, b3, w4, b4) = map(to_numpy, mlp.weights)
    x = random.normal(size=(5, 4)).astype("float32")
    first = np.tanh(x @ w1 + b1)
    second = first + np.tanh(first @ w2 + b2)
    expected = np.tanh(second @ w3 + b3) @ w4 + b4
    np.testing.assert_allclose(to_numpy(mlp(x)), expected, rtol=1e-4, atol=1e-5)
    assert MLP.from_config(mlp.get_config()).residual


def test_bad_input():
    with pytest.raises(ValueError, match=r"`order` should .*Received: order="):
        MADE(order=[0, 2])
    with pytest.raises(ValueError, match="`order` should hold the indices of 3 dimensions"):
        MADE(order=[1, 0], parameter_count=1)(np.ones([2, 3], "float32"))
    with pytest.raises(ValueError, match="`hidden_sizes` should be positive"):
        MADE([8, 0])
    with pytest.raises(ValueError, match="should be given `parameter_count`"):
        MADE([8])(np.ones([2, 3], "float32"))
    made = MADE([8], parameter_count=2)
    with pytest.raises(ValueError, match="should have 3 parameters per dimension"):
        made.set_parameter_count(3)
