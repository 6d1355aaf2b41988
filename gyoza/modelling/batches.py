"""Reading inputs from whatever Keras accepts as data."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["iterate_batches", "iterate_inputs"]


def iterate_batches(data: Any, batch_size: int) -> Iterator[Any]:
    """Yields the inputs in `data` as arrays.

    Args:
        data: A floating-point array, `[instances, ...]`, a pair of arrays, or a dictionary of
            `inputs`, which are such, and a `context`. Or an iterable of batches, where a batch is
            of this kind, or `(x, y)` or `(x, y, sample_weight)` with an `x` of this kind.
        batch_size: Number of instances in which arrays are cut.

    Yields:
        Batches of inputs, `[at most batch_size, ...]`. A pair gives one after the other. A
        dictionary gives dictionaries.

    Raises:
        TypeError: If the inputs are not floating-point numbers.
        ValueError: If `batch_size` is not positive, or a dictionary has other keys.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` should be at least 1. Received: batch_size={batch_size}")
    if hasattr(data, "shape"):
        yield from _cut(data, batch_size)
    elif isinstance(data, tuple):
        for part in data:
            yield from _cut(part, batch_size)
    elif isinstance(data, dict):
        yield from _cut_dictionary(data, batch_size)
    elif isinstance(data, keras.utils.PyDataset):
        for index in range(data.num_batches or 0):
            yield from iterate_batches(_inputs_of(data[index]), batch_size)
    elif isinstance(data, Iterable):
        for batch in data:
            yield from iterate_batches(_inputs_of(batch), batch_size)
    else:
        raise TypeError(
            "`data` should be an array, or an iterable of batches such as a `tf.data.Dataset` or a "
            f"`keras.utils.PyDataset`. Received: data={data} (of type {type(data)})"
        )


def iterate_inputs(data: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the inputs in `data` alone, without contexts; see :func:`iterate_batches`."""
    for batch in iterate_batches(data, batch_size):
        yield batch["inputs"] if isinstance(batch, dict) else batch


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) else batch


def _cut_dictionary(data: dict[str, Any], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    if not {"inputs"} <= set(data) <= {"inputs", "context"}:
        raise ValueError(
            'A dictionary of inputs should be `{"inputs": …, "context": …}`. '
            f"Received: the keys {list(data)}"
        )
    inputs = data["inputs"]
    inputs = inputs if isinstance(inputs, tuple | list) else [inputs]
    others = {name: value for name, value in data.items() if name != "inputs"}
    for index, array in enumerate(inputs):
        parts = {
            name: keras.ops.convert_to_numpy(value[index] if isinstance(value, tuple) else value)
            for name, value in others.items()
        }
        for number, batch in enumerate(_cut(array, batch_size)):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            yield {"inputs": batch, **{name: part[rows] for name, part in parts.items()}}


def _cut(array: Any, batch_size: int) -> Iterator[np.ndarray]:
    array = keras.ops.convert_to_numpy(array)
    if not keras.backend.is_float_dtype(str(array.dtype)):
        raise TypeError(f"`data` should be floating-point numbers. Received: dtype={array.dtype}")
    for start in range(0, len(array), batch_size):
        yield array[start : start + batch_size]
