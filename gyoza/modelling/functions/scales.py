"""Logarithms of scales that are bounded, so that layers do not explode."""

import math

from keras import ops

from gyoza.backend import tanh
from gyoza.modelling.functions.checks import is_between
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.typing import Tensor

__all__ = ["bound_log_scales", "check_log_scale_bound"]


def bound_log_scales(raw: Tensor, bound: float | None) -> Tensor:
    r"""Maps any numbers :math:`r` smoothly into an interval, :math:`c \tanh(r / c)`.

    Args:
        raw: The numbers, `[...]`.
        bound: The bound :math:`c`, or `None` to keep the numbers as they are.

    Returns:
        Numbers between `-bound` and `bound`, `[...]`, in float32 at least.

    Example:

        >>> from gyoza.modelling.functions import bound_log_scales
        >>> keras.ops.convert_to_numpy(bound_log_scales(np.array([0.0, 0.1, 99.0]), 2.0)).round(3)
        array([0. , 0.1, 2. ])
    """
    raw = ops.cast(raw, at_least_float32(raw.dtype))
    if bound is None:
        return raw
    return tanh(raw / bound) * bound


def check_log_scale_bound(bound: float | None) -> None:
    """Raises a `ValueError` unless `bound` is a positive, finite number or `None`."""
    if bound is not None and not is_between(0.0, bound, math.inf):
        raise ValueError(
            "`log_scale_bound` should be a positive, finite number, or None. "
            f"Received: log_scale_bound={bound!r}"
        )
