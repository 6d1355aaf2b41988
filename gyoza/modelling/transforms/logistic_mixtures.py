"""Transforms by the distribution function of a mixture of logistic distributions."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.checks import check_integer, is_between
from gyoza.modelling.functions.dtypes import at_least_float32, check_float_dtype
from gyoza.modelling.functions.log_odds import normal_log_odds, normal_quantile
from gyoza.modelling.functions.logistic_mixtures import mixture_log_odds, mixture_quantile
from gyoza.modelling.functions.scales import bound_log_scales
from gyoza.modelling.transforms.affine import AffineTransform
from gyoza.modelling.transforms.base import Transform
from gyoza.typing import Tensor

__all__ = ["LogisticMixtureTransform", "GaussianizationTransform"]


@keras.saving.register_keras_serializable(package="gyoza")
class LogisticMixtureTransform(AffineTransform):
    r"""An :class:`AffineTransform` that first bends each number by a mixture of logistics.

    A number is sent through the distribution function :math:`F` of a mixture of :math:`K` logistic
    distributions and back through that of the standard one, and is then scaled and shifted:

    .. math::
        f(x) = \ln \frac{F(x)}{1 - F(x)} \, e^{s(r)} + t, \qquad
        F(x) = \sum_k \pi_k \, \sigma \! \left( \frac{x - m_k - o_k}{e^{s(r_k)}} \right), \qquad
        \pi = \operatorname{softmax}(l), \qquad s(r) = c \tanh(r / c),

    .. math::
        \ln \left| \frac{\partial f}{\partial x} \right| =
        \ln \frac{F'(x)}{F(x) (1 - F(x))} + s(r).

    There are :math:`3 K + 2` parameters: :math:`r`, :math:`t`, and then the :math:`K` logits
    :math:`l_k`, locations :math:`m_k` and raw log-scales :math:`r_k`. The offsets :math:`o_k` are
    fixed and evenly spaced between minus and plus `location_spread`: equal components would have
    equal gradients, and never differ. So with parameters of zero, it is nearly the identity.

    The inverse is found numerically, and can be differentiated. Both directions compute in float32
    at least.

    Args:
        component_count: The number of components, :math:`K`.
        log_scale_bound: The bound :math:`c` of all log-scales. With `None`, :math:`s(r) = r`.
        location_spread: How far components lie from zero at first, at most; positive.

    Raises:
        ValueError: If an option is out of range.

    Example:

        >>> transform = gyoza.modelling.transforms.LogisticMixtureTransform(component_count=2)
        >>> x = keras.ops.array([1.0, 2.0], "float32")
        >>> parameters = keras.ops.zeros([2, transform.parameter_count])
        >>> y, log_derivative = transform.forward(x, parameters)
        >>> keras.ops.convert_to_numpy(transform.inverse(y, parameters)).round(4)
        array([1., 2.], dtype=float32)

    References:
        - Ho, J., Chen, X., Srinivas, A., Duan, Y. & Abbeel, P. (2019). "Flow++: Improving
          flow-based generative models with variational dequantization and architecture design."
          `arXiv:1902.00275 <https://arxiv.org/abs/1902.00275>`_
    """

    recomputable = False

    def __init__(
        self,
        component_count: int = 8,
        log_scale_bound: float | None = 3.0,
        location_spread: float = 0.3,
    ) -> None:
        super().__init__(log_scale_bound)
        self.component_count = check_integer("component_count", component_count, minimum=1)
        if not is_between(0.0, location_spread, math.inf):
            raise ValueError(
                "`location_spread` should be a positive, finite number, since equal components "
                f"would stay equal. Received: location_spread={location_spread!r}"
            )
        self.location_spread = location_spread
        self.parameter_count = 2 + 3 * self.component_count

    def _read_mixture(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log-weights, locations and log-scales of components, `[..., component count]`."""
        logits, locations, raw = ops.split(parameters[..., 2:], 3, axis=-1)
        offsets = self.location_spread * np.linspace(-1.0, 1.0, self.component_count)
        if self.component_count == 1:
            offsets = np.zeros(1)
        return (
            ops.log_softmax(logits, axis=-1),
            locations + ops.convert_to_tensor(offsets, dtype=locations.dtype),
            bound_log_scales(raw, self.log_scale_bound),
        )

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Bends, scales and shifts; see :meth:`Transform.forward`."""
        exact, parameters = _cast(x, parameters)
        bent, log_slopes = mixture_log_odds(exact, *self._read_mixture(parameters))
        y, log_scales = super().forward(bent, parameters[..., :2])
        return ops.cast(y, x.dtype), log_slopes + log_scales

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Shifts and scales back, and finds a quantile; see :meth:`Transform.inverse`."""
        exact, parameters = _cast(y, parameters)
        bent = super().inverse(exact, parameters[..., :2])
        return ops.cast(mixture_quantile(bent, *self._read_mixture(parameters)), y.dtype)

    def inverse_and_log_derivative(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Inverts and applies the transform; see :meth:`Transform.inverse_and_log_derivative`."""
        # The derivative is not that of an affine transform.
        return Transform.inverse_and_log_derivative(self, y, parameters)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Transform.get_config`."""
        return {
            **super().get_config(),
            "component_count": self.component_count,
            "location_spread": self.location_spread,
        }


@keras.saving.register_keras_serializable(package="gyoza")
class GaussianizationTransform(Transform):
    r"""Makes a number normal by the distribution function of a mixture of logistics.

    .. math::
        f(x) = \Phi^{-1}(F(x)), \qquad
        F(x) = \sum_{k=1}^K w_k \, \sigma \left( \frac{x - l_k}{s_k} \right), \qquad
        \ln \left| \frac{\partial f}{\partial x} \right| = \ln \frac{F'(x)}{\varphi(f(x))},

    where :math:`\sigma` is the logistic function, and :math:`\Phi` and :math:`\varphi` are the
    distribution function and the density of the standard normal distribution. There are :math:`3 K`
    parameters: the logits of which a softmax makes the weights :math:`w`, the locations :math:`l`
    and the log-scales :math:`\ln s`. Components that start equal stay equal, so parameters should
    not all be zero; :class:`~gyoza.modelling.flow_layers.MixtureGaussianization` fits them to data.

    The inverse is found numerically, and can be differentiated. Both directions compute in float32
    at least.

    Args:
        component_count: The number of components, :math:`K`, at least 2.

    Raises:
        ValueError: If `component_count` is below 2.

    Example:

        >>> transform = gyoza.modelling.transforms.GaussianizationTransform(component_count=2)
        >>> parameters = keras.ops.array([[0.0, 0.0, -1.0, 1.0, -0.5, -0.5]], "float32")
        >>> y, log_derivative = transform.forward(keras.ops.zeros([1]), parameters)
        >>> keras.ops.convert_to_numpy(y).round(4) + 0.0
        array([0.], dtype=float32)

    References:
        - Meng, C., Song, Y., Song, J. & Ermon, S. (2020). "Gaussianization flows."
          `arXiv:2003.01941 <https://arxiv.org/abs/2003.01941>`_
    """

    recomputable = False

    def __init__(self, component_count: int = 16) -> None:
        self.component_count = check_integer("component_count", component_count, minimum=2)
        self.parameter_count = 3 * self.component_count

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Makes numbers normal; see :meth:`Transform.forward`."""
        exact, parameters = _cast(x, parameters)
        log_odds, log_slopes = mixture_log_odds(exact, *_split_mixture(parameters))
        y = normal_quantile(log_odds)
        _, normal_slopes = normal_log_odds(y)
        return ops.cast(y, x.dtype), log_slopes - ops.log(normal_slopes)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Returns numbers to their distribution; see :meth:`Transform.inverse`."""
        exact, parameters = _cast(y, parameters)
        log_odds, _ = normal_log_odds(exact)
        return ops.cast(mixture_quantile(log_odds, *_split_mixture(parameters)), y.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Transform.get_config`."""
        return {**super().get_config(), "component_count": self.component_count}


def _cast(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Casts numbers and parameters to float32 at least."""
    check_float_dtype(x.dtype)
    dtype = at_least_float32(x.dtype)
    return ops.cast(x, dtype), ops.cast(parameters, dtype)


def _split_mixture(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log-weights, locations and log-scales of components, `[..., component count]`."""
    logits, locations, log_scales = ops.split(parameters, 3, axis=-1)
    return ops.log_softmax(logits, axis=-1), locations, log_scales
