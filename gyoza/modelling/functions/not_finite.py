"""What is not finite, and must not get lost."""

import keras
from keras import ops

from gyoza.modelling.functions.dtypes import is_floating
from gyoza.typing import Tensor

__all__ = ["mark_rows"]


def mark_rows(outputs: Tensor, context: Tensor | None) -> Tensor:
    """Makes outputs of a network NaN in rows where what it was given is not finite.

    Networks may lose it: TensorFlow's dense layers with the activation ReLU map NaN to 0 where they
    are compiled other than by XLA, and bounded activations map infinity to finite numbers.

    Args:
        outputs: What a network computed from a context: a structure of floating-point tensors,
            `[batch, ...]`. Scalars are left as they are.
        context: The context, `[batch, ...]`, or `None`. One that does not hold floating-point
            numbers is finite.

    Returns:
        The outputs.
    """
    if context is None or not is_floating(context.dtype):
        return outputs
    rest = tuple(range(1, len(context.shape)))
    # Differences of equal numbers are 0, or NaN if these are not finite.
    marks = ops.stop_gradient(ops.sum(context - context, axis=rest))

    def mark(values: Tensor) -> Tensor:
        rank = len(values.shape)
        if rank == 0:
            return values
        return values + ops.cast(ops.reshape(marks, (-1, *(1,) * (rank - 1))), values.dtype)

    return keras.tree.map_structure(mark, outputs)
