"""A hint for those whose loss is not finite."""

from typing import Any

import keras
import numpy as np

from gyoza.modelling.functions.warning import warn

__all__ = ["watch_loss"]


class _LossWatch(keras.callbacks.Callback):
    """Warns at the end of the first epoch whose loss is not finite."""

    has_warned = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.has_warned or np.isfinite((logs or {}).get("loss", 0.0)):
            return
        self.has_warned = True
        warn(
            f"The loss of model '{self.model.name}' is not finite in epoch {epoch + 1}: there are "
            "rows of data that are not finite, or training has diverged. To find out which, pass "
            "`callbacks=[gyoza.callbacks.TerminateOnNonFinite(x)]` to `fit`, with the data `x`."
        )


def watch_loss(arguments: dict[str, Any]) -> dict[str, Any]:
    """Adds a callback that warns where the loss of an epoch is not finite.

    Args:
        arguments: The arguments of `fit`, by name.

    Returns:
        The arguments with that callback, unless there is one that says more.
    """
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return arguments
    given = keras.tree.flatten(callbacks or [])
    if any(getattr(callback, "_explains_loss", False) for callback in given):
        return arguments
    return {**arguments, "callbacks": [*given, _LossWatch()]}
