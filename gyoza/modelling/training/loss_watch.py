"""A hint for those whose loss is not finite."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from gyoza.modelling.functions.warning import warn

__all__ = ["watch_loss"]


# What to do where a loss is not finite, by its name in the logs.
_ADVICE = {
    "loss": (
        "The loss",
        "there are rows of data that are not finite, or training has diverged. To find out which, "
        "pass `callbacks=[gyoza.callbacks.TerminateOnNonFinite(x)]` to `fit`, with the data `x`.",
    ),
    "val_loss": (
        "The validation loss",
        "there are rows of `validation_data` that are not finite, or whose density is 0. To find "
        "out which, look where `log_prob(x)` of the model is not finite, with these data `x`.",
    ),
}


class _LossWatch(keras.callbacks.Callback):
    """Warns at the end of the first epoch in which a loss is not finite.

    Args:
        told: The names of losses that are reported elsewhere.
    """

    def __init__(self, told: Iterable[str]) -> None:
        super().__init__()
        self.told = set(told)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        # Where that of training is not finite, that of validation follows.
        name = next((name for name in _ADVICE if not np.isfinite(logs.get(name, 0.0))), None)
        if name is None or name in self.told:
            return
        self.told.add(name)
        what, advice = _ADVICE[name]
        warn(f"{what} of model '{self.model.name}' is not finite in epoch {epoch + 1}: {advice}")


def watch_loss(arguments: dict[str, Any]) -> dict[str, Any]:
    """Adds a callback that warns where the loss of an epoch, or of validation, is not finite.

    Args:
        arguments: The arguments of `fit`, by name.

    Returns:
        The arguments with that callback, which leaves the training loss to a callback that explains
        it. Such a one gets the weights of instances, which Keras tells no callback.
    """
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return arguments
    given = keras.tree.flatten(callbacks or [])
    explaining = [callback for callback in given if getattr(callback, "_explains_loss", False)]
    for callback in explaining:
        callback.sample_weight = arguments.get("sample_weight")
    return {**arguments, "callbacks": [*given, _LossWatch(["loss"] if explaining else [])]}
