"""Frozen layers stay frozen, with all that they make later."""

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["freeze_after"]


def freeze_after(build: Callable[..., None]) -> Callable[..., None]:
    """Wraps a `build` method, so that what it makes for frozen layers is frozen, too.

    Setting `trainable` reaches only the sublayers that exist then. A frozen layer that is loaded or
    copied makes its sublayers anew when it is built, and they would be trained.

    Args:
        build: The method of a Keras layer.

    Returns:
        The method that does the same and freezes, too.
    """

    @functools.wraps(build)
    def wrapper(layer: Any, *args: Any, **kwargs: Any) -> None:
        build(layer, *args, **kwargs)
        for part in layer._flatten_layers():
            # On TensorFlow, nothing happens where `part` is assigned the value that it has.
            for below in () if part.trainable else part._flatten_layers(include_self=False):
                below.trainable = False

    return wrapper
