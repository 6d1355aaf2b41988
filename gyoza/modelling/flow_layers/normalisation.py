"""Trainable shifts and scales that start from the statistics of data."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.adaptation import check_finite_rows, choose_scales, is_left_alone
from gyoza.modelling.batches import iterate_inputs
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.typing import Data, Tensor

__all__ = ["ActivationNormalization"]


@keras.saving.register_keras_serializable(package="gyoza")
class ActivationNormalization(FlowLayer):
    r"""Shifts and scales each dimension ("ActNorm").

    .. math::
        y = \frac{x - l}{s}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -n \sum_i \ln s_i,

    with one location :math:`l_i` and one scale :math:`s_i > 0` for each dimension along `axes`,
    shared by the :math:`n` positions along the remaining axes. A new layer is the identity; call
    :meth:`adapt` to start with normalised outputs.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, images `[batch, height, width, channels]` are
            normalised per channel, with `axes=[1, 2]` per pixel, and with `axes=[1, 2, 3]` per
            pixel and channel.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        _location_: The weight :math:`l`, with `shape`.
        _scale_: The weight :math:`s`, with `shape`, kept positive by a constraint.

    Example:

        >>> layer = gyoza.modelling.flow_layers.ActivationNormalization()
        >>> data = np.array([[0.0, 10.0], [2.0, 50.0]], "float32")
        >>> layer.adapt(data)
        >>> outputs, log_det = layer(data)
        >>> keras.ops.convert_to_numpy(outputs)
        array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([-2.9957, -2.9957], dtype=float32)

    References:
        - Kingma, D. P. & Dhariwal, P. (2018). "Glow: Generative flow with invertible 1x1
          convolutions." `arXiv:1807.03039 <https://arxiv.org/abs/1807.03039>`_
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    @keras.saving.register_keras_serializable(package="gyoza")
    class _PositiveConstraint_(keras.constraints.Constraint):
        """Keeps the scale positive, and no smaller than the least number that is safe to divide by.

        If a training step makes it negative, as may happen when the scale is small compared with
        the learning rate, its sign is flipped.
        """

        MINIMUM = 1e-30

        def __call__(self, w: Tensor) -> Tensor:
            return ops.clip(ops.abs(w), self.MINIMUM, np.inf)

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the location and the scale."""
        self._location_ = self.add_weight(shape=self._shape_, initializer="zeros", name="location")
        self._scale_ = self.add_weight(
            shape=self._shape_,
            initializer="ones",
            constraint=self._PositiveConstraint_(),
            name="scale",
        )

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Sets the location and the scale to the mean and the standard deviation of `data`.

        Outputs for `data` then have mean 0 and variance 1 in every dimension. A dimension that is
        constant in `data` keeps the scale 1. The result is saved and loaded with the weights, and
        is replaced only if this method is called again. A frozen layer is left as it is, with a
        warning. A warning also names dimensions that the layer's dtype cannot resolve, such as
        numbers around 1e8 that differ by 1, in float32.

        Args:
            data: The inputs: an array `[instances, ...]`, or a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or another iterable of batches, from which inputs are
                taken (a pair of inputs counts as two batches).
            batch_size: Number of instances processed at a time.

        Raises:
            TypeError: If `data` are not floating-point numbers.
            ValueError: If `data` are empty or not finite. The weights are then left unchanged.
        """
        if is_left_alone(self):
            return
        count, row_count, dtype = 0, 0, None
        mean, squares, low, high = (np.array(value) for value in (0.0, 0.0, np.inf, -np.inf))
        for batch in iterate_inputs(data, batch_size):
            if not self.built:
                self.build((None, *batch.shape[1:]))
            rest = tuple(axis for axis in range(batch.ndim) if axis not in self._axes_)
            check_finite_rows(self.name, batch, row_count)
            row_count += len(batch)
            dtype, batch = batch.dtype, batch.astype("float64")
            batch_count = math.prod(batch.shape[axis] for axis in rest)
            batch_mean = batch.mean(axis=rest)
            gap = batch_mean - mean
            total = count + batch_count
            squares = (
                squares + batch.var(axis=rest) * batch_count + gap**2 * count * batch_count / total
            )
            mean = mean + gap * batch_count / total
            count = total
            low = np.minimum(low, batch.min(axis=rest))
            high = np.maximum(high, batch.max(axis=rest))
        if count == 0:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        if not np.all(np.isfinite(squares)):
            raise ValueError(
                f"`data` should have a finite variance where '{self.name}' is adapted to them. "
                f"Received: numbers from {low.min()} to {high.max()}"
            )
        deviation = np.sqrt(squares / count)
        self._settle(mean, choose_scales(self, mean, deviation, low == high, dtype))

    def _settle(self, location: Tensor, scale: Tensor) -> None:
        """Sets the weights from what was measured."""
        self._location_.assign(location)
        self._scale_.assign(scale)

    def _prepare_variables_for_computation_(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reshapes the location and the scale to broadcast along `axes` of `x`.

        Args:
            x: The tensor to combine them with, `[batch, ...]`.

        Returns:
            The location and the scale, with as many axes as `x`.
        """
        others = sorted({*range(len(x.shape))}.difference(self._axes_))
        return ops.expand_dims(self._location_, others), ops.expand_dims(self._scale_, others)

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.call`."""
        location, scale = self._prepare_variables_for_computation_(inputs)
        return (inputs - location) / scale, self.compute_jacobian_determinant(inputs)

    def compute_jacobian_determinant(self, x: Tensor) -> Tensor:
        """Returns log-determinants; see :meth:`FlowLayer.compute_jacobian_determinant`."""
        lengths = ops.shape(x)
        dtype = at_least_float32(self.compute_dtype)
        log_det = -ops.sum(ops.log(ops.cast(self._scale_, dtype)))
        for axis in range(1, len(lengths)):
            if axis not in self._axes_:  # of as many positions
                log_det = log_det * ops.cast(lengths[axis], dtype)
        return ops.broadcast_to(log_det, lengths[:1])

    def invert(self, outputs: Tensor) -> Tensor:
        """See :meth:`FlowLayer.invert`."""
        location, scale = self._prepare_variables_for_computation_(outputs)
        return outputs * scale + location
