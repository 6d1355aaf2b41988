"""What gyoza needs from a backend and `keras.ops` does not offer: derivatives and compilation.

Each function is documented here, and written once for each backend: in `tensorflow`, `jax` and
`torch`, of which only that in use is imported, with what they have in common in `shared`. No other
module of gyoza imports TensorFlow, JAX or PyTorch. What needs private names of these or of Keras is
in `private`, and documented there.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from gyoza.backend.private import (
    KerasHooks,
    Saveable,
    Use,
    build_for_training,
    find_interceptors,
    flatten_layers,
    has_metrics,
    list_seeds,
    list_uses,
    track_last,
)
from gyoza.typing import Seed, Shape, Tensor, Tensors

__all__ = [
    "vjp",
    "with_gradient",
    "after",
    "make_zeros",
    "cos_and_sin",
    "tanh",
    "add_product",
    "jit",
    "trace_once",
    "isolate",
    "jit_batches",
    "CHANGES",
    "jit_step",
    "jit_steps",
    "XLA_ERRORS",
    "find_unsupported",
    "is_distributed",
    "enter_scope",
    "mark_replica",
    "check_states_change",
    "to_data_set",
    "is_traced",
    "has_slow_convolutions",
    "has_slow_substitution",
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
    "flatten_layers",
    "track_last",
    "list_interceptors",
    "list_seeds",
    "Saveable",
    "build_for_training",
    "has_metrics",
    "KerasHooks",
    "Use",
    "list_uses",
]

if keras.backend.backend() not in ("tensorflow", "jax", "torch"):
    raise ValueError(
        "gyoza runs on the Keras backends 'tensorflow', 'jax' and 'torch'. "
        f"Received: backend={keras.backend.backend()!r}"
    )
_in_use: Any = importlib.import_module(f"{__name__}.{keras.backend.backend()}")

# Lists what else is run where Keras calls a layer: hooks of PyTorch, and recomputation.
list_interceptors: Callable[[Any], Sequence[Any]] = find_interceptors()

# The hyperbolic tangent with all digits. On JAX, Keras's would round float64 to float32.
tanh: Callable[[Tensor], Tensor] = _in_use.tanh

# Returns `offset + vectors @ matrix`, of `[new_size]`, `[count, size]` and `[size, new_size]`,
# all in one dtype. On PyTorch, this is one operation.
add_product: Callable[[Tensor, Tensor, Tensor], Tensor] = _in_use.add_product

# What XLA may raise while TensorFlow compiles, before anything is executed.
XLA_ERRORS: tuple[type[Exception], ...] = _in_use.XLA_ERRORS


class _Changes:
    """How often an option of a layer or model that had been built has changed."""

    count = 0


CHANGES = _Changes()


def vjp(
    function: Callable[..., Any], primals: Sequence[Tensor]
) -> tuple[Tensors, Callable[[Tensors], tuple[Tensor, ...]]]:
    """Evaluates `function` and returns its vector-Jacobian product.

    Args:
        function: A callable of `len(primals)` tensors that returns one tensor or a (nested)
            sequence of tensors.
        primals: The floating-point tensors at which the function is evaluated.

    Returns:
        The pair `(outputs, pullback)`. `pullback(cotangents)`, with cotangents of the structure
        and shapes of `outputs`, returns one gradient per primal: zeros where the outputs do not
        depend on it. It can be called more than once.
    """
    return _in_use.vjp(function, primals)


def with_gradient(
    forward: Callable[..., Sequence[Tensor]], backward: Callable[..., Sequence[Tensor]]
) -> Callable[..., Any]:
    """Returns a function with a gradient of its own, which does not need its first argument.

    Args:
        forward: A callable of tensors that returns a tuple of tensors.
        backward: A callable of these outputs, of all arguments of `forward` but the first, and
            of the cotangents of the outputs, each a tuple. It returns one gradient for each
            argument of `forward`, or `None` for one that is not a floating-point tensor.

    Returns:
        The function `forward`. Of its arguments and what it computes, it keeps for `backward`
        only what that is given.
    """
    return _in_use.with_gradient(forward, backward)


def after(x: Tensor, other: Tensor) -> Tensor:
    """Returns `x`, but not to be used in compiled code before `other` is computed."""
    return _in_use.after(x, other)


def make_zeros(shape: Shape, dtype: str) -> Tensor:
    """Returns zeros for compiled code.

    TensorFlow computes what is constant while it compiles, before XLA sees that it is not
    needed, and keeps the memory. Not so these zeros, nor what is computed from them.
    """
    return _in_use.make_zeros(shape, dtype)


def cos_and_sin(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines with all digits. On JAX, Keras's would round float64 to float32."""
    return _in_use.cos_and_sin(x)


