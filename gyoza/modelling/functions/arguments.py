"""Arguments of functions and constructors."""

from collections.abc import Callable
from typing import Any

import keras

__all__ = ["given", "make_parts", "take_first"]


def given(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not `None`; what is called may not know the others."""
    return {name: value for name, value in arguments.items() if value is not None}


def make_parts(
    config: dict[str, Any], *names: str, objects: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns a configuration in which some arguments are objects, not configurations of these.

    Args:
        config: The configuration. Arguments that it lacks, or holds as objects, are left alone.
        *names: The names of the arguments, each an object or a list of objects.
        objects: Classes that are not registered with Keras, by name.
    """

    def make(part: Any) -> Any:
        if isinstance(part, list):
            return [make(each) for each in part]
        if not isinstance(part, dict):
            return part
        return keras.saving.deserialize_keras_object(part, objects)

    return {**config, **{name: make(config[name]) for name in names if name in config}}


def take_first(
    first: Any, value: Any, is_value: Callable[[Any], bool], default: Any = None
) -> tuple[Any, Any]:
    """Lets the main argument come first, where its type tells it from the one before.

    Args:
        first: What was passed as `shape` or `axes`.
        value: What was passed for the main argument.
        is_value: Whether something can only be that argument.
        default: Its default.

    Returns:
        Both arguments. Where the other one was passed first, and not by its name as well, they are
        `None` and the value.

    Example:

        >>> from gyoza.modelling.functions.arguments import take_first
        >>> take_first(np.tanh, None, callable)
        (None, <ufunc 'tanh'>)
        >>> take_first([3], np.tanh, callable)
        ([3], <ufunc 'tanh'>)
    """
    return (None, first) if value is default and is_value(first) else (first, value)
