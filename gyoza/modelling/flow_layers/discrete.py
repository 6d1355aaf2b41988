"""Data that a density cannot fit: discrete ones, in a plane, or scaled by a few outliers."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from gyoza.backend import flatten_layers
from gyoza.modelling.flow_layers.dequantization import ArgmaxDequantization, UniformDequantization
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.tables import describe_columns
from gyoza.typing import Array, Data

__all__ = [
    "find_discrete",
    "find_degenerate",
    "find_stretched",
    "describe_stretch",
    "makes_continuous",
    "warn_if_discrete",
    "warn_if_degenerate",
    "warn_if_stretched",
]

_REMEDIES = (UniformDequantization, ArgmaxDequantization)  # the one with a flow is derived
_LEAST_ROWS = 100
# The ratio of the standard deviation to the distance between quartiles from which few values
# determine the former. It is 0.7 for normal data, 6 to 12 for those of a `Funnel`, and 16 for
# log-normal data of log-scale 2.
_LARGE = 20.0
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


def find_degenerate(x: Array) -> tuple[Array, Array]:
    """Finds columns that are constant, and those that repeat another one.

    Args:
        x: Data, `[instances, columns]`. At most 2000 instances, evenly spread, are looked at.

    Returns:
        The indices of columns with one value only, and `[pairs, 2]` of those whose values are the
        same up to scale and shift, in which no column is second twice. None where there are less
        than 20 instances, or more than 1000 columns.

    Example:

        >>> from gyoza.modelling.flow_layers.discrete import find_degenerate
        >>> x = np.random.default_rng(0).normal(size=[100, 3])
        >>> x[:, 1] = 5.0 - 2.0 * x[:, 2]
        >>> find_degenerate(x)
        (array([], dtype=int64), array([[1, 2]]))
    """
    x = np.asarray(x[:: -(-len(x) // _MOST_ROWS) or 1], "float64")
    is_constant = np.all(x == x[:1], axis=0)
    if len(x) < 20 or x.shape[1] > 1000:
        return np.zeros(0, "int64"), np.zeros([0, 2], "int64")
    x = x - np.mean(x, axis=0)
    x = x / np.where(is_constant, 1.0, np.sqrt(np.sum(x**2, axis=0)))
    # As far as float32 tells them apart.
    is_same = np.triu(np.abs(x.T @ x) > 1.0 - 1e-12, k=1) & ~is_constant
    pairs = [(int(np.argmax(is_same[:, k])), k) for k in np.flatnonzero(is_same.any(axis=0))]
    return np.flatnonzero(is_constant), np.array(pairs, "int64").reshape(-1, 2)


def find_stretched(x: Array) -> Array:
    """Finds columns whose standard deviation tells of a few values alone.

    Args:
        x: Data, `[instances, columns]`.

    Returns:
        The indices of columns whose standard deviation is more than 20 times the distance between
        their quartiles. None where there are less than 100 instances, nor where half of the values
        are the same.

    Example:

        >>> from gyoza.modelling.flow_layers.discrete import find_stretched
        >>> x = np.random.default_rng(0).normal(size=[1000, 3])
        >>> x[17, 1] = 1e4
        >>> find_stretched(x)
        array([1])
    """
    if len(x) < _LEAST_ROWS:
        return np.zeros(0, "int64")
    rows = np.random.default_rng(0).permutation(len(x))[:_MOST_ROWS]
    first, last = np.quantile(x[rows], [0.25, 0.75], axis=0)
    spread = np.std(x, axis=0, dtype="float64")
    return np.flatnonzero((last > first) & (spread > _LARGE * (last - first)))


def makes_continuous(model: keras.Model) -> bool:
    """Returns whether a model has a layer that makes discrete data continuous."""
    return any(isinstance(layer, _REMEDIES) for layer in flatten_layers(model))


def warn_if_degenerate(model: keras.Model, x: Array) -> None:
    """Warns, once per model, of columns that make every density of the data infinite.

    Args:
        model: The flow model that is to be fitted to the data.
        x: The data, `[instances, columns]`. Images are not looked at.
    """
    if x.ndim != 2 or getattr(model, "_is_known_to_be_degenerate", False):
        return
    constant, pairs = find_degenerate(x)
    if not len(constant) + len(pairs):
        return
    for layer in flatten_layers(model):
        layer._is_known_to_be_degenerate = True  # models within the model see the same columns
    names = getattr(model, "_column_names", None)
    found: list[str] = []
    if len(constant):
        subject, verb = ("column", "has") if len(constant) == 1 else ("columns", "have")
        found.append(f"{subject} {describe_columns(constant, names)} {verb} one value only")
    found += [
        f"column {describe_columns(pair[1:], names)} repeats column "
        f"{describe_columns(pair[:1], names)}, up to scale and shift"
        for pair in pairs[:5]
    ]
    warn(
        f"Model '{model.name}' is given data that are degenerate: {'; '.join(found)}. Their "
        "likelihood grows without end as the density becomes narrower there, and other points have "
        "none. Leave these columns out."
    )


def warn_if_stretched(model: keras.Model, x: Array, names: Sequence[str] | None) -> None:
    """Warns, once per model, of columns that outliers would scale so that all others are alike.

    Args:
        model: The flow model, whose next layer divides by the standard deviation.
        x: What that layer is given, `[instances, columns]`. Images are not looked at.
        names: The names of the columns, if they have some.
    """
    if x.ndim != 2 or getattr(model, "_is_known_to_be_stretched", False):
        return
    found = find_stretched(x)
    if not len(found):
        return
    model._is_known_to_be_stretched = True
    subject = "columns" if len(found) > 1 else "column"
    warn(
        f"Model '{model.name}' scales data by standard deviations which a few values determine, in "
        f"{subject} {describe_columns(found, names)}: {describe_stretch(x[:, found[0]])}"
    )


def describe_stretch(x: Array) -> str:
    """Returns what it means that a few values determine a column's standard deviation."""
    extreme = x[np.argmax(np.abs(x - np.median(x)))]
    low, high = np.quantile(x, [0.25, 0.75])
    return (
        "all others then lie so close together that a flow hardly tells them apart, and none of "
        "them looks unusual. Leave such rows out, or take logarithms. Received: the value "
        f"{extreme:.6g}, where half of the values are between {low:.3g} and {high:.3g}"
    )


def warn_if_discrete(model: keras.Model, x: Data, is_mapped: bool = False) -> None:
    """Warns, once per model, of data that are discrete where no layer makes them continuous.

    Args:
        model: The flow model that is to be fitted to the data.
        x: The data, as `fit` takes them. Only arrays and tensors of floating-point numbers are
            looked at.
        is_mapped: Whether layers that make data continuous have been run on them.
    """
    x = x.get("inputs") if isinstance(x, dict) else x
    is_array = isinstance(x, np.ndarray) or ops.is_tensor(x)
    if not is_array or getattr(model, "_is_known_to_be_discrete", False):
        return
    found = find_discrete(ops.convert_to_numpy(x))
    if not len(found) or (makes_continuous(model) and not is_mapped):
        return
    model._is_known_to_be_discrete = True
    names = getattr(model, "_column_names", None)
    warn(
        f"Model '{model.name}' is given data with few values, each of which occurs several times, "
        f"in {'dimensions' if len(found) > 1 else 'dimension'} {describe_columns(found, names)}. "
        "A density can fit these infinitely well, by spikes "
        "that mean nothing. If they are integers, let the flow begin with a "
        "`UniformDequantization` or `VariationalDequantization`, within `Columns` if they are some "
        "columns of a table; if they were rounded, add noise in the range of rounding."
    )
