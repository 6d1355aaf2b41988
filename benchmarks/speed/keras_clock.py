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


class _Watch(_Clock):
    """The same, with a look at batches, for which `fit` takes one step after the other."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


def time_steps(model: keras.Model, data: Any, one_by_one: bool = False, **options: Any) -> Seconds:
    """Fits a model for one epoch.

    Args:
        model: The model.
        data: What it is fitted to.
        one_by_one: Whether a step is never part of a loop in compiled code, which has memory of its
            own.
        **options: Further arguments of `fit`.

    Returns:
        The seconds that the epoch took, without the preparations of `fit`.
    """
    clock = _Watch() if one_by_one else _Clock()
    model.fit(data, callbacks=[clock], verbose=0, **options)
    return clock.seconds
