"""Private names of Keras, TensorFlow and JAX: what each is for, and its fallback.

No other module of gyoza uses private names. A release that drops or renames one makes gyoza slower,
or lets it need more memory, and changes nothing else.
"""

import functools
import importlib
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from gyoza.typing import Seed, Tensor, Tensors

__all__ = [
    "PRIVATE_NAMES",
    "flatten_layers",
    "track_last",
    "list_variables",
    "read_values",
    "write_value",
    "find_interceptors",
    "list_seeds",
    "Saveable",
    "build_for_training",
    "has_metrics",
    "KerasHooks",
    "Use",
    "list_uses",
    "draw_seed_state",
    "find_shared_seeds",
    "make_array_adapter",
    "is_in_stateless_scope",
    "is_top_level",
    "is_within_xla",
    "is_recording",
    "find_xla_operation",
    "stay_apart",
]

_ALL = ("tensorflow", "jax", "torch")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# All private names that this module uses, and the backends on which it does.
PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("_flatten_layers", "_layers", "_seed_generators", "KerasSaveable"), _ALL),
    **dict.fromkeys(("_remat_mode", "_symbolic_build", "_resolve_auto_jit_compile"), _ALL),
    **dict.fromkeys(("_compile_metrics", "_keras_history", "_inbound_nodes"), _ALL),
    **dict.fromkeys(("arguments", "output_tensors", "get_global_attribute"), _ALL),
    **dict.fromkeys(_HOOKS, ("torch",)),
    **dict.fromkeys(("_trainable_variables", "_non_trainable_variables", "_value"), ("jax",)),
    **dict.fromkeys(("_make_function", "_jax_state"), ("jax",)),
    **dict.fromkeys(("in_stateless_scope", "trace_state_clean"), ("jax",)),
    **dict.fromkeys(("_default_save_signature", "draw_seed", "ArrayDataAdapter"), ("tensorflow",)),
    **dict.fromkeys(("GraphOrParentsInXlaContext", "could_possibly_record"), ("tensorflow",)),
    **dict.fromkeys(("optimization_barrier", "reduce_precision", "NO_INLINE"), ("tensorflow",)),
}


def _has(owner: Any, *names: str) -> bool:
    """Returns whether an object, or a module, has private names."""
    return all(map(functools.partial(hasattr, owner), names))


@functools.cache
def _import(name: str) -> Any:
    """Returns a private module, or `None` if there is no such module."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _list_values(layer: keras.Layer) -> list[Any]:
    """Returns what the attributes of a layer hold, also within lists and dictionaries."""
    found, pending, seen = [], [vars(layer)], set()
    while pending:
        value = pending.pop()
        if not isinstance(value, dict | list | tuple | set):
            found.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            pending += value.values() if isinstance(value, dict) else value
    return found


def flatten_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
    """Returns a layer with all layers within it, at any depth.

    Keras has no public list of the layers of a layer. Without its private one, they are looked for
    in attributes.
    """
    if _has(layer, "_flatten_layers"):
        return layer._flatten_layers(include_self=include_self)
    found = {id(layer): layer}
    pending = [layer]
    while pending:
        for part in _list_values(pending.pop()):
            if isinstance(part, keras.Layer) and id(part) not in found:
                found[id(part)] = part
                pending.append(part)
    return list(found.values())[0 if include_self else 1 :]


def track_last(model: keras.Model, layers: Sequence[keras.Layer | None]) -> None:
    """Lets the variables of a model end with those of some of its layers.

    Otherwise, they stay in the order in which the model was given its layers.

    Args:
        model: The model, which Keras asks for the layers in the order in which it was given them.
        layers: Those that come last, or `None` where there is none.
    """
    order = [*map(id, layers)]
    if _has(model, "_layers"):
        model._layers.sort(key=lambda layer: order.index(id(layer)) if id(layer) in order else -1)


def list_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns what `model.variables` does, which goes through them again for each nested layer."""
    if not _has(model, "_trainable_variables", "_non_trainable_variables", "_seed_generators"):
        return model.variables
    found: list[keras.Variable] = []
    for layer in flatten_layers(model):
        found += layer._trainable_variables
        found += layer._non_trainable_variables
        found += [generator.state for generator in layer._seed_generators]
    return list({id(variable): variable for variable in found}.values())


def read_values(variables: Sequence[keras.Variable]) -> list[Tensor | None]:
    """Returns values of variables, outside of any scope: `None` where Keras has taken one out.

    `value` takes longer, since it looks for scopes first, and returns a new initial value each time
    where there is none.
    """
    if all(_has(variable, "_value") for variable in variables[:1]):
        return [variable._value for variable in variables]
    pairs = [(variable.value, variable.value) for variable in variables]
    return [value if value is again else None for value, again in pairs]


def write_value(variable: keras.Variable, value: Tensor) -> None:
    """Assigns a value of the right shape and dtype to a variable, outside of any scope.

    `assign` takes longer, since it looks at all three first.
    """
    if _has(variable, "_value"):
        variable._value = value
    else:
        variable.assign(value)


