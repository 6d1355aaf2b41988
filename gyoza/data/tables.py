"""Tables whose columns are of several kinds, as a flow takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gyoza.data.checks import (
    check_complete,
    is_text,
    looks_like_numbers,
    to_floats,
    warn_of_identifier,
    warn_of_spike,
)
from gyoza.extras import import_extra
from gyoza.modelling.flow_layers import (
    Affine,
    ArgmaxDequantization,
    Columns,
    FlowLayer,
    Inverse,
    Logit,
    Softplus,
    Standardize,
    UniformDequantization,
)
from gyoza.modelling.flow_layers.discrete import describe_stretch, find_stretched
from gyoza.modelling.functions.checks import check_choice
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.tables import is_frame
from gyoza.typing import Frame, Tensor

__all__ = ["Table", "ColumnKind"]

_CATEGORICAL = ("categorical", "one-hot")
# Their center is the median.
_POSITIVE = ("positive", "count")
_KINDS = ("real", "positive", "bounded", "integer", "count", *_CATEGORICAL)
# Integers that range further are as good as real numbers.
_MOST_INTEGERS = 1000
# How far, relative to an interval, its ends are drawn inwards, so that they can be values.
_ALPHA = 1e-3


@dataclasses.dataclass(frozen=True)
class ColumnKind:
    """What a column of a table holds.

    Attributes:
        kind: "real", "positive", "bounded", "integer", "count", "categorical" or "one-hot".
        center: The median of positive numbers and counts, and the mean of others.
        scale: The standard deviation.
        bounds: The smallest and the largest value, or `None` where there are no bounds.
        categories: The categories in order; none of numbers.
    """

    kind: str
    center: float = 0.0
    scale: float = 1.0
    bounds: tuple[float, float] | None = None
    categories: tuple[Any, ...] = ()

    def make_layers(self) -> list[FlowLayer]:
        """Returns the layers that map the column to all real numbers."""
        if self.kind == "one-hot":
            return [ArgmaxDequantization()]
        if self.kind == "categorical":
            return [UniformDequantization(len(self.categories)), Logit()]
        if self.bounds is not None and self.is_whole:
            low, high = self.bounds
            return [Affine(shift=-low), UniformDequantization(round(high - low) + 1), Logit()]
        if self.bounds is not None:
            return [Logit(low=self.bounds[0], high=self.bounds[1], alpha=_ALPHA)]
        layers: list[FlowLayer] = [UniformDequantization(None)] if self.is_whole else []
        if self.kind in _POSITIVE:
            # A count is mapped to the middle between itself and the next one, on average.
            center = self.center + 0.5 * self.is_whole
            return [*layers, Affine(scale=1.0 / center), Inverse(Softplus())]
        return [*layers, Standardize(location=self.center, scale=self.scale)]

    @property
    def width(self) -> int:
        """How many numbers a value is encoded by: 1, or one for each category."""
        return len(self.categories) if self.kind == "one-hot" else 1

    @property
    def is_whole(self) -> bool:
        """Whether the column holds whole numbers."""
        return self.kind in ("integer", "count")

    def __str__(self) -> str:
        """Returns a description in a few words."""
        if self.categories:
            return f"{self.kind}, one of {len(self.categories)}"
        if self.bounds is not None:
            return f"{self.kind} from {self.bounds[0]:g} to {self.bounds[1]:g}"
        return f"{self.kind}, {'median' if self.kind in _POSITIVE else 'mean'} {self.center:g}"


class Table:
    r"""Reads a data frame, and proposes how a flow is given its columns.

    For each column it finds one of the first six kinds, which decides about the layers that
    :meth:`make_layer` maps it to all real numbers by:

    ==============  ==========================================  ==================================
    kind            values                                      layers
    ==============  ==========================================  ==================================
    `real`          any numbers                                 `Standardize`
    `positive`      numbers above 0                             `Affine`, `Inverse(Softplus())`
    `bounded`       numbers in an interval, as shares are       `Logit`
    `integer`       whole numbers, at most 1000 apart           `UniformDequantization`, and those
                                                                of `real` or `bounded`
    `count`         the same, from 0 on                         `UniformDequantization`, and those
                                                                of `positive`
    `categorical`   strings, Boolean values, or a categorical   `UniformDequantization`, `Logit`
                    dtype
    `one-hot`       the same, if `kinds` say so                 `ArgmaxDequantization`
    ==============  ==========================================  ==================================

    Numbers count as bounded if they fill the interval from 0 to 1, or `bounds` are given. A warning
    names columns that look like identifiers, with each whole number of a range once. The
    layers have log-determinants, so that the likelihood is that of the table as it is. Where there
    are integers or categories, it is a lower bound; see
    :class:`~gyoza.modelling.flow_layers.UniformDequantization`.

    A category is encoded by its index: the layers map each category to an interval of its own, in
    one dimension, whose probability a flow of splines can learn. With the kind `one-hot`, it has
    one dimension for each category instead, and none is nearer to another one. Choose it where
    latents are to be compared or edited, and neighbours among categories would mislead. Where
    likelihoods count, indices do better: in trials with 3 and 12 categories, by 0.1 to 0.5 nats a
    row after the same training.

    Args:
        frame: A data frame of pandas, with at least two rows.
        kinds: The kinds of columns for which you know better, by name.
        bounds: The smallest and the largest value of columns that have bounds, by name.

    Raises:
        TypeError: If `frame` is not a data frame, or a column holds what is neither numbers nor
            categories, such as dates.
        ValueError: If a column has one value only or missing values, does not fit its kind, or has
            so many categories that it looks like an identifier. The message names all such columns.

    Attributes:
        columns: The :class:`ColumnKind` of each column, by name.

    Example:

        >>> import pandas
        >>> frame = pandas.DataFrame({
        ...     "price": [210.5, 99.0, 350.0, 120.0],
        ...     "rooms": [3, 1, 4, 2],
        ...     "city": ["Bonn", "Aachen", "Bonn", "Bonn"],
        ... })
        >>> table = gyoza.data.Table(frame)
        >>> table
        Table of 3 columns
          price: positive, median 165.25
          rooms: count, median 2.5
          city: categorical, one of 2
        >>> x = table.encode(frame)
        >>> x[0]
        array([210.5,   3. ,   1. ])
        >>> table.decode(x).equals(frame)
        True
        >>> from gyoza.modelling import flow_layers
        >>> model = flow_layers.FlowModel([table.make_layer(), flow_layers.TriangularAffine()])
        >>> model.log_prob(x).shape == (4,)
        True
    """

    def __init__(
        self,
        frame: Any,
        kinds: Mapping[str, str] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        if not is_frame(frame):
            raise TypeError(f"`frame` should be a data frame. Received: frame={frame!r}")
        kinds, bounds = dict(kinds or {}), dict(bounds or {})
        unknown = (kinds.keys() | bounds.keys()) - set(frame.columns)
        if unknown:
            raise ValueError(
                f"`kinds` and `bounds` should name columns of {list(frame.columns)}. "
                f"Received: {sorted(unknown)}"
            )
        self.columns = _for_each(
            frame.columns,
            lambda name: _read(name, frame[name], kinds.get(name), bounds.get(name)),
        )

    def make_layer(self) -> Columns:
        """Returns the layer that a flow of this table starts with. It has names, as strings."""
        layers = {
            tuple(self._names_of(name)): kind.make_layers() for name, kind in self.columns.items()
        }
        return Columns(layers, names=[name for group in layers for name in group])

    def _names_of(self, name: str) -> list[str]:
        """Returns the names of the numbers by which a column is encoded."""
        kind = self.columns[name]
        if kind.width == 1:
            return [str(name)]
        return [f"{name}={category}" for category in kind.categories]

    def encode(self, frame: Frame) -> np.ndarray:
        """Returns the rows of a data frame as numbers.

        Categories are encoded by their indices, or, in columns of kind "one-hot", by one number for
        each category, which is 1 for that of the row and 0 for others.

        Args:
            frame: A data frame that has the columns of the table, among others, in any order.

        Returns:
            The array, `[rows, columns]`, with several columns for one of kind "one-hot".

        Raises:
            ValueError: If columns are missing, or hold values that are missing, or not of their
                kind, or unknown categories. The message names all of them.
        """
        blocks = []
        for kind, x in self._encode_columns(frame):
            blocks.append(_to_codes(kind, x) if kind.width > 1 else x)
        return np.concatenate(blocks, axis=1)

    def _encode_columns(self, frame: Frame) -> Iterable[tuple[ColumnKind, np.ndarray]]:
        encoded = _for_each(
            self.columns, lambda name: _encode(name, self.columns[name], _get(frame, name))
        )
        return [(self.columns[name], x[:, None]) for name, x in encoded.items()]

    def decode(self, x: Tensor) -> Any:
        """Returns encoded rows, such as samples of a flow, as a data frame of pandas.

        Args:
            x: Numbers, as those of :meth:`encode`.

        Returns:
            A data frame in which codes of categories are categories, integers are rounded, and
            bounded numbers are within their bounds.
        """
        x = to_numpy(x)
        widths = [kind.width for kind in self.columns.values()]
        if x.ndim != 2 or x.shape[1] != sum(widths):
            raise ValueError(
                f"`x` should have shape [rows, {sum(widths)}]. Received: x of shape {x.shape}"
            )
        blocks = np.split(x, np.cumsum(widths)[:-1], axis=1)
        columns = {
            name: _decode(kind, block)
            for (name, kind), block in zip(self.columns.items(), blocks, strict=True)
        }
        return import_extra("pandas", "tables").DataFrame(columns)

    def encode_context(self, frame: Frame) -> np.ndarray:
        """Returns the rows of a data frame as a context: standardised numbers and one-hot codes.

        In a conditional flow, what the context holds needs no density. Positive numbers are
        standardised after taking the logarithm relative to their median.

        Args:
            frame: See :meth:`encode`.

        Returns:
            The array, `[rows, context size]`, in float32: one number for each column of numbers,
            and one for each category.
        """
        blocks = []
        for kind, x in self._encode_columns(frame):
            if kind.categories:
                blocks.append(_to_codes(kind, x))
            elif kind.kind == "positive":
                blocks.append(np.log(x / kind.center))
            else:
                blocks.append((x - kind.center) / kind.scale)
        return np.concatenate(blocks, axis=1).astype("float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` makes an equal table from; it can be written as JSON."""
        # Pairs, since the keys of objects in JSON are strings, and names may be integers.
        return {
            "columns": [[name, dataclasses.asdict(kind)] for name, kind in self.columns.items()]
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Table:
        """Makes an equal table, without the data frame.

        Args:
            config: What `get_config` returned.
        """
        table = cls.__new__(cls)
        table.columns = {}
        columns = config["columns"]  # which older configurations have as a dictionary
        for name, column in columns.items() if isinstance(columns, Mapping) else columns:
            bounds, categories = column["bounds"], tuple(column["categories"])
            bounds = None if bounds is None else tuple(bounds)
            kept = {**column, "bounds": bounds, "categories": categories}
            table.columns[name] = ColumnKind(**kept)
        return table

    def __repr__(self) -> str:
        lines = [f"  {name}: {kind}" for name, kind in self.columns.items()]
        return "\n".join([f"Table of {len(lines)} columns", *lines])


def _for_each(names: Iterable[str], function: Callable[[str], Any]) -> dict[str, Any]:
    """Returns what a function returns for each column, or raises its errors about all of them."""
    results, errors = {}, []
    for name in names:
        try:
            results[name] = function(name)
        except (TypeError, ValueError) as error:
            errors.append(error)
    if errors:
        raise type(errors[0])("\n".join(dict.fromkeys(map(str, errors)))) from errors[0]
    return results


def _get(frame: Frame, name: str) -> Any:
    if not is_frame(frame) or name not in frame.columns:
        received = f"the columns {list(frame.columns)}" if is_frame(frame) else type(frame)
        raise ValueError(
            f"`frame` should be a data frame with the column {name!r}. Received: {received}"
        )
    return frame[name]


def _read(
    name: str, column: Any, kind: str | None, bounds: tuple[float, float] | None
) -> ColumnKind:
    """Finds out what a column holds."""
    if kind is not None:
        check_choice("kinds", kind, _KINDS)
    values = check_complete(name, column)
    if kind in _CATEGORICAL or (kind is None and bounds is None and is_text(values)):
        return _read_categories(name, column, values, kind)
    x = to_floats(name, values)
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise ValueError(
            f"Column {name!r} should have several values, or be left out. Received: {low} only"
        )
    is_whole = bool(np.all(x == np.floor(x)))
    if kind is None:
        if is_whole and high - low <= _MOST_INTEGERS:
            kind = "integer" if low < 0 or bounds is not None else "count"
        elif bounds is not None or (low >= 0.0 and low < 0.05 and 0.95 < high <= 1.0):
            kind = "bounded"
        else:
            kind = "positive" if low > 0.0 else "real"
        if bounds is None:
            warn_of_identifier(name, x, kind)
    if kind == "bounded" and bounds is None:
        bounds = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    center = np.median(x) if kind in _POSITIVE else np.mean(x)
    bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    found = ColumnKind(kind, float(center), float(x.std()), bounds)
    if not found.is_whole:
        warn_of_spike(name, x)
    if len(find_stretched(x[:, None])):
        warn(f"Column {name!r} is scaled by what a few values determine: {describe_stretch(x)}")
    _encode(name, found, column)  # checks that it fits
    return found


def _read_categories(name: str, column: Any, values: np.ndarray, kind: str | None) -> ColumnKind:
    given = getattr(column.dtype, "categories", None)
    categories = sorted(set(values.tolist())) if given is None else list(given)
    if len(categories) < 2:
        raise ValueError(
            f"Column {name!r} should have several values, or be left out. "
            f"Received: {categories[0]!r} only"
        )
    if kind is None and 2 * len(categories) > max(len(values), 20):
        advice = (
            f"`pd.to_numeric(frame[{name!r}])` makes numbers of it, once signs such as '$' are gone"
            if looks_like_numbers(values)
            else f'leave it out, or pass `kinds={{{name!r}: "categorical"}}`'
        )
        raise ValueError(
            f"Column {name!r} should have few categories: {advice}. Received: {len(categories)} "
            f"categories in {len(values)} rows, such as {values[0]!r}"
        )
    return ColumnKind(kind or "categorical", categories=tuple(categories))


def _encode(name: str, kind: ColumnKind, column: Any) -> np.ndarray:
    """Returns a column as numbers, of categories the indices, checked."""
    values = check_complete(name, column)
    if kind.categories:
        indices = {category: index for index, category in enumerate(kind.categories)}
        unknown = {value for value in values.tolist() if value not in indices}
        if unknown:
            raise ValueError(
                f"Column {name!r} should hold categories among {list(kind.categories)}. "
                f"Received: {sorted(map(str, unknown))[:5]}"
            )
        return np.array([indices[value] for value in values.tolist()], "float64")
    x = to_floats(name, values)
    is_wrong, expected = ~np.isfinite(x), "finite numbers"
    if kind.is_whole:
        is_wrong, expected = is_wrong | (x != np.floor(x)), "whole numbers"
    if kind.kind == "count":
        is_wrong, expected = is_wrong | (x < 0), "whole numbers of at least 0"
    if kind.kind == "positive":
        is_wrong, expected = is_wrong | (x <= 0), "positive, finite numbers"
    if kind.bounds is not None:
        low, high = kind.bounds
        is_wrong, expected = is_wrong | (x < low) | (x > high), f"numbers from {low:g} to {high:g}"
    if np.any(is_wrong):
        raise ValueError(
            f"Column {name!r} should hold {expected}. Received: {x[is_wrong][0]:g} in row "
            f"{np.flatnonzero(is_wrong)[0]} (counted from 0)"
        )
    return x


def _to_codes(kind: ColumnKind, indices: np.ndarray) -> np.ndarray:
    """Returns indices `[rows, 1]` as one-hot codes, `[rows, categories]`."""
    return np.equal(indices, np.arange(len(kind.categories))).astype("float64")


def _decode(kind: ColumnKind, x: np.ndarray) -> np.ndarray:
    """Returns the numbers of a column, `[rows, width]`, as values of it."""
    x = np.argmax(x, axis=1) if kind.width > 1 else x[:, 0]
    if kind.categories:
        last = len(kind.categories) - 1
        return np.array(kind.categories)[np.clip(np.rint(x), 0, last).astype(int)]
    if kind.bounds is not None:
        x = np.clip(x, *kind.bounds)
    return np.rint(x).astype("int64") if kind.is_whole else x
