"""Layers that map each entry by itself: pre-processing, bounded and positive data, skewed data.

Their log-determinants make the likelihood of a model that starts with them one in data units.
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.functions.exponentials import expm1, exponential_ratio, log1p, logarithm_ratio

__all__ = [
    "Affine",
    "Standardize",
    "Softplus",
    "Sigmoid",
    "Logit",
    "Tanh",
    "Arctanh",
    "YeoJohnson",
]


class _Elementwise(FlowLayer):
    """Base class of layers that map each entry by itself.

    Subclasses implement `stretch` and `compress`, which are given vectors in at least float32.
    """

    # The interval that `call` is defined on, and whether its ends belong to it.
    domain = (-math.inf, math.inf)
    has_closed_domain = False

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Gives outputs and the logarithms of derivatives, both in the shape of `x`."""
        raise NotImplementedError

    def compress(self, y: Any) -> Any:
        """Gives the inputs that `stretch` maps to `y`."""
        raise NotImplementedError

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        _check_interval(inputs, self.domain, self.has_closed_domain, self.name)
        return super().__call__(inputs, *args, **kwargs)

    def transform(self, inputs: Any) -> tuple[Any, Any]:
        """Maps entries; see :meth:`FlowLayer.transform`."""
        outputs, log_stretch = self.stretch(ops.cast(inputs, self.log_det_dtype))
        return ops.cast(outputs, inputs.dtype), ops.sum(log_stretch, axis=-1)

    def inverse_transform(self, outputs: Any) -> Any:
        """Maps entries back; see :meth:`FlowLayer.inverse_transform`."""
        return ops.cast(self.compress(ops.cast(outputs, self.log_det_dtype)), outputs.dtype)


