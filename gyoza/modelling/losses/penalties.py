"""A penalty on latent variables that vary together."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.losses.likelihoods import to_tensors
from gyoza.typing import DType, Tensor

__all__ = ["entanglement", "EntanglementLoss"]


def entanglement(z: Tensor, covariance: bool = False) -> Tensor:
    r"""Computes how far latent vectors are from having at most one non-zero dimension.

    For a vector :math:`z` of :math:`d` dimensions, it is the mean absolute product of pairs,

    .. math::
        \ell(z) = \frac{2}{d (d - 1)} \sum_{i < j} \lvert z_i z_j \rvert
        = \frac{\left( \sum_i \lvert z_i \rvert \right)^2 - \sum_i z_i^2}{d (d - 1)}.

    If dimensions are centred, its mean over a batch bounds the mean absolute value of their
    covariances from above. It does not vanish for independent dimensions, and also draws vectors
    towards the axes and towards 0. With `covariance=True`, the mean over a batch of :math:`N`
    vectors is that of the covariances themselves,

    .. math::
        \frac{1}{N} \sum_k \ell(z^k) = \frac{2}{d (d - 1)} \sum_{i < j} \lvert C_{ij} \rvert,
        \qquad C = \frac{1}{N} \sum_k (z^k - \bar z) (z^k - \bar z)^T.

    In small batches, chance makes these larger, too: by about :math:`1 / \sqrt{N}` for dimensions
    of variance 1.

    Args:
        z: Latent vectors, `[batch, d]`, with :math:`d \ge 2`.
        covariance: Whether to average over the batch before taking absolute values.

    Returns:
        What each vector contributes to the mean, `[batch]`. With `covariance=True`, single values
        depend on the whole batch, and can be negative.

    Raises:
        ValueError: If `z` has another shape.

    Example:

        >>> from gyoza.modelling.losses import entanglement
        >>> z = np.array([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0]], "float32")
        >>> keras.ops.convert_to_numpy(entanglement(z)).round(4)
        array([0.6667, 0.    ], dtype=float32)

    References:
        - Kumar, A., Sattigeri, P. & Balakrishnan, A. (2018). "Variational inference of disentangled
          latent concepts from unlabeled observations." With squares of covariances.
          `arXiv:1711.00848 <https://arxiv.org/abs/1711.00848>`_
    """
    (z,) = to_tensors(z)
    if len(z.shape) != 2 or z.shape[1] == 1:
        raise ValueError(
            "`z` should have shape [batch, d] with at least two dimensions. "
            f"Received: z.shape={tuple(z.shape)}"
        )
    pair_count = z.shape[1] * (z.shape[1] - 1)
    if not covariance:
        squares = ops.sum(ops.square(z), axis=1)
        return (ops.square(ops.sum(ops.abs(z), axis=1)) - squares) / pair_count
    count = ops.cast(ops.shape(z)[0], z.dtype)
    centred = z - ops.sum(z, axis=0) / count
    # |C| is C times its sign, and C a mean over the batch.
    signs = ops.sign(ops.transpose(centred) @ centred)
    signs = signs - signs * ops.eye(z.shape[1], dtype=z.dtype)
    return ops.sum((centred @ signs) * centred, axis=1) / pair_count


@keras.saving.register_keras_serializable(package="gyoza")
class EntanglementLoss(keras.losses.Loss):
    """The :func:`entanglement` of latent vectors, whatever their targets.

    It is a loss for an output that is a latent vector, with a weight of its own among other
    losses: `compile(loss={"code": EntanglementLoss(), …}, loss_weights={"code": 1e-4, …})`. For a
    layer inside a model, use :class:`~gyoza.modelling.regularizers.EntanglementRegularizer`.

    Args:
        covariance: See :func:`entanglement`.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Example:

        >>> loss = gyoza.modelling.losses.EntanglementLoss()
        >>> z = np.array([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0]])
        >>> round(float(loss(np.zeros([2]), z)), 4)
        0.3333
    """

    def __init__(
        self,
        covariance: bool = False,
        name: str = "entanglement_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.covariance = covariance

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes what each vector contributes to the loss.

        Args:
            y_true: Anything.
            y_pred: Latent vectors, `[batch, d]`.

        Returns:
            The contributions, `[batch]`.
        """
        return entanglement(y_pred, self.covariance)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {**super().get_config(), "covariance": self.covariance, "dtype": self.dtype}
