"""Preparation of what is studied: the two parts of a network, inputs, labels, and pairs."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients, is_distributed
from gyoza.data.pairs import CategoricalPairs
from gyoza.interpretation.splitting import split_network
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.modelling.metrics.codes import check_labels, is_categorical
from gyoza.typing import Tensor, Tensors

__all__ = [
    "Network",
    "LayerKey",
    "to_parts",
    "read_hidden",
    "run_in_batches",
    "create_variables",
    "to_inputs",
    "count_instances",
    "check_input_shape",
    "to_matrix",
    "to_columns",
    "to_names",
    "to_classes",
    "find_partnered",
    "make_pairs",
]

# A Keras model, or its two parts.
Network: TypeAlias = keras.Model | tuple[keras.Layer, keras.Layer]

# A layer of a model, or its index or name, or `None` where parts are given.
LayerKey: TypeAlias = str | int | keras.Layer | None


def to_parts(network: Network, layer: LayerKey = None) -> tuple[keras.Layer, keras.Layer]:
    """Returns the head and the tail of a network.

    Args:
        network: Both parts, `(head, tail)`, as :func:`~gyoza.interpretation.split_network` returns
            them, or an encoder and its decoder. Or a Keras model together with `layer`.
        layer: The layer at which a model is split; see :func:`~gyoza.interpretation.split_network`.

    Returns:
        The head, from inputs to hidden representations, and the tail, from there to outputs.

    Raises:
        TypeError: If `network` is neither a Keras model nor a pair of Keras layers.
        ValueError: If a model is given without a layer, or two parts are given with one.
    """
    if isinstance(network, tuple | list):
        if len(network) != 2 or not all(isinstance(part, keras.Layer) for part in network):
            raise TypeError(
                "`network` should be a Keras model, or a head and a tail, which are Keras models. "
                f"Received: network={network}"
            )
        if layer is not None:
            raise ValueError(
                "`layer` should be omitted if `network` is a head and a tail. "
                f"Received: layer={layer!r}"
            )
        return network[0], network[1]
    if layer is None and isinstance(network, keras.Model):
        raise ValueError(
            "`layer` should say where to split the network, unless `network` is a head and a tail. "
            f"Received: network={network}, layer=None"
        )
    return split_network(network, layer)


def read_hidden(head: keras.Layer, x: Tensors, batch_size: int = 1024) -> np.ndarray:
    """Returns the hidden representations of inputs as vectors.

    Args:
        head: The head.
        x: Its inputs, `[instances, ...]`; see :func:`to_inputs`.
        batch_size: The number of instances that are processed at a time.

    Returns:
        The vectors, `[instances, n]`, in float64.
    """
    hidden = run_in_batches(head, x, batch_size)
    return np.reshape(hidden, [len(hidden), -1]).astype("float64")


def run_in_batches(
    function: Callable[[Tensors], Tensors], x: Tensors, batch_size: int = 1024
) -> Tensors:
    """Runs a network, or part of one, without the overhead of `predict`.

    Args:
        function: The network.
        x: Its inputs, `[instances, ...]`, at least one; see :func:`to_inputs`.
        batch_size: The number of instances that are processed at a time.

    Returns:
        Its outputs as arrays.
    """
    x = keras.tree.map_structure(_to_float, to_inputs(x))
    parts = []
    with forget_gradients():
        for start in range(0, count_instances(x), batch_size):
            rows = slice(start, start + batch_size)
            batch = keras.tree.map_structure(lambda a, rows=rows: ops.convert_to_tensor(a[rows]), x)
            parts.append(keras.tree.map_structure(ops.convert_to_numpy, function(batch)))
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def create_variables(model: keras.Model, y: Tensors, outputs: Tensors) -> None:
    """Creates the variables of optimizer, losses and metrics of a compiled model before `fit`.

    Where the first step creates them, TensorFlow traces it twice; on other backends, Keras runs the
    model on symbols first. Either may take as long as hundreds of steps of a flow.

    Args:
        model: The model, built.
        y: A few targets.
        outputs: What the model might output for them.
    """
    if model.loss is None or is_distributed(model):
        return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    y = keras.tree.map_structure(ops.convert_to_tensor, y)
    with forget_gradients():
        model.compute_loss(None, y, outputs)
        model.compute_metrics(None, y, outputs)
    model.reset_metrics()


def _to_float(x: Tensor) -> np.ndarray:
    x = to_numpy(x)
    return x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x


def to_inputs(x: Tensors) -> Tensors:
    """Converts inputs of a network to arrays or tensors.

    Args:
        x: Something array-like, `[instances, ...]`, or several such in a dictionary or tuple, for
            a network with several inputs.

    Returns:
        An array or tensor, or a dictionary or tuple of them.
    """
    if isinstance(x, Mapping):
        return {name: to_inputs(value) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(to_inputs(value) for value in x)
    return x if ops.is_tensor(x) else np.asarray(x)


def count_instances(x: Tensors) -> int:
    """Returns the number of instances in inputs of a network.

    Args:
        x: The inputs, as :func:`to_inputs` returns them.

    Raises:
        ValueError: If there are none, or if their number differs between several inputs.
    """
    shapes = [tuple(array.shape) for array in keras.tree.flatten(x)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            "`x` should hold instances, [instances, ...], the same number in each of several "
            f"inputs. Received: shapes {shapes}"
        )
    return shapes[0][0]


def check_input_shape(head: keras.Layer, x: Tensors, cause: Exception) -> None:
    """Explains an error of a head by the shape of its inputs, if that is not the right one.

    Whether a shape is right is known after an error only, since heads may take other shapes, too.

    Args:
        head: The head, with one input or several, whose shapes are not looked at.
        x: The inputs, as :func:`to_inputs` returns them.
        cause: The error.

    Raises:
        ValueError: If `x` does not have the shape that the head was built for.
    """
    expected = getattr(head, "input_shape", None) or head.get_build_config()["input_shape"]
    if not hasattr(x, "shape") or not isinstance(expected, tuple):
        return
    expected = (None, *expected[1:])  # a layer was built for the batch that it saw first
    lengths = zip(expected, x.shape, strict=False)
    if len(x.shape) != len(expected) or any(known not in (None, n) for known, n in lengths):
        raise ValueError(
            f"`x` should hold inputs of the head, of shape {expected}: `x[None]` is a batch of one "
            f"instance `x`. Received: x of shape {tuple(x.shape)}"
        ) from cause


def to_matrix(labels: Tensor) -> np.ndarray:
    """Returns labels as a matrix, `[instances, K]`; those of a single factor may be a vector."""
    labels = np.asarray(labels)
    return labels.reshape(-1, 1) if labels.ndim < 2 else labels


def to_columns(labels: Tensor, count: int) -> list[np.ndarray]:
    """Converts labels to columns: of integers from 0 on for classes, of floats for real numbers.

    Args:
        labels: Classes or real numbers, `[count, K]` or `[count]`. Columns of whole numbers, and
            those that do not hold numbers, are classes.
        count: The number of instances.

    Returns:
        The K columns, `[count]`.

    Raises:
        ValueError: If the shape is wrong, or a column is constant or not finite.
    """
    matrix = to_matrix(labels)
    # A column has its own type as a list, even if the others have different ones.
    found = [np.asarray(column.tolist()) for column in matrix.T] if matrix.ndim == 2 else []
    flags = [column.dtype.kind != "f" or bool(np.all(column == column.round())) for column in found]
    return check_labels(matrix, count, flags)


def to_names(names: Iterable[str] | None, count: int) -> list[str]:
    """Returns the names of the factors, by default "factor_1" and so on.

    Args:
        names: The names, or `None`.
        count: The number of factors.

    Raises:
        ValueError: If there are not as many names as factors, or they are not unique.
    """
    if names is None:
        return [f"factor_{index}" for index in range(1, count + 1)]
    names = [names] if isinstance(names, str) else list(names)
    if len(names) != count or len({"residual", *names}) != count + 1:
        raise ValueError(
            f"`names` should be {count} different names other than 'residual', one for each column "
            f"of `labels`. Received: names={names}, and labels with {count} columns"
        )
    return names


def to_classes(column: np.ndarray, bins: int = 20) -> np.ndarray:
    """Converts a column of labels to classes; numbers are sorted into bins of equal size.

    Args:
        column: A column of :func:`to_columns`.
        bins: The number of bins for real numbers.

    Returns:
        The classes, integers from 0 on, `[count]`.
    """
    if is_categorical(column):
        return column
    bins = max(2, min(bins, len(column) // 4))
    edges = np.quantile(column, np.linspace(0.0, 1.0, bins + 1)[1:-1])
    return np.unique(np.digitize(column, edges), return_inverse=True)[1].reshape(-1)


def find_partnered(classes: np.ndarray) -> np.ndarray:
    """Returns which instances have a partner in each of their classes.

    Args:
        classes: Integers from 0 on, `[instances, K]`.

    Returns:
        Whether each instance stays, `[instances]`, if those that are alone in a class are left out
        until there are none.
    """
    stays = np.ones(len(classes), bool)
    while True:
        counts = [
            np.bincount(column[stays], minlength=column.max(initial=0) + 1) for column in classes.T
        ]
        sizes = [count[column] for count, column in zip(counts, classes.T, strict=True)]
        is_alone = stays & (np.min(sizes, axis=0) < 2)
        if not is_alone.any():
            return stays
        stays &= ~is_alone


def make_pairs(
    hidden: np.ndarray,
    columns: Iterable[np.ndarray],
    *,
    correlation: float = 0.9,
    batch_size: int = 256,
    shuffle: bool = True,
    seed: int | None = 0,
) -> CategoricalPairs:
    """Makes pairs of instances that share one factor each, which may be a class or a number.

    Instances share a number if they are in the same one of twenty bins of equal size, so that the
    distribution of the numbers does not matter, nor whether they are periodic. Instances that are
    alone in their class have no partner, and are left out.

    Args:
        hidden: The instances, `[instances, ...]`.
        columns: The labels, as :func:`to_columns` returns them.
        correlation: See :class:`~gyoza.data.CategoricalPairs`.
        batch_size: See :class:`~gyoza.data.CategoricalPairs`.
        shuffle: See :class:`~gyoza.data.CategoricalPairs`.
        seed: See :class:`~gyoza.data.CategoricalPairs`.

    Returns:
        The source of pairs.

    Raises:
        ValueError: If a factor does not vary among the instances that have partners.
    """
    classes = np.stack([to_classes(column) for column in columns], axis=1)
    stays = find_partnered(classes)
    if not stays.any() or np.any(np.ptp(classes[stays], axis=0) == 0):
        raise ValueError(
            "`labels` should have at least two classes of several instances each. Received: "
            f"{np.sum(stays)} instances, of {len(stays)}, that have partners"
        )
    return CategoricalPairs(hidden[stays], classes[stays], batch_size, correlation, shuffle, seed)
