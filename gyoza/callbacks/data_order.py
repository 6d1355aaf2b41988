"""Whether `fit` can take data in the same order once more, and what tells them from others."""

import warnings
import zlib
from typing import Any

import keras
import numpy as np

from gyoza.backend import shuffles_alike
from gyoza.typing import Data

__all__ = ["check_order", "describe_data", "list_sources", "skip_epochs"]

_INFINITE = -1  # as `tf.data` has it


def list_sources(arguments: dict[str, Any]) -> list[Data]:
    """Returns the data, of training and validation, whose states are to be kept."""
    given = [arguments["x"], *keras.tree.flatten(arguments.get("validation_data"))]
    sources = {id(data): data for data in given if _has_state(data)}
    return list(sources.values())


def check_order(arguments: dict[str, Any]) -> None:
    """Raises an error if the order of data cannot be established once more.

    Args:
        arguments: Arguments of `fit`, by name.

    Raises:
        ValueError: If the data would start with other batches in another process, or go on from one
            epoch to the next.
    """
    for data in keras.tree.flatten(arguments.get("validation_data")):
        if isinstance(data, keras.utils.PyDataset):
            _check_source(data)
    x: Data = arguments["x"]
    steps = arguments.get("steps_per_epoch")
    is_infinite = _is_stream(x) and int(x.cardinality()) == _INFINITE
    if is_infinite:
        return
    if steps:
        raise ValueError(
            "`steps_per_epoch` should be left out where training is to be resumed, unless the data "
            "are a `tf.data.Dataset` without end: epochs would start in the middle of the data. "
            f"Received: steps_per_epoch={steps}"
        )
    if isinstance(x, keras.utils.PyDataset):
        _check_source(x)
    elif _is_stream(x):
        if _sum(_take_first(x)) != _sum(_take_first(x)):
            raise ValueError(
                "`x` should yield the same batches in each epoch where training is to be resumed. "
                "Pass arrays, which `fit` shuffles, a `keras.utils.PyDataset` with `get_state` and "
                "`set_state`, or shuffle with `reshuffle_each_iteration=False`. Received: a data "
                "set whose first batch differed the second time"
            )
    elif _are_arrays(x):
        if arguments.get("shuffle", True) and not hasattr(x, "arrays") and not shuffles_alike():
            raise ValueError(
                "Keras' order of these arrays can be drawn once more only after a call of "
                "`keras.utils.set_random_seed`, or, with NumPy arrays of one of gyoza's flows, "
                "without `validation_split`. Received: shuffle=True without a seed"
            )
    elif not _is_loader(x):
        raise ValueError(
            "`x` should be arrays, a `keras.utils.PyDataset` or a `tf.data.Dataset` where training "
            f"is to be resumed. Received: x={x}"
        )


def describe_data(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns what is equal for equal data, and most likely differs for others.

    Args:
        arguments: Arguments of `fit`, by name.

    Returns:
        Plain values by what they are.
    """
    x: Data = arguments["x"]
    if isinstance(x, keras.utils.PyDataset):
        return {"class of the data": type(x).__name__, "number of batches": x.num_batches}
    if _is_loader(x):
        return {"class of the data": type(x).__name__, "number of batches": len(x)}
    if _is_stream(x):
        values, batch_size = _take_first(x), None
    else:
        names = ("x", "y", "sample_weight")
        arrays = getattr(x, "arrays", None) or [arguments.get(name) for name in names]
        values = [value for value in keras.tree.flatten(arrays) if value is not None]
        batch_size = getattr(x, "batch_size", None) or arguments.get("batch_size") or 32
    kinds = [f"{keras.backend.standardize_dtype(v.dtype)} {[*v.shape]}" for v in values]
    return {"shapes of the data": kinds, "batch size": batch_size, "checksum of data": _sum(values)}


def skip_epochs(x: Data, step_count: int) -> Data:
    """Returns data without what earlier epochs have taken from them, if they have no end."""
    if _is_stream(x) and int(x.cardinality()) == _INFINITE:
        return x.skip(step_count)
    return x


def _has_state(data: Any) -> bool:
    return hasattr(data, "get_state") and hasattr(data, "set_state")


def _is_stream(x: Data) -> bool:
    """Returns whether data are a `tf.data.Dataset`."""
    return hasattr(x, "element_spec") and hasattr(x, "cardinality")


def _is_loader(x: Data) -> bool:
    """Returns whether data are PyTorch's, in the order of its global generator."""
    is_loader = keras.backend.backend() == "torch" and hasattr(x, "batch_sampler")
    return is_loader and x.generator is None and x.num_workers == 0


def _are_arrays(x: Data) -> bool:
    return hasattr(x, "arrays") or all(hasattr(v, "shape") for v in keras.tree.flatten(x))


def _check_source(source: keras.utils.PyDataset) -> None:
    """Raises an error if a source changes between epochs, and cannot be set to where it was."""
    hooks = ("on_epoch_begin", "on_epoch_end")
    changes = any(
        getattr(type(source), hook) is not getattr(keras.utils.PyDataset, hook) for hook in hooks
    )
    if changes and not _has_state(source):
        raise ValueError(
            "A data set that changes between epochs should have `get_state`, which returns what it "
            "depends on, and `set_state` where training is to be resumed. "
            f"Received: a {type(source).__name__}"
        )
    if source.workers > 1 or source.use_multiprocessing:
        warnings.warn(
            "With several workers, Keras may pass batches of one epoch on to the next, so that "
            "a resumed training may differ from one that was not interrupted. "
            f"Received: workers={source.workers}",
            stacklevel=2,
        )


def _take_first(x: Data) -> list[np.ndarray]:
    """Returns the parts of the first batch."""
    return [np.asarray(part) for part in keras.tree.flatten(next(iter(x))) if part is not None]


def _sum(values: list[Any]) -> int:
    """Returns a checksum of the first, middle and last rows of arrays."""
    checksum = 0
    for value in values:
        for row in (0, len(value) // 2, len(value) - 1):
            part = keras.ops.convert_to_numpy(value[row])
            checksum = zlib.crc32(np.ascontiguousarray(part).tobytes(), checksum)
    return checksum