def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
    """Compiles `function`: TensorFlow by XLA when `xla` is set, JAX always, PyTorch never."""
    return _in_use.jit(function, xla)


def trace_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a function be traced once for all that call it within `jit_batches`.

    Args:
        function: A function of tensors, and of numbers that are given by their names, with no
            other effect than what it returns.

    Returns:
        The function, which is run as it is elsewhere, where TensorFlow differentiates it, and for
        what is like a tensor or a number, but is none.
    """
    return _in_use.trace_once(function)


def isolate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes gradients, such that it can be the body of a loop.

    Where TensorFlow compiles without XLA, it saves memory by variables for sums of many tensors,
    and fails where they stand in a loop (`AlreadyExistsError`), but not in a function of its own.
    Loops that are exported must have no such functions, which LiteRT cannot run.
    """
    return _in_use.isolate(function)


def jit_batches(
    function: Callable[..., Any],
    xla: bool = True,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Compiles a function of batches once for all batch sizes (on PyTorch, never).

    Args:
        function: A callable of tensors with a common first axis, that returns tensors with this
            axis, row by row. It can use and change Keras variables.
        xla: Whether TensorFlow compiles by XLA, which takes longer, and is faster then.
        prepare: A callable of these tensors whose result `function` is given instead of the
            first. It may draw what XLA cannot, such as gamma numbers.

    Returns:
        The compiled function: a callable of the model that has these variables, and of the
        tensors. By XLA, it is compiled once for each power of two, from 32 on, that batch sizes
        are rounded up to. Where an option of a layer or model has changed since, it is compiled
        anew.
    """
    seen, compiled = CHANGES.count, _in_use.jit_batches(function, xla, prepare)

    def run(model: keras.Model, *tensors: Tensor) -> Tensors:
        nonlocal seen, compiled
        if seen != CHANGES.count:
            seen, compiled = CHANGES.count, _in_use.jit_batches(function, xla, prepare)
        return compiled(model, *tensors)

    return run


def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Recompiles a step of training, testing or predicting that Keras compiled on JAX.

    On processors, it is given compiler options that suit flows.

    Args:
        function: A callable of the state, which it may overwrite, and a batch.

    Returns:
        A callable of the same.
    """
    return _in_use.jit_step(function)


def jit_steps(
    function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
) -> Callable[..., Any]:
    """Compiles steps of training so that one call can take several.

    Between calls, a tensor is made of each variable, and Python decides what is next: for small
    models, that takes longer than the steps.

    Args:
        function: A callable of a batch that takes a step, by the variables of a model, and
            returns a structure of tensors.
        leave_xla: A callable of what XLA raised, if it cannot compile the steps, that returns
            the context in which to take them one by one without XLA.

    Returns:
        A callable of the most steps to take, a positive integer, and an iterator of batches. It
        returns what `function` returned in the end. On JAX, both have the state for a further
        first argument, and for a second result.
    """
    return _in_use.jit_steps(function, leave_xla)


def find_unsupported(error: Exception) -> str:
    """Returns the name of the operation that XLA cannot compile, or all that it said."""
    return _in_use.find_unsupported(error)


def is_distributed(model: keras.Model) -> bool:
    """Returns whether a model is trained under a distribution strategy of Keras' backend."""
    return _in_use.is_distributed(model)


def enter_scope(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the context for new variables of a model that was made under a strategy.

    TensorFlow trains only those that were made within the scope of the strategy.
    """
    return _in_use.enter_scope(model)


def mark_replica(seed: Tensor) -> Tensor:
    """Changes a seed, `[2]`, such that each replica of a strategy has its own."""
    return _in_use.mark_replica(seed)


def check_states_change() -> None:
    """Raises a `ValueError` where states, as of random generators, could not change.

    Where a user's `jax.jit` traces a function, they would become tracers, and the model useless.
    """
    _in_use.check_states_change()


def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
    """Converts arrays to a cheaper source of batches for `fit`.

    Keras' own data set for TensorFlow takes as long for a batch as a small model for a step,
    and its tuning, which ends after each epoch, as long as the epoch.

    Args:
        arguments: Arguments of `fit`.

    Returns:
        Arguments that have the same effect.
    """
    return _in_use.to_data_set(arguments)


def is_traced(tensors: Iterable[Tensor]) -> bool:
    """Returns whether a function of `tensors` is being compiled or differentiated right now."""
    return _in_use.is_traced(tensors)


def has_slow_convolutions() -> bool:
    """Returns whether code is being compiled in which products take less than convolutions.

    These are XLA's convolutions on processors, with their gradients.
    """
    return _in_use.has_slow_convolutions()


def has_slow_substitution(size: int) -> bool:
    """Returns whether triangular systems of equations take longer than a few matrix products.

    XLA solves for one row after the other on TensorFlow, and so does JAX's library for many rows.

    Args:
        size: The number of rows.
    """
    return _in_use.has_slow_substitution(size)


# Where an axis of few entries, such as the bins of splines, is quick to work along. PyTorch
# computes several numbers at once along the last axis, which should not be the short one: a softmax
# of eight takes five times as long there as along the first axis.
SHORT_AXIS: int = _in_use.SHORT_AXIS


def take_along_short(indices: Tensor, *values: Tensor) -> list[Tensor]:
    """Takes one entry of each row of tensors: Keras's `take_along_axis`, along `SHORT_AXIS`.

    On TensorFlow, the latter has tens of operations, whose gradients take seconds to compile.

    Args:
        indices: Which entry of each row, non-negative integers: one along `SHORT_AXIS`.
        values: Tensors, which are broadcast to the shape of `indices` along the other axes.

    Returns:
        The entries of each tensor, without `SHORT_AXIS`.
    """
    return _in_use.take_along_short(indices, *values)


def draw_uniform(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    """Draws numbers in [0, 1): those of `keras.random.uniform`, which may take much longer.

    With TensorFlow's default algorithm, which is this one, XLA on processors derives the key
    again for each number if a program draws only once.
    """
    return _in_use.draw_uniform(shape, dtype, seed)


def draw_normal(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    """Draws standard normal numbers: those of `keras.random.normal`; see `draw_uniform`."""
    return _in_use.draw_normal(shape, dtype, seed)


def forget_gradients() -> contextlib.AbstractContextManager:
    """Stops PyTorch from recording operations for gradients, which it does by default."""
    return _in_use.forget_gradients()


def keeps_gradients() -> bool:
    """Returns whether what is computed here may be differentiated: not within `torch.no_grad()`."""
    return _in_use.keeps_gradients()


def keep_values(variables: Sequence[keras.Variable]) -> contextlib.AbstractContextManager:
    """Restores the values of variables if training fails before the end of its first step.

    On JAX, Keras takes the values out of the variables meanwhile.
    """
    return _in_use.keep_values(variables)


def get_random_states() -> dict[str, Any]:
    """Returns the states of all random generators that do not belong to a layer.

    These are the global ones of Python, NumPy, Keras and PyTorch, by which `fit` shuffles.
    """
    return _in_use.get_random_states()


def set_random_states(states: dict[str, Any]) -> None:
    """Sets all generators to what `get_random_states` returned."""
    _in_use.set_random_states(states)


def shuffles_alike() -> bool:
    """Returns whether Keras' shuffles of arrays depend on nothing but `set_random_states`.

    On TensorFlow, its data set for arrays draws a new order each time, which nothing sets, or, if
    TensorFlow's global seed is set, the same order in every epoch.
    """
    return _in_use.shuffles_alike()
