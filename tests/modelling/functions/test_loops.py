"""Loops of known length, by hand."""

import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.functions import repeat


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 2), (3, 12)])
def test_each_state_follows_from_its_index_and_the_last_one(count, expected):
    assert int(repeat(lambda index, state: 2 * state + index, ops.array(1), count)) == expected


def test_states_may_be_several_tensors():
    def swap(index, state):
        return state[1], state[0]

    first, second = repeat(swap, (ops.array(1), ops.array(2)), 3)
    assert (int(first), int(second)) == (2, 1)


def test_loops_that_xla_compiles_can_be_differentiated():
    def differentiate(x):
        power, pull_back = vjp(lambda x: repeat(lambda _, state: state * state, x, 3), [x])
        return power, pull_back(ops.ones_like(power))[0]

    power, slope = jit(differentiate, xla=True)(ops.array(1.5))
    assert to_numpy(power).item() == pytest.approx(1.5**8)
    assert to_numpy(slope).item() == pytest.approx(8.0 * 1.5**7)
