"""Data that are discrete, which a density cannot fit."""

import warnings
from typing import Any

import numpy as np
from keras import ops

from gyoza.backend import flatten_layers
from gyoza.modelling.flow_layers.dequantization import UniformDequantization
from gyoza.typing import Array

__all__ = ["find_discrete", "warn_if_discrete"]

_REMEDY = UniformDequantization  # from which that with a flow is derived
_LEAST_ROWS = 100
_MOST_ROWS = 2000


def find_discrete(x: Array) -> Array:
    """Finds dimensions whose values repeat, as values drawn from a density do not.

    Args:
        x: Data, `[instances, ...]`. At most 2000 instances, evenly spread, are looked at.

    Returns:
        Indices of dimensions, in row-major order, that have more than one value, and each of them
        in four instances or more, on average. None where there are less than 100 instances.

    Example:

        >>> from gyoza.modelling.flow_layers.discrete import find_discrete
        >>> x = np.random.default_rng(0).normal(size=[1000, 3])
        >>> x[:, 1] = x[:, 1].round(1)
        >>> find_discrete(x)
        array([1])
    """
    x = x[:: -(-len(x) // _MOST_ROWS) or 1]
    if len(x) < _LEAST_ROWS:
        return np.zeros(0, "int64")
    x = np.sort(np.reshape(x, (len(x), -1)), axis=0)
    value_counts = 1 + np.sum(x[1:] > x[:-1], axis=0)
    return np.flatnonzero((value_counts > 1) & (4 * value_counts <= len(x)))


def warn_if_discrete(model: Any, x: Any) -> None:
    """Warns, once per model, of data that are discrete where no layer makes them continuous.

    Args:
        model: The flow model that is to be fitted to the data.
        x: The data, as `fit` takes them. Only arrays and tensors of floating-point numbers are
            looked at.
    """
    x = x.get("inputs") if isinstance(x, dict) else x
    is_array = isinstance(x, np.ndarray) or ops.is_tensor(x)
    if not is_array or getattr(model, "_is_known_to_be_discrete", False):
        return
    found = find_discrete(ops.convert_to_numpy(x))
    if not len(found) or any(isinstance(layer, _REMEDY) for layer in flatten_layers(model)):
        return
    model._is_known_to_be_discrete = True
    shown = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
    warnings.warn(
        f"Model '{model.name}' is given data with few values, each of which occurs several times: "
        f"in {len(found)} dimensions, those of indices {shown}. A density can fit these infinitely "
        "well, by spikes that mean nothing. If they are integers, let the flow begin with a "
        "`UniformDequantization` or `VariationalDequantization`; if they were rounded, add noise "
        "in the range of rounding.",
        stacklevel=3,
    )