def find_interceptors() -> Callable[[keras.Layer], Any]:
    """Returns a function of a layer that lists what else is run where Keras calls the layer.

    These are the hooks that a user of PyTorch has registered, and the recomputation that
    `RematScope` asks for. Without the private names, there may always be something.
    """
    # Of at least two names, `attrgetter` makes a tuple.
    hooks = _HOOKS if keras.backend.backend() == "torch" else ("_remat_mode",)
    names = "_remat_mode", *hooks
    probe = keras.Layer(name="probe", dtype="float32")  # with both, Keras counts and sets nothing
    return operator.attrgetter(*names) if _has(probe, *names) else lambda layer: (True,)


def list_seeds(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Returns the seed generators of a layer itself, not of those within it.

    Without Keras' list of them, they are looked for in attributes.
    """
    if _has(layer, "_seed_generators"):
        return list(layer._seed_generators)
    found = [x for x in _list_values(layer) if isinstance(x, keras.random.SeedGenerator)]
    return list({id(generator): generator for generator in found}.values())


def _find_saveable() -> Any:
    module = _import("keras.src.saving.keras_saveable")
    return module.KerasSaveable if _has(module, "KerasSaveable") else object


_Saveable: Any = _find_saveable()


class Saveable(_Saveable):
    """What Keras saves and loads where it is the attribute of a layer, without being a layer.

    It has methods `save_own_variables` and `load_own_variables`. Without Keras' class, files do not
    have its state.
    """

    def _obj_type(self) -> str:  # which Keras asks for
        return "Layer"  # whose attributes it does not look into

    # That of Keras would write a file.
    __reduce__ = object.__reduce__


def build_for_training(model: keras.Model, batch: tuple[Tensors, Tensors, Tensors]) -> None:
    """Creates the variables of a compiled model's metrics and optimizer before it is trained.

    Otherwise, those of metrics are created within the first step, which TensorFlow traces twice.

    Args:
        model: The model, built.
        batch: Symbolic inputs, targets and weights of instances.
    """
    if _has(model, "_symbolic_build"):
        model._symbolic_build(data_batch=batch)
    elif not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def has_metrics(model: keras.Model) -> bool:
    """Returns whether a model is compiled with metrics.

    `model.metrics` goes through all layers, which takes long for each step on PyTorch. Without a
    name for it, it always may be: values for metrics are then computed for nothing.
    """
    return not _has(model, "_compile_metrics") or model._compile_metrics is not None


class KerasHooks:
    """What Keras calls by private names; a base class to be listed before `keras.Model`.

    A release with other names ignores these hooks.
    """

    if keras.backend.backend() == "jax":

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_jax_state":
                # What Keras's training assigns in each step. Keras would look for new weights in
                # it, one tensor after the other, which takes longer than a step of a small model.
                object.__setattr__(self, name, value)
            else:
                super().__setattr__(name, value)

    def _choose_jit(self, default: bool) -> Any:
        """Returns the `jit_compile` that `"auto"` stands for, where Keras has a default."""
        return default

    def _resolve_auto_jit_compile(self) -> Any:
        return self._choose_jit(super()._resolve_auto_jit_compile())  # type: ignore[misc]

    def _compile_step(self, step: Any) -> Any:
        """Returns what is called instead of a step that Keras has compiled on JAX.

        Args:
            step: A callable of the state and a batch, for `fit`, `evaluate` or `predict`.
        """
        return step

    def _make_function(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        step = self._compile_step(step)
        return super()._make_function(step, *args, **kwargs)  # type: ignore[misc]

    def _takes_inputs_alone(self) -> bool:
        """Returns whether TensorFlow, where it writes the model, can trace it on inputs alone."""
        return True

    @property
    def _default_save_signature(self) -> Any:
        if not self._takes_inputs_alone():
            return None
        return getattr(super(), "_default_save_signature", None)


class Use(NamedTuple):
    """A use of a layer, or of an operation, in a functional model."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]

    @property
    def inputs(self) -> list[Tensor]:
        """The symbolic tensors that it is given."""
        values = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in values if isinstance(x, keras.KerasTensor)]


def list_uses(inputs: Tensor, outputs: Tensor) -> tuple[Tensors, list[Use]]:
    """Returns all uses of layers and operations that symbolic tensors depend on, the last first.

    Args:
        inputs: The symbolic tensors, or a structure of such, that the others are computed from.
        outputs: The latter.

    Returns:
        Outputs of these uses, those that are given if Keras tells where they come from, and the
        uses. Otherwise, the same outputs are computed again, to see which operations that takes.
    """
    pending = keras.tree.flatten(outputs)
    uses: dict[int, Use] = {}
    while pending:
        tensor = pending.pop()
        if not _has(tensor, "_keras_history"):
            return _use_anew(inputs, outputs)
        operation, index, _ = tensor._keras_history
        if not _has(operation, "_inbound_nodes"):
            return _use_anew(inputs, outputs)
        node = operation._inbound_nodes[index]
        if not _has(node, "arguments", "output_tensors"):
            return _use_anew(inputs, outputs)
        if id(node) not in uses:
            arguments = node.arguments
            uses[id(node)] = use = Use(
                operation, arguments.args, arguments.kwargs, node.output_tensors
            )
            pending += use.inputs
    return outputs, list(uses.values())


