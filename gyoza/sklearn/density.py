"""Densities by flows, as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from keras import ops
from sklearn.base import DensityMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from gyoza.data import Table
from gyoza.modelling.flow_layers import FlowModel
from gyoza.sklearn.fitting import FlowEstimator, check_weights, draw_seed
from gyoza.typing import Tensor

__all__ = ["FlowDensity"]


class FlowDensity(DensityMixin, FlowEstimator):
    r"""A density of data by a flow, with the methods of scikit-learn's density estimators.

    The flow is fitted to the rows of `X` by maximum likelihood. It stops when the likelihood of
    rows that were held out has not risen for some epochs, and keeps the weights that were the best.
    There are held-out rows if `validation_fraction` makes up at least ten.

    Args:
        layer_count: See :func:`~gyoza.applications.NeuralSplineFlow`, which makes the flow.
        hidden_sizes: Likewise.
        flow: A function without arguments that makes another flow: a new, uncompiled
            :class:`~gyoza.modelling.flow_layers.FlowModel` for vectors.
        table: Whether `X` is a data frame whose columns are of several kinds. A
            :class:`~gyoza.data.Table` is then read from it, or this is one. Samples are data
            frames then.
        epochs: The largest number of epochs.
        batch_size: The number of rows in a step of training.
        learning_rate: The learning rate of Adam.
        validation_fraction: The fraction of rows that are held out, 0 for none.
        patience: After how many epochs without progress training stops.
        jit_compile: Whether to compile by XLA; see `keras.Model.compile`. On TensorFlow, `"auto"`
            leaves out XLA where training takes less than 300 steps, since compilation would take
            longer.
        random_state: An integer for the same result every time, or what else scikit-learn takes.
        verbose: See `keras.Model.fit`.

    Attributes:
        flow_: The fitted :class:`~gyoza.modelling.flow_layers.FlowModel`.
        history_: A dictionary of the losses of each epoch.
        n_epochs_: The number of epochs that it was trained for.
        table_: The :class:`~gyoza.data.Table`, if there is one.
        n_features_in_: The number of columns of `X`.
        feature_names_in_: Their names, if they have some.

    Example:

        >>> from gyoza.sklearn import FlowDensity
        >>> X = np.random.default_rng(0).normal(size=[300, 2])
        >>> density = FlowDensity(layer_count=1, hidden_sizes=[8], epochs=5, random_state=0)
        >>> density.fit(X).score_samples(X).shape
        (300,)
        >>> density.sample(3, random_state=0).shape
        (3, 2)
    """

    def __init__(
        self,
        layer_count: int = 4,
        hidden_sizes: Iterable[int] = (64, 64),
        *,
        flow: Callable[[], FlowModel] | None = None,
        table: bool | Table = False,
        epochs: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        patience: int = 20,
        jit_compile: bool | str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = 0,
    ) -> None:
        self.layer_count = layer_count
        self.hidden_sizes = hidden_sizes
        self.flow = flow
        self.table = table
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.jit_compile = jit_compile
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Tensor, y: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> FlowDensity:
        """Fits a new flow.

        Args:
            X: The data, `[rows, columns]`.
            y: Ignored; pipelines pass it.
            sample_weight: The weight of each row, `[rows]`, or `None` for equal ones.

        Returns:
            The estimator.
        """
        layers = []
        if self.table is not False:
            self.table_ = self.table if isinstance(self.table, Table) else Table(X)
            layers.append(self.table_.make_layer())
        elif hasattr(self, "table_"):
            del self.table_
        data = {"inputs": self._validate(X, reset=True)}
        if sample_weight is not None:
            data["weight"] = check_weights(sample_weight, len(data["inputs"]))
        self._fit(data, layers)
        return self

    def _validate(self, X: Tensor, reset: bool = False) -> np.ndarray:
        # Two rows have a mean and a standard deviation.
        least = 2 if reset else 1
        if hasattr(self, "table_"):
            if reset:
                validate_data(self, X, skip_check_array=True)
            return check_array(self.table_.encode(X), ensure_min_samples=least)
        return self._validate_numbers(X, reset=reset, dtype="float64", ensure_min_samples=least)

    def score_samples(self, X: Tensor) -> np.ndarray:
        """Computes the logarithm of the density of each row, in nats.

        Args:
            X: Data, `[rows, columns]`.

        Returns:
            The log-densities, `[rows]`.
        """
        check_is_fitted(self, "flow_")
        return ops.convert_to_numpy(self.flow_.log_prob(self._validate(X)))

    def score(self, X: Tensor, y: Tensor | None = None) -> float:
        """Computes the mean logarithm of the density of rows, in nats.

        Args:
            X: Data, `[rows, columns]`.
            y: Ignored; pipelines pass it.

        Returns:
            The mean.
        """
        return float(np.mean(self.score_samples(X)))

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> Any:
        """Draws new rows.

        Args:
            n_samples: Their number.
            random_state: An integer for the same rows every time, or what else scikit-learn takes.

        Returns:
            The rows, `[n_samples, columns]`, as a data frame if there is a table.
        """
        check_is_fitted(self, "flow_")
        x = ops.convert_to_numpy(self.flow_.sample(n_samples, seed=draw_seed(random_state)))
        return self.table_.decode(x) if hasattr(self, "table_") else x
