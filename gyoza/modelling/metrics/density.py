"""How well a model describes data, as a mean of log-densities."""

import math
from typing import Any

import keras
from keras import ops

from gyoza.typing import Tensor

__all__ = ["NegativeLogLikelihood", "BitsPerDimension"]


@keras.saving.register_keras_serializable(package="gyoza")
class NegativeLogLikelihood(keras.metrics.Mean):
    r"""The mean of :math:`-\ln p(x)`, in nats.

    Pass it to `compile(metrics=[...])` of a :class:`~gyoza.modelling.flow_layers.FlowModel` without
    a loss, which gives it the log-densities of each batch. The training loss is the same, plus
    regularisers.

    Args:
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Example:

        >>> metric = gyoza.modelling.metrics.NegativeLogLikelihood()
        >>> metric.update_state(np.zeros([2, 3]), np.array([-1.0, -3.0]))
        >>> float(metric.result())
        2.0
    """

    def __init__(self, name: str = "negative_log_likelihood", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Any:
        """Takes a batch into account.

        Args:
            y_true: The data, `[batch, ...]`.
            y_pred: Their log-densities in nats, `[batch]`.
            sample_weight: Weights, `[batch]`.
        """
        return super().update_state(-ops.convert_to_tensor(y_pred), sample_weight=sample_weight)


@keras.saving.register_keras_serializable(package="gyoza")
class BitsPerDimension(NegativeLogLikelihood):
    r"""The mean of :math:`-\frac{1}{n} \log_2 p(x)` of data :math:`x` with :math:`n` dimensions.

    Densities of images are compared in this unit. To be comparable with numbers in the literature,
    the density has to be that of pixel values from 0 to 255; see
    :class:`~gyoza.modelling.flow_layers.UniformDequantization`.

    Args:
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Example:

        >>> metric = gyoza.modelling.metrics.BitsPerDimension()
        >>> metric.update_state(np.zeros([2, 3]), np.log(2.0) * np.array([-6.0, -12.0]))
        >>> round(float(metric.result()), 4)
        3.0
    """

    def __init__(self, name: str = "bits_per_dimension", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Any:
        """Takes a batch into account; see :meth:`NegativeLogLikelihood.update_state`.

        Args:
            y_true: The data, `[batch, ...]`.
            y_pred: Their log-densities in nats, `[batch]`.
            sample_weight: Weights, `[batch]`.
        """
        dimension_count = math.prod(y_true.shape[1:])
        bits = ops.convert_to_tensor(y_pred) / (math.log(2.0) * dimension_count)
        return super().update_state(y_true, bits, sample_weight)
