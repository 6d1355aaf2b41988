"""What counts as a tensor: arrays, variables and tensors of other libraries are made into one."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import ops

from gyoza.modelling.tables import frame_to_array, is_frame
from gyoza.typing import Array, Tensor

__all__ = [
    "PLAIN_TYPES",
    "TRACING_ERRORS",
    "to_tensor",
    "to_numpy",
    "is_number",
    "fill",
    "to_rows",
    "count_positions",
    "mean",
    "smaller",
    "larger",
    "clip",
    "floor",
    "make_selector",
]

# Types of tensors of the backend, as far as they have been met. To look a type up costs next to
# nothing, to ask the backend a few calls.
PLAIN_TYPES: set[type] = set()

# What is raised by code that works on numbers alone, when Keras traces it with symbolic tensors.
TRACING_ERRORS = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


def to_tensor(x: Tensor) -> Tensor:
    """Converts what is like a tensor: an array, a list, a variable, a tensor of another library.

    Args:
        x: Anything of that sort. Tensors of the backend, symbolic ones, and tuples, dictionaries
            and lists of tensors are left alone.

    Returns:
        The tensor. A variable is read: TensorFlow counts its own as tensors, yet they lack some of
        what tensors can do.
    """
    if type(x) in PLAIN_TYPES or isinstance(x, keras.KerasTensor | tuple | dict):
        return x
    if is_frame(x):
        x = frame_to_array(x)
    if x is None:
        raise ValueError("What is to be mapped should be a tensor. Received: None")
    is_tensor = ops.is_tensor(x)
    if is_tensor and not hasattr(x, "assign"):
        PLAIN_TYPES.add(type(x))
        return x
    if isinstance(x, list) and any(hasattr(part, "shape") for part in keras.tree.flatten(x)):
        return x
    x = x if is_tensor else ops.convert_to_tensor(x)
    return ops.copy(x) if hasattr(x, "assign") else x


def to_numpy(values: Tensor) -> np.ndarray:
    """Converts any array-like, including tensors of the Keras backend, to NumPy."""
    return np.asarray(ops.convert_to_numpy(values) if ops.is_tensor(values) else values)


def is_number(x: Tensor | None) -> bool:
    """Whether `x` is one number, of Python or as a tensor, and neither `None` nor several."""
    return x is not None and len(getattr(x, "shape", ())) == 0


def fill(value: Tensor | None, inputs: Tensor, dtype: str) -> Tensor:
    """Returns the same number for each example of a batch.

    Args:
        value: A number or scalar tensor, or `None` for zero.
        inputs: The batch, `[batch, ...]`, which may be symbolic.
        dtype: The dtype of the result.

    Returns:
        A tensor `[batch]`.
    """
    if isinstance(inputs, keras.KerasTensor):
        # A symbolic batch has no size yet, but sums that do not depend on its values.
        zeros = ops.zeros_like(inputs, dtype=dtype)
        zeros = ops.sum(zeros, axis=tuple(range(1, len(inputs.shape))))
        return zeros if value is None else zeros + ops.cast(value, dtype)
    if value is None:
        return ops.zeros(ops.shape(inputs)[:1], dtype=dtype)
    return ops.broadcast_to(ops.cast(value, dtype), ops.shape(inputs)[:1])


def to_rows(x: Tensor) -> Tensor:
    """Merges all axes but the first, `[batch, ...]` to `[batch, size]`."""
    if len(x.shape) == 2:
        return x
    lengths = x.shape[1:]
    # JAX cannot tell what -1 stands for in an empty batch.
    return ops.reshape(x, (ops.shape(x)[0], -1 if None in lengths else math.prod(lengths)))


def count_positions(x: Tensor, axes: Iterable[int]) -> Tensor:
    """Returns the number of positions along axes, in the dtype of `x`."""
    lengths = ops.shape(x)
    return ops.cast(math.prod(lengths[axis] for axis in axes), x.dtype)


def mean(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Returns the mean along one or several axes, or of all numbers.

    On JAX and PyTorch, `keras.ops.mean` would round float64 to float32.
    """
    axes = range(len(x.shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    return ops.sum(x, axis=tuple(axes), keepdims=keepdims) / count_positions(x, axes)


# On PyTorch, `keras.ops.minimum` and `maximum` would round float64 to float32. These, `clip` and
# `where` round numbers of Python to it.


def _convert(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Converts a Python number to the dtype of the tensor that it is compared with."""
    if isinstance(x, float):
        return ops.convert_to_tensor(x, dtype=y.dtype), y
    return x, ops.convert_to_tensor(y, dtype=x.dtype) if isinstance(y, float) else y


def smaller(x: Tensor, y: Tensor) -> Tensor:
    """Returns the smaller of two numbers, or `y` if one is NaN."""
    x, y = _convert(x, y)
    return ops.where(x < y, x, y)


def larger(x: Tensor, y: Tensor) -> Tensor:
    """Returns the larger of two numbers, or `y` if one is NaN."""
    x, y = _convert(x, y)
    return ops.where(x > y, x, y)


def clip(x: Tensor, least: float, most: float) -> Tensor:
    """Returns the number of an interval that is closest to `x`, or NaN if it is NaN."""
    ends = (ops.convert_to_tensor(end, dtype=x.dtype) for end in (least, most))
    return ops.clip(x, *ends)


def floor(x: Tensor) -> Tensor:
    """Returns the largest integers up to `x`, where Keras rounds float64 on JAX and PyTorch."""
    whole = ops.trunc(x)
    return whole - ops.cast(x < whole, x.dtype)


def make_selector(indices: Array) -> Callable[[Tensor], Tensor]:
    """Returns what selects along the last axis: a slice, which is cheaper, where one will do."""
    start, stop, step = 0, 0, 1
    if len(indices) > 0:
        start, stop = int(indices[0]), int(indices[-1]) + 1
    if len(indices) > 1:
        step = int(indices[1]) - start
    if step > 0 and np.array_equal(indices, np.arange(start, stop, step)):
        return operator.itemgetter((..., slice(start, stop, step)))
    return functools.partial(ops.take, indices=indices, axis=-1)
