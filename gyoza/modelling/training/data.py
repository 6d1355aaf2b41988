"""What models are trained with: data in forms that Keras does not take as they are, and losses."""

import functools
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import GeneratorType
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import flatten_layers
from gyoza.modelling.tables import frame_to_array, get_columns, get_names, is_frame
from gyoza.modelling.training.files import WritesFiles
from gyoza.typing import Data, DType, Tensor, Tensors

__all__ = ["to_arrays", "average_losses", "PreparesCallbacks", "TakesData"]


def to_arrays(data: Data) -> Data:
    """Returns data with data frames and lists of numbers as arrays, and all else as it is.

    Args:
        data: An array, tensor, data frame or list of numbers, or a tuple, list or dictionary of
            such. Or a generator, whose arrays are copied, as it may fill the same ones again before
            they have been read. Or anything else that Keras takes.
    """
    if isinstance(data, GeneratorType) and data.gi_frame is not None:
        copies: Any = (keras.tree.map_structure(_copy, batch, none_is_leaf=False) for batch in data)
        copies.__qualname__ = data.__qualname__  # which messages show
        return copies
    if is_frame(data):
        return frame_to_array(data)
    if hasattr(data, "to_numpy"):  # one column
        return data.to_numpy()
    if isinstance(data, list) and data and _holds_numbers(data):
        data = np.asarray(data)
        return data.astype(keras.config.floatx()) if data.dtype == "float64" else data
    if isinstance(data, list | tuple):
        parts = [to_arrays(part) for part in data]
        return tuple(parts) if isinstance(data, tuple) else parts
    if isinstance(data, dict):
        return {name: to_arrays(part) for name, part in data.items()}
    return data


def _copy(x: Tensor) -> Tensor:
    if isinstance(x, np.ndarray):
        return x.copy()
    return x.clone() if hasattr(x, "clone") else x  # as tensors of PyTorch have it


