"""One call of `fit`: with what Keras trains, by XLA or not, in how many steps per execution."""

import math
from typing import Any

import keras

from gyoza.backend import build_for_training, is_distributed, to_data_set
from gyoza.typing import Data, Tensor, Tensors

__all__ = [
    "LEAST_STEPS_FOR_XLA",
    "Fit",
    "count_all_steps",
    "create_variables",
    "describe",
    "get_rank",
]

# The number of steps from which on training by TensorFlow takes less time with XLA: see "XLA" in
# docs/performance.md.
LEAST_STEPS_FOR_XLA = 300

# An execution takes this many steps, or as many as take about half a second on two cores: see
# "Several steps per execution" in docs/performance.md, also for convolutions.
_MOST_STEPS = 16
_MOST_PRODUCTS = 10**10
_HOOKS = ["on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"]


class Fit:
    """The state of one call of `fit`.

    It leaves out XLA where training is too short for it to pay, takes several steps per execution
    where nobody looks in between, and batches from arrays where that costs less than a data set, as
    far as nothing but the time changes.

    Args:
        model: The model, whose variables are created if that was possible.
        arguments: Arguments of `keras.Model.fit`, by name.

    Attributes:
        arguments: Arguments to call it with instead.
        is_short: Whether XLA is left out, which gyoza had chosen, since training is short.
        step_count: The number of steps per execution.
        runs_loop: Whether these are one compiled loop of gyoza's, not steps of Keras.
        has_begun: Whether Keras has divided its batches between executions, and asks from then on
            for the sake of validation.
    """

    def __init__(self, model: keras.Model, arguments: dict[str, Any]) -> None:
        self.is_short = _is_short(model, arguments)
        self.step_count = model.steps_per_execution
        is_compiled = _compiles_steps(model) and not self.is_short
        if self.step_count == 1 and is_compiled and model.built:
            self.step_count = _count_steps(model, arguments)
        self.runs_loop = is_compiled and self.step_count > 1
        self.has_begun = False
        if self.step_count > 1:
            arguments = {**arguments, "callbacks": _make_callbacks(arguments)}
        if not is_distributed(model) and (self.step_count == 1 or is_compiled):
            arguments = to_data_set(arguments)
        self.arguments = arguments


def _is_short(model: keras.Model, arguments: dict[str, Any]) -> bool:
    """Returns whether XLA would take longer to compile steps than it saves.

    Steps before count, so that whoever calls `fit` again and again has XLA in the end.
    """
    if getattr(model, "optimizer", None) is None or not model._chose_xla:
        return False
    count = int(model.optimizer.iterations) + count_all_steps(arguments)
    return count < LEAST_STEPS_FOR_XLA


def count_all_steps(arguments: dict[str, Any]) -> float:
    """Returns how many steps `fit` takes at most.

    Args:
        arguments: Arguments of `fit`.

    Returns:
        The number of steps, or infinity if it is not known in advance.
    """
    x, per_epoch = arguments["x"], arguments.get("steps_per_epoch")
    shape = getattr(keras.tree.flatten(x)[0], "shape", None)
    if per_epoch is None and shape:
        per_epoch = math.ceil(shape[0] / (arguments.get("batch_size") or 32))
    if per_epoch is None:
        try:
            per_epoch = len(x)
        except (TypeError, NotImplementedError):  # generators, and data sets of unknown length
            return math.inf
    return per_epoch * (arguments.get("epochs", 1) - arguments.get("initial_epoch", 0))


def _compiles_steps(model: keras.Model) -> bool:
    """Returns whether steps of training are compiled as a whole."""
    return (
        keras.backend.backend() != "torch"
        and model.compiled
        and model.jit_compile
        and not model.run_eagerly
        and not is_distributed(model)
    )


def _count_steps(model: keras.Model, arguments: dict[str, Any]) -> int:
    """Returns how many steps an execution can take without any change but in time.

    Args:
        model: A model, built.
        arguments: Arguments of `fit`.

    Returns:
        The number of steps, which is 1 where a callback looks at batches.
    """
    if any(map(_looks_at_batches, keras.tree.flatten(arguments.get("callbacks") or []))):
        return 1
    if any(len(variable.shape) > 2 for variable in model.trainable_variables):
        return 1  # within loops, XLA's convolutions take far longer on processors
    x = arguments["x"]
    first = keras.tree.flatten(getattr(x, "element_spec", x))[0]
    shape = tuple(getattr(first, "shape", ()))
    if None in shape[1:-1]:
        return 1
    if hasattr(x, "element_spec"):
        batch_size = shape[0] if shape else None
    elif shape:
        batch_size = arguments.get("batch_size") or 32
    else:
        batch_size = getattr(x, "batch_size", None)
    products = model.count_params() * (batch_size or 0) * math.prod(shape[1:-1])
    count = min(_MOST_STEPS, _MOST_PRODUCTS // products) if products else 1
    # The last execution of an epoch should not take steps of the next.
    steps = arguments.get("steps_per_epoch") or 0
    return next((k for k in range(count, 1, -1) if steps % k == 0), 1)


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    """Returns whether a callback does something between steps of training."""
    if isinstance(callback, keras.callbacks.CallbackList):
        return any(map(_looks_at_batches, callback.callbacks))
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return False
    if getattr(callback, "save_freq", None) == "epoch":  # as a `ModelCheckpoint` has it
        return False
    return any(
        getattr(getattr(callback, hook), "__func__", None)
        is not getattr(keras.callbacks.Callback, hook)
        for hook in _HOOKS
    )


def _make_callbacks(arguments: dict[str, Any]) -> Any:
    """Returns the callbacks of `fit`, with a progress bar for several steps per execution."""
    callbacks = arguments.get("callbacks")
    given = keras.tree.flatten(callbacks or [])
    has_own = (keras.callbacks.CallbackList, keras.callbacks.ProgbarLogger)
    if arguments.get("verbose", "auto") == 0 or any(isinstance(c, has_own) for c in given):
        return callbacks
    return [*given, _ProgressBar()]


class _ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, which would count steps that the last execution does not take."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(min(batch, (self.target or math.inf) - 1), logs)


def create_variables(
    model: keras.Model, x: Data, y: Tensors | None = None, sample_weight: Tensor | None = None
) -> None:
    """Builds model, optimizer and metrics, unless that requires drawing a batch from an iterator.

    Where they are built within the first step, TensorFlow traces it twice. What does not suit a
    model that is built raises an error.

    Args:
        model: The model, compiled or not.
        x: Inputs, as `fit` takes them.
        y: Targets, likewise.
        sample_weight: Weights of instances, likewise.
    """
    if not model.compiled or is_distributed(model):
        return
    batch = x[0] if isinstance(x, keras.utils.PyDataset) else (x, y, sample_weight)
    batch = getattr(x, "element_spec", batch)
    if any(get_rank(value) is None for value in keras.tree.flatten(batch) if value is not None):
        return
    batch = keras.tree.map_structure(describe, batch)
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if model.built:
        model._check_shapes(x)
    else:
        model(x)
    build_for_training(model, batch)


def describe(values: Tensor | None) -> Tensor | None:
    """Returns a symbolic tensor for an array, or one for a batch of a data set."""
    if values is None:
        return None
    dtype = keras.backend.standardize_dtype(values.dtype)
    return keras.KerasTensor((None, *values.shape[1:]), dtype)


def get_rank(value: Tensor) -> int | None:
    """Returns the number of axes, or `None` if it is not known."""
    shape = getattr(value, "shape", None)
    if shape is None or hasattr(shape, "rank"):
        return getattr(shape, "rank", None)
    return len(shape)
