"""Target densities of flows, which users write, and checks of what is given in their place."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gyoza.modelling.functions.tensors import TRACING_ERRORS
from gyoza.typing import Data, Tensor

__all__ = ["evaluate_target", "not_differentiable", "reject_data"]


def _takes_arrays(function: Callable[..., Any], tensors: Sequence[Tensor]) -> bool:
    """Returns whether a function that raised an error for tensors takes arrays of their shapes."""
    arrays = [np.full([length or 2 for length in x.shape], 0.5, "float32") for x in tensors]
    try:
        function(*arrays)
    except Exception:  # whatever it is, it does not take arrays
        return False
    return True


def not_differentiable(received: str) -> TypeError:
    """Returns the error for a target that computes with NumPy."""
    return TypeError(
        "`target_log_prob` should compute with `keras.ops`, such as `keras.ops.exp`, so that "
        "gradients go through it: NumPy and SciPy cannot compute with tensors, nor can Python read "
        f"their values. Received: {received}"
    )


def evaluate_target(
    target_log_prob: Callable[..., Tensor], x: Tensor, context: Tensor | None = None
) -> Tensor:
    """Returns the log-densities of a target, checked to be such.

    Args:
        target_log_prob: The target.
        x: A batch, `[batch, ...]`.
        context: Its context, `[batch, ...]`, or `None`.

    Returns:
        The log-densities, `[batch]`.

    Raises:
        TypeError: If the target computes with NumPy where it is given tensors.
        ValueError: If it returns another shape.
    """
    arguments = [x] if context is None else [x, context]
    try:
        target = target_log_prob(*arguments)
    except TRACING_ERRORS as error:
        if _takes_arrays(target_log_prob, arguments):
            raise not_differentiable(f"{type(error).__name__}: {error}") from error
        raise
    shape = getattr(target, "shape", None)
    if shape is None or len(shape) != 1:
        what = f"{target!r}" if shape is None else f"a tensor of shape {tuple(shape)}"
        raise ValueError(
            f"`target_log_prob` should return log-densities of shape [batch]. Received: {what}"
        )
    return target


def reject_data(name: str, data: Data) -> None:
    """Raises a `ValueError` if data are given as the argument `name`."""
    if isinstance(data, Iterable):
        what = f"of shape {tuple(data.shape)}" if hasattr(data, "shape") else f"a {type(data)}"
        raise ValueError(
            "A `VariationalModel` should be given no data, as it is trained on samples of its own: "
            "call `fit(batch_size=…, epochs=…)`, and pass the contexts of a conditional flow as "
            f"`context=…`. Received: {name} {what}"
        )
