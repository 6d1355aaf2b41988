"""Arguments that are passed on to what may not take them."""

from typing import Any

__all__ = ["given"]


def given(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not `None`; what is called may not know the others."""
    return {name: value for name, value in arguments.items() if value is not None}
