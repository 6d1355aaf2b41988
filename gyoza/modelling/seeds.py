"""Seeds of random numbers."""

import threading
from typing import Any

import keras

from gyoza.backend import mark_replica

__all__ = ["SeedGenerator"]

_LOCK = threading.Lock()


class SeedGenerator(keras.random.SeedGenerator):
    """A `keras.random.SeedGenerator` whose seeds differ between threads and replicas.

    With Keras's own generator, two threads that ask at the same time can get the same seed, and the
    replicas of a `tf.distribute` strategy do.

    Args:
        seed: Integer to start from, or `None` to start from a random one.
        **kwargs: Arguments of `keras.random.SeedGenerator`.
    """

    def next(self, ordered: bool = True) -> Any:
        """Returns the next seed; see `keras.random.SeedGenerator`."""
        with _LOCK:
            seed = super().next(ordered)
        return mark_replica(seed)
