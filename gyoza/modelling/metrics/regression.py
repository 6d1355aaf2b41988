"""Metrics of regression."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.metrics.moments import are_rounding_errors
from gyoza.typing import Tensor

__all__ = ["ExplainedVariance"]


@keras.saving.register_keras_serializable(package="gyoza")
class ExplainedVariance(keras.metrics.Metric):
    r"""The share of variance that predictions explain, over all outputs together.

    .. math::
        1 - \frac{\operatorname{Var}(y - \hat y)}{\operatorname{Var}(y)}

    Variances are taken around the mean of all values, so that outputs that vary more count more.
    `keras.metrics.R2Score` treats each output separately, and also counts the mean of
    :math:`y - \hat y` as an error.

    1 is perfect, and 0 as good as a constant. If the targets do not vary, it is 1 if the residuals
    do not vary either, and 0 otherwise. Sums of squares lose digits if targets are far from zero
    compared with how much they vary: subtract a constant from both, or pass `dtype="float64"`.

    Args:
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Raises:
        ValueError: If targets and predictions do not have the same number of axes.

    Example:

        >>> metric = gyoza.modelling.metrics.ExplainedVariance()
        >>> metric.update_state([[0.0, 10.0], [2.0, 12.0]], [[1.0, 11.0], [1.0, 11.0]])
        >>> round(float(metric.result()), 4)  # 1 - 1 / 26, where each output alone has 0
        0.9615
    """

    NOISE = 1e-6
    """A variance below this share of the mean square, squared in float64, is a rounding error."""

    def __init__(self, name: str = "explained_variance", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        # The sums of weights, targets, residuals, and their squares. Replicas add them up.
        self._sums = self.add_variable((5,), initializer="zeros", dtype=self.dtype, name="sums")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Takes a batch into account.

        Args:
            y_true: Targets, `[batch, ...]`.
            y_pred: Predictions, likewise.
            sample_weight: Weights, `[batch]`, or of a shape that broadcasts to that of targets.
        """
        y_true, y_pred = (ops.convert_to_tensor(y, dtype=self.dtype) for y in (y_true, y_pred))
        if len(y_true.shape) != len(y_pred.shape):
            raise ValueError(
                "`y_true` and `y_pred` should have the same shape. Received: y_true.shape="
                f"{tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)}"
            )
        weights = ops.ones_like(y_true)
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            axes = [1] * (len(y_true.shape) - len(sample_weight.shape))
            weights *= ops.reshape(sample_weight, [*ops.shape(sample_weight), *axes])
        values = [y_true, y_true - y_pred]
        terms = [weights, *(weights * x for x in values), *(weights * x * x for x in values)]
        self._sums.assign_add(ops.stack([ops.sum(term) for term in terms]))

    def result(self) -> Tensor:
        """Computes the share, 0 before the first batch."""
        sums = ops.convert_to_tensor(self._sums)
        # Not by `divide_no_nan`, which rounds to float32 on PyTorch.
        means, squares = ops.split(sums[1:] / ops.where(sums[0] > 0, sums[0], 1.0), 2)
        variances = squares - means * means
        constant = are_rounding_errors(variances, squares, self.NOISE)
        explained = 1.0 - variances[1] / ops.where(constant[0], 1.0, variances[0])
        of_constants = ops.cast(constant[1] & (sums[0] > 0), self.dtype)
        return ops.where(constant[0], of_constants, explained)
