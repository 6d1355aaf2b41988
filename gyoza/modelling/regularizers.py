"""Regularisers of the outputs of layers."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.losses import entanglement

__all__ = ["EntanglementRegularizer"]


@keras.saving.register_keras_serializable(package="gyoza")
class EntanglementRegularizer(keras.regularizers.Regularizer):
    r"""Adds the :func:`~gyoza.modelling.losses.entanglement` of a layer's outputs to the loss.

    It is meant as an `activity_regularizer`, for example of the layer that gives the means of an
    encoder. What it adds is

    .. math::
        \frac{\text{factor}}{N} \sum_{k=1}^N \ell(z^k)

    for a batch of :math:`N` outputs. Called by itself it gives :math:`N` times that, which Keras
    divides by the batch size.

    Args:
        factor: The weight of the penalty, not negative.
        covariance: See :func:`~gyoza.modelling.losses.entanglement`.

    Raises:
        ValueError: If `factor` is negative.

    Example:

        >>> from gyoza.modelling.regularizers import EntanglementRegularizer
        >>> layer = keras.layers.Activation(
        ...     "linear", activity_regularizer=EntanglementRegularizer(0.1)
        ... )
        >>> outputs = layer(np.array([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0]]))
        >>> round(float(layer.losses[0]), 4)
        0.0333
    """

    def __init__(self, factor: float = 1e-4, covariance: bool = False) -> None:
        if not factor >= 0.0:
            raise ValueError(f"`factor` should not be negative. Received: factor={factor}")
        self.factor = float(factor)
        self.covariance = covariance

    def __call__(self, x: Any) -> Any:
        """Computes the penalty of outputs, times their number.

        Args:
            x: The outputs, `[batch, d]`.

        Returns:
            The penalty, a scalar.
        """
        return self.factor * ops.sum(entanglement(x, self.covariance))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"factor": self.factor, "covariance": self.covariance}
