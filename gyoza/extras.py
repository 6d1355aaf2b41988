"""Importing what only parts of the library need."""

import importlib
from types import ModuleType

__all__ = ["import_extra"]

_PACKAGES = {"sklearn": "scikit-learn"}


def import_extra(name: str, extra: str) -> ModuleType:
    """Imports a module of a package that an optional extra installs.

    Args:
        name: The name of the module.
        extra: The name of the extra.

    Returns:
        The module.

    Raises:
        ImportError: If it is missing. The message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(
            f"This needs {_PACKAGES.get(package, package)}. "
            f'Install it with `pip install "gyoza[{extra}]"`.'
        ) from error
