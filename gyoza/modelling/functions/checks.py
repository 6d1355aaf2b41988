"""Checks of arguments: their types, and numbers that should be integers, finite, or positive."""

import functools
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np

from gyoza.typing import Array, Tensor

__all__ = [
    "check_instance",
    "is_own",
    "is_between",
    "is_integer",
    "check_integer",
    "check_integers",
    "check_positive_integers",
    "check_choice",
    "check_numbers",
    "check_finite",
    "check_positive",
    "check_not_negative",
    "check_positive_number",
    "check_number_not_negative",
    "check_time",
]


def check_instance(name: str, value: Any, cls: Any, what: str) -> None:
    """Raises a `TypeError` if `value` is not an instance of `cls`, which `what` describes."""
    if not isinstance(value, cls):
        # As of a `FlowMatchingModel`, where a flow should be given.
        advice = ", whose `flow` is one" if isinstance(getattr(value, "flow", None), cls) else ""
        raise TypeError(
            f"`{name}` should be {what}. Received: {name}={value} (of type {type(value)}){advice}"
        )


def _is_own(cls: type) -> bool:
    """Returns whether a class is one of gyoza's own, not one that a user derives from them."""
    return cls.__module__.partition(".")[0] == "gyoza"


is_own: Callable[[Any], bool] = functools.cache(_is_own)


def is_between(lower: float, value: Any, upper: float) -> bool:
    """Returns whether a value is one real number between two others, and equal to neither."""
    return isinstance(value, Real) and lower < float(value) < upper


def is_integer(value: Any) -> bool:
    """Returns whether a value is an integer of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_integer(name: str, value: Any, minimum: int = 0) -> int:
    """Raises a `ValueError` if `value` is not an integer of at least `minimum`, or returns it."""
    if not is_integer(value) or value < minimum:
        raise ValueError(
            f"`{name}` should be an integer of at least {minimum}. Received: {name}={value!r}"
        )
    return int(value)


def check_integers(name: str, values: Iterable[int]) -> list[int]:
    """Makes a list of integers from a list, tuple, array or `TensorShape`, or raises an error."""
    try:
        numbers = list(values)
        integers = [int(number) for number in numbers]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` should be a list of integers. Received: {name}={values}"
        ) from error
    if any(integer != number for integer, number in zip(integers, numbers, strict=True)):
        raise TypeError(f"`{name}` should be a list of integers. Received: {name}={values}")
    return integers


def check_positive_integers(name: str, values: Iterable[int], least_count: int = 0) -> list[int]:
    """Makes a list of at least `least_count` positive integers, or raises an error."""
    integers = check_integers(name, values)
    if len(integers) < least_count or any(integer < 1 for integer in integers):
        count = f", at least {least_count} of them" if least_count else ""
        raise ValueError(
            f"`{name}` should be positive integers{count}. Received: {name}={integers}"
        )
    return integers


def check_choice(name: str, value: Any, choices: Iterable[str | None]) -> Any:
    """Raises a `ValueError` unless a value is one of the choices, or returns it."""
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"`{name}` should be one of {[*choices]}. Received: {name}={value!r}")
    return value


def check_numbers(name: str, values: Tensor) -> None:
    """Raises a `TypeError` for an array of objects, text or dates."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "OSUTMm":
        raise TypeError(
            f'`{name}` should be an array of numbers: `frame.to_numpy("float32")` makes one of a '
            "data frame without text. Leave out columns of text, or let `gyoza.data.Table` encode "
            f"them. Received: an array of dtype {values.dtype}"
        )


def check_finite(name: str, values: Tensor) -> Array:
    """Makes an array of numbers, or raises a `ValueError` if they are not all finite numbers."""
    try:
        array = np.asarray(values, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` should be a number, or an array of numbers. Received: {name}={values!r}"
        ) from error
    if not np.all(np.isfinite(array)):
        raise ValueError(f"`{name}` should be finite. Received: {name}={values}")
    return array


def check_positive(name: str, values: Tensor) -> Array:
    """Makes an array of numbers, or raises a `ValueError` if some are not positive and finite."""
    array = check_finite(name, values)
    if not np.all(array > 0.0):
        raise ValueError(f"`{name}` should be positive. Received: {name}={values}")
    return array


def check_not_negative(name: str, values: Tensor) -> Array:
    """Makes an array of numbers, or raises a `ValueError` if some are negative or not finite."""
    array = check_finite(name, values)
    if not np.all(array >= 0.0):
        raise ValueError(f"`{name}` should not be negative. Received: {name}={values}")
    return array


def check_positive_number(name: str, value: Any) -> float:
    """Returns one number, or raises a `ValueError` if it is not positive and finite."""
    _check_one(name, value)
    return float(check_positive(name, value))


def check_number_not_negative(name: str, value: Any) -> float:
    """Returns one number, or raises a `ValueError` if it is negative or not finite."""
    _check_one(name, value)
    return float(check_not_negative(name, value))


def _check_one(name: str, value: Any) -> None:
    if np.ndim(value) > 0:
        raise ValueError(f"`{name}` should be one number. Received: {name}={value}")


def check_time(name: str, time: Tensor, is_one: bool = False) -> None:
    """Raises a `ValueError` unless a time, or all of an array, are in [0, 1].

    Args:
        name: What it is called.
        time: The time, or an array of times.
        is_one: Whether there should be one time only.

    Raises:
        ValueError: If it is not a number, or is outside.
    """
    times = np.asarray(time)
    is_right = times.dtype.kind in "fiu" and not (is_one and times.ndim)
    if not is_right or not np.all((times >= 0.0) & (times <= 1.0)):
        what = "a number in [0, 1]" if is_one else "in [0, 1]"
        raise ValueError(f"`{name}` should be {what}. Received: {name}={time!r}")
