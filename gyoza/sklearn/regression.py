"""Regression with uncertainty by conditional flows, as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from keras import ops
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data

from gyoza.data import Table
from gyoza.modelling.conditioners import MADE
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowModel,
    MaskedAffine,
    MaskedRationalQuadraticSpline,
)
from gyoza.modelling.functions.checks import check_integer
from gyoza.sklearn.fitting import FlowEstimator, advise_on_others, check_weights, draw_seed
from gyoza.typing import Tensor

__all__ = ["FlowRegressor"]

# How many numbers are drawn at a time.
_MOST_NUMBERS = 2**20
# How far probabilities are kept away from 0 and 1.
_MARGIN = 1e-6
_CHECKS: dict[str, Any] = {
    "dtype": "float64",
    "y_numeric": True,
    "multi_output": True,
    "ensure_min_samples": 2,
}


class FlowRegressor(RegressorMixin, FlowEstimator):
    r"""Regression that predicts a distribution: a conditional flow of the targets, given inputs.

    :math:`p(y | x)` is fitted by maximum likelihood. Means, quantiles, samples and densities then
    all belong to one distribution, of any shape. The flow shifts and scales targets by functions
    of the inputs, and then bends them by autoregressive splines, so that quantiles and
    :meth:`probability_integral_transform` are exact. Inputs are standardised. See
    :class:`FlowDensity` on when training stops.

    Args:
        layer_count: The number of spline layers.
        hidden_sizes: The numbers of units of the hidden layers of all networks.
        flow: A function without arguments that makes another flow: a new, uncompiled, conditional
            :class:`~gyoza.modelling.flow_layers.FlowModel` for vectors of targets.
        table: Whether `X` is a data frame whose columns are of several kinds. A
            :class:`~gyoza.data.Table` is then read from it, or this is one.
        sample_count: The number of samples that a mean is computed from.
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
        flow_: The fitted :class:`~gyoza.modelling.flow_layers.FlowModel` of the targets.
        history_: A dictionary of the losses of each epoch.
        n_epochs_: The number of epochs that it was trained for.
        table_: The :class:`~gyoza.data.Table` of inputs, if there is one.
        n_features_in_: The number of columns of `X`.
        feature_names_in_: Their names, if they have some.

    Example:

        >>> from gyoza.sklearn import FlowRegressor
        >>> random = np.random.default_rng(0)
        >>> X = random.uniform(size=[300, 1])
        >>> y = X[:, 0] + X[:, 0] * random.normal(size=300)  # noise that grows
        >>> regressor = FlowRegressor(layer_count=1, hidden_sizes=[8], epochs=5, random_state=0)
        >>> regressor.fit(X, y).predict(X[:4]).shape
        (4,)
        >>> regressor.predict_quantiles(X[:4], [0.05, 0.5, 0.95]).shape
        (4, 3)
    """

    def __init__(
        self,
        layer_count: int = 2,
        hidden_sizes: Iterable[int] = (64, 64),
        *,
        flow: Callable[[], FlowModel] | None = None,
        table: bool | Table = False,
        sample_count: int = 100,
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
        self.sample_count = sample_count
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.jit_compile = jit_compile
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _make_flow(self, layers_before: list[Any]) -> FlowModel:
        if self.flow is not None:
            return super()._make_flow(layers_before)
        layer_count = check_integer("layer_count", self.layer_count)
        hidden_sizes = list(self.hidden_sizes)
        splines = [
            MaskedRationalQuadraticSpline(conditioner=MADE(hidden_sizes))
            for _ in range(layer_count)
        ]
        return FlowModel(
            [ActivationNormalization(), MaskedAffine(conditioner=MADE(hidden_sizes)), *splines]
        )

    def fit(self, X: Tensor, y: Tensor, sample_weight: Tensor | None = None) -> FlowRegressor:
        """Fits a new flow.

        Args:
            X: The inputs, `[rows, columns]`.
            y: The targets, `[rows]` or `[rows, targets]`.
            sample_weight: The weight of each row, `[rows]`, or `None` for equal ones.

        Returns:
            The estimator.
        """
        with advise_on_others("y", y, "It is what is predicted; for classes, take a classifier"):
            if self.table is not False:
                self.table_ = self.table if isinstance(self.table, Table) else Table(X)
                validate_data(self, X, skip_check_array=True)
                X, y = check_X_y(self.table_.encode_context(X), y, **_CHECKS)
            else:
                if hasattr(self, "table_"):
                    del self.table_
                X, y = self._validate_numbers(X, y, **_CHECKS)
            y = y.astype("float64")  # scikit-learn lets arrays of strings pass
        self._location, self._scale = X.mean(axis=0), X.std(axis=0)
        self._scale[self._scale == 0] = 1.0
        self._is_flat, self._target_count = y.ndim == 1, 1 if y.ndim == 1 else y.shape[1]
        data = {"inputs": self._to_targets(y), "context": self._standardise(X)}
        if sample_weight is not None:
            data["weight"] = check_weights(sample_weight, len(X))
        self._fit(data)
        try:
            middle = np.full([1, self._target_count], 0.5)
            self.flow_.invert_probability_integral_transform(middle, data["context"][:1])
            self._is_exact = True
        except (NotImplementedError, ValueError):
            self._is_exact = False
        return self

    def _standardise(self, X: np.ndarray) -> np.ndarray:
        return ((X - self._location) / self._scale).astype("float32")

    def _to_targets(self, y: np.ndarray) -> np.ndarray:
        return np.reshape(y, (len(y), -1)).astype("float64")

    def _to_context(self, X: Tensor) -> np.ndarray:
        check_is_fitted(self, "flow_")
        if hasattr(self, "table_"):
            return self._standardise(check_array(self.table_.encode_context(X)))
        return self._standardise(self._validate_numbers(X, reset=False, dtype="float64"))

    def _to_pair(self, X: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
        context = self._to_context(X)
        y = check_array(y, ensure_2d=False, dtype="float64", input_name="y")
        check_consistent_length(context, y)
        return self._to_targets(y), context

    def _draw(self, X: Tensor, count: int, levels: np.ndarray | None = None) -> np.ndarray:
        """Returns targets at probabilities that are the same for all rows.

        Args:
            X: The inputs, `[rows, columns]`.
            count: Their number, for each row.
            levels: The probabilities, `[count, targets]`; some that fill the unit cube if omitted.

        Returns:
            Targets, `[rows, count, targets]`: samples if the flow has no exact quantiles.
        """
        context = self._to_context(X)
        if levels is None:
            levels = self._draw_levels(check_integer("sample_count", count, minimum=1))
        parts = []
        row_count = max(1, _MOST_NUMBERS // levels.size)
        for start in range(0, len(context), row_count):
            rows = context[start : start + row_count]
            if self._is_exact:
                part = self.flow_.invert_probability_integral_transform(
                    np.tile(levels, [len(rows), 1]), np.repeat(rows, count, axis=0)
                )
                parts.append(np.reshape(ops.convert_to_numpy(part), (len(rows), *levels.shape)))
            else:
                seed = draw_seed(self.random_state)
                samples = self.flow_.sample_each(count, rows, seed=seed)
                parts.append(np.swapaxes(ops.convert_to_numpy(samples), 0, 1))
        return np.concatenate(parts).astype("float64")

    def _draw_levels(self, count: int) -> np.ndarray:
        if self._target_count == 1:
            return (np.arange(count)[:, None] + 0.5) / count
        random = np.random.default_rng(draw_seed(self.random_state))
        return random.uniform(_MARGIN, 1.0 - _MARGIN, [count, self._target_count])

    def predict(self, X: Tensor) -> np.ndarray:
        """Computes the means of targets.

        Args:
            X: The inputs, `[rows, columns]`.

        Returns:
            The means over `sample_count` samples, or as many quantiles if there is one target:
            `[rows]` or `[rows, targets]`.
        """
        check_is_fitted(self, "flow_")
        means = self._draw(X, self.sample_count).mean(axis=1)
        return means[:, 0] if self._is_flat else means

    def predict_quantiles(
        self, X: Tensor, quantiles: Iterable[float] = (0.05, 0.5, 0.95)
    ) -> np.ndarray:
        """Computes quantiles of targets, below which these are with given probabilities.

        Args:
            X: The inputs, `[rows, columns]`.
            quantiles: The probabilities, between 0 and 1.

        Returns:
            The quantiles, `[rows, quantiles]` or `[rows, quantiles, targets]`. Those of one target
            are exact, others are those of `sample_count` samples.
        """
        check_is_fitted(self, "flow_")
        levels = np.array(list(quantiles), "float64")
        if not np.all((levels > 0) & (levels < 1)):
            raise ValueError(f"`quantiles` should be between 0 and 1. Received: {levels.tolist()}")
        if self._target_count == 1 and self._is_exact:
            values = self._draw(X, len(levels), levels[:, None])
        else:
            samples = self._draw(X, self.sample_count)
            values = np.moveaxis(np.quantile(samples, levels, axis=1), 0, 1)
        return values[:, :, 0] if self._is_flat else values

    def sample(
        self, X: Tensor, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draws targets.

        Args:
            X: The inputs, `[rows, columns]`.
            n_samples: The number of targets for each row.
            random_state: An integer for the same targets every time, or what else scikit-learn
                takes.

        Returns:
            The targets, `[n_samples, rows]` or `[n_samples, rows, targets]`.
        """
        context = self._to_context(X)
        samples = self.flow_.sample_each(n_samples, context, seed=draw_seed(random_state))
        samples = ops.convert_to_numpy(samples)
        return samples[..., 0] if self._is_flat else samples

    def log_prob(self, X: Tensor, y: Tensor) -> np.ndarray:
        """Computes the logarithm of the density of targets, in nats.

        Args:
            X: The inputs, `[rows, columns]`.
            y: The targets, `[rows]` or `[rows, targets]`.

        Returns:
            The log-densities, `[rows]`.
        """
        return ops.convert_to_numpy(self.flow_.log_prob(*self._to_pair(X, y)))

    def probability_integral_transform(self, X: Tensor, y: Tensor) -> np.ndarray:
        """Computes how likely targets are to be smaller: uniform numbers if that is calibrated.

        Args:
            X: The inputs, `[rows, columns]`.
            y: The targets, `[rows]` or `[rows, targets]`.

        Returns:
            The probabilities, in the shape of `y`; see
            :meth:`gyoza.modelling.flow_layers.FlowModel.probability_integral_transform`.
        """
        u = self.flow_.probability_integral_transform(*self._to_pair(X, y))
        u = ops.convert_to_numpy(u)
        return u[:, 0] if self._is_flat else u
