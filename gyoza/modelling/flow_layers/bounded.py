"""Layers that map all numbers to an interval, or an interval to all numbers."""

import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.flow_layers.elementwise import ElementwiseLayer
from gyoza.modelling.functions.exponentials import expm1, log1p
from gyoza.modelling.functions.logistic import logistic_log_density
from gyoza.modelling.functions.tangents import tanh
from gyoza.typing import Tensor

__all__ = ["Softplus", "Sigmoid", "Logit", "Tanh", "Arctanh"]


@keras.saving.register_keras_serializable(package="gyoza")
class Softplus(ElementwiseLayer):
    r"""Maps all numbers to the positive ones.

    .. math::
        y_i = \ln (1 + e^{x_i}), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -\sum_i \ln (1 + e^{-x_i})

    In float32, outputs for inputs below about -87 are rounded to zero, which cannot be inverted.
    `invert` returns -∞ for zero and NaN below.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Softplus()
        >>> outputs, log_det = layer(np.array([[0.0, 100.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[  0.6931, 100.    ]], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([-0.6931], dtype=float32)
    """

    recomputable = False  # outputs near zero are rounded

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the softplus, whose derivative is the sigmoid."""
        return ops.softplus(x), -ops.softplus(-x)

    def compress(self, y: Tensor) -> Tensor:
        """Computes ln(exp(y) - 1) without overflow."""
        return y + ops.log(-expm1(-y))


class _Bounded(ElementwiseLayer):
    """Base class of the layers that connect all numbers with an interval."""

    recomputable = False  # outputs near the bounds are rounded

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        low: float = 0.0,
        high: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                "`low` should be below `high`, and both should be finite. "
                f"Received: low={low}, high={high}"
            )
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.low, self.high = float(low), float(high)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "low": self.low, "high": self.high}


def _squash(x: Tensor, low: float, high: float) -> Tensor:
    """Computes low + (high - low) sigmoid(x), measured from the end that is nearer."""
    is_upper = x >= 0
    gap = (high - low) * ops.sigmoid(ops.where(is_upper, -x, x))
    return ops.where(is_upper, high - gap, low + gap)


@keras.saving.register_keras_serializable(package="gyoza")
class Sigmoid(_Bounded):
    r"""Maps all numbers to an interval.

    .. math::
        y_i = l + \frac{h - l}{1 + e^{-x_i}}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \left( \ln (h - l) - \ln (1 + e^{-x_i}) - \ln (1 + e^{x_i}) \right),

    with the bounds :math:`l` (`low`) and :math:`h` (`high`).

    The log-determinant is exact for all inputs, but outputs that are rounded to a bound, in float32
    for inputs above about 17 when the bounds are 0 and 1, cannot be inverted. `invert` returns ±∞
    at the bounds and NaN beyond.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        low: The lower bound of outputs.
        high: The upper bound of outputs.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `low` is not below `high`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Sigmoid(low=-1.0, high=1.0)
        >>> outputs, log_det = layer(np.array([[0.0, np.log(3.0)]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0. , 0.5]], dtype=float32)
    """

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the sigmoid."""
        log_derivative = math.log(self.high - self.low) + logistic_log_density(x)
        return _squash(x, self.low, self.high), log_derivative

    def compress(self, y: Tensor) -> Tensor:
        """Computes the logit from the distances to both bounds."""
        return ops.log(y - self.low) - ops.log(self.high - y)


