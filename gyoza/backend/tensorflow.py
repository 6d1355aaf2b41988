"""TensorFlow; see `gyoza.backend` for what each function is for."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gyoza.backend import private, shared
from gyoza.backend.shared import (
    SHORT_AXIS,
    add_product,
    chain,
    check_states_change,
    cos_and_sin,
    draw_steps,
    forget_gradients,
    get_random_states,
    jit_step,
    keep_values,
    keeps_gradients,
    pad_batches,
    run_in_batches,
    set_random_states,
    suits_one_trace,
    tanh,
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

XLA_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
)

_NO_STRATEGY = tf.distribute.get_strategy()
_SEED_STRIDE = 2**20 + 7


def vjp(
    function: Callable[..., Any], primals: Sequence[Tensor]
) -> tuple[Tensors, Callable[[Tensors], tuple[Tensor, ...]]]:
    primals = [tf.convert_to_tensor(primal) for primal in primals]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(primals)
        outputs = function(*primals)

    def pullback(cotangents: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            tape.gradient(
                outputs, primals, output_gradients=cotangents, unconnected_gradients="zero"
            )
        )

    return outputs, pullback


def with_gradient(
    forward: Callable[..., Sequence[Tensor]], backward: Callable[..., Sequence[Tensor]]
) -> Callable[..., Any]:
    def function(x: Tensor, *others: Any) -> Tensors:
        kept: list[Any] = []

        @tf.custom_gradient
        def run(*arguments: Any) -> Tensors:
            # Or TensorFlow would derive loops of `forward`, for nothing.
            outputs = forward(*map(tf.stop_gradient, arguments))

            def gradient(*cotangents: Tensor, variables: Sequence[keras.Variable] = ()) -> Any:
                # With what can be differentiated, so that gradients can be, too.
                gradients = backward(kept, others, cotangents)
                # Variables that are looked at besides the arguments do not count.
                return (gradients, [None] * len(variables)) if variables else gradients

            return outputs, gradient

        kept.extend(run(x, *others))
        return kept

    return function


def _is_within_xla() -> bool:
    return private.is_within_xla(tf.compat.v1.get_default_graph())


def after(x: Tensor, other: Tensor) -> Tensor:
    barrier = private.find_xla_operation("optimization_barrier")
    if barrier and _is_within_xla():  # where control dependencies are dropped
        return barrier(x, other)[0]
    with tf.control_dependencies([other]):
        return tf.identity(x)


def make_zeros(shape: Shape, dtype: str) -> Tensor:
    zero = tf.zeros(())
    reduce_precision = private.find_xla_operation("reduce_precision")
    if reduce_precision and _is_within_xla():
        zero = reduce_precision(zero, 8, 23)  # to the precision it has
    return tf.broadcast_to(tf.cast(zero, dtype), shape)


def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
    # TensorFlow counts traces by code, and would warn of methods compiled for several objects.
    return tf.function(functools.partial(function), jit_compile=xla, autograph=False)


def isolate(function: Callable[..., Any]) -> Callable[..., Any]:
    if tf.executing_eagerly() or _is_within_xla():
        return function
    return tf.function(functools.partial(function), autograph=False, **private.stay_apart())


def trace_once(function: Callable[..., Any]) -> Callable[..., Any]:
    name = f"_trace_of_{id(function)}"

    @functools.wraps(function)
    def run(*tensors: Tensor, **options: Any) -> Any:
        # Gradients of traces are given constants as tensors, for which XLA would compile anew.
        if not suits_one_trace(tf.Tensor, tensors, options) or private.is_recording():
            return function(*tensors, **options)
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, name):  # which keeps it as long as it is needed
            setattr(graph, name, jit(function))
        return getattr(graph, name)(*tensors, **options)

    return run


def is_traced(tensors: Iterable[Tensor]) -> bool:
    return not tf.executing_eagerly()


def has_slow_convolutions() -> bool:
    return _is_within_xla() and not tf.config.list_logical_devices("GPU")


def has_slow_substitution(size: int) -> bool:
    return _is_within_xla()


def take_along_short(indices: Tensor, *values: Tensor) -> list[Tensor]:
    if indices.shape[-2:-1] == (1,):
        return shared.take_along_short(indices, *values)
    chosen = tf.reshape(tf.cast(indices, "int64"), [-1])
    size = values[0].shape[-1]
    rows = tf.range(tf.size(chosen, tf.int64))
    shape = tf.shape(indices)[:-1]

    def take(value: Tensor) -> Tensor:
        lengths = indices.shape.as_list()[:-1]
        if value.shape.as_list()[:-1] != lengths:
            value = tf.broadcast_to(value, tf.concat([shape, [size]], axis=0))
        place = rows
        if None in lengths:  # the first axis may have length 1, which tells only when it is run
            place = rows % tf.maximum(tf.size(value, tf.int64) // size, 1)
        return tf.reshape(tf.gather(tf.reshape(value, [-1]), size * place + chosen), shape)

    return list(map(take, values))


def draw_uniform(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    key = _draw_key(seed)
    if key is None:
        return shared.draw_uniform(shape, dtype, seed)
    return tf.random.stateless_uniform(shape, key, dtype=dtype, alg="philox")


def draw_normal(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    key = _draw_key(seed)
    if key is None:
        return shared.draw_normal(shape, dtype, seed)
    return tf.random.stateless_normal(shape, key, dtype=dtype, alg="philox")


def _draw_key(seed: Seed) -> Tensor | None:
    state = private.draw_seed_state(seed)
    if state is None:
        return None
    # As Keras does, for XLA.
    return tf.cast(tf.math.floormod(state, tf.int32.max - 1), "int32")


def jit_batches(
    function: Callable[..., Any],
    xla: bool = True,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    # Without the names of arguments, TensorFlow knows them by their order, which is quick.
    compiled = jit(lambda *values: run_in_batches(function, *values), xla)

    @functools.cache
    def compile_for(part_count: int, *kinds: tuple[Any, ...]) -> Callable[..., Any]:
        signature = [tf.TensorSpec([None, *shape], dtype) for shape, dtype in kinds]
        whole: Any = compiled
        if part_count > 1:
            whole = jit(_run_in_parts(whole, part_count))
        if prepare is not None:
            as_one = xla and part_count == 1 and _suits_xla(prepare, signature)
            whole = jit(chain(prepare, whole), as_one)
        return whole.get_concrete_function(*signature)

    def run_on(*tensors: Tensor) -> Tensors:
        part_count = _count_parts(tensors[0].shape[0]) if xla else 1
        kinds = ((tuple(tensor.shape[1:]), tf.as_dtype(tensor.dtype)) for tensor in tensors)
        return compile_for(part_count, *kinds)(*tensors)

    return lambda model, *tensors: pad_batches(run_on, *tensors) if xla else run_on(*tensors)


def _suits_xla(function: Callable[..., Any], signature: Sequence[Any]) -> bool:
    """Returns whether all that a function draws is drawn by `draw_uniform` and `draw_normal`.

    XLA may take long for other random numbers, and knows no gamma numbers.
    """
    compiled: Any = jit(lambda *values: function(*values))
    graph = compiled.get_concrete_function(*signature).graph
    return "StatelessRandomGetKeyCounter" not in str(graph.as_graph_def())


@functools.cache
def _count_parts(row_count: int) -> int:
    """Returns in how many parts a batch, whose size is a power of two, is best processed.

    TensorFlow's XLA uses one core for the matrix products of usual conditioners and batches.
    """
    if tf.config.list_logical_devices("GPU"):
        return 1
    core_count = tf.config.threading.get_inter_op_parallelism_threads() or _count_cores()
    return max(1, min(1 << (core_count.bit_length() - 1), row_count // 128))


def _count_cores() -> int:
    """Returns the number of cores that this process may use, as TensorFlow counts them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_in_parts(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Returns a function that is run on equal parts of batches, on several cores at once."""

    def run(*tensors: Tensor) -> Tensors:
        parts = zip(*(tf.split(tensor, count) for tensor in tensors), strict=True)
        outputs = [function(*part) for part in parts]
        return tf.nest.map_structure(lambda *values: tf.concat(values, axis=0), *outputs)

    return run


def find_unsupported(error: Exception) -> str:
    match = re.search(r"XLA_\w+_JIT: (\w+)", str(error))
    return f"the operation {match[1]}" if match else f"this ({str(error).splitlines()[0]})"


def is_distributed(model: keras.Model) -> bool:
    return isinstance(model.distribute_strategy, tf.distribute.Strategy) and (
        model.distribute_strategy is not _NO_STRATEGY
    )


def enter_scope(model: keras.Model) -> contextlib.AbstractContextManager:
    strategy = model.distribute_strategy
    if strategy is tf.distribute.get_strategy():  # as it is where the model has none of its own
        return contextlib.nullcontext()
    return strategy.scope()


def mark_replica(seed: Tensor) -> Tensor:
    if tf.distribute.get_strategy() is _NO_STRATEGY or tf.distribute.in_cross_replica_context():
        return seed
    index = tf.distribute.get_replica_context().replica_id_in_sync_group
    return seed + tf.cast(tf.stack([index, 0]), seed.dtype) * _SEED_STRIDE


def jit_steps(
    function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
) -> Callable[..., Any]:
    step: Any = jit(function)

    def run(batches: Tensors, count: Tensor) -> Tensors:
        of_any_size = _map_present(lambda x: tf.TensorSpec([None, *x.shape[2:]], x.dtype), batches)
        step_once = step.get_concrete_function(of_any_size)

        def take_step(k: Tensor, _: Tensors) -> Any:
            return k + 1, step_once(_map_present(lambda x: x[k], batches))

        # The loop starts from what is replaced by its outputs.
        start = tf.nest.map_structure(
            lambda x: tf.zeros(x.shape, x.dtype), step_once.structured_outputs
        )
        return tf.while_loop(lambda k, _: k < count, take_step, (0, start))[1]

    compiled = jit(run, xla=True)

    def find_absent(value: Any) -> Any:
        return None if isinstance(value, tf.experimental.Optional) else value

    def stack(*values: Tensor) -> Tensor:
        return (np if isinstance(values[0], np.ndarray) else tf).stack(values)

    def take_singly(batches: Sequence[Tensors]) -> Tensors:
        return [step(batch) for batch in batches][-1]

    has_left_xla = False

    def take(batches: Sequence[Tensors], count: int) -> Tensor:
        nonlocal has_left_xla
        if has_left_xla:
            return take_singly(batches[:count])
        try:
            return compiled(_map_present(stack, *batches), tf.constant(count))
        except XLA_ERRORS as error:
            with leave_xla(error):
                outputs = take_singly(batches[:count])
            has_left_xla = True
            return outputs

    def take_steps(count: int, iterator: Iterator[Any]) -> Tensors:
        outputs = None
        present = (keras.tree.map_structure(find_absent, batch) for batch in iterator)
        for batches, taken in draw_steps(present, count):
            outputs = take(batches, taken)
        if outputs is None:
            raise StopIteration
        return outputs

    return take_steps


def _map_present(function: Callable[..., Any], *structures: Tensors) -> Tensors:
    """Maps structures in which some tensors are `None`, and stay so."""
    return keras.tree.map_structure(
        lambda value, *values: None if value is None else function(value, *values), *structures
    )


def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
    given = dict(arguments)
    arrays = [given.pop(name, None) for name in ("x", "y", "sample_weight")]
    if (
        given.get("validation_split")
        or given.get("steps_per_epoch")
        or not all(isinstance(a, np.ndarray) for a in keras.tree.flatten(arrays) if a is not None)
    ):
        return arguments
    batch_size = given.pop("batch_size", None) or 32
    adapter = private.make_array_adapter(
        *arrays,
        batch_size=batch_size,
        shuffle=given.pop("shuffle", True),
        class_weight=given.pop("class_weight", None),
    )
    if adapter is None:
        return arguments
    given["validation_batch_size"] = given.get("validation_batch_size") or batch_size
    return {"x": adapter, **given}


def shuffles_alike() -> bool:
    orders = tf.data.Dataset.range(1).map(lambda _: tf.random.shuffle(tf.range(64)))
    first, second = (next(iter(orders)).numpy() for _ in range(2))
    return bool(np.array_equal(first, second))
