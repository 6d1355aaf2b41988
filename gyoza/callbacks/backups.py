"""Files of backups: written whole or not at all, and read without running what they contain."""

import contextlib
import json
import pathlib
import zlib
from typing import Any

import numpy as np

from gyoza.modelling.training import get_temporary, write_atomically

__all__ = ["write_backup", "read_backup", "remove_backup", "is_plain", "to_fingerprint"]

_TEXT = "state"


def write_backup(path: pathlib.Path, state: Any) -> None:
    """Writes a state atomically.

    A kill at any moment, or a full disk, leaves either the old file or the new one.

    Args:
        path: The file.
        state: Numbers, strings, arrays and `None`, in lists, tuples and dictionaries.

    Raises:
        OSError: If the file cannot be written. What was there before is unharmed.
    """
    text, arrays = _pack(state)
    named: dict[str, Any] = {f"array_{k}": _to_bytes(array) for k, array in enumerate(arrays)}
    named[_TEXT] = np.frombuffer(text.encode(), "uint8")
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **named)


def read_backup(path: pathlib.Path) -> Any:
    """Returns what `write_backup` wrote, or `None` if there is no file.

    Raises:
        ValueError: If the file is damaged, or was written by something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            named = dict(file)
        text = json.loads(named[_TEXT].tobytes().decode())
        return _decode(text, [named[f"array_{k}"] for k in range(len(named) - 1)])
    except FileNotFoundError:
        return None
    except Exception as error:  # of zip files, arrays, texts and what they should contain
        raise ValueError(
            "The file of a backup should be unchanged; remove it to start again. "
            f"Received: {path}, which could not be read: {type(error).__name__}: {error}"
        ) from error


def remove_backup(path: pathlib.Path) -> None:
    """Removes the file, and its folder if there is nothing else in it."""
    path.unlink(missing_ok=True)
    get_temporary(path).unlink(missing_ok=True)  # of a process that was killed
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def is_plain(value: Any) -> bool:
    """Returns whether a value can be part of a state."""
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    if isinstance(value, dict):
        return type(value) is dict and all(map(is_plain, [*value, *value.values()]))
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str)


def to_fingerprint(value: Any) -> tuple[str, list[int]]:
    """Returns what differs, but for a chance of 2^-32, if two parts of states do."""
    text, arrays = _pack(value)
    return text, [zlib.crc32(_to_bytes(array).data) for array in arrays]


def _pack(state: Any) -> tuple[str, list[np.ndarray]]:
    """Returns a state as a JSON text and the arrays that this refers to by number."""
    arrays: list[np.ndarray] = []
    return json.dumps(_encode(state, arrays)), arrays


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        # Only names say which type of another package, such as bfloat16, it is.
        dtype = value.dtype.name if value.dtype.isbuiltin == 2 else value.dtype.str
        return {kind: len(arrays) - 1, "dtype": dtype, "shape": value.shape}
    if isinstance(value, list):
        return [_encode(part, arrays) for part in value]
    if isinstance(value, tuple):
        return {"tuple": _encode(list(value), arrays)}
    if isinstance(value, dict):
        return {"dict": [_encode(list(item), arrays) for item in value.items()]}
    return value


def _decode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(value["tuple"], arrays))
    if "dict" in value:
        return dict(_decode(value["dict"], arrays))
    array = arrays[value["array"] if "array" in value else value["scalar"]]
    array = array.view(value["dtype"]).reshape(value["shape"])
    return array if "array" in value else array[()]


def _to_bytes(array: np.ndarray) -> np.ndarray:
    """Returns the memory of an array, since NumPy's files know no types of other packages."""
    return np.ascontiguousarray(array).reshape(-1).view("uint8")
