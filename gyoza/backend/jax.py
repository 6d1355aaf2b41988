"""JAX; see `gyoza.backend` for what each function is for."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from gyoza.backend import private, shared
from gyoza.backend.shared import (
    SHORT_AXIS,
    XLA_ERRORS,
    add_product,
    chain,
    draw_normal,
    draw_steps,
    draw_uniform,
    enter_scope,
    find_unsupported,
    forget_gradients,
    get_random_states,
    is_distributed,
    isolate,
    keeps_gradients,
    make_zeros,
    mark_replica,
    pad_batches,
    run_in_batches,
    set_random_states,
    shuffles_alike,
    suits_one_trace,
    to_data_set,
)
from gyoza.typing import Tensor, Tensors

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
]


_LOCK = threading.RLock()


def vjp(
    function: Callable[..., Any], primals: Sequence[Tensor]
) -> tuple[Tensors, Callable[[Tensors], tuple[Tensor, ...]]]:
    return jax.vjp(function, *primals)


def with_gradient(
    forward: Callable[..., Sequence[Tensor]], backward: Callable[..., Sequence[Tensor]]
) -> Callable[..., Any]:
    function = jax.custom_vjp(forward)

    def run(x: Tensor, *others: Any) -> Tensors:
        outputs = forward(x, *others)
        return outputs, (outputs, others)

    function.defvjp(run, lambda kept, cotangents: tuple(backward(*kept, cotangents)))
    return function


def after(x: Tensor, other: Tensor) -> Tensor:
    return jax.lax.optimization_barrier((x, other))[0]


def cos_and_sin(x: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(x, keras.KerasTensor):
        return shared.cos_and_sin(x)
    return jnp.cos(x), jnp.sin(x)


def tanh(x: Tensor) -> Tensor:
    return shared.tanh(x) if isinstance(x, keras.KerasTensor) else jnp.tanh(x)


@functools.cache
def _get_options() -> dict[str, Any] | None:
    """Returns the compiler options that suit flows, where there are such.

    By default, XLA gives matrix products on processors to a library that computes those of
    usual conditioners and batches on one core.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # other versions may not know it
        return None
    return options


def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
    options = _get_options()
    alone, within = jax.jit(function, compiler_options=options), jax.jit(function)

    def run(*args: Any, **kwargs: Any) -> Any:
        # Options are those of the outermost compiled function.
        return (alone if private.is_top_level() else within)(*args, **kwargs)

    return run if options else within


def trace_once(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.lru_cache(typed=True)
    def compile_with(**options: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(function, **options))

    @functools.wraps(function)
    def run(*tensors: Tensor, **options: Any) -> Any:
        suits = suits_one_trace(jax.Array, tensors, options)
        return compile_with(**options)(*tensors) if suits else function(*tensors, **options)

    return run


def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(_renew(function), donate_argnums=0, compiler_options=_get_options())


def _renew(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is equal to no other, for which JAX has traces."""
    function = getattr(function, "__wrapped__", function)  # what Keras has compiled
    return lambda *arguments: function(*arguments)


def jit_steps(
    function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
) -> Callable[..., Any]:
    step = jax.jit(_renew(function))

    def run(state: Any, batches: Tensors, count: Tensor) -> Any:
        def take_step(carry: Any) -> Any:
            k, _, state = carry
            return k + 1, *step(state, jax.tree.map(lambda x: x[k], batches))

        first = jax.tree.map(lambda x: x[0], batches)
        outputs, _ = jax.eval_shape(step, state, first)
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outputs)
        carry = (0, start, state)
        _, outputs, state = jax.lax.while_loop(lambda c: c[0] < count, take_step, carry)
        return outputs, state

    compiled = jax.jit(run, donate_argnums=0, compiler_options=_get_options())

    def stack(*values: Tensor) -> Tensor:
        return (np if isinstance(values[0], np.ndarray) else jnp).stack(values)

    def take_steps(count: int, state: Any, iterator: Iterator[Any]) -> Any:
        outputs = None
        for batches, taken in draw_steps(iterator, count):
            outputs, state = compiled(state, jax.tree.map(stack, *batches), taken)
        if outputs is None:
            raise StopIteration
        return outputs, state

    return take_steps


def is_traced(tensors: Iterable[Tensor]) -> bool:
    return private.is_in_stateless_scope() or any(isinstance(t, jax.core.Tracer) for t in tensors)


def check_states_change() -> None:
    if private.is_top_level() or private.is_in_stateless_scope():
        return
    if isinstance(jnp.zeros(()), jax.core.Tracer):  # not where functions are differentiated
        raise ValueError(
            "Random numbers should be drawn by a `seed`, or outside of `jax.jit`: it would draw "
            "the same ones in each call, and leave their generator without a state. Methods of "
            "flows, such as `sample`, are compiled anyway. Received: seed=None within `jax.jit`"
        )


def has_slow_convolutions() -> bool:
    return jax.default_backend() == "cpu" and not private.is_top_level()


def has_slow_substitution(size: int) -> bool:
    return size > 128


def take_along_short(indices: Tensor, *values: Tensor) -> list[Tensor]:
    if indices.shape[-2:-1] == (1,):
        return shared.take_along_short(indices, *values)
    # Without a comparison of each index with the bounds, which takes time to compile.
    take = functools.partial(jnp.take_along_axis, axis=-1, mode="promise_in_bounds")
    return [take(value, indices)[..., 0] for value in values]


def jit_batches(
    function: Callable[..., Any],
    xla: bool = True,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    variables: list[keras.Variable] = []
    function = chain(prepare, function)

    @jit
    def compiled(values: Sequence[Tensor], *tensors: Tensor) -> Any:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = run_in_batches(function, *tensors)
        updated = enumerate(scope.get_current_value(variable) for variable in variables)
        return outputs, {k: value for k, value in updated if value is not values[k]}

    def run(*tensors: Tensor) -> Tensors:
        values = private.read_values(variables)
        if any(value is None for value in values):
            raise RuntimeError(
                "A model should not be run while another thread trains or evaluates it: Keras "
                "takes the weights out of it meanwhile. A callback can run it between steps."
            )
        outputs, updated = compiled(values, *tensors)
        if updated:
            check_states_change()
        for k, value in updated.items():
            private.write_value(variables[k], value)
        return outputs

    def run_with(model: keras.Model, *tensors: Tensor) -> Tensors:
        with _LOCK:  # or two threads could draw with the same seed
            variables[:] = private.list_variables(model)
            return pad_batches(run, *tensors)

    return run_with


def keep_values(variables: Sequence[keras.Variable]) -> contextlib.AbstractContextManager:
    return _restore_on_error(variables)


@contextlib.contextmanager
def _restore_on_error(variables: Sequence[keras.Variable]) -> Iterator[None]:
    values = [variable.value for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, values, strict=True):
            is_taken_out = private.read_values([variable])[0] is None
            if is_taken_out and not value.is_deleted():
                variable.assign(value)
        raise
