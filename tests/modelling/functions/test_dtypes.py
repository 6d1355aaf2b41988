"""Numbers that are not floating-point ones are rejected, with the way to cast them."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.functions.dtypes import CAST_ADVICE, check_floating


@pytest.mark.parametrize("x", [np.ones(2, "float16"), [1, 2], None])
def test_floating_point_numbers_and_what_has_no_dtype_pass(x):
    check_floating(x, "it")


def test_integers_are_rejected_with_advice():
    integers = ops.ones([2], "int32")
    with pytest.raises(TypeError) as caught:
        check_floating(integers, "it")
    expected = f"The inputs of 'it' should be floating-point numbers: {CAST_ADVICE} Received: "
    assert str(caught.value) == f"{expected}dtype=int32"
    with pytest.raises(TypeError, match=r"^Contexts of 'it' should .*: round them. Received: "):
        check_floating(integers, "it", "Contexts", "round them.")
