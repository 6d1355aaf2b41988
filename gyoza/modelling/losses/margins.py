"""Losses of classifiers that require a margin between scores."""

from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.checks import check_positive_number
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.tensors import larger, mean
from gyoza.typing import DType, Tensor

__all__ = ["HingeLoss", "MulticlassHingeLoss"]


class _Margin(keras.losses.Loss):
    """What losses with a margin have in common."""

    def __init__(
        self,
        delta: float,
        name: str,
        reduction: str | None,
        dtype: DType,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.delta = check_positive_number("delta", delta)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {**super().get_config(), "delta": self.delta, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="gyoza")
class HingeLoss(_Margin):
    r"""The hinge loss of two classes, with any margin.

    With a target :math:`t = \pm 1` and a score :math:`q`,

    .. math::
        \ell = \max(0, \delta - t q).

    `keras.losses.Hinge` has :math:`\delta = 1`.

    Args:
        delta: The margin :math:`\delta`, positive.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Raises:
        ValueError: If `delta` is not positive.

    Example:

        >>> loss = gyoza.modelling.losses.HingeLoss(delta=0.5, reduction=None)
        >>> keras.ops.convert_to_numpy(loss(np.array([1.0, -1.0]), np.array([0.25, 2.0])))
        array([0.25, 2.5 ], dtype=float32)
    """

    def __init__(
        self,
        delta: float = 1.0,
        name: str = "hinge_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(delta, name, reduction, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the losses.

        Args:
            y_true: Targets, 1 and -1 (or 0), `[batch]` or `[batch, ...]`. Others result in NaN.
            y_pred: Scores, likewise.

        Returns:
            The losses, `[batch]`, or their means over the last axis, `[batch, ...]`.
        """
        scores = ops.convert_to_tensor(y_pred)
        scores = ops.cast(scores, at_least_float32(scores.dtype))
        signs = ops.cast(y_true, scores.dtype)
        signs = ops.where(signs == 0.0, -1.0, signs)
        signs = ops.where(ops.abs(signs) == 1.0, signs, np.nan)
        losses = larger(0.0, self.delta - signs * scores)
        return losses if len(losses.shape) < 2 else mean(losses, -1)


@keras.saving.register_keras_serializable(package="gyoza")
class MulticlassHingeLoss(_Margin):
    r"""The hinge loss of several classes, with any margin.

    With the index :math:`t` of the class and the scores :math:`q`,

    .. math::
        \ell = \max \left( 0, \max_{j \neq t} q_j - q_t + \delta \right).

    `keras.losses.CategoricalHinge` has :math:`\delta = 1`, counts 0 among the other scores, and
    expects one-hot targets.

    Args:
        delta: The margin :math:`\delta`, positive.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Raises:
        ValueError: If `delta` is not positive, or shapes do not match.

    Example:

        >>> loss = gyoza.modelling.losses.MulticlassHingeLoss(delta=0.5)
        >>> float(loss(np.array([2]), np.array([[-1.0, 0.25, 0.5]])))
        0.25
    """

    def __init__(
        self,
        delta: float = 1.0,
        name: str = "multiclass_hinge_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(delta, name, reduction, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the losses.

        Args:
            y_true: Indices of classes, `[batch]` or `[batch, 1]`, or one-hot rows, `[batch,
                classes]`. The loss of others is NaN.
            y_pred: Scores, `[batch, classes]`, of at least two classes.

        Returns:
            The losses, `[batch]`.
        """
        scores = ops.convert_to_tensor(y_pred)
        scores = ops.cast(scores, at_least_float32(scores.dtype))
        targets = ops.convert_to_tensor(y_true)
        classes = scores.shape[-1]
        shape = tuple(targets.shape)
        if len(scores.shape) != 2 or classes < 2 or shape[1:] not in ((), (1,), (classes,)):
            raise ValueError(
                "`y_pred` should have shape [batch, classes], and `y_true` [batch], [batch, 1] or "
                f"that of `y_pred`. Received: y_pred.shape={tuple(scores.shape)}, "
                f"y_true.shape={shape}"
            )
        if shape[1:] == (classes,):
            is_class = targets == 1
        else:
            is_class = ops.reshape(targets, (-1, 1)) == ops.arange(classes, dtype=targets.dtype)
        others = ops.max(ops.where(is_class, -np.inf, scores), axis=-1)
        own = ops.sum(ops.where(is_class, scores, 0.0), axis=-1)
        known = ops.sum(ops.cast(is_class, "int32"), axis=-1) == 1
        return ops.where(known, larger(0.0, others - own + self.delta), np.nan)
