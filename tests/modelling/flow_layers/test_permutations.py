"""Permutations: the orders they produce."""

import random

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.flow_layers import (
    CheckerBoardPermutation,
    FlowModel,
    HeavisidePermutation,
    Permutation,
    ShufflePermutation,
)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (HeavisidePermutation([4], [1]), [2, 3, 0, 1]),
        (HeavisidePermutation([5], [1]), [2, 3, 4, 0, 1]),
        (CheckerBoardPermutation([4], [1]), [1, 0, 3, 2]),
        (CheckerBoardPermutation([5], [1]), [1, 0, 3, 2, 4]),
        (CheckerBoardPermutation([2, 3], [1, 2]), [1, 0, 5, 4, 3, 2]),
        (CheckerBoardPermutation([3, 3], [1, 2]), [1, 0, 5, 4, 3, 2, 7, 6, 8]),
    ],
)
def test_orders(layer, expected):
    np.testing.assert_array_equal(to_numpy(layer._forward_permutation_), expected)
    size = len(expected)
    shape = layer._shape_
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    outputs = to_numpy(layer(x)[0]).reshape(3, size)
    np.testing.assert_array_equal(outputs, x.reshape(3, size)[:, expected])
    inverse = to_numpy(layer._inverse_permutation_)
    np.testing.assert_array_equal(np.asarray(expected)[inverse], np.arange(size))


@pytest.mark.parametrize("shape", [[1], [5], [2, 3], [1, 4], [3, 1, 2], [2, 3, 4]])
def test_rope_visits_every_cell_once_by_steps_of_one(shape):
    rope = np.array(list(CheckerBoardPermutation.generate_rope_indices(shape)))
    assert len({tuple(cell) for cell in rope}) == len(rope) == np.prod(shape)
    assert np.all(np.abs(np.diff(rope, axis=0)).sum(axis=1) == 1)


def test_rope_prefers_later_axes():
    rope = list(CheckerBoardPermutation.generate_rope_indices([2, 3]))
    assert rope == [[0, 0], [0, 1], [0, 2], [1, 2], [1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("index", "limit", "direction", "expected"),
    [(2, 3, 1, True), (1, 3, 1, False), (0, 3, -1, True), (1, 3, -1, False), (0, 1, 1, True)],
)
def test_is_end_of_axis(index, limit, direction, expected):
    assert CheckerBoardPermutation.is_end_of_axis(index, limit, direction) is expected


def test_pairs_of_the_checkerboard_lie_on_cells_of_different_colour():
    layer = CheckerBoardPermutation([3, 4, 2], [1, 2, 3])
    permutation = to_numpy(layer._forward_permutation_)
    parity = (np.indices([3, 4, 2]).sum(axis=0) % 2).reshape(-1)
    assert np.all(parity != parity[permutation])


def order(layer):
    return to_numpy(layer._forward_permutation_).tolist()


def test_shuffle_follows_its_seed_and_is_kept():
    layer = ShufflePermutation([20], [1], seed=5)
    assert order(layer) == order(ShufflePermutation([20], [1], seed=5))
    assert order(layer) != order(ShufflePermutation([20], [1], seed=6))
    assert order(layer) == np.random.RandomState(5).permutation(20).tolist()


def test_shuffle_without_seed_keeps_its_permutation_in_config_and_weights(tmp_path):
    first, second = ShufflePermutation([20], [1]), ShufflePermutation([20], [1])
    assert order(first) != order(second)
    assert order(ShufflePermutation.from_config(first.get_config())) == order(first)
    second.set_weights(first.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 20)).astype("float32")
    np.testing.assert_array_equal(to_numpy(second(x)[0]), to_numpy(first(x)[0]))


def test_shuffle_leaves_global_generators_alone_given_a_seed():
    state = random.getstate()
    ShufflePermutation([20], [1], seed=1)
    assert random.getstate() == state


def test_shuffle_is_reproducible_by_the_seed_of_keras():
    orders = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        orders.append(order(ShufflePermutation([20], [1])))
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    "permutation", [[0, 0, 1], [1, 2, 3], [0, 2], [[0, 1]], [0.0, 1.0], [-1, 0], "ba"]
)
def test_what_is_not_a_permutation_is_rejected(permutation):
    with pytest.raises(ValueError, match="every index from 0"):
        Permutation(permutation=permutation)


def test_permutation_that_does_not_fit_is_rejected():
    with pytest.raises(ValueError, match="one index for each dimension"):
        Permutation([4], [1], [1, 0, 2])
    with pytest.raises(ValueError, match="`permutation` should be given"):
        Permutation([4], [1])
    with pytest.raises(ValueError, match="`permutation` should not be given"):
        HeavisidePermutation([2], [1], permutation=[0, 1])


@pytest.mark.parametrize("how", ["assign", "attribute", "set_weights", "file"])
@pytest.mark.parametrize("layer_class", [HeavisidePermutation, CheckerBoardPermutation])
def test_permutations_that_are_assigned_count(layer_class, how, tmp_path):
    layer = layer_class([4], [1])
    forward, inverse = np.array([1, 2, 0, 3], "int32"), np.array([2, 0, 1, 3], "int32")
    x = np.arange(8, dtype="float32").reshape(2, 4)
    layer(x)
    if how == "assign":
        layer._forward_permutation_.assign(forward)
        layer._inverse_permutation_.assign(inverse)
    elif how == "attribute":
        layer._forward_permutation_ = ops.convert_to_tensor(forward)
        layer._inverse_permutation_ = inverse
    else:
        layer.set_weights([forward, inverse])
    if how == "file":
        model = FlowModel([layer])
        model(x)
        model.save(tmp_path / "model.keras")
        (layer,) = keras.saving.load_model(tmp_path / "model.keras")._flow_layers_
    outputs, _ = layer(x)
    np.testing.assert_array_equal(to_numpy(outputs), x[:, forward])
    np.testing.assert_array_equal(to_numpy(layer.invert(outputs)), x)


class Thirds(HeavisidePermutation):
    def make_permutation(self):
        return [3, 1, 2, 0]


def test_permutations_of_a_subclass_count():
    layer, x = Thirds([4], [1]), np.arange(4, dtype="float32").reshape(1, 4)
    np.testing.assert_array_equal(to_numpy(layer(x)[0]), [[3, 1, 2, 0]])
    np.testing.assert_array_equal(to_numpy(layer.invert(layer(x)[0])), x)


def test_permutations_are_built_within_a_step_of_training():
    class Swap(keras.Model):
        def __init__(self):
            super().__init__()
            self.swap = HeavisidePermutation()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(self.swap(x)[0])

    model = Swap()
    model.compile("adam", "mse")
    x = np.arange(8.0, dtype="float32").reshape(2, 4)
    model.fit(x, x, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.swap(x)[0])[0], [2.0, 3.0, 0.0, 1.0])
