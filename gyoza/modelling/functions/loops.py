"""Loops of known length, which are compiled as loops and can be differentiated."""

from collections.abc import Callable

import keras
from keras import ops

from gyoza.typing import Tensor

__all__ = ["repeat"]


def repeat(body: Callable[[Tensor, Tensor], Tensor], state: Tensor, count: int) -> Tensor:
    """Computes `state = body(index, state)` for each index from 0 to `count - 1`.

    Args:
        body: A function of an index, an integer tensor, and a state. It returns the next state, a
            tensor of the same shape and dtype.
        state: The tensor to begin with.
        count: The number of steps.

    Returns:
        The state after the last step. It can be differentiated, also under XLA.

    Example:

        >>> from gyoza.modelling.functions import repeat
        >>> int(repeat(lambda index, state: 2 * state + index, keras.ops.array(1), 3))
        12
    """
    if keras.backend.backend() != "tensorflow":
        return ops.fori_loop(0, count, body, state)
    # Under XLA, TensorFlow can differentiate only loops of known length.
    return ops.while_loop(
        lambda index, _: index < count,
        lambda index, state: (index + 1, body(index, state)),
        (0, state),
        maximum_iterations=count,
    )[1]
