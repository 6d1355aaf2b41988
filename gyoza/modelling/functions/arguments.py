"""Arguments of functions and constructors."""

from typing import Any

import keras

__all__ = ["given", "make_parts"]


def given(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not `None`; what is called may not know the others."""
    return {name: value for name, value in arguments.items() if value is not None}


def make_parts(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns a configuration in which some arguments are objects, not configurations of these.

    Args:
        config: The configuration. Arguments that it lacks, or holds as objects, are left alone.
        *names: The names of the arguments.
    """
    parts = {name: config[name] for name in names if isinstance(config.get(name), dict)}
    return {**config, **{n: keras.saving.deserialize_keras_object(p) for n, p in parts.items()}}