def _are_equal(columns: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Returns whether columns are the same, in whatever order."""
    return len(columns) == len(others) and set(columns) == set(others)


def _holds_numbers(data: Data) -> bool:
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, int | float | np.number)


def _is_empty(x: Data) -> bool:
    """Returns whether data are arrays, or a structure of arrays, without an instance."""
    shapes = (getattr(part, "shape", None) for part in keras.tree.flatten(x))
    return any(shape is not None and tuple(shape[:1]) == (0,) for shape in shapes)


def _check_not_empty(x: Data) -> None:
    """Raises a `ValueError` if data are arrays without an instance, or a generator at its end."""
    if isinstance(x, GeneratorType) and x.gi_frame is None:
        raise ValueError(
            "`x` should yield at least one batch. Received: a generator that has been read to its "
            "end, as `adapt` and one epoch of `fit` do. Pass a new one"
        )
    if _is_empty(x):
        shapes = [tuple(part.shape) for part in keras.tree.flatten(x)]
        raise ValueError(f"`x` should hold at least one instance. Received: shapes {shapes}")


def _keep_weights(y: Tensors | None, sample_weight: Tensor | None) -> Tensors | None:
    """Returns targets that let Keras keep the weights of instances.

    It drops them where there are no targets.

    Args:
        y: Targets, or `None`.
        sample_weight: Weights of the instances, or `None`.

    Returns:
        The targets `y`, or ones of length 0 if they are `None` and there are weights.
    """
    if y is not None or sample_weight is None:
        return y
    return np.zeros([len(sample_weight), 0], "float32")


class _Mean(keras.losses.Loss):
    """Averages losses, which it is given as predictions."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


@functools.cache
def _make_mean(dtype: DType) -> _Mean:
    return _Mean(name="mean", dtype=dtype)


def average_losses(
    losses: Tensor, sample_weight: Tensor | None = None, penalties: Sequence[Tensor] = ()
) -> Tensor:
    """Averages the losses of instances, and adds what does not belong to one, as Keras does.

    Args:
        losses: The losses, `[batch]`.
        sample_weight: Their weights, `[batch]` or `[batch, 1]`. The sum of weighted losses is
            divided by the batch size.
        penalties: What layers add to the loss, such as regularisation.

    Returns:
        The sum of mean and penalties. Under a `tf.distribute` strategy, it is divided by the number
        of replicas, since gradients are summed over them.
    """
    if sample_weight is not None:
        shape = sample_weight.shape
        is_known = getattr(shape, "rank", 1) is not None  # within TensorFlow, it may not be
        if is_known and tuple(shape[1:]) not in ((), (1,)):
            raise ValueError(
                "`sample_weight` should have one weight for each instance, and shape [batch]. "
                f"Received: sample_weight.shape={tuple(shape)}"
            )
        sample_weight = ops.reshape(sample_weight, ops.shape(losses))
    mean = _make_mean(losses.dtype)
    loss = mean(losses, losses, sample_weight)
    if penalties:
        penalty = ops.reshape(ops.cast(sum(penalties), losses.dtype), (1,))
        loss = loss + mean(penalty, penalty)
    return loss


_SIGNATURES = {name: inspect.signature(getattr(keras.Model, name)) for name in ("fit", "evaluate")}


def _bind(method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of a method of Keras's models, by name."""
    arguments = _SIGNATURES[method].bind(None, *args, **kwargs).arguments
    del arguments["self"]
    return arguments | arguments.pop("kwargs", {})


def _prepare_callbacks(model: keras.Model, arguments: dict[str, Any]) -> dict[str, Any]:
    """Lets callbacks with a method `prepare_fit` see and change the arguments of `fit`.

    Keras tells callbacks neither of the data nor of each other.
    """
    given = arguments.get("callbacks")
    given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else given
    for callback in keras.tree.flatten(given or []):
        if hasattr(callback, "prepare_fit"):
            arguments = callback.prepare_fit(model, arguments)
    return arguments


class PreparesCallbacks:
    """What a Keras model is derived from, before `keras.Model`, to prepare callbacks for `fit`."""

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model; see `keras.Model.fit`."""
        return super().fit(**_prepare_callbacks(self, _bind("fit", *args, **kwargs)))  # type: ignore[misc]


class TakesData(WritesFiles):
    """A Keras model that checks data, and gives them to Keras in a form that it takes.

    Weights of instances count whether there are targets or not.
    """

    # Those of the last data, if it was a frame, for messages.
    _column_names: tuple[str, ...] | None = None
    # Those of the first frames of inputs and contexts, in whose order columns have to stay.
    _orders: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None] = (None, None)

    def fit(
        self, x: Data = None, y: Data | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the model; see `keras.Model.fit`.

        Args:
            x: The inputs: an array, a data frame, `{"inputs": …, "context": …}`, or a data set that
                yields such.
            y: What the compiled loss compares outputs with. Without a compiled loss, labels if the
                base distribution takes them, and `None` otherwise. A data set of weighted instances
                yields `(x, y, sample_weight)`; where there are no targets, `y` has shape
                `[batch, 0]`.
            *args: Further arguments of `keras.Model.fit`.
            **kwargs: Likewise.

        Returns:
            The `keras.callbacks.History`.
        """
        orders = self._orders
        try:
            arguments = self._prepare_arguments("fit", x, y, *args, **kwargs)
            _check_not_empty(arguments["x"])
            with self._during_fit(arguments) as arguments:
                return super().fit(**_prepare_callbacks(self, arguments))
        except Exception:
            self._orders = orders
            raise

    def evaluate(self, x: Data = None, y: Data | None = None, *args: Any, **kwargs: Any) -> Any:
        """Computes loss and metrics; see `keras.Model.evaluate` and :meth:`fit`."""
        arguments = self._prepare_arguments("evaluate", x, y, *args, **kwargs)
        _check_not_empty(arguments["x"])
        with self._during_run(arguments["x"]):
            return super().evaluate(**arguments)

    def predict(self, x: Data, *args: Any, **kwargs: Any) -> Tensors:
        """Executes the model in batches; see `keras.Model.predict`."""
        x = self._prepare_inputs(x)
        with self._during_run(x):
            if _is_empty(x):
                return keras.tree.map_structure(ops.convert_to_numpy, self(x))
            return super().predict(x, *args, **kwargs)

    def train_on_batch(
        self,
        x: Data,
        y: Data | None = None,
        sample_weight: Tensor | None = None,
        class_weight: dict[int, float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Trains on one batch; see `keras.Model.train_on_batch`."""
        data = self._prepare_data(x, y, sample_weight, class_weight)
        return super().train_on_batch(*data, class_weight, **kwargs)

    def test_on_batch(
        self, x: Data, y: Data | None = None, sample_weight: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Evaluates one batch; see `keras.Model.test_on_batch`."""
        return super().test_on_batch(*self._prepare_data(x, y, sample_weight), **kwargs)

    def _prepare_arguments(self, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the arguments of `fit` or `evaluate` by name, with data as Keras takes them."""
        arguments = _bind(method, *args, **kwargs)
        if method == "fit":
            self._forget_other_columns(arguments.get("x"))
        names = ("x", "y", "sample_weight")
        data = self._prepare_data(*map(arguments.get, (*names, "class_weight")))
        arguments.update(zip(names, data, strict=True))
        validation_data = arguments.get("validation_data")
        if isinstance(validation_data, tuple | list):
            validation_data = keras.utils.unpack_x_y_sample_weight(validation_data)
            arguments["validation_data"] = self._prepare_data(*validation_data)
        elif isinstance(validation_data, GeneratorType):
            arguments["validation_data"] = to_arrays(validation_data)
        return arguments

    def _prepare_data(
        self,
        x: Data,
        y: Data | None = None,
        sample_weight: Tensor | None = None,
        class_weight: dict[int, float] | None = None,
    ) -> tuple[Data, Tensors | None, Tensor | None]:
        """Checks data, and brings them into the form that Keras takes."""
        x, y = self._prepare_inputs(x), to_arrays(y)
        sample_weight = to_arrays(sample_weight)
        if self.loss is None and np.shape(sample_weight)[1:] == (1,):
            sample_weight = sample_weight[:, 0]  # or TensorFlow would trace for any number of axes
        self._check_targets(y, class_weight)
        return x, _keep_weights(y, sample_weight), sample_weight

    def _prepare_inputs(self, x: Data) -> Data:
        """Checks inputs, and returns them in the form that Keras takes."""
        x = self._to_arrays(x)
        self._check_inputs(x)
        return x

    def _to_arrays(self, x: Data) -> Data:
        """Returns inputs as `to_arrays` does, and tells layers the names of columns.

        The model keeps them for its messages, and rejects the same columns in another order. They
        are not saved with it.
        """
        self._note_order(0, x)
        if isinstance(x, dict) and "context" in x:
            x = {**x, "context": self._read_context(x["context"])}
        names = get_names(x)
        if names != self._column_names:
            self._column_names = names
        if names is not None:
            for layer in flatten_layers(self):
                if hasattr(layer, "take_names"):
                    layer.take_names(names)
        return to_arrays(x)

    def _read_context(self, context: Data) -> Data:
        """Returns contexts as `to_arrays` does, and rejects known columns in another order."""
        self._note_order(1, context)
        return to_arrays(context)

    def _forget_other_columns(self, x: Data) -> None:
        """Forgets the columns that a model has been given, if it is to be trained on others."""
        data = (x, x.get("context") if isinstance(x, dict) else None)
        columns = map(get_columns, data)
        self._orders = tuple(  # type: ignore[assignment]
            None if found and known and not _are_equal(found, known) else known
            for found, known in zip(columns, self._orders, strict=True)
        )

    def _note_order(self, part: int, data: Data) -> None:
        """Remembers the first columns of inputs (0) or contexts (1), and rejects another order."""
        columns, known = get_columns(data), self._orders[part]
        if columns is None or columns == known:
            return
        if known and _are_equal(columns, known):
            raise ValueError(
                f"The columns of a data frame should be in the order in which '{self.name}' was "
                f"given them before, such as in `frame[{list(known)}]`. "
                f"Received: the columns {list(columns)}"
            )
        if known is None:
            inputs, contexts = self._orders
            self._orders = (columns, contexts) if part == 0 else (inputs, columns)

    def _check_inputs(self, inputs: Data) -> None:
        """Raises an error if inputs are not what the model can be given."""
        return

    def _check_targets(
        self, y: Tensors | None, class_weight: dict[int, float] | None = None
    ) -> None:
        """Raises an error if targets, or weights of classes, are not what the loss can be given."""
        return

    def _during_fit(self, arguments: dict[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        """Returns the context in which Keras trains, with the arguments of `fit` to use there."""
        return nullcontext(arguments)

    def _during_run(self, x: Data) -> AbstractContextManager[None]:
        """Returns the context in which Keras evaluates or predicts."""
        return nullcontext()


# What is passed on is written out for those who ask, such as editors and the reference.
for _name, _signature in _SIGNATURES.items():
    getattr(TakesData, _name).__signature__ = _signature
