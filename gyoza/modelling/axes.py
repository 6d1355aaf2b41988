"""How layers and masks address part of a tensor: `axes`, and the `shape` along them."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from keras import ops

from gyoza.modelling.functions.checks import check_integers
from gyoza.typing import Shape, Tensor

__all__ = [
    "check_integers",
    "check_shape_and_axes",
    "resolve_axes",
    "read_shape",
    "to_vectors",
    "from_vectors",
    "align",
    "align_context",
]


def check_shape_and_axes(
    shape: Iterable[int] | None, axes: Iterable[int] | None, first_axis: int = 1
) -> tuple[list[int] | None, list[int] | None]:
    """Checks that `shape` and `axes` can belong together.

    Args:
        shape: Lengths along `axes`, or `None` when they are to be read from the first input.
        axes: Ascending axes, or `None` for all axes from `first_axis` on. They can be negative, and
            then count from the last one, -1.
        first_axis: The lowest axis allowed: 1 where axis 0 is the batch.

    Returns:
        Both as lists. `axes` is filled in when only `shape` is given, and stays negative if it is.
    """
    if shape is not None:
        shape = check_integers("shape", shape)
        if not shape or min(shape) < 1:
            raise ValueError(
                "`shape` should hold positive lengths, such as [4] for vectors of 4 dimensions. "
                f"Received: shape={shape}"
            )
        if axes is None:
            axes = range(first_axis, first_axis + len(shape))
    if axes is not None:
        axes = check_integers("axes", axes)
        if not axes or (min(axes) < first_axis and max(axes) >= 0):
            batch = ", and not contain the batch axis 0" if first_axis == 1 else ""
            raise ValueError(
                f"`axes` should hold indices that are at least {first_axis}{batch}, or negative "
                f"ones alone, which count from the last axis, -1. Received: axes={axes}"
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(axes)):
            raise ValueError(f"`axes` should be strictly ascending. Received: axes={axes}")
        if shape is not None and len(shape) != len(axes):
            raise ValueError(
                "`shape` and `axes` should have the same length. "
                f"Received: shape={shape}, axes={axes}"
            )
    return shape, axes


def resolve_axes(axes: Sequence[int], rank: int, first_axis: int = 1) -> list[int]:
    """Returns axes counted from 0, of tensors of a rank, for those counted from the last axis.

    Raises:
        ValueError: If one of the latter is before `first_axis`, such as the batch axis.
    """
    resolved = [axis + rank if axis < 0 else axis for axis in axes]
    if resolved and resolved[0] < first_axis:
        batch = " after the batch axis" if first_axis == 1 else ""
        raise ValueError(
            f"`axes` should be axes of the inputs{batch}. "
            f"Received: axes={list(axes)}, for inputs with {rank} axes"
        )
    return resolved


def read_shape(
    input_shape: Shape | None,
    shape: list[int] | None,
    axes: list[int] | None,
    first_axis: int = 1,
) -> tuple[list[int], list[int]]:
    """Reads from `input_shape` what is not yet known of shape and axes, and checks the rest.

    If there is no `input_shape`, both should be known, and `axes` should not be negative.
    """
    if input_shape is None:
        if shape is None or axes is None or axes[0] < 0:
            raise ValueError(
                "`input_shape` should be given unless `shape` and `axes` are known, and `axes` are "
                "not negative. "
                f"Received: input_shape=None, shape={shape}, axes={axes}"
            )
        return shape, axes
    if axes is None:
        axes = list(range(first_axis, len(input_shape)))
    axes = resolve_axes(axes, len(input_shape), first_axis)
    if not axes or len(input_shape) <= axes[-1]:
        raise ValueError(
            f"The input should have the axes {axes or [first_axis]}. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    lengths = [input_shape[axis] for axis in axes]
    if shape is None:
        if None in lengths:
            raise ValueError(
                f"The length of the input along axes {axes} should be known. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        shape = [int(length) for length in lengths if length is not None]
    if any(length not in (None, size) for length, size in zip(lengths, shape, strict=True)):
        raise ValueError(
            f"The input should have shape {shape} along axes {axes}. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return shape, axes


def _reshape(x: Tensor, lead: tuple[Any, ...], tail: tuple[int, ...]) -> Tensor:
    """Reshapes to `lead + tail`, where one length of `lead` may be unknown to the backend."""
    if sum(not isinstance(length, int) for length in lead) == 1:
        lead = tuple(length if isinstance(length, int) else -1 for length in lead)
    return ops.reshape(x, lead + tail)


def to_vectors(x: Tensor, axes: Sequence[int], shape: Sequence[int] | None = None) -> Tensor:
    """Moves `axes` to the end and merges them: `[rest of the shape..., product of lengths]`.

    Lengths along `axes` are taken from `shape` if it is given: TensorFlow may not know those of
    `x` when it compiles.
    """
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    order = rest + list(axes)
    if order != sorted(order):
        x = ops.transpose(x, order)
    if len(axes) == 1 and (shape is None or x.shape[-1] is not None):
        return x
    size = math.prod(x.shape[len(rest) :] if shape is None else shape)
    return _reshape(x, tuple(ops.shape(x)[: len(rest)]), (size,))


def from_vectors(vectors: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The inverse of `to_vectors`, for a tensor that has `shape` along `axes`."""
    rank = len(vectors.shape) - 1 + len(axes)
    rest = [axis for axis in range(rank) if axis not in axes]
    order = rest + list(axes)
    if len(axes) > 1:
        vectors = _reshape(vectors, tuple(ops.shape(vectors)[:-1]), tuple(shape))
    if order == sorted(order):
        return vectors
    return ops.transpose(vectors, sorted(range(rank), key=order.__getitem__))


def align(values: Tensor, axes: Sequence[int], shape: Sequence[int], rank: int) -> Tensor:
    """Reshapes values, one per position along `shape`, to broadcast along `axes` of a tensor."""
    lengths = [1] * rank
    for axis, length in zip(axes, shape, strict=True):
        lengths[axis] = length
    return ops.reshape(values, lengths)


def align_context(context: Tensor, vectors: Tensor) -> Tensor:
    """Adds axes to a context, so that it has as many as vectors: `[batch, 1, ..., context size]`.

    Args:
        context: The context, `[batch, context size]` or `[batch, ..., context size]`.
        vectors: Vectors that it belongs to, `[batch, ..., size]`.

    Returns:
        The context, with lengths of 1 where it had no axes.

    Raises:
        ValueError: If the context has several axes, but not those of the vectors.
    """
    rank = len(vectors.shape)
    if len(context.shape) == 2:
        return ops.reshape(context, (-1, *(1 for _ in range(rank - 2)), context.shape[-1]))
    if len(context.shape) != rank:
        raise ValueError(
            "`context` should have the shape [batch, context size], or an axis for each axis that "
            f"is not transformed. Received: context.shape={tuple(context.shape)} for vectors of "
            f"shape {tuple(vectors.shape)}"
        )
    return context
