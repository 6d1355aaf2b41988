"""A metric of latent variables that vary together."""

from typing import Any

import keras

from gyoza.modelling.losses import entanglement
from gyoza.typing import Tensor

__all__ = ["Entanglement"]


@keras.saving.register_keras_serializable(package="gyoza")
class Entanglement(keras.metrics.Mean):
    r"""The mean of :func:`~gyoza.modelling.losses.entanglement` over latent vectors.

    .. math::
        \frac{1}{N} \sum_{k=1}^N \frac{2}{d (d - 1)} \sum_{i < j} \lvert z^k_i z^k_j \rvert

    Args:
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Example:

        >>> metric = gyoza.modelling.metrics.Entanglement()
        >>> metric.update_state(None, np.array([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0]]))
        >>> round(float(metric.result()), 4)
        0.3333
    """

    def __init__(self, name: str = "entanglement", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Any:
        """Takes a batch into account.

        Args:
            y_true: Anything.
            y_pred: Latent vectors, `[batch, d]`.
            sample_weight: Weights, `[batch]`.
        """
        return super().update_state(entanglement(y_pred), sample_weight=sample_weight)
