"""Couplings that scale and shift."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.flow_layers.couplings import ElementwiseCoupling
from gyoza.modelling.functions.scales import bound_log_scales, check_log_scale_bound
from gyoza.modelling.masks import Mask

__all__ = ["AffineCoupling", "VolumePreservingCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class AffineCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` that scales and shifts.

    With two coupling parameters per entry, a raw log-scale :math:`r` and a shift :math:`t`, its law
    is

    .. math::
        f(x) = x \, e^{s(r)} + t, \qquad s(r) = c \tanh(r / c), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i s(r_i),

    where the sum is over the entries that change. The bound :math:`c` of the log-scales keeps the
    layer from exploding, also where it meets inputs that it was not trained on. Both directions
    cost one evaluation of the network. If the network returns zeros, the layer is the identity.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns :math:`r` and :math:`t` along
            a last axis of length 2; a :class:`~gyoza.modelling.conditioners.Conditioner` does so by
            itself.
        mask: See :class:`Coupling`.
        log_scale_bound: The bound :math:`c`: no entry is stretched or squeezed by more than
            :math:`e^c`. With `None`, :math:`s(r) = r`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `log_scale_bound` is not positive, or the network returns a tensor of another
            shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.AffineCoupling(
        ...     compute_coupling_parameters=gyoza.modelling.conditioners.MLP([64])
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3., 4.]], dtype=float32)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        compute_coupling_parameters: Callable[..., Any] | None = None,
        mask: Mask | None = None,
        log_scale_bound: float | None = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, compute_coupling_parameters, mask, **kwargs)
        check_log_scale_bound(log_scale_bound)
        self.log_scale_bound = log_scale_bound

    @property
    def parameter_count(self) -> int:
        """Two: the raw log-scale and the shift."""
        return 2

    def compute_log_scales(self, coupling_parameters: Any) -> Any:
        """Computes the log-scales, in `log_det_dtype`.

        Args:
            coupling_parameters: Raw log-scales and shifts, `[batch, ..., changed entries, 2]`.

        Returns:
            The log-scales, `[batch, ..., changed entries]`.
        """
        return bound_log_scales(coupling_parameters[..., 0], self.log_scale_bound)

    def _couple_(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Scales and shifts; see :meth:`Coupling._couple_`."""
        scales = ops.exp(self.compute_log_scales(coupling_parameters))
        return inputs * ops.cast(scales, inputs.dtype) + coupling_parameters[..., 1]

    def _decouple_(self, outputs: Any, coupling_parameters: Any) -> Any:
        """Shifts and scales back; see :meth:`Coupling._decouple_`."""
        scales = ops.exp(-self.compute_log_scales(coupling_parameters))
        return (outputs - coupling_parameters[..., 1]) * ops.cast(scales, outputs.dtype)

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Gives the log-scales; see :meth:`ElementwiseCoupling.compute_log_stretch`."""
        return self.compute_log_scales(coupling_parameters)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}


@keras.saving.register_keras_serializable(package="gyoza")
class VolumePreservingCoupling(AffineCoupling):
    r"""An :class:`AffineCoupling` that stretches some entries as much as it squeezes others.

    The mean over all entries that change is subtracted from their log-scales,

    .. math::
        f(x_i) = x_i \, e^{s_i - \bar{s}} + t_i, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0,

    so the layer preserves volume, and yet is more flexible than :class:`AdditiveCoupling`. A flow
    of such layers, with a base distribution whose variances are learnt, is a general incompressible
    flow network (GIN): it orders the latent entries by what they contribute to the data. Where
    only one entry changes, the layer only shifts.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. Volume is preserved at every position of the other axes.
        compute_coupling_parameters: See :class:`AffineCoupling`.
        mask: See :class:`Coupling`.
        log_scale_bound: Bound of :math:`s`, as in :class:`AffineCoupling`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: See :class:`AffineCoupling`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.VolumePreservingCoupling(
        ...     compute_coupling_parameters=gyoza.modelling.conditioners.MLP([64])
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(log_det)
        array([0.], dtype=float32)

    References:
        - Sorrenson, P., Rother, C. & Köthe, U. (2020). "Disentanglement by nonlinear ICA with
          general incompressible-flow networks (GIN)."
          `arXiv:2001.04872 <https://arxiv.org/abs/2001.04872>`_
    """

    preserves_volume = True

    def compute_log_scales(self, coupling_parameters: Any) -> Any:
        """Computes log-scales whose sum is zero; see :meth:`AffineCoupling.compute_log_scales`."""
        log_scales = super().compute_log_scales(coupling_parameters)
        if not self._is_in_full_shape:
            return _centre(log_scales)
        kept, changed = self._mask_.split(log_scales)
        return self._mask_.join(kept, _centre(changed))

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> None:
        """Gives `None`, as for all layers that preserve volume."""
        return


def _centre(log_scales: Any) -> Any:
    # Not `ops.mean`, which computes float64 in float32 on some backends.
    return log_scales - ops.sum(log_scales, axis=-1, keepdims=True) / log_scales.shape[-1]
