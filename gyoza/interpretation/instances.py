"""Hidden representations and their labels, split into training and validation."""

import dataclasses
from typing import Any

import keras
import numpy as np

from gyoza.interpretation.parts import find_partnered, read_hidden, to_columns, to_matrix
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensor, Tensors

__all__ = ["Instances", "gather_instances", "drop_unpartnered", "find_chance"]

_VALIDATION_SHARE = 1 / 7


@dataclasses.dataclass(frozen=True)
class Instances:
    """Vectors, and a column of labels for each factor."""

    values: np.ndarray
    columns: list[np.ndarray]

    def choose(self, chosen: np.ndarray) -> "Instances":
        """Returns the chosen instances."""
        return Instances(self.values[chosen], [column[chosen] for column in self.columns])


def gather_instances(
    head: keras.Layer,
    x: Tensors,
    labels: Tensor,
    validation_data: tuple[Tensors, Tensor] | None,
    seed: int,
) -> tuple[Instances, np.ndarray]:
    """Reads hidden representations, and splits them into training and validation.

    Args:
        head: The head of the network.
        x: Its inputs.
        labels: Their labels, `[instances, K]` or `[instances]`.
        validation_data: Inputs and labels for validation, or `None` to hold some of `x` out.
        seed: Seed of the split.

    Returns:
        The hidden representations with their labels, where numbers have mean 0 and variance 1 in
        training; and which of them are held out for validation.

    Raises:
        ValueError: If labels do not fit the inputs, validation data are of another kind, or hidden
            representations are not finite.
    """
    hidden, labels = read_hidden(head, x).astype("float32"), to_matrix(labels)
    count = len(hidden)
    if validation_data is None:
        is_held_out = np.random.default_rng(seed).permutation(count) < _VALIDATION_SHARE * count
    else:
        held_out, held_out_labels = _read_validation_data(head, validation_data, labels)
        hidden = np.concatenate([hidden, held_out])
        labels = np.concatenate([labels, held_out_labels])
        is_held_out = np.arange(len(hidden)) >= count
    is_finite = np.isfinite(hidden).all(axis=1)
    if not is_finite.all():
        raise ValueError(
            "Hidden representations should be finite. Received: "
            f"{np.sum(~is_finite)} of {len(hidden)} that are not"
        )
    columns = [_standardise(x, ~is_held_out) for x in to_columns(labels, len(hidden))]
    is_known = np.ones(len(hidden), bool)
    for column in filter(is_categorical, columns):
        is_known &= np.isin(column, column[~is_held_out])
    if validation_data is not None and not is_known.all():
        raise ValueError(
            "Classes of `validation_data` should be among those of `labels`. Received: "
            f"{np.sum(~is_known)} instances of other classes"
        )
    return Instances(hidden, columns).choose(is_known), is_held_out[is_known]


def _read_validation_data(
    head: keras.Layer, validation_data: Any, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns hidden representations for validation, and their labels."""
    if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
        raise ValueError(
            "`validation_data` should be inputs and labels, `(x, labels)`. "
            f"Received: {type(validation_data)}"
        )
    held_out = read_hidden(head, validation_data[0]).astype("float32")
    held_out_labels = to_matrix(validation_data[1])
    shapes = labels.shape[1:], held_out_labels.shape[1:]
    kinds = labels.dtype.kind, held_out_labels.dtype.kind
    if shapes[0] != shapes[1] or kinds[0] != kinds[1] or not len(held_out):
        raise ValueError(
            "Labels of `validation_data` should be of the same kind as `labels`, with the same "
            f"number of columns, and not be empty. Received: shapes {labels.shape} and "
            f"{held_out_labels.shape}, dtypes {labels.dtype} and {held_out_labels.dtype}"
        )
    return held_out, held_out_labels


def _standardise(column: np.ndarray, is_training: np.ndarray) -> np.ndarray:
    """Scales numbers to mean 0 and variance 1 in training; leaves classes as they are."""
    if is_categorical(column):
        return column
    return (column - column[is_training].mean()) / column[is_training].std()


def drop_unpartnered(instances: Instances, names: list[str]) -> Instances:
    """Leaves out instances that are the only ones of their class, and so have no partner.

    Args:
        instances: The instances.
        names: The names of the factors, for the error.

    Raises:
        ValueError: If a factor does not vary among the others.
    """
    classes = list(filter(is_categorical, instances.columns))
    if classes:
        instances = instances.choose(find_partnered(np.stack(classes, axis=1)))
    for name, column in zip(names, instances.columns, strict=True):
        if len(np.unique(column)) < 2:
            raise ValueError(
                "There should be at least two classes of each factor with two members each, in "
                "training and in validation. Received: no more than one class of factor "
                f"'{name}' with several members, or a constant"
            )
    return instances


def find_chance(column: np.ndarray) -> float:
    """Returns how often the best constant answer is right, over pairs whose classes differ."""
    if not is_categorical(column):
        return 0.0
    shares = np.bincount(column) / len(column)
    return float(np.max(shares * (1.0 - shares)) / np.sum(shares * (1.0 - shares)))
