"""Reading inputs from whatever Keras accepts as data."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from gyoza.modelling.functions.checks import check_integer, check_numbers
from gyoza.modelling.functions.dtypes import CAST_ADVICE
from gyoza.modelling.tables import frame_to_array, is_frame
from gyoza.typing import Data, Tensor, Tensors

__all__ = ["split_context", "iterate_batches", "iterate_inputs"]


def split_context(inputs: Tensor, context: Tensor | None = None) -> tuple[Tensors, Any]:
    """Splits inputs that may be a dictionary with a context.

    Args:
        inputs: The inputs, or `{"inputs": inputs, "context": context}`.
        context: The context, where `inputs` is not a dictionary.

    Returns:
        The inputs, and the context or `None`.

    Raises:
        ValueError: If the dictionary has other keys, or another context is passed as well.
    """
    if not isinstance(inputs, dict):
        return inputs, context
    if not {"inputs"} <= set(inputs) <= {"inputs", "context"} or context is not None:
        raise ValueError(
            'A dictionary of inputs should be `{"inputs": …, "context": …}`, and hold the only '
            f"context. Received: the keys {list(inputs)}"
            + ("" if context is None else " and `context`")
        )
    return inputs["inputs"], inputs.get("context")


def iterate_batches(data: Data, batch_size: int) -> Iterator[Tensors]:
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
    batch_size = check_integer("batch_size", batch_size, minimum=1)
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


def iterate_inputs(data: Data, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the inputs in `data` alone, without contexts; see :func:`iterate_batches`."""
    for batch in iterate_batches(data, batch_size):
        yield batch["inputs"] if isinstance(batch, dict) else batch


def _inputs_of(batch: Data) -> Data:
    return batch[0] if isinstance(batch, tuple) else batch


def _cut_dictionary(data: dict[str, Any], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    inputs, context = split_context(data)
    inputs = inputs if isinstance(inputs, tuple | list) else [inputs]
    for index, array in enumerate(inputs):
        part = context[index] if isinstance(context, tuple) else context
        part = None if part is None else keras.ops.convert_to_numpy(part)
        check_numbers("context", part)
        for number, batch in enumerate(_cut(array, batch_size)):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            yield {"inputs": batch, **({} if part is None else {"context": part[rows]})}


def _cut(array: Tensor, batch_size: int) -> Iterator[np.ndarray]:
    array = frame_to_array(array) if is_frame(array) else keras.ops.convert_to_numpy(array)
    check_numbers("data", array)
    if not keras.backend.is_float_dtype(str(array.dtype)):
        raise TypeError(
            f"`data` should be floating-point numbers: {CAST_ADVICE} Received: dtype={array.dtype}"
        )
    for start in range(0, len(array), batch_size):
        yield array[start : start + batch_size]
