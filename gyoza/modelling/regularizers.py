"""Regularisers of the outputs of layers."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.functions.tensors import mean
from gyoza.modelling.losses import entanglement
from gyoza.typing import Tensor

__all__ = ["EntanglementRegularizer"]

# From this version on, Keras divides what activity regularisers return by the batch size.
_IS_DIVIDED = tuple(map(int, keras.version().split(".")[:2])) >= (3, 14)


@keras.saving.register_keras_serializable(package="gyoza")
class EntanglementRegularizer(keras.regularizers.Regularizer):
    r"""Adds the :func:`~gyoza.modelling.losses.entanglement` of a layer's outputs to the loss.

    Use it as an `activity_regularizer`, for example of the layer that computes the means of an
    encoder. It adds

    .. math::
        \frac{\text{factor}}{N} \sum_{k=1}^N \ell(z^k)

    for a batch of :math:`N` outputs, with every version of Keras. Called directly, from Keras 3.14
    on, it returns :math:`N` times that, since Keras then divides by the batch size.

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

    def __call__(self, x: Tensor) -> Tensor:
        """Computes what Keras turns into the penalty.

        Args:
            x: The outputs, `[batch, d]`.

        Returns:
            A scalar, which is the sum over the batch from Keras 3.14 on, and the mean before that.
        """
        reduce = ops.sum if _IS_DIVIDED else mean
        return self.factor * reduce(entanglement(x, self.covariance))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"factor": self.factor, "covariance": self.covariance}
