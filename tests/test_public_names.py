"""The public names are those that `public_names.txt` lists.

Where they are meant to change, `python tests/test_public_names.py` writes the list anew.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "public_names.txt"
INDEX = Path(__file__).parents[1] / "docs" / "api" / "index.rst"


def list_public_names() -> Iterator[str]:
    """Lists what documented modules offer, with parameters, and the members of their classes."""
    modules = re.findall(r"^ +(gyoza[\w.]*)$", INDEX.read_text("utf-8"), re.MULTILINE)
    public = {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module in modules
        for name in importlib.import_module(module).__all__
    }
    classes = [value for value in public.values() if inspect.isclass(value)]
    for name, value in public.items():
        yield name + describe_parameters(value)
        if inspect.isclass(value):
            bases = [base for base in value.__mro__[1:] if base in classes]
            inherited = {member for base in bases for member in list_members(base)}
            yield from (
                f"    {member}" for member in list_members(value) if member not in inherited
            )


def list_members(cls: type) -> list[str]:
    """Lists the public members of a class that gyoza defines, wherever."""
    members = []
    for name in sorted(dir(cls)):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        is_public = not name.startswith("_") or re.fullmatch("_[^_].*_", name)
        if is_public and owner.__module__.split(".")[0] == "gyoza":
            members.append(name + describe_parameters(getattr(cls, name)))
    return members


def describe_parameters(value: Any) -> str:
    """Returns the parameters of a function or constructor, without their types."""
    if not (inspect.isclass(value) or inspect.isfunction(value) or inspect.ismethod(value)):
        return ""
    signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return re.sub("<(function .*) at .*?>", r"<\1>", str(inspect.Signature(parameters)))


def test_public_names_change_only_where_they_are_meant_to():
    current = list(list_public_names())
    golden = GOLDEN.read_text("utf-8").splitlines()
    missing = [line for line in golden if line not in current]
    new = [line for line in current if line not in golden]
    assert current == golden, (
        f"No longer public: {missing}. New: {new}. If this is meant to be, tell of it in "
        "CHANGELOG.md and run `python tests/test_public_names.py`."
    )


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in list_public_names()), "utf-8")
