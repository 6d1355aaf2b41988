"""What gyoza needs from a backend and `keras.ops` does not offer: derivatives and compilation.

This is the only module that imports TensorFlow, JAX or PyTorch.
"""

import contextlib
import functools
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

__all__ = [
    "vjp",
    "with_gradient",
    "after",
    "make_zeros",
    "jit",
    "jit_batches",
    "jit_step",
    "jit_steps",
    "XLA_ERRORS",
    "find_unsupported",
    "is_distributed",
    "mark_replica",
    "to_data_set",
    "is_traced",
    "has_slow_convolutions",
    "draw_uniform",
    "draw_normal",
    "forget_gradients",
    "keep_values",
    "track_last",
]

_BACKEND = keras.backend.backend()


def _pad_batches(function: Callable[..., Any], *tensors: Any) -> Any:
    """Runs a function on batches of one of a few sizes, by repeats of the last instance."""
    count = tensors[0].shape[0]
    padded_count = max(32, 1 << (count - 1).bit_length())
    if count in (0, padded_count):
        return function(*tensors)
    indices = np.minimum(np.arange(padded_count), count - 1)
    outputs = function(*(keras.ops.take(tensor, indices, axis=0) for tensor in tensors))
    return keras.tree.map_structure(lambda output: output[:count], outputs)


def _draw_steps(iterator: Iterator[Any], count: int) -> Iterator[tuple[list[Any], int]]:
    """Draws at most `count` batches, and gives those of one shape in lists of that length.

    Yields:
        A list, filled up with repeats of the last batch, and how many of its batches count.
    """

    def describe(batch: Any) -> list[tuple[int, ...]]:
        return [tuple(value.shape) for value in keras.tree.flatten(batch) if value is not None]

    batches = itertools.islice(iterator, count)
    for _, equal in itertools.groupby(batches, describe):
        group = list(equal)
        yield group + group[-1:] * (count - len(group)), len(group)


def track_last(model: keras.Model, layers: Sequence[Any]) -> None:
    """Lets the variables of a model end with those of some of its layers, where Keras allows it.

    Args:
        model: The model, which Keras asks for the layers in the order in which it was given them.
        layers: Those that come last.
    """
    order = [*map(id, layers)]
    getattr(model, "_layers", []).sort(
        key=lambda layer: order.index(id(layer)) if id(layer) in order else -1
    )


def _map_present(function: Callable[..., Any], *structures: Any) -> Any:
    """Maps structures in which some tensors are `None`, and stay so."""
    return keras.tree.map_structure(
        lambda value, *values: None if value is None else function(value, *values), *structures
    )


