"""Couplings whose law is the distribution function of a mixture of logistic distributions."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import is_integer
from gyoza.modelling.flow_layers.affine_couplings import AffineCoupling
from gyoza.modelling.functions.logistic_mixtures import mixture_log_odds, mixture_quantile
from gyoza.modelling.functions.scales import bound_log_scales
from gyoza.modelling.masks import Mask

__all__ = ["MixtureLogisticCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class MixtureLogisticCoupling(AffineCoupling):
    r"""An :class:`AffineCoupling` that first bends each entry by a mixture of logistics.

    Each entry is sent through the distribution function :math:`F` of a mixture of :math:`K`
    logistic distributions and back through that of the standard one, and is then scaled and
    shifted:

    .. math::
        f(x) = \ln \frac{F(x)}{1 - F(x)} \, e^{s(r)} + t, \qquad
        F(x) = \sum_k \pi_k \, \sigma \! \left( \frac{x - m_k - o_k}{e^{s(r_k)}} \right), \qquad
        \pi = \operatorname{softmax}(l), \qquad s(r) = c \tanh(r / c).

    With :math:`F'` the density of the mixture,

    .. math::
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \left( \ln \frac{F_i'(x_i)}{F_i(x_i) (1 - F_i(x_i))} + s(r_i) \right),

    where the sum is over the entries that change. Modes of the data are pulled together, so one
    layer makes what would take many affine ones. There are :math:`3 K + 2` coupling parameters per
    entry: :math:`r`, :math:`t`, and then the :math:`K` logits :math:`l_k`, locations :math:`m_k`
    and raw log-scales :math:`r_k`.

    The offsets :math:`o_k` are fixed and evenly spaced between minus and plus `location_spread`.
    If all components were equal, they would have equal gradients, and never differ. So a layer
    whose network returns zeros is not quite the identity, but nearly: with a spread of 0.3, no
    entry is moved by more than 0.05, and no slope differs from 1 by more than 0.03.

    The inverse is found numerically: it takes one evaluation of the network, and some tens of the
    law, in a compiled loop. It can be differentiated. Between modes that are far apart, where the
    law is nearly flat, it is less precise. Both directions compute in float32 at least.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns the parameters along a last
            axis; a :class:`~gyoza.modelling.conditioners.Conditioner` does so by itself.
        mask: See :class:`Coupling`.
        component_count: The number of components, :math:`K`.
        log_scale_bound: The bound :math:`c` of all log-scales. With `None`, :math:`s(r) = r`.
        location_spread: How far components lie from zero at first, at most; positive.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If an option is out of range, or the network returns a tensor of another shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.MixtureLogisticCoupling(
        ...     compute_coupling_parameters=gyoza.modelling.conditioners.MLP([64])
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs)).round(4)
        array([[1., 2., 3., 4.]], dtype=float32)
        >>> layer.parameter_count
        26

    References:
        - Ho, J., Chen, X., Srinivas, A., Duan, Y. & Abbeel, P. (2019). "Flow++: Improving
          flow-based generative models with variational dequantization and architecture design."
          `arXiv:1902.00275 <https://arxiv.org/abs/1902.00275>`_
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        compute_coupling_parameters: Callable[..., Any] | None = None,
        mask: Mask | None = None,
        component_count: int = 8,
        log_scale_bound: float | None = 3.0,
        location_spread: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, compute_coupling_parameters, mask, log_scale_bound, **kwargs)
        if not is_integer(component_count) or component_count < 1:
            raise ValueError(
                "`component_count` should be a positive integer. "
                f"Received: component_count={component_count}"
            )
        if not location_spread > 0.0:
            raise ValueError(
                "`location_spread` should be positive, since equal components would stay equal. "
                f"Received: location_spread={location_spread}"
            )
        self.component_count = int(component_count)
        self.location_spread = location_spread

    @property
    def parameter_count(self) -> int:
        """Two of the affine law, and three for each component."""
        return 2 + 3 * self.component_count

    def _read_mixture(self, coupling_parameters: Any) -> tuple[Any, Any, Any]:
        """Gives log-weights, locations and log-scales of components, `[..., component count]`."""
        logits, locations, raw = ops.split(coupling_parameters[..., 2:], 3, axis=-1)
        offsets = self.location_spread * np.linspace(-1.0, 1.0, self.component_count)
        if self.component_count == 1:
            offsets = np.zeros(1)
        return (
            ops.log_softmax(logits, axis=-1),
            locations + ops.convert_to_tensor(offsets, dtype=locations.dtype),
            bound_log_scales(raw, self.log_scale_bound),
        )

    def _couple_and_stretch_(self, inputs: Any, coupling_parameters: Any) -> tuple[Any, Any]:
        """Applies the law and computes log-slopes, in `log_det_dtype`."""
        x, parameters = (ops.cast(v, self.log_det_dtype) for v in (inputs, coupling_parameters))
        bent, log_slopes = mixture_log_odds(x, *self._read_mixture(parameters))
        outputs = super()._couple_(bent, parameters)
        return ops.cast(outputs, inputs.dtype), log_slopes + self.compute_log_scales(parameters)

    def _couple_(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Applies the law; see :meth:`Coupling._couple_`."""
        return self._couple_and_stretch_(inputs, coupling_parameters)[0]

    def _decouple_(self, outputs: Any, coupling_parameters: Any) -> Any:
        """Shifts and scales back, and finds a quantile; see :meth:`Coupling._decouple_`."""
        y, parameters = (ops.cast(v, self.log_det_dtype) for v in (outputs, coupling_parameters))
        bent = super()._decouple_(y, parameters)
        x = mixture_quantile(bent, *self._read_mixture(parameters))
        return ops.cast(x, outputs.dtype)

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Computes log-slopes; see :meth:`ElementwiseCoupling.compute_log_stretch`."""
        return self._couple_and_stretch_(inputs, coupling_parameters)[1]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "component_count": self.component_count,
            "location_spread": self.location_spread,
        }
