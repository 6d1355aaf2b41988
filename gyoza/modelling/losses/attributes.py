"""The loss of codes whose attributes are labelled."""

from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.attributes import AttributeCode
from gyoza.modelling.distributions.tools import class_penalty, to_classes
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.typing import DType, Tensor

__all__ = ["AttributeLoss"]


@keras.saving.register_keras_serializable(package="gyoza")
class AttributeLoss(keras.losses.Loss):
    r"""Cross-entropies and squared distances of the attributes that a network's outputs encode.

    Blocks of the outputs :math:`z` encode attributes as an
    :class:`~gyoza.modelling.attributes.AttributeCode` describes. With classes :math:`c_k` and
    values :math:`y_v`, the loss is

    .. math::
        \ell = -\sum_k \ln \operatorname{softmax}(s z_k)_{c_k} + \sum_v (z_v - y_v)^2,

    where the first sum, in nats, is over categorical attributes, and the second over real-valued
    ones. Unknown labels add nothing, and neither does the residual block. A flow does not need this
    loss, since the likelihood under the code's distribution contains these terms.

    Args:
        code: The layout of the outputs.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Raises:
        TypeError: If `code` is not an :class:`~gyoza.modelling.attributes.AttributeCode`.
        ValueError: If `y_true` or `y_pred` does not fit it, or classes are out of range. In
            compiled code, which cannot raise errors, the loss of such classes is NaN.

    Example:

        >>> code = gyoza.modelling.attributes.AttributeCode({"shape": 2, "x": None}, separation=1.0)
        >>> loss = gyoza.modelling.losses.AttributeLoss(code)
        >>> y_true = np.array([[0, 0.5], [-1, 1.0]])  # the second class is unknown
        >>> y_pred = np.array([[0.0, 0.0, 0.5], [3.0, 0.0, 3.0]])
        >>> round(float(loss(y_true, y_pred)), 4)  # the mean of ln 2 and (3 - 1)²
        2.3466
    """

    def __init__(
        self,
        code: AttributeCode,
        name: str = "attribute_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_instance("code", code, AttributeCode, "an `AttributeCode`")
        self.code = code
        sizes = list(code.attributes.values())
        starts = np.cumsum(code.dimensions_per_factor)[:-1]
        self._categorical = np.array([i for i, size in enumerate(sizes) if size], "int32")
        self._real = np.array([i for i, size in enumerate(sizes) if not size], "int32")
        self._class_counts = np.array([size for size in sizes if size], "int32")
        self._starts = starts.astype("int32")

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Computes the reduced loss; see :meth:`call`."""
        if isinstance(y_true, np.ndarray | list | tuple):
            self.code.check_labels(y_true)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each instance.

        Args:
            y_true: Labels, `[batch, attribute count]`: classes from 0 on, or -1 or NaN where they
                are unknown, and values, or NaN.
            y_pred: Codes, `[batch, code.dimension_count]`.

        Returns:
            The losses, `[batch]`.
        """
        z = ops.convert_to_tensor(y_pred)
        z = ops.cast(z, at_least_float32(z.dtype))
        labels = ops.convert_to_tensor(y_true, dtype=z.dtype)
        for name, tensor, width in (
            ("y_true", labels, len(self.code.attributes)),
            ("y_pred", z, self.code.dimension_count),
        ):
            if len(tensor.shape) != 2 or tensor.shape[1] != width:
                raise ValueError(
                    f"`{name}` should have shape [batch, {width}] for the attributes "
                    f"{self.code.attributes}. Received: {name}.shape={tuple(tensor.shape)}"
                )
        return self._cross_entropy(labels, z) + self._squared_distance(labels, z)

    def _cross_entropy(self, labels: Tensor, z: Tensor) -> Tensor:
        if not self._categorical.size:
            return 0.0
        # All blocks side by side, padded to the longest, [batch, attributes, length].
        places = np.arange(self._class_counts.max(), dtype="int32")
        is_class = places < self._class_counts[:, None]
        indices = np.where(is_class, self._starts[self._categorical, None] + places, 0)
        logits = self.code.separation * ops.take(z, indices, axis=1)
        log_probs = ops.log_softmax(ops.where(is_class, logits, -np.inf), axis=-1)
        classes = to_classes(ops.take(labels, self._categorical, axis=1))
        chosen = ops.take_along_axis(
            log_probs, ops.clip(classes, 0, len(places) - 1)[..., None], axis=-1
        )[..., 0]
        penalty = class_penalty(classes, self._class_counts, z.dtype)
        known = ops.where(classes == -1, ops.zeros_like(chosen), chosen + penalty)
        return -ops.sum(known, axis=-1)

    def _squared_distance(self, labels: Tensor, z: Tensor) -> Tensor:
        values = ops.take(labels, self._real, axis=1)
        differences = ops.take(z, self._starts[self._real], axis=1) - values
        known = ops.where(ops.isnan(values), ops.zeros_like(values), differences)
        return ops.sum(ops.square(known), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {
            **super().get_config(),
            "code": keras.saving.serialize_keras_object(self.code),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttributeLoss":
        """Creates a loss from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            An equal loss.
        """
        return cls(**{**config, "code": keras.saving.deserialize_keras_object(config["code"])})