def _chain(prepare: Callable[..., Any] | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function that is given what `prepare`, if there is one, makes of its arguments."""
    if prepare is None:
        return function
    return lambda x, *others: function(prepare(x, *others), *others)


if _BACKEND != "tensorflow":
    XLA_ERRORS: tuple[type[Exception], ...] = ()

    def find_unsupported(error: Exception) -> str:
        return str(error)

    def is_distributed(model: keras.Model) -> bool:
        return keras.distribution.distribution() is not None

    def mark_replica(seed: Any) -> Any:
        return seed


if _BACKEND == "tensorflow":
    import tensorflow as tf
    from keras.src.random.seed_generator import draw_seed
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
    from tensorflow.compiler.tf2xla.python import xla as tf2xla
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """Evaluates `function` and returns its vector-Jacobian product.

        Args:
            function: A callable of `len(primals)` tensors that returns one tensor or a (nested)
                sequence of tensors.
            primals: The floating-point tensors at which the function is evaluated.

        Returns:
            The pair `(outputs, pullback)`. `pullback(cotangents)`, with cotangents of the structure
            and shapes of `outputs`, gives one gradient per primal: zeros where the outputs do not
            depend on it. It can be called more than once.
        """
        primals = [tf.convert_to_tensor(primal) for primal in primals]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(primals)
            outputs = function(*primals)

        def pullback(cotangents: Any) -> tuple[Any, ...]:
            return tuple(
                tape.gradient(
                    outputs, primals, output_gradients=cotangents, unconnected_gradients="zero"
                )
            )

        return outputs, pullback

    def with_gradient(
        forward: Callable[..., Sequence[Any]], backward: Callable[..., Sequence[Any]]
    ) -> Callable[..., Any]:
        """Gives a function a gradient of its own, which does not need its first argument.

        Args:
            forward: A callable of tensors that returns a tuple of tensors.
            backward: A callable of these outputs, of all arguments of `forward` but the first, and
                of the cotangents of the outputs, each a tuple. It returns one gradient for each
                argument of `forward`, or `None` for one that is no floating-point tensor.

        Returns:
            The function `forward`. Of its arguments and what it computes, it keeps for `backward`
            only what that is given.
        """

        @tf.custom_gradient
        def function(x: Any, *others: Any) -> Any:
            outputs = forward(x, *others)

            def gradient(*cotangents: Any, variables: Sequence[Any] = ()) -> Any:
                gradients = backward(outputs, others, cotangents)
                # Variables that are looked at besides the arguments do not count.
                return (gradients, [None] * len(variables)) if variables else gradients

            return outputs, gradient

        return function

    def _is_within_xla() -> bool:
        return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())

    def after(x: Any, other: Any) -> Any:
        """Gives `x`, but not to be used in compiled code before `other` is computed."""
        if _is_within_xla():
            return tf2xla.optimization_barrier(x, other)[0]  # XLA drops control dependencies
        with tf.control_dependencies([other]):
            return tf.identity(x)

    def make_zeros(shape: Any, dtype: str) -> Any:
        """Makes zeros for compiled code.

        TensorFlow computes what is constant while it compiles, before XLA sees that it is not
        needed, and keeps the memory. Not so these zeros, nor what is computed from them.
        """
        zero = tf.zeros(())
        if _is_within_xla():
            zero = tf2xla.reduce_precision(zero, 8, 23)  # the precision it has
        return tf.broadcast_to(tf.cast(zero, dtype), shape)

    def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
        """Compiles `function`: TensorFlow by XLA when `xla` is set, JAX always, PyTorch never."""
        # TensorFlow counts traces by code, and would warn of methods compiled for several objects.
        return tf.function(functools.partial(function), jit_compile=xla, autograph=False)

    def is_traced(tensors: Iterable[Any]) -> bool:
        """Tells whether a function of `tensors` is being compiled or differentiated right now."""
        return not tf.executing_eagerly()

    def has_slow_convolutions() -> bool:
        """Tells whether code is being compiled in which products take less than convolutions.

        These are XLA's convolutions on processors, with their gradients.
        """
        return _is_within_xla() and not tf.config.list_logical_devices("GPU")

    def draw_uniform(shape: Any, dtype: str, seed: Any) -> Any:
        """Draws numbers in [0, 1): those of `keras.random.uniform`, which may take much longer.

        With TensorFlow's default algorithm, which is this one, XLA on processors derives the key
        anew for each number if a program draws only once.
        """
        return tf.random.stateless_uniform(shape, _draw_key(seed), dtype=dtype, alg="philox")

    def draw_normal(shape: Any, dtype: str, seed: Any) -> Any:
        """Draws standard normal numbers: those of `keras.random.normal`; see `draw_uniform`."""
        return tf.random.stateless_normal(shape, _draw_key(seed), dtype=dtype, alg="philox")

    def _draw_key(seed: Any) -> Any:
        # As Keras does, for XLA.
        return tf.cast(tf.math.floormod(draw_seed(seed), tf.int32.max - 1), "int32")

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
            prepare: A callable of these tensors whose result `function` is given in place of the
                first. It may draw what XLA cannot, such as gamma numbers.

        Returns:
            The compiled function: a callable of the model that has these variables, and of the
            tensors. By XLA, it is compiled once for each power of two, from 32 on, that batch sizes
            are rounded up to.
        """
        # Without the names of arguments, TensorFlow knows them by their order, which is quick.
        compiled = jit(lambda *values: function(*values), xla)

        @functools.cache
        def compile_for(part_count: int, *kinds: tuple[Any, ...]) -> Callable[..., Any]:
            signature = [tf.TensorSpec([None, *shape], dtype) for shape, dtype in kinds]
            whole: Any = compiled
            if part_count > 1:
                whole = jit(_run_in_parts(whole, part_count))
            if prepare is not None:
                as_one = xla and part_count == 1 and _suits_xla(prepare, signature)
                whole = jit(_chain(prepare, whole), as_one)
            return whole.get_concrete_function(*signature)

        def run_on(*tensors: Any) -> Any:
            part_count = _count_parts(tensors[0].shape[0]) if xla else 1
            kinds = ((tuple(tensor.shape[1:]), tf.as_dtype(tensor.dtype)) for tensor in tensors)
            return compile_for(part_count, *kinds)(*tensors)

        return lambda model, *tensors: _pad_batches(run_on, *tensors) if xla else run_on(*tensors)

    def _suits_xla(function: Callable[..., Any], signature: Sequence[Any]) -> bool:
        """Tells whether all that a function draws is drawn by `draw_uniform` and `draw_normal`.

        XLA may take long for other random numbers, and knows no gamma numbers.
        """
        compiled: Any = jit(lambda *values: function(*values))
        graph = compiled.get_concrete_function(*signature).graph
        return "StatelessRandomGetKeyCounter" not in str(graph.as_graph_def())

    @functools.cache
    def _count_parts(row_count: int) -> int:
        """Says in how many parts a batch, whose size is a power of two, is best worked through.

        TensorFlow's XLA uses one core for the matrix products of usual conditioners and batches.
        """
        if tf.config.list_logical_devices("GPU"):
            return 1
        core_count = tf.config.threading.get_inter_op_parallelism_threads() or _count_cores()
        return max(1, min(1 << (core_count.bit_length() - 1), row_count // 128))

    def _count_cores() -> int:
        """Gives the number of cores that this process may use, as TensorFlow counts them."""
        if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def _run_in_parts(function: Callable[..., Any], count: int) -> Callable[..., Any]:
        """Gives a function that is run on equal parts of batches, on several cores at once."""

        def run(*tensors: Any) -> Any:
            parts = zip(*(tf.split(tensor, count) for tensor in tensors), strict=True)
            outputs = [function(*part) for part in parts]
            return tf.nest.map_structure(lambda *values: tf.concat(values, axis=0), *outputs)

        return run

    # What XLA may raise while it compiles, before anything is executed.
    XLA_ERRORS = (
        tf.errors.InvalidArgumentError,
        tf.errors.UnimplementedError,
        tf.errors.InternalError,
    )

    def find_unsupported(error: Exception) -> str:
        """Returns the name of the operation that XLA cannot compile, or all that it said."""
        match = re.search(r"XLA_\w+_JIT: (\w+)", str(error))
        return f"the operation {match[1]}" if match else f"this ({str(error).splitlines()[0]})"

    def is_distributed(model: keras.Model) -> bool:
        """Returns whether a model is trained under a distribution strategy of Keras' backend."""
        return isinstance(model.distribute_strategy, tf.distribute.Strategy) and (
            model.distribute_strategy is not _NO_STRATEGY
        )

    _NO_STRATEGY = tf.distribute.get_strategy()

    def mark_replica(seed: Any) -> Any:
        """Changes a seed, `[2]`, such that each replica of a strategy has its own."""
        if tf.distribute.get_strategy() is _NO_STRATEGY or tf.distribute.in_cross_replica_context():
            return seed
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        return seed + tf.cast(tf.stack([index, 0]), seed.dtype) * _SEED_STRIDE

    _SEED_STRIDE = 2**20 + 7

    def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

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
        step: Any = jit(function)

        def run(batches: Any, count: Any) -> Any:
            of_any_size = _map_present(
                lambda x: tf.TensorSpec([None, *x.shape[2:]], x.dtype), batches
            )
            step_once = step.get_concrete_function(of_any_size)

            def take_step(k: Any, _: Any) -> Any:
                return k + 1, step_once(_map_present(lambda x: x[k], batches))

            # The loop starts from what is replaced by its outputs.
            start = tf.nest.map_structure(
                lambda x: tf.zeros(x.shape, x.dtype), step_once.structured_outputs
            )
            return tf.while_loop(lambda k, _: k < count, take_step, (0, start))[1]

        compiled = jit(run, xla=True)

        def find_absent(value: Any) -> Any:
            return None if isinstance(value, tf.experimental.Optional) else value

        def stack(*values: Any) -> Any:
            return (np if isinstance(values[0], np.ndarray) else tf).stack(values)

        def take_singly(batches: Sequence[Any]) -> Any:
            return [step(batch) for batch in batches][-1]

        has_left_xla = False

        def take(batches: Sequence[Any], count: int) -> Any:
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

        def take_steps(count: int, iterator: Iterator[Any]) -> Any:
            outputs = None
            present = (keras.tree.map_structure(find_absent, batch) for batch in iterator)
            for batches, taken in _draw_steps(present, count):
                outputs = take(batches, taken)
            if outputs is None:
                raise StopIteration
            return outputs

        return take_steps

    def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
        """Makes arrays into what `fit` takes batches from at less cost.

        Keras' own data set for TensorFlow takes as long for a batch as a small model for a step,
        and its tuning, which ends after each epoch, as long as the epoch.

        Args:
            arguments: Arguments of `fit`.

        Returns:
            Arguments that have the same effect.
        """
        given = dict(arguments)
        arrays = [given.pop(name, None) for name in ("x", "y", "sample_weight")]
        if (
            given.get("validation_split")
            or given.get("steps_per_epoch")
            or not all(
                isinstance(a, np.ndarray) for a in keras.tree.flatten(arrays) if a is not None
            )
        ):
            return arguments
        batch_size = given.pop("batch_size", None) or 32
        adapter = _Arrays(
            *arrays,
            batch_size=batch_size,
            shuffle=given.pop("shuffle", True),
            class_weight=given.pop("class_weight", None),
        )
        given["validation_batch_size"] = given.get("validation_batch_size") or batch_size
        return {"x": adapter, **given}

    class _Arrays(ArrayDataAdapter):
        """Arrays whose batches are slices, not elements of a `tf.data.Dataset`."""

        def get_tf_dataset(self) -> Iterable[Any]:
            return self

        def __iter__(self) -> Iterator[Any]:
            return self.get_numpy_iterator()

    def forget_gradients() -> contextlib.AbstractContextManager:
        """Makes PyTorch hold nothing for gradients; it would do so without any tape."""
        return contextlib.nullcontext()

    def keep_values(variables: Sequence[Any]) -> contextlib.AbstractContextManager:
        """Gives variables their values back if training fails before the end of its first step.

        On JAX, Keras takes the values out of the variables meanwhile.
        """
        return contextlib.nullcontext()

elif _BACKEND == "jax":
    import jax
    import jax.numpy as jnp
    from jax._src.core import trace_state_clean
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    _LOCK = threading.RLock()

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        return jax.vjp(function, *primals)

    def with_gradient(
        forward: Callable[..., Sequence[Any]], backward: Callable[..., Sequence[Any]]
    ) -> Callable[..., Any]:
        function = jax.custom_vjp(forward)

        def run(x: Any, *others: Any) -> Any:
            outputs = forward(x, *others)
            return outputs, (outputs, others)

        function.defvjp(run, lambda kept, cotangents: tuple(backward(*kept, cotangents)))
        return function

    def after(x: Any, other: Any) -> Any:
        return jax.lax.optimization_barrier((x, other))[0]

    def make_zeros(shape: Any, dtype: str) -> Any:
        return keras.ops.zeros(shape, dtype)

    @functools.cache
    def _get_options() -> dict[str, Any] | None:
        """Gives the compiler options that suit flows, where there are such.

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
            return (alone if trace_state_clean() else within)(*args, **kwargs)

        return run if options else within

    def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles a step of training, testing or predicting that Keras compiled, for processors.

        Args:
            function: A callable of the state, which it may overwrite, and a batch.

        Returns:
            A callable of the same.
        """
        options = _get_options()
        if options is None:
            return function
        return jax.jit(function, donate_argnums=0, compiler_options=options)

    def jit_steps(
        function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
    ) -> Callable[..., Any]:
        step = jax.jit(function)

        def run(state: Any, batches: Any, count: Any) -> Any:
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

        def stack(*values: Any) -> Any:
            return (np if isinstance(values[0], np.ndarray) else jnp).stack(values)

        def take_steps(count: int, state: Any, iterator: Iterator[Any]) -> Any:
            outputs = None
            for batches, taken in _draw_steps(iterator, count):
                outputs, state = compiled(state, jax.tree.map(stack, *batches), taken)
            if outputs is None:
                raise StopIteration
            return outputs, state

        return take_steps

    def is_traced(tensors: Iterable[Any]) -> bool:
        return in_stateless_scope() or any(isinstance(t, jax.core.Tracer) for t in tensors)

    def has_slow_convolutions() -> bool:
        return jax.default_backend() == "cpu" and not trace_state_clean()

    def draw_uniform(shape: Any, dtype: str, seed: Any) -> Any:
        return keras.random.uniform(shape, dtype=dtype, seed=seed)

    def draw_normal(shape: Any, dtype: str, seed: Any) -> Any:
        return keras.random.normal(shape, dtype=dtype, seed=seed)

    def _list_variables(model: keras.Model) -> list[Any]:
        """Gives what `model.variables` does, which goes through them anew for each nested layer."""
        found: list[Any] = []
        for layer in model._flatten_layers():
            found += layer._trainable_variables
            found += layer._non_trainable_variables
            found += [generator.state for generator in layer._seed_generators]
        return list({id(variable): variable for variable in found}.values())

    def jit_batches(
        function: Callable[..., Any],
        xla: bool = True,
        prepare: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        variables: list[Any] = []
        function = _chain(prepare, function)

        @jit
        def compiled(values: Sequence[Any], *tensors: Any) -> Any:
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                outputs = function(*tensors)
            updated = enumerate(scope.get_current_value(variable) for variable in variables)
            return outputs, {k: value for k, value in updated if value is not values[k]}

        def run(*tensors: Any) -> Any:
            # As `value` and `assign`, which look for scopes first, as it is outside of any.
            values = [variable._value for variable in variables]
            if any(value is None for value in values):
                raise RuntimeError(
                    "A model should not be run while another thread trains or evaluates it: Keras "
                    "takes the weights out of it meanwhile. A callback can run it between steps."
                )
            outputs, updated = compiled(values, *tensors)
            for k, value in updated.items():
                variables[k]._value = value
            return outputs

        def run_with(model: keras.Model, *tensors: Any) -> Any:
            with _LOCK:  # or two threads could draw with the same seed
                variables[:] = _list_variables(model)
                return _pad_batches(run, *tensors)

        return run_with

    def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    def forget_gradients() -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def keep_values(variables: Sequence[Any]) -> contextlib.AbstractContextManager:
        return _restore_on_error(variables)

    @contextlib.contextmanager
    def _restore_on_error(variables: Sequence[Any]) -> Iterator[None]:
        values = [variable.value for variable in variables]
        try:
            yield
        except BaseException:
            for variable, value in zip(variables, values, strict=True):
                if variable._value is None and not value.is_deleted():
                    variable.assign(value)
            raise

elif _BACKEND == "torch":
    import torch

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        primals = [torch.as_tensor(primal).detach().requires_grad_() for primal in primals]
        with torch.enable_grad():
            outputs = function(*primals)
        flat_outputs = keras.tree.flatten(outputs)

        def pullback(cotangents: Any) -> tuple[Any, ...]:
            connected = [
                (output, cotangent)
                for output, cotangent in zip(
                    flat_outputs, keras.tree.flatten(cotangents), strict=True
                )
                if output.requires_grad
            ]
            if not connected:
                return tuple(torch.zeros_like(primal) for primal in primals)
            return torch.autograd.grad(
                [output for output, _ in connected],
                primals,
                [cotangent for _, cotangent in connected],
                retain_graph=True,
                materialize_grads=True,
            )

        return outputs, pullback

    def with_gradient(
        forward: Callable[..., Sequence[Any]], backward: Callable[..., Sequence[Any]]
    ) -> Callable[..., Any]:
        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any, *others: Any) -> Any:
                outputs = tuple(forward(x, *others))
                ctx.output_count = len(outputs)
                ctx.save_for_backward(*outputs, *others)
                return outputs

            @staticmethod
            def backward(ctx: Any, *cotangents: Any) -> Any:
                kept = ctx.saved_tensors
                outputs, others = kept[: ctx.output_count], kept[ctx.output_count :]
                return tuple(backward(outputs, others, cotangents))

        return Function.apply

    def after(x: Any, other: Any) -> Any:
        return x

    def make_zeros(shape: Any, dtype: str) -> Any:
        return keras.ops.zeros(shape, dtype)

    def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
        return function

    def is_traced(tensors: Iterable[Any]) -> bool:
        return False

    def has_slow_convolutions() -> bool:
        return False

    def draw_uniform(shape: Any, dtype: str, seed: Any) -> Any:
        return keras.random.uniform(shape, dtype=dtype, seed=seed)

    def draw_normal(shape: Any, dtype: str, seed: Any) -> Any:
        return keras.random.normal(shape, dtype=dtype, seed=seed)

    def jit_batches(
        function: Callable[..., Any],
        xla: bool = True,
        prepare: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        function = _chain(prepare, function)
        return lambda model, *tensors: function(*tensors)

    def jit_step(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def jit_steps(
        function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
    ) -> Callable[..., Any]:
        raise NotImplementedError("Keras compiles steps on PyTorch itself.")

    def to_data_set(arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    def forget_gradients() -> contextlib.AbstractContextManager:
        return torch.no_grad()

    def keep_values(variables: Sequence[Any]) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

else:
    raise ValueError(
        "gyoza runs on the Keras backends 'tensorflow', 'jax' and 'torch'. "
        f"Received: backend={_BACKEND!r}"
    )
