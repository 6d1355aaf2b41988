"""Times the steps of Keras' `fit`."""

import time
from typing import Any

import keras

from speed.cells import Seconds

__all__ = ["time_steps"]


class _Clock(keras.callbacks.Callback):
    """Times an epoch, without a look at its batches, for which `fit` would take more time."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for the last step
        self.seconds = Seconds(time.perf_counter() - self.start)


def time_steps(model: keras.Model, data: Any, **options: Any) -> Seconds:
    """Fits a model for one epoch.

    Args:
        model: The model.
        data: What it is fitted to.
        **options: Further arguments of `fit`.

    Returns:
        The seconds that the epoch took, without the preparations of `fit`.
    """
    clock = _Clock()
    model.fit(data, callbacks=[clock], verbose=0, **options)
    return clock.seconds