def _use_anew(inputs: Tensor, outputs: Tensor) -> tuple[Tensors, list[Use]]:
    model = keras.Model(inputs, outputs)
    uses: list[Use] = []

    def use(operation: Any, *args: Any, **kwargs: Any) -> Any:
        results = operation(*args, **kwargs)
        uses.append(Use(operation, args, kwargs, keras.tree.flatten(results)))
        return results

    anew = keras.models.clone_model(
        model, inputs, clone_function=lambda layer: layer, call_function=use
    )
    given = [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]
    start = [Use(layer, (), {}, [layer.output]) for layer in given]
    return anew.output, [*reversed(uses), *start]


def draw_seed_state(seed: Seed) -> Tensor | None:
    """Returns the pair of integers that Keras draws random numbers from, and renews the seed.

    Without it, `None`: `keras.random` has to draw them, by an algorithm for which XLA takes longer.
    """
    module = _import("keras.src.random.seed_generator")
    return module.draw_seed(seed) if _has(module, "draw_seed") else None


def find_shared_seeds() -> keras.random.SeedGenerator | None:
    """Returns the generator of seeds that Keras draws without a seed from, if there is one yet.

    Without a name for it, `None`: numbers that are drawn without a seed between steps, as by a
    callback, are then others after training has been resumed.
    """
    module = _import("keras.src.backend.common.global_state")
    if not _has(module, "get_global_attribute"):
        return None
    return module.get_global_attribute("global_seed_generator")


@functools.cache
def _derive_adapter(base: Any) -> Any:
    class Arrays(base):
        """Arrays whose batches are slices, not elements of a `tf.data.Dataset`."""

        def get_tf_dataset(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self.get_numpy_iterator()

    return Arrays


def make_array_adapter(*arrays: Any, **options: Any) -> Any:
    """Returns a source of batches of arrays for `fit` on TensorFlow that is not a data set.

    Without it, `None`: Keras makes a data set, which takes longer for small models.

    Args:
        *arrays: Inputs, targets and weights of instances. The result has them as `arrays`.
        **options: Arguments of `fit` on how to divide them into batches.
    """
    module = _import("keras.src.trainers.data_adapters.array_data_adapter")
    if not _has(module, "ArrayDataAdapter"):
        return None
    adapter = _derive_adapter(module.ArrayDataAdapter)(*arrays, **options)
    adapter.arrays = arrays
    return adapter


def is_in_stateless_scope() -> bool:
    """Returns whether variables have values of a `keras.StatelessScope`.

    Without a name for it, a variable shows it, which takes longer: none can be created there.
    """
    module = _import("keras.src.backend.common.stateless_scope")
    if _has(module, "in_stateless_scope"):
        return module.in_stateless_scope()
    try:
        keras.Variable(0.0, trainable=False)
    except ValueError:
        return True
    return False


def is_top_level() -> bool:
    """Returns whether JAX neither compiles nor maps or differentiates a function right now.

    Without a name for it, a constant shows whether a function is compiled, and it takes longer.
    """
    module = _import("jax._src.core")
    if _has(module, "trace_state_clean"):
        return module.trace_state_clean()
    jax = importlib.import_module("jax")
    return not isinstance(jax.numpy.zeros(()), jax.core.Tracer)


def is_within_xla(graph: Any) -> bool:
    """Returns whether a graph of TensorFlow's is going to be compiled by XLA.

    Without a name for it, no graph: functions are then not written as it suits XLA.
    """
    module = _import("tensorflow.python.ops.control_flow_util")
    has_name = _has(module, "GraphOrParentsInXlaContext")
    return has_name and module.GraphOrParentsInXlaContext(graph)


def is_recording() -> bool:
    """Returns whether TensorFlow records what it does, to differentiate it.

    Without a name for it, it always may: more is traced then.
    """
    module = _import("tensorflow.python.eager.record")
    return not _has(module, "could_possibly_record") or module.could_possibly_record()


def find_xla_operation(name: str) -> Any:
    """Returns an operation that TensorFlow has only for XLA, or `None` if it has not.

    Without `"optimization_barrier"` and `"reduce_precision"`, compiled code needs more memory.
    """
    module = _import("tensorflow.compiler.tf2xla.python.xla")
    return getattr(module, name) if _has(module, name) else None


def stay_apart() -> dict[str, Any]:
    """Returns the arguments of `tf.function` by which a function is no part of those that call it.

    Without a name for it, large loops may fail without XLA; see `gyoza.backend.isolate`.
    """
    module = _import("tensorflow.python.eager.polymorphic_function.attributes")
    if not _has(module, "NO_INLINE"):
        return {}
    return {"experimental_attributes": {module.NO_INLINE: True}}
