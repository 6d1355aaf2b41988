"""What the estimators share: a flow is made, adapted and fitted without a trace in global state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from gyoza import applications
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.functions.checks import check_instance, check_integer, is_between
from gyoza.modelling.tables import is_frame
from gyoza.modelling.training.fit import LEAST_STEPS_FOR_XLA
from gyoza.typing import Tensor

__all__ = ["FlowEstimator", "advise_on_others", "check_weights", "draw_seed"]

# The smallest number of instances on which it is decided when to stop.
_LEAST_HELD_OUT = 10


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Returns an integer from whatever scikit-learn takes as a `random_state`."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def check_weights(sample_weight: Tensor, count: int) -> np.ndarray:
    """Returns the weights of rows as an array, or raises a `ValueError`."""
    weight = check_array(sample_weight, ensure_2d=False, input_name="sample_weight")
    if weight.shape != (count,) or np.any(weight < 0) or not np.any(weight):
        raise ValueError(
            "`sample_weight` should have one weight for each row, not negative, and not all zero. "
            f"Received: sample_weight of shape {weight.shape} for {count} rows"
        )
    return weight


@contextlib.contextmanager
def advise_on_others(name: str, data: Tensor, advice: str) -> Iterator[None]:
    """Adds to errors of scikit-learn which value is not a number, and what to do about it.

    Args:
        name: The name of the data.
        data: The data, `[rows]` or `[rows, columns]`.
        advice: What to do about them.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        found = _find_other(data)
        if found is None:
            raise
        raise ValueError(f"`{name}` should hold numbers. {advice}. Received: {found}") from error


def _find_other(data: Tensor) -> str | None:
    """Returns in words the first string, or what else a data frame has that is not a number."""
    names = list(data.columns) if is_frame(data) else None
    for index, value in np.ndenumerate(np.asarray(data, dtype=object)):
        try:
            float(value)
        except (TypeError, ValueError):
            if names:
                return f"{value!r} in column {names[index[1]]!r}"
            if isinstance(value, str):
                return f"{value!r} at index {list(index)}"
    return None


@contextlib.contextmanager
def _seed_keras(seed: int) -> Iterator[None]:
    """Lets layers that are made here start from the same weights every time."""
    state = random.getstate()  # which Keras draws its seeds from
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


class _Batches(keras.utils.PyDataset):
    """Batches of rows, in an order of its own that does not depend on global state.

    In training, all batches have the same size, since another size would have to be compiled. What
    is left over differs from epoch to epoch.
    """

    def __init__(self, data: dict[str, np.ndarray], batch_size: int, seed: int) -> None:
        super().__init__()
        self.data, self.batch_size = data, batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(len(self.data["inputs"]))

    def __len__(self) -> int:
        return max(1, len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        batch = {name: array[rows] for name, array in self.data.items()}
        weight = batch.pop("weight", None)
        x = batch if len(batch) > 1 else batch["inputs"]
        # Keras drops weights where there are no targets.
        return (x,) if weight is None else (x, np.zeros([len(rows), 0], "float32"), weight)


class FlowEstimator(BaseEstimator):
    """Base class of estimators that fit a flow."""

    layer_count: int
    hidden_sizes: Any
    flow: Callable[..., FlowModel] | None
    epochs: int
    batch_size: int
    learning_rate: float
    validation_fraction: float
    patience: int
    jit_compile: Any
    random_state: Any
    verbose: Any

    def _validate_numbers(self, X: Tensor, *y: Tensor, **checks: Any) -> Any:
        """Checks data as `validate_data` does, and tells what to do with columns of strings."""
        advice = (
            f"`{type(self).__name__}(table=True)` encodes the columns of a data frame that hold "
            "strings, categories or Boolean values; turn dates into numbers"
        )
        with advise_on_others("X", X, advice):
            return validate_data(self, X, *y, **checks)

    def _make_flow(self, layers_before: list[Any]) -> FlowModel:
        if self.flow is None:
            flow = applications.NeuralSplineFlow(self.layer_count, self.hidden_sizes)
        else:
            flow = self.flow()
            check_instance("flow()", flow, FlowModel, "a `FlowModel`")
        return FlowModel([*layers_before, flow], flow.base_distribution) if layers_before else flow

    def _fit(self, data: dict[str, np.ndarray], layers_before: list[Any] | None = None) -> None:
        """Fits a new flow to `inputs`, given a `context` if there is one, with a `weight` if any.

        Sets the attributes `flow_`, `history_` and `n_epochs_`.
        """
        epochs = check_integer("epochs", self.epochs, minimum=1)
        batch_size = check_integer("batch_size", self.batch_size, minimum=1)
        if not (self.validation_fraction == 0 or is_between(0, self.validation_fraction, 1)):
            raise ValueError(
                "`validation_fraction` should be at least 0 and below 1. "
                f"Received: validation_fraction={self.validation_fraction}"
            )
        seed = draw_seed(self.random_state)
        order = np.random.default_rng(seed).permutation(len(data["inputs"]))
        held_out = int(self.validation_fraction * len(order))
        held_out = held_out if held_out >= _LEAST_HELD_OUT else 0
        training = {name: array[order[held_out:]] for name, array in data.items()}
        arguments: dict[str, Any] = {}
        if held_out:
            others = {name: array[order[:held_out]] for name, array in data.items()}
            arguments["validation_data"] = _Batches(others, held_out, seed)
            arguments["callbacks"] = [
                keras.callbacks.EarlyStopping(
                    monitor="val_loss", patience=self.patience, restore_best_weights=True
                )
            ]
        with _seed_keras(seed):
            self.flow_ = self._make_flow(layers_before or [])
            batch = {name: array for name, array in training.items() if name != "weight"}
            self.flow_.adapt(batch if len(batch) > 1 else batch["inputs"])
            optimizer = keras.optimizers.Adam(self.learning_rate, clipnorm=10.0)
            batches = _Batches(training, batch_size, seed)
            jit_compile = self.jit_compile
            if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
                is_long = epochs * len(batches) >= LEAST_STEPS_FOR_XLA
                jit_compile = "auto" if is_long else False
            self.flow_.compile(optimizer, jit_compile=jit_compile)
            history = self.flow_.fit(batches, epochs=epochs, verbose=self.verbose, **arguments)
        self.history_ = history.history
        self.n_epochs_ = len(self.history_["loss"])
