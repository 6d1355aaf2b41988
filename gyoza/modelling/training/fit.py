"""One call of `fit`: how many steps it takes at once."""

import math
from typing import Any

import keras

__all__ = ["count_steps", "make_callbacks"]

# `fit` takes so many steps at once, or so many that they take about half a second on two cores.
_MOST_STEPS = 16
_MOST_PRODUCTS = 10**10
_HOOKS = ["on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"]


def count_steps(model: keras.Model, arguments: dict[str, Any]) -> int:
    """Says how many steps `fit` can take at once without any difference but in time.

    Args:
        model: A model, built.
        arguments: Arguments of `fit`.

    Returns:
        The number of steps, which is 1 where a callback looks at batches.
    """
    if any(map(_looks_at_batches, keras.tree.flatten(arguments.get("callbacks") or []))):
        return 1
    if any(len(variable.shape) > 2 for variable in model.trainable_variables):
        return 1  # within loops, XLA's convolutions take 15 times as long on processors
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


def make_callbacks(arguments: dict[str, Any]) -> Any:
    """Gives the callbacks of `fit`, with a progress bar that suits several steps at once."""
    callbacks = arguments.get("callbacks")
    given = keras.tree.flatten(callbacks or [])
    has_own = (keras.callbacks.CallbackList, keras.callbacks.ProgbarLogger)
    if arguments.get("verbose", "auto") == 0 or any(isinstance(c, has_own) for c in given):
        return callbacks
    return [*given, _ProgressBar()]


class _ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, which would count steps that the last execution does not take."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(min(batch, (self.target or math.inf) - 1), logs)


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    """Tells whether a callback does something between steps of training."""
    if isinstance(callback, keras.callbacks.CallbackList):
        return any(map(_looks_at_batches, callback.callbacks))
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return False
    if getattr(callback, "save_freq", None) == "epoch":  # as a `ModelCheckpoint` has it
        return False
    return not all(getattr(getattr(callback, hook), "_is_default", False) for hook in _HOOKS)