@keras.saving.register_keras_serializable(package="gyoza")
class Logit(_Bounded):
    r"""Maps an interval to all numbers.

    .. math::
        y_i = \ln \frac{u_i}{1 - u_i}, \qquad
        u_i = \alpha + (1 - 2 \alpha) \frac{x_i - l}{h - l}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \left( \ln \frac{1 - 2 \alpha}{h - l} - \ln u_i - \ln (1 - u_i) \right),

    with the bounds :math:`l` (`low`) and :math:`h` (`high`). With :math:`\alpha > 0`, as is usual
    for images, the bounds themselves have finite outputs. `invert` then returns values up to
    :math:`(h - l) \alpha / (1 - 2 \alpha)` outside the bounds; they are not clipped.

    A NumPy array with values outside the support, which are not in :math:`[l, h]` or, with
    :math:`\alpha = 0`, in :math:`(l, h)`, raises an error. Where values cannot be checked, in
    tensors, such values give NaN, or ±∞ where :math:`u_i` is 0 or 1; only with :math:`\alpha > 0`,
    values that are outside by less than said above have finite outputs.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        low: The lower bound of inputs.
        high: The upper bound of inputs.
        alpha: How far the interval is drawn away from 0 and 1, at least 0 and below 0.5.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `low` is not below `high`, if `alpha` is not in [0, 0.5), or if the layer is
            called on a NumPy array with values outside the support.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Logit(high=256.0, alpha=0.05)
        >>> outputs, log_det = layer(np.array([[0.0, 128.0, 256.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[-2.9444,  0.    ,  2.9444]], dtype=float32)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
        - Papamakarios, G., Pavlakou, T. & Murray, I. (2017). "Masked autoregressive flow for
          density estimation." `arXiv:1705.07057 <https://arxiv.org/abs/1705.07057>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        low: float = 0.0,
        high: float = 1.0,
        alpha: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= alpha < 0.5:
            raise ValueError(f"`alpha` should be at least 0 and below 0.5. Received: alpha={alpha}")
        super().__init__(shape=shape, axes=axes, low=low, high=high, **kwargs)
        self.alpha = float(alpha)

    @property
    def domain(self) -> tuple[float, float]:  # type: ignore[override]
        """The bounds."""
        return self.low, self.high

    @property
    def has_closed_domain(self) -> bool:  # type: ignore[override]
        """Whether the bounds have finite outputs."""
        return self.alpha > 0

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the logit from the distances to both bounds."""
        slope = (1 - 2 * self.alpha) / (self.high - self.low)
        log_u = ops.log(self.alpha + slope * (x - self.low))
        log_rest = ops.log(self.alpha + slope * (self.high - x))
        return log_u - log_rest, math.log(slope) - log_u - log_rest

    def compress(self, y: Tensor) -> Tensor:
        """Computes the sigmoid between bounds that are moved outwards."""
        margin = (self.high - self.low) * self.alpha / (1 - 2 * self.alpha)
        return _squash(y, self.low - margin, self.high + margin)

    def compress_and_stretch(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the log-derivatives as those of the sigmoid, also where it is rounded to 1."""
        log_slope = math.log((1 - 2 * self.alpha) / (self.high - self.low))
        return self.compress(y), log_slope - logistic_log_density(y)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="gyoza")
class Tanh(ElementwiseLayer):
    r"""Maps all numbers to those between -1 and 1.

    .. math::
        y_i = \tanh x_i, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \left( \ln 4 - \ln (1 + e^{2 x_i}) - \ln (1 + e^{-2 x_i}) \right)

    The log-determinant is exact for all inputs, but outputs that are rounded to ±1, in float32 for
    inputs above about 9, cannot be inverted. `invert` returns ±∞ at ±1 and NaN beyond.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Tanh()
        >>> outputs, log_det = layer(np.array([[0.0, 0.5]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0.    , 0.4621]], dtype=float32)
    """

    recomputable = False  # outputs near the bounds are rounded

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the hyperbolic tangent, whose derivative is 4 sigmoid(2x) sigmoid(-2x)."""
        return tanh(x), _log_slope_of_tanh(x)

    def compress(self, y: Tensor) -> Tensor:
        """Computes the inverse hyperbolic tangent."""
        return _arctanh(y)[0]


@keras.saving.register_keras_serializable(package="gyoza")
class Arctanh(ElementwiseLayer):
    r"""Maps the numbers between -1 and 1 to all numbers.

    .. math::
        y_i = \operatorname{arctanh} x_i = \frac{1}{2} \ln \frac{1 + x_i}{1 - x_i}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        -\sum_i \left( \ln (1 + x_i) + \ln (1 - x_i) \right)

    A NumPy array with values that are not between -1 and 1 raises an error; tensors give ±∞ at ±1
    and NaN beyond.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the layer is called on a NumPy array with values that are not between -1 and
            1.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Arctanh()
        >>> outputs, log_det = layer(np.array([[0.0, 0.5]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0.    , 0.5493]], dtype=float32)
    """

    domain = (-1.0, 1.0)
    recomputable = False  # its inverse is rounded near the bounds

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the inverse hyperbolic tangent."""
        return _arctanh(x)

    def compress(self, y: Tensor) -> Tensor:
        """Computes the hyperbolic tangent."""
        return tanh(y)

    def compress_and_stretch(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the log-derivatives as those of the tangent, also where it is rounded to 1."""
        return tanh(y), -_log_slope_of_tanh(y)


def _log_slope_of_tanh(x: Tensor) -> Tensor:
    return math.log(4.0) + logistic_log_density(2 * x)


def _arctanh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the inverse hyperbolic tangent and its log-derivative."""
    above, below = log1p(x), log1p(-x)
    return 0.5 * (above - below), -above - below
