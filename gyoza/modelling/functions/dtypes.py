"""The precision in which sums and small matrices are computed."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import keras
from keras import ops

from gyoza.typing import DType, Tensor

__all__ = [
    "CAST_ADVICE",
    "at_least_float32",
    "check_float_dtype",
    "check_floating",
    "is_floating",
    "keep_float64",
]

CAST_ADVICE = (
    "cast them, for example by `x.astype('float32')`. A flow of integers should also begin with a "
    "`UniformDequantization`, as they do not have a density."
)

_LOCK = threading.Lock()
# What Keras' floatx was for each thread that has set it.
_GIVEN: list[str] = []


@functools.cache
def at_least_float32(dtype: DType) -> str:
    """Returns float64 for float64 and float32 for any other floating-point dtype.

    `keras.backend.result_type(dtype, "float32")` would give float32 for float64 on some backends.
    """
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


@functools.cache
def is_floating(dtype: DType) -> bool:
    """Returns whether a dtype, of Keras or the backend, is one of floating-point numbers."""
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(dtype)))


@functools.cache
def check_float_dtype(dtype: DType) -> None:
    """Raises a `TypeError` if a dtype is not one of floating-point numbers.

    Where results are cast to the dtype of inputs, they would be truncated to integers.
    """
    if not is_floating(dtype):
        raise TypeError(
            "Numbers to be transformed should be floating-point numbers. "
            f"Received: dtype={keras.backend.standardize_dtype(dtype)}"
        )


def check_floating(
    x: Tensor, name: str, what: str = "The inputs", advice: str = CAST_ADVICE
) -> None:
    """Raises a `TypeError` if `what` layer `name` is given are not floating-point numbers."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and not is_floating(dtype):
        raise TypeError(
            f"{what} of '{name}' should be floating-point numbers: {advice} "
            f"Received: dtype={keras.backend.standardize_dtype(dtype)}"
        )


@contextlib.contextmanager
def keep_float64(dtype: str) -> Iterator[None]:
    """Lets `fit`, `evaluate` and `predict` of a model in float64 see data in float64.

    Keras rounds the arrays that it is given to `keras.config.floatx()`.

    Args:
        dtype: The compute dtype of the model. Nothing happens for others, nor on JAX unless its
            `jax_enable_x64` is set.
    """
    if dtype != "float64" or str(ops.convert_to_numpy(ops.zeros((), dtype)).dtype) != dtype:
        yield
        return
    with _LOCK:
        _GIVEN.append(keras.config.floatx())
        keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        with _LOCK:
            first = _GIVEN[0]
            _GIVEN.pop()
            if not _GIVEN:  # no other thread is in here
                keras.config.set_floatx(first)
