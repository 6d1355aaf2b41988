"""Couplings that shift, or scale and shift."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from gyoza.modelling.flow_layers.elementwise_couplings import ElementwiseCoupling
from gyoza.modelling.flow_layers.transforming import option
from gyoza.modelling.functions.checks import is_own
from gyoza.modelling.masks import Mask
from gyoza.modelling.transforms import (
    AdditiveTransform,
    AffineTransform,
    Transform,
    VolumePreservingTransform,
)
from gyoza.modelling.transforms.affine import centre
from gyoza.typing import Tensor, Tensors

__all__ = ["AdditiveCoupling", "AffineCoupling", "VolumePreservingCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class AdditiveCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` that adds, :math:`f(x_2, g(x_1)) = x_2 + g(x_1)`.

    It preserves volume: its log-determinant is 0. The transform is
    :class:`~gyoza.modelling.transforms.AdditiveTransform`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns the shift: a tensor of the
            shape of the inputs, or a :class:`~gyoza.modelling.conditioners.Conditioner` does for
            the changed dimensions alone.
        mask: See :class:`Coupling`.
        **kwargs: Arguments of :class:`Coupling`.

    Raises:
        ValueError: If the network returns a tensor of another shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.AdditiveCoupling(
        ...     conditioner=lambda x: 10.0 + x[..., ::-1],
        ...     mask=gyoza.modelling.masks.Mask(axes=[1], shape=[2], mask=[1, 0]),
        ... )
        >>> outputs, log_det = layer(np.array([[1.0, 2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[ 1., 13.]], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
    """

    _is_configured_by_options = True

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        transformer = AdditiveTransform()
        super().__init__(shape, axes, compute_coupling_parameters, mask, transformer, **kwargs)


@keras.saving.register_keras_serializable(package="gyoza")
class AffineCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` that scales and shifts.

    With two parameters for each dimension, a raw log-scale :math:`r` and a shift :math:`t`, it
    computes

    .. math::
        f(x) = x \, e^{s(r)} + t, \qquad s(r) = c \tanh(r / c), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i s(r_i),

    where the sum is over the dimensions that change; see
    :class:`~gyoza.modelling.transforms.AffineTransform`. The bound :math:`c` of the log-scales
    keeps the layer from exploding, also where it meets inputs that it was not trained on. Both
    directions cost one evaluation of the network. If the network returns zeros, the layer is the
    identity.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns :math:`r` and :math:`t` along
            a last axis of length 2; a :class:`~gyoza.modelling.conditioners.Conditioner` does so by
            itself.
        mask: See :class:`Coupling`.
        log_scale_bound: The bound :math:`c`: no dimension is stretched or squeezed by more than
            :math:`e^c`. With `None`, :math:`s(r) = r`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `log_scale_bound` is not positive, or the network returns a tensor of another
            shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.AffineCoupling(
        ...     conditioner=gyoza.modelling.conditioners.MLP([64])
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3., 4.]], dtype=float32)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    preserves_volume = False
    _is_configured_by_options = True
    log_scale_bound = option("log_scale_bound")
    _make_transformer: type[AffineTransform] = AffineTransform

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        log_scale_bound: float | None = 2.0,
        **kwargs: Any,
    ) -> None:
        transformer = self._make_transformer(log_scale_bound)
        super().__init__(shape, axes, compute_coupling_parameters, mask, transformer, **kwargs)

    def _set_transformer(self, transformer: Transform | None) -> None:
        super()._set_transformer(transformer)
        if not is_own(type(self)):
            # A user's subclass may compute log-scales in another way.
            self.transformer.compute_log_scales = self.compute_log_scales

    def compute_log_scales(self, coupling_parameters: Tensor) -> Tensor:
        """Computes the log-scales, in `log_det_dtype`.

        Args:
            coupling_parameters: Raw log-scales and shifts, `[batch, ..., changed dimensions, 2]`.

        Returns:
            The log-scales, `[batch, ..., changed dimensions]`.
        """
        return type(self.transformer).compute_log_scales(self.transformer, coupling_parameters)

    def compute_log_stretch(self, inputs: Tensor, coupling_parameters: Tensor) -> Tensor | None:
        """Computes the log-scales; see :meth:`ElementwiseCoupling.compute_log_stretch`."""
        return None if self.preserves_volume else self.compute_log_scales(coupling_parameters)


@keras.saving.register_keras_serializable(package="gyoza")
class VolumePreservingCoupling(AffineCoupling):
    r"""An :class:`AffineCoupling` that stretches some dimensions as much as it squeezes others.

    The mean over all dimensions that change is subtracted from their log-scales,

    .. math::
        f(x_i) = x_i \, e^{s_i - \bar{s}} + t_i, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0,

    so the layer preserves volume, and yet is more flexible than :class:`AdditiveCoupling`. A flow
    of such layers, with a base distribution whose variances are learnt, is a general incompressible
    flow network (GIN): it orders the latent dimensions by what they contribute to the data. Where
    only one dimension changes, the layer only shifts.

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
        ...     conditioner=gyoza.modelling.conditioners.MLP([64])
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
    _make_transformer = VolumePreservingTransform

    def compute_log_scales(self, coupling_parameters: Tensor) -> Tensor:
        """Computes log-scales whose sum is zero; see :meth:`AffineCoupling.compute_log_scales`."""
        if not self._is_in_full_shape:
            return super().compute_log_scales(coupling_parameters)
        log_scales = AffineTransform.compute_log_scales(self.transformer, coupling_parameters)
        kept, changed = self._mask_.split(log_scales)
        return self._mask_.join(kept, centre(changed))
