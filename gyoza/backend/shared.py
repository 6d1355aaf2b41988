"""What backends share: sizes of batches, and the functions of those that need nothing special.

See `gyoza.backend` for what each of these functions is for.
"""

import contextlib
import contextvars
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from gyoza.backend import private
from gyoza.typing import Seed, Shape, Tensor, Tensors

__all__ = [
    "pad_batches",
    "draw_steps",
    "chain",
    "make_zeros",
    "cos_and_sin",
    "tanh",
    "add_product",
    "trace_once",
    "isolate",
    "run_in_batches",
    "suits_one_trace",
    "jit_step",
    "XLA_ERRORS",
    "find_unsupported",
    "is_distributed",
    "enter_scope",
    "mark_replica",
    "check_states_change",
    "to_data_set",
    "SHORT_AXIS",
    "take_along_short",
    "draw_uniform",
    "draw_normal",
    "forget_gradients",
    "keeps_gradients",
    "keep_values",
    "get_random_states",
    "set_random_states",
    "shuffles_alike",
]

XLA_ERRORS: tuple[type[Exception], ...] = ()
SHORT_AXIS = -1


def add_product(offset: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    return offset + vectors @ matrix


def trace_once(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def isolate(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


_IS_IN_BATCHES = contextvars.ContextVar("is_in_batches", default=False)


def run_in_batches(function: Callable[..., Any], *tensors: Tensor) -> Tensors:
    """Runs a function that `jit_batches` compiles, in which `trace_once` has an effect."""
    token = _IS_IN_BATCHES.set(True)
    try:
        return function(*tensors)
    finally:
        _IS_IN_BATCHES.reset(token)


def suits_one_trace(kind: type, tensors: Sequence[Tensor], options: dict[str, Any]) -> bool:
    """Returns whether a function is called within `jit_batches` with plain tensors and numbers.

    Other numbers than those of Python would be made tensors.
    """
    return (
        _IS_IN_BATCHES.get()
        and all(isinstance(tensor, kind) for tensor in tensors)
        and all(type(option) in (bool, int, float) for option in options.values())
    )


def pad_batches(function: Callable[..., Any], *tensors: Tensor) -> Tensors:
    """Runs a function on batches of one of a few sizes, by repeats of the last instance."""
    count = tensors[0].shape[0]
    padded_count = max(32, 1 << (count - 1).bit_length())
    if count in (0, padded_count):
        return function(*tensors)
    indices = np.minimum(np.arange(padded_count), count - 1)
    outputs = function(*(keras.ops.take(tensor, indices, axis=0) for tensor in tensors))
    return keras.tree.map_structure(lambda output: output[:count], outputs)


def draw_steps(iterator: Iterator[Any], count: int) -> Iterator[tuple[list[Any], int]]:
    """Draws at most `count` batches, and yields those of one shape in lists of that length.

    Arrays are copied, as the next batch may be drawn into the same ones.

    Yields:
        A list, filled up with repeats of the last batch, and how many of its batches count.
    """

    def describe(batch: Tensors) -> list[tuple[int, ...]]:
        return [tuple(value.shape) for value in keras.tree.flatten(batch) if value is not None]

    def copy(value: Tensor) -> Tensor:
        return value.copy() if isinstance(value, np.ndarray) else value

    batches = (keras.tree.map_structure(copy, batch) for batch in itertools.islice(iterator, count))
    for _, equal in itertools.groupby(batches, describe):
        group = list(equal)
        yield group + group[-1:] * (count - len(group)), len(group)


def chain(prepare: Callable[..., Any] | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is given what `prepare`, if there is one, makes of its arguments."""
    if prepare is None:
        return function
    return lambda x, *others: function(prepare(x, *others), *others)


def make_zeros(shape: Shape, dtype: str) -> Tensor:
    return keras.ops.zeros(shape, dtype)


def cos_and_sin(x: Tensor) -> tuple[Tensor, Tensor]:
    return keras.ops.cos(x), keras.ops.sin(x)


tanh = keras.ops.tanh


def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def find_unsupported(error: Exception) -> str:
    return str(error)


def is_distributed(model: keras.Model) -> bool:
    return keras.distribution.distribution() is not None


def enter_scope(model: keras.Model) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def mark_replica(seed: Tensor) -> Tensor:
    return seed


def check_states_change() -> None:
    return


def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


def take_along_short(indices: Tensor, *values: Tensor) -> list[Tensor]:
    """Chooses by a mask: XLA cannot differentiate other ways within loops over dimensions."""
    is_taken = indices == keras.ops.arange(values[0].shape[-1], dtype="int32")
    zero = keras.ops.zeros((), values[0].dtype)
    return [keras.ops.sum(keras.ops.where(is_taken, value, zero), axis=-1) for value in values]


def draw_uniform(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    return keras.random.uniform(shape, dtype=dtype, seed=seed)


def draw_normal(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    return keras.random.normal(shape, dtype=dtype, seed=seed)


def forget_gradients() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def keeps_gradients() -> bool:
    return True


def keep_values(variables: Sequence[keras.Variable]) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def get_random_states() -> dict[str, Any]:
    seeds = private.find_shared_seeds()
    return {
        "python": random.getstate(),
        # The global generator is the one that Keras shuffles arrays by.
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "keras": None if seeds is None else keras.ops.convert_to_numpy(seeds.state),
    }


def set_random_states(states: dict[str, Any]) -> None:
    if states["keras"] is not None:
        if private.find_shared_seeds() is None:
            keras.random.uniform(())  # which creates them, and the next lines undo the rest
        seeds = private.find_shared_seeds()
        if seeds is not None:
            seeds.state.assign(states["keras"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002


def shuffles_alike() -> bool:
    return True
