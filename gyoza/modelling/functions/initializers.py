"""Initialisers of weights that start with given values."""

from collections.abc import Callable

from keras import ops

from gyoza.typing import Array, Tensor

__all__ = ["given_values"]


def given_values(values: Array) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a Keras initialiser of given values, whatever shape it is asked for.

    Args:
        values: The values, in the shape of the weight.

    Returns:
        A function of a shape, which it ignores, and a dtype, that returns the values as a tensor.
    """
    return lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype)
