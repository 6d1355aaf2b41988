"""Times the steps of Keras' `fit`."""

import time
from typing import Any

import keras

from speed.cells import Seconds

__all__ = ["time_steps"]


class _Clock(keras.callbacks.Callback):
    """Times all steps but the first, before which `fit` prepares the data."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            float(logs["loss"])  # waits for the step
            self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = Seconds(time.perf_counter() - self.start)


def time_steps(model: keras.Model, data: Any, **options: Any) -> Seconds:
    """Fits a model for one epoch.

    Args:
        model: The model.
        data: What it is fitted to.
        **options: Further arguments of `fit`.

    Returns:
        The seconds that all steps but the first took.
    """
    clock = _Clock()
    model.fit(data, callbacks=[clock], verbose=0, **options)
    return clock.seconds
