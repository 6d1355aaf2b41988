"""Data frames, of pandas or any library whose data frames are alike, as arrays with names.

Nothing here imports such a library: a data frame is what has `columns` and `to_numpy`.
"""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from gyoza.typing import Array, Data, Frame

__all__ = ["is_frame", "frame_to_array", "get_columns", "get_names", "describe_columns"]


def is_frame(data: Data) -> bool:
    """Returns whether data are a data frame."""
    return hasattr(data, "to_numpy") and hasattr(data, "columns")


def frame_to_array(frame: Frame) -> Array:
    """Returns the numbers of a data frame.

    Args:
        frame: A data frame of floating-point numbers, integers and Boolean values. What is missing
            is NaN.

    Returns:
        The array, `[rows, columns]`, of floating-point numbers.

    Raises:
        TypeError: If a column does not hold numbers. The message names it.
    """
    array = frame.to_numpy()
    if array.dtype.kind == "f":
        return array
    if array.dtype.kind in "iub":
        return array.astype("float64")
    columns = [_to_numbers(name, frame[name]) for name in frame.columns]
    return np.stack(columns, axis=1) if columns else np.zeros([len(frame), 0])


def _to_numbers(name: Any, column: Any) -> Array:
    values = column.to_numpy()
    if values.dtype.kind == "O" and getattr(column.dtype, "kind", "O") in "iufb":
        values = column.to_numpy(dtype="float64", na_value=np.nan)
    if values.dtype.kind not in "iufb" or values.ndim > 1:
        are_numbers = all(isinstance(value, Real) for value in values.flat)
        advice = (
            '`frame.astype("float32")` makes numbers of objects'
            if are_numbers
            else "leave it out, or let `gyoza.data.Table` encode it"
        )
        raise TypeError(
            f"Column {name!r} of the data frame should hold numbers: {advice}. "
            f"Received: dtype={getattr(column, 'dtype', None)}, such as {values.flat[0]!r}"
        )
    return values.astype("float64")


def get_columns(data: Data) -> tuple[Any, ...] | None:
    """Returns what the columns of inputs are called, in their order, be it names or numbers.

    Args:
        data: Inputs, or a dictionary with `inputs`, or a pair of inputs that are alike. Or a row of
            a data frame, whose index has the names of columns.

    Returns:
        The columns, or `None` where there is neither a data frame nor such a row.
    """
    if isinstance(data, dict):
        data = data.get("inputs")
    if isinstance(data, tuple) and data:
        data = data[0]
    if is_frame(data):
        return tuple(data.columns)
    is_row = hasattr(data, "to_numpy") and all(
        isinstance(name, str) for name in getattr(data, "index", [0])
    )
    return tuple(data.index) if is_row else None


def get_names(data: Data) -> tuple[str, ...] | None:
    """Returns the names of columns; see :func:`get_columns`.

    Returns:
        The names, or `None` where columns have none, or not all of them.
    """
    columns = get_columns(data)
    has_names = columns is not None and all(isinstance(name, str) for name in columns)
    return columns if has_names else None


def describe_columns(columns: Iterable[int], names: Sequence[str] | None) -> str:
    """Returns the names of columns for a message, or their indices where they have no names."""
    columns = [int(column) for column in columns]
    shown = [repr(names[column]) if names else str(column) for column in columns[:5]]
    return ", ".join(shown) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