def _check_interval(x: Any, interval: tuple[float, float], is_closed: bool, name: str) -> None:
    """Checks NumPy arrays. Values of tensors may be unknown, or on a device."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return
    low, high = (x.dtype.type(bound) for bound in interval)
    is_outside = (x < low) | (x > high)
    if not is_closed:
        is_outside |= ((x == low) | (x == high)) & np.isfinite(x)
    if np.any(is_outside):
        word = "from {} to {}" if is_closed else "above {} and below {}"
        raise ValueError(
            f"The inputs of '{name}' should be {word.format(*interval)}. "
            f"Received: values from {np.nanmin(x)} to {np.nanmax(x)}"
        )


@keras.saving.register_keras_serializable(package="gyoza")
class Affine(_Elementwise):
    r"""Scales and shifts each entry by fixed numbers.

    .. math::
        y_i = a_i x_i + b_i, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i \ln |a_i|

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        scale: The factor :math:`a`, not zero: one number, or an array with the shape of the inputs
            along `axes`.
        shift: The summand :math:`b`, likewise.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `scale` is zero somewhere, or `scale` or `shift` are not finite or do not
            have the shape of the inputs along `axes`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Affine(scale=1 / 255)  # grey values to [0, 1]
        >>> outputs, log_det = layer(np.array([[51.0, 255.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0.2, 1. ]], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([-11.0825], dtype=float32)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        scale: Any = 1.0,
        shift: Any = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.scale, self.shift = np.array(scale, "float64"), np.array(shift, "float64")
        if not (np.all(np.isfinite(self.scale)) and np.all(self.scale)):
            raise ValueError(f"`scale` should be finite and not zero. Received: scale={scale}")
        if not np.all(np.isfinite(self.shift)):
            raise ValueError(f"`shift` should be finite. Received: shift={shift}")
        self._create_weights_once()

    def create_weights(self) -> None:
        """Checks that scale and shift have the right shape; there are no weights."""
        for name, values in (("scale", self.scale), ("shift", self.shift)):
            _check_parameter_shape(name, values, self._shape_)

    def _constant(self, values: np.ndarray) -> Any:
        return ops.convert_to_tensor(values.reshape(-1), dtype=self.log_det_dtype)

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Scales and shifts."""
        log_scale = self._constant(np.log(np.abs(self.scale)))
        outputs = x * self._constant(self.scale) + self._constant(self.shift)
        return outputs, ops.broadcast_to(log_scale, ops.shape(x))

    def compress(self, y: Any) -> Any:
        """Shifts and scales back."""
        return (y - self._constant(self.shift)) / self._constant(self.scale)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        constants = {"scale": self.scale.tolist(), "shift": self.shift.tolist()}
        return {**super().get_config(), **constants}


@keras.saving.register_keras_serializable(package="gyoza")
class Standardize(ActivationNormalization):
    r"""Shifts and scales data to mean 0 and standard deviation 1, and is not trained.

    .. math::
        y = \frac{x - l}{s}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -n \sum_i \ln s_i,

    with one location :math:`l_i` and one scale :math:`s_i > 0` for each entry along `axes`, which
    are shared by the :math:`n` positions of the remaining axes. They are given, or measured by
    :meth:`ActivationNormalization.adapt`, which leaves those that were given as they are; otherwise
    the layer is the identity.

    Unlike :class:`ActivationNormalization`, which starts like this and is then trained, it leaves
    the units of the data what they are, so that models of the same data can be compared.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        location: The location :math:`l`: one number, or an array with `shape`. 0 if omitted.
        scale: The scale :math:`s`, positive, likewise. 1 if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `scale` is not positive, or if `location` or `scale` do not have the shape of
            the inputs along `axes`.

    Attributes:
        _location_: The weight :math:`l`, with `shape`, not trained.
        _scale_: The weight :math:`s`, with `shape`, not trained.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Standardize()
        >>> data = np.array([[0.0, 10.0], [2.0, 50.0]], "float32")
        >>> layer.adapt(data)
        >>> outputs, log_det = layer(data)
        >>> keras.ops.convert_to_numpy(outputs)
        array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
        >>> len(layer.trainable_weights)
        0
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        location: Any = None,
        scale: Any = None,
        **kwargs: Any,
    ) -> None:
        self.location = None if location is None else np.array(location, "float64")
        self.scale = None if scale is None else np.array(scale, "float64")
        if self.scale is not None and not np.all(self.scale > 0):
            raise ValueError(f"`scale` should be positive. Received: scale={scale}")
        super().__init__(shape=shape, axes=axes, **kwargs)

    def create_weights(self) -> None:
        """Creates location and scale."""
        self._location_ = self._add_constant("location", self.location, 0.0)
        self._scale_ = self._add_constant("scale", self.scale, 1.0)

    def _add_constant(self, name: str, values: Any, default: float) -> keras.Variable:
        values = np.array(default if values is None else values)
        _check_parameter_shape(name, values, self._shape_)
        values = np.broadcast_to(values, self._shape_)
        return self.add_weight(
            shape=self._shape_,
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            name=name,
        )

    def _settle(self, location: Any, scale: Any) -> None:
        """Takes what was measured and not given."""
        if self.location is None:
            self._location_.assign(location)
        if self.scale is None:
            self._scale_.assign(scale)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        constants = {"location": self.location, "scale": self.scale}
        lists = {k: None if v is None else v.tolist() for k, v in constants.items()}
        return {**super().get_config(), **lists}


def _check_parameter_shape(name: str, values: np.ndarray, shape: list[int]) -> None:
    if values.shape not in ((), tuple(shape)):
        raise ValueError(
            f"`{name}` should be one number, or have the shape {shape} of the inputs along `axes`. "
            f"Received: {name} of shape {values.shape}"
        )


@keras.saving.register_keras_serializable(package="gyoza")
class Softplus(_Elementwise):
    r"""Maps all numbers to the positive ones.

    .. math::
        y_i = \ln (1 + e^{x_i}), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -\sum_i \ln (1 + e^{-x_i})

    In float32, outputs for inputs below about -87 are rounded to zero, which cannot be inverted.
    `invert` gives -∞ for zero and NaN below.

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

    recomputable = False  # outputs near the bounds are rounded

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Computes the softplus, whose derivative is the sigmoid."""
        return ops.softplus(x), -ops.softplus(-x)

    def compress(self, y: Any) -> Any:
        """Computes ln(exp(y) - 1) without overflow."""
        return y + ops.log(-expm1(-y))


class _Bounded(_Elementwise):
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


def _squash(x: Any, low: float, high: float) -> Any:
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
    for inputs above about 17 when the bounds are 0 and 1, cannot be inverted. `invert` gives ±∞ at
    the bounds and NaN beyond.

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

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Computes the sigmoid."""
        log_stretch = math.log(self.high - self.low) - ops.softplus(x) - ops.softplus(-x)
        return _squash(x, self.low, self.high), log_stretch

    def compress(self, y: Any) -> Any:
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
    for images, the bounds themselves have finite outputs. `invert` then gives values up to
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

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Computes the logit from the distances to both bounds."""
        slope = (1 - 2 * self.alpha) / (self.high - self.low)
        log_u = ops.log(self.alpha + slope * (x - self.low))
        log_rest = ops.log(self.alpha + slope * (self.high - x))
        return log_u - log_rest, math.log(slope) - log_u - log_rest

    def compress(self, y: Any) -> Any:
        """Computes the sigmoid between bounds that are moved outwards."""
        margin = (self.high - self.low) * self.alpha / (1 - 2 * self.alpha)
        return _squash(y, self.low - margin, self.high + margin)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="gyoza")
