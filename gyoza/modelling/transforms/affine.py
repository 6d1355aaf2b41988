"""Transforms that shift, or scale and shift."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.functions.dtypes import check_float_dtype
from gyoza.modelling.functions.scales import bound_log_scales, check_log_scale_bound
from gyoza.modelling.functions.tensors import mean
from gyoza.modelling.transforms.base import Transform
from gyoza.typing import Tensor

__all__ = ["AdditiveTransform", "AffineTransform", "VolumePreservingTransform", "centre"]


@keras.saving.register_keras_serializable(package="gyoza")
class AdditiveTransform(Transform):
    r"""Adds a parameter, :math:`f(x; t) = x + t`, which preserves volume.

    Example:

        >>> transform = gyoza.modelling.transforms.AdditiveTransform()
        >>> x = keras.ops.array([1.0, 2.0], "float32")
        >>> parameters = keras.ops.array([[0.5], [-0.5]], "float32")
        >>> y, log_derivative = transform.forward(x, parameters)
        >>> keras.ops.convert_to_numpy(y)
        array([1.5, 1.5], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
    """

    preserves_volume = True

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Adds the shift; see :meth:`Transform.forward`."""
        check_float_dtype(x.dtype)
        return x + parameters[..., 0], None

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Subtracts the shift; see :meth:`Transform.inverse`."""
        check_float_dtype(y.dtype)
        return y - parameters[..., 0]


@keras.saving.register_keras_serializable(package="gyoza")
class AffineTransform(Transform):
    r"""Scales and shifts by two parameters, a raw log-scale :math:`r` and a shift :math:`t`.

    .. math::
        f(x; r, t) = x \, e^{s(r)} + t, \qquad s(r) = c \tanh(r / c), \qquad
        \ln \left| \frac{\partial f}{\partial x} \right| = s(r).

    Args:
        log_scale_bound: The bound :math:`c`: nothing is stretched or squeezed by more than
            :math:`e^c`. With `None`, :math:`s(r) = r`.

    Raises:
        ValueError: If `log_scale_bound` is not positive.

    Example:

        >>> transform = gyoza.modelling.transforms.AffineTransform(log_scale_bound=None)
        >>> x = keras.ops.array([1.0, 2.0], "float32")
        >>> parameters = keras.ops.array([[0.0, 1.0], [np.log(3.0), 0.0]], "float32")
        >>> y, log_derivative = transform.forward(x, parameters)
        >>> keras.ops.convert_to_numpy(y).round(4)
        array([2., 6.], dtype=float32)
        >>> keras.ops.convert_to_numpy(transform.inverse(y, parameters)).round(4)
        array([1., 2.], dtype=float32)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    parameter_count = 2

    def __init__(self, log_scale_bound: float | None = 2.0) -> None:
        check_log_scale_bound(log_scale_bound)
        self.log_scale_bound = log_scale_bound

    def compute_log_scales(self, parameters: Tensor) -> Tensor:
        """Computes the log-scales, in float32 at least.

        Args:
            parameters: Raw log-scales and shifts, `[..., dimensions, 2]`.

        Returns:
            The log-scales, `[..., dimensions]`.
        """
        raw, _ = ops.unstack(parameters, 2, axis=-1)  # one operation, where an index takes two each
        return bound_log_scales(raw, self.log_scale_bound)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts; see :meth:`Transform.forward`."""
        check_float_dtype(x.dtype)
        log_scales = self.compute_log_scales(parameters)
        _, shifts = ops.unstack(parameters, 2, axis=-1)
        return x * ops.cast(ops.exp(log_scales), x.dtype) + shifts, log_scales

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Shifts and scales back; see :meth:`Transform.inverse`."""
        return self._undo(y, parameters, self.compute_log_scales(parameters))

    def inverse_and_log_derivative(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and scales back; see :meth:`Transform.inverse_and_log_derivative`."""
        log_scales = self.compute_log_scales(parameters)
        return self._undo(y, parameters, log_scales), log_scales

    def _undo(self, y: Tensor, parameters: Tensor, log_scales: Tensor) -> Tensor:
        check_float_dtype(y.dtype)
        _, shifts = ops.unstack(parameters, 2, axis=-1)
        return (y - shifts) * ops.cast(ops.exp(-log_scales), y.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Transform.get_config`."""
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}


@keras.saving.register_keras_serializable(package="gyoza")
class VolumePreservingTransform(AffineTransform):
    r"""An :class:`AffineTransform` that stretches some dimensions as much as it squeezes others.

    The mean :math:`\bar{s}` over all dimensions of a vector is subtracted from their log-scales,

    .. math::
        f(x_i; r, t) = x_i \, e^{s(r_i) - \bar{s}} + t_i, \qquad
        \sum_i \ln \left| \frac{\partial f}{\partial x_i} \right| = 0.

    It depends on the parameters of all dimensions, so autoregressive layers cannot take it.

    Args:
        log_scale_bound: See :class:`AffineTransform`.

    Raises:
        ValueError: See :class:`AffineTransform`.

    Example:

        >>> transform = gyoza.modelling.transforms.VolumePreservingTransform(log_scale_bound=None)
        >>> parameters = keras.ops.array([[np.log(4.0), 0.0], [0.0, 0.0]], "float32")
        >>> y, log_derivative = transform.forward(keras.ops.ones([2]), parameters)
        >>> keras.ops.convert_to_numpy(y).round(4)
        array([2. , 0.5], dtype=float32)

    References:
        - Sorrenson, P., Rother, C. & Köthe, U. (2020). "Disentanglement by nonlinear ICA with
          general incompressible-flow networks (GIN)."
          `arXiv:2001.04872 <https://arxiv.org/abs/2001.04872>`_
    """

    preserves_volume = True
    couples_dimensions = True

    def compute_log_scales(self, parameters: Tensor) -> Tensor:
        """Computes log-scales whose sum is zero; see :meth:`AffineTransform.compute_log_scales`."""
        return centre(super().compute_log_scales(parameters))

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales and shifts; see :meth:`Transform.forward`."""
        return super().forward(x, parameters)[0], None

    def inverse_and_log_derivative(
        self, y: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Shifts and scales back; see :meth:`Transform.inverse_and_log_derivative`."""
        return self.inverse(y, parameters), None


def centre(log_scales: Tensor) -> Tensor:
    """Subtracts the mean along the last axis."""
    return log_scales - mean(log_scales, -1, keepdims=True)
