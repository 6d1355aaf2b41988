"""Normalisation by the statistics of batches."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import align
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.checks import check_positive_number
from gyoza.modelling.functions.tensors import count_positions, mean
from gyoza.typing import Tensor

__all__ = ["BatchNormalization"]


@keras.saving.register_keras_serializable(package="gyoza")
class BatchNormalization(FlowLayer):
    r"""Normalises each dimension by the mean and variance of a batch, then scales and shifts it.

    .. math::
        y = \frac{x - m}{\sqrt{v + \epsilon}} \, e^g + b, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        n \sum_i \left( g_i - \tfrac{1}{2} \ln (v_i + \epsilon) \right),

    with one mean :math:`m_i`, variance :math:`v_i`, log-scale :math:`g_i` and shift :math:`b_i` for
    each dimension along `axes`, shared by the :math:`n` positions along the remaining axes.

    In training, :math:`m` and :math:`v` are the statistics of the batch, over all its positions,
    and the log-determinant is that of the map with these held fixed. In inference, and always in
    `invert`, they are moving averages of the statistics seen in training. Keras passes the argument
    `training` to `call`; a layer that is not `trainable` is always in inference. In inference, a
    new layer is the identity, up to :math:`\epsilon`.

    Both directions cost a few operations per dimension, in at least float32. In distributed
    training, each replica normalises its own part of the batch; statistics are not synchronised.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, images `[batch, height, width, channels]` are
            normalised per channel.
        momentum: The share of the moving averages that is kept at each training step, from 0 to 1.
        epsilon: The positive number :math:`\epsilon`, which keeps scales finite.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `momentum` is not in [0, 1], or `epsilon` is not positive.

    Attributes:
        log_scale: The weight :math:`g`, with `shape`. It starts at 0.
        shift: The weight :math:`b`, with `shape`. It starts at 0.
        moving_mean: The moving average of means, with `shape`.
        moving_variance: The moving average of variances, with `shape`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.BatchNormalization()
        >>> x = np.array([[0.0, 10.0], [2.0, 50.0]], "float32")
        >>> outputs, log_det = layer(x, training=True)
        >>> keras.ops.convert_to_numpy(outputs).round(3)
        array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.moving_mean).round(3)
        array([0.01, 0.3 ], dtype=float32)

    References:
        - Ioffe, S. & Szegedy, C. (2015). "Batch normalization: Accelerating deep network training
          by reducing internal covariate shift." `arXiv:1502.03167
          <https://arxiv.org/abs/1502.03167>`_
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
        - Papamakarios, G., Pavlakou, T. & Murray, I. (2017). "Masked autoregressive flow for
          density estimation." `arXiv:1705.07057 <https://arxiv.org/abs/1705.07057>`_
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` should be from 0 to 1. Received: momentum={momentum}")
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.momentum = float(momentum)
        self.epsilon = check_positive_number("epsilon", epsilon)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the scale, the shift and the moving averages."""
        self.log_scale, self.shift, self.moving_mean, self.moving_variance = (
            self.add_weight(
                shape=self._shape_,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
                name=name,
            )
            for name, initializer, trainable in (
                ("log_scale", "zeros", True),
                ("shift", "zeros", True),
                ("moving_mean", "zeros", False),
                ("moving_variance", "ones", False),
            )
        )

    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and variances over all axes but `axes`, with `shape`."""
        rest = [axis for axis in range(len(x.shape)) if axis not in self._axes_]
        means = mean(x, rest)
        gap = x - self._align(means, len(x.shape))
        return means, mean(gap * gap, rest)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Returns the moving averages, in `log_det_dtype`."""
        return (
            ops.cast(self.moving_mean, self.log_det_dtype),
            ops.cast(self.moving_variance, self.log_det_dtype),
        )

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.cast(ops.stop_gradient(value), average.dtype)
            average.assign(self.momentum * average + (1 - self.momentum) * value)

    def _align(self, values: Tensor, rank: int) -> Tensor:
        return align(ops.cast(values, self.log_det_dtype), self._axes_, self._shape_, rank)

    def call(self, inputs: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Normalises a batch.

        Args:
            inputs: See :meth:`FlowLayer.call`.
            training: Whether to normalise by the statistics of the batch, and to update the
                averages.

        Returns:
            See :meth:`FlowLayer.call`.
        """
        x = ops.cast(inputs, self.log_det_dtype)
        if training and self.trainable:
            mean, variance = self._measure(x)
            self._update(mean, variance)
        else:
            mean, variance = self._statistics()
        log_scale = ops.cast(self.log_scale, x.dtype) - 0.5 * ops.log(variance + self.epsilon)
        rank = len(x.shape)
        positions = count_positions(x, [axis for axis in range(1, rank) if axis not in self._axes_])
        scaled = (x - self._align(mean, rank)) * self._align(ops.exp(log_scale), rank)
        outputs = ops.cast(scaled + self._align(self.shift, rank), inputs.dtype)
        return outputs, ops.broadcast_to(positions * ops.sum(log_scale), ops.shape(x)[:1])

    def invert(self, outputs: Tensor) -> Tensor:
        """Undoes normalisation by the moving averages; see :meth:`FlowLayer.invert`."""
        y = ops.cast(outputs, self.log_det_dtype)
        mean, variance = self._statistics()
        scale = ops.sqrt(variance + self.epsilon) * ops.exp(-ops.cast(self.log_scale, y.dtype))
        rank = len(y.shape)
        scaled = (y - self._align(self.shift, rank)) * self._align(scale, rank)
        return ops.cast(scaled + self._align(mean, rank), outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