class Tanh(_Elementwise):
    r"""Maps all numbers to those between -1 and 1.

    .. math::
        y_i = \tanh x_i, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \left( \ln 4 - \ln (1 + e^{2 x_i}) - \ln (1 + e^{-2 x_i}) \right)

    The log-determinant is exact for all inputs, but outputs that are rounded to ±1, in float32 for
    inputs above about 9, cannot be inverted. `invert` gives ±∞ at ±1 and NaN beyond.

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

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Computes the hyperbolic tangent, whose derivative is 4 sigmoid(2x) sigmoid(-2x)."""
        return _tanh(x), math.log(4.0) - ops.softplus(2 * x) - ops.softplus(-2 * x)

    def compress(self, y: Any) -> Any:
        """Computes the inverse hyperbolic tangent."""
        return _arctanh(y)[0]


@keras.saving.register_keras_serializable(package="gyoza")
class Arctanh(_Elementwise):
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

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Computes the inverse hyperbolic tangent."""
        return _arctanh(x)

    def compress(self, y: Any) -> Any:
        """Computes the hyperbolic tangent."""
        return _tanh(y)


def _tanh(x: Any) -> Any:
    """Computes the hyperbolic tangent. `ops.tanh` would round float64 to float32 on JAX."""
    is_positive = x >= 0
    falling = expm1(-2 * ops.where(is_positive, x, -x))
    size = -falling / (2 + falling)
    return ops.where(is_positive, size, -size)


def _arctanh(x: Any) -> tuple[Any, Any]:
    """Gives the inverse hyperbolic tangent and the logarithm of its derivative."""
    above, below = log1p(x), log1p(-x)
    return 0.5 * (above - below), -above - below


@keras.saving.register_keras_serializable(package="gyoza")
class YeoJohnson(_Elementwise):
    r"""Raises each entry to a learnable power, which makes skewed data more symmetric.

    .. math::
        y_i = \begin{cases}
        \left( (x_i + 1)^{\lambda_i} - 1 \right) / \lambda_i & \text{if } x_i \ge 0 \\
        -\left( (1 - x_i)^{2 - \lambda_i} - 1 \right) / (2 - \lambda_i) & \text{if } x_i < 0,
        \end{cases} \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \operatorname{sgn}(x_i) (\lambda_i - 1) \ln (1 + |x_i|),

    with :math:`\ln (1 + x_i)` in place of the first row for :math:`\lambda_i = 0`, and
    :math:`-\ln (1 - x_i)` in place of the second for :math:`\lambda_i = 2`. Both are the limits,
    and values and gradients are smooth there.

    The powers start at 1, which is the identity, and training keeps them between 0 and 2, where
    all numbers are mapped to all numbers. Others can be assigned; `invert` then gives NaN for what
    is no output: values from :math:`-1 / \lambda_i` up if :math:`\lambda_i < 0`, and those down
    from :math:`-1 / (\lambda_i - 2)` if :math:`\lambda_i > 2`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        power: The weight :math:`\lambda`, `[dimension_count]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.YeoJohnson(shape=[2])
        >>> _ = layer.power.assign([0.0, 2.0])
        >>> outputs, log_det = layer(np.array([[1.0, 1.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0.6931, 1.5   ]], dtype=float32)

    References:
        - Yeo, I.-K. & Johnson, R. A. (2000). "A new family of power transformations to improve
          normality or symmetry." Biometrika 87(4), 954-959.
    """

    @keras.saving.register_keras_serializable(package="gyoza")
    class _PowerConstraint(keras.constraints.Constraint):
        """Keeps powers where all numbers are outputs."""

        def __call__(self, w: Any) -> Any:
            return ops.clip(w, 0.0, 2.0)

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the powers."""
        self.power = self.add_weight(
            shape=(self.dimension_count,),
            initializer="ones",
            constraint=self._PowerConstraint(),
            autocast=False,
            name="power",
        )

    def _split(self, x: Any) -> tuple[Any, Any, Any]:
        """Gives the signs of entries, their absolute values, and the powers that hold for those."""
        power = ops.cast(self.power, x.dtype)
        is_positive = x >= 0
        # Not `ops.sign` and `ops.abs`, whose gradients vanish at zero.
        sign = ops.where(is_positive, ops.ones_like(x), -ops.ones_like(x))
        return sign, sign * x, ops.where(is_positive, power, 2 - power)

    def stretch(self, x: Any) -> tuple[Any, Any]:
        """Raises entries to their powers."""
        sign, size, power = self._split(x)
        log_size = log1p(size)
        return sign * log_size * exponential_ratio(power * log_size), (power - 1) * log_size

    def compress(self, y: Any) -> Any:
        """Takes roots of entries."""
        sign, size, power = self._split(y)
        return sign * expm1(size * logarithm_ratio(power * size))
