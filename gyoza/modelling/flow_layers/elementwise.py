"""Layers that map each dimension by itself: their base class, pre-processing, skewed data.

Their log-determinants make the likelihood of a model that starts with them one in data units.
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.functions.checks import check_finite, check_positive
from gyoza.modelling.functions.exponentials import expm1, exponential_ratio, log1p, scaled_log1p
from gyoza.modelling.functions.initializers import given_values
from gyoza.typing import Tensor, Tensors

__all__ = ["ElementwiseLayer", "Affine", "Standardize", "YeoJohnson"]


class ElementwiseLayer(FlowLayer):
    """Base class of layers that map each dimension by itself.

    Subclasses implement `stretch` and `compress`, which are given vectors in at least float32, and
    `compress_and_stretch` if log-derivatives are more exact where they are computed from outputs.
    """

    # The interval that `call` is defined on, and whether its ends belong to it.
    domain = (-math.inf, math.inf)
    has_closed_domain = False

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns outputs and log-derivatives, both in the shape of `x`."""
        raise NotImplementedError

    def compress(self, y: Tensor) -> Tensor:
        """Returns the inputs that `stretch` maps to `y`."""
        raise NotImplementedError

    def compress_and_stretch(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the inputs that `stretch` maps to `y`, and their log-derivatives."""
        x = self.compress(y)
        return x, self.stretch(x)[1]

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Checks arrays, and runs `call`."""
        _check_interval(inputs, self.domain, self.has_closed_domain, self.name)
        return super().__call__(inputs, *args, **kwargs)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps each dimension; see :meth:`FlowLayer.transform`."""
        outputs, log_derivative = self.stretch(ops.cast(inputs, self.log_det_dtype))
        return ops.cast(outputs, inputs.dtype), ops.sum(log_derivative, axis=-1)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Maps each dimension back; see :meth:`FlowLayer.inverse_transform`."""
        return ops.cast(self.compress(ops.cast(outputs, self.log_det_dtype)), outputs.dtype)

    def invert_and_log_det(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps each dimension back; see :meth:`FlowLayer.invert_and_log_det`."""
        vectors = ops.cast(to_vectors(outputs, self._axes_, self._shape_), self.log_det_dtype)
        x, log_derivative = self.compress_and_stretch(vectors)
        inputs = from_vectors(ops.cast(x, outputs.dtype), self._axes_, self._shape_)
        return inputs, self.sum_log_det(outputs, log_derivative)


def _check_interval(x: Tensor, interval: tuple[float, float], is_closed: bool, name: str) -> None:
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
class Affine(ElementwiseLayer):
    r"""Scales and shifts each dimension by fixed numbers.

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
        scale: Tensor = 1.0,
        shift: Tensor = 0.0,
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

    def _constant(self, values: np.ndarray) -> Tensor:
        return ops.convert_to_tensor(values.reshape(-1), dtype=self.log_det_dtype)

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        log_scale = self._constant(np.log(np.abs(self.scale)))
        outputs = x * self._constant(self.scale) + self._constant(self.shift)
        return outputs, ops.broadcast_to(log_scale, ops.shape(x))

    def compress(self, y: Tensor) -> Tensor:
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

    with one location :math:`l_i` and one scale :math:`s_i > 0` for each dimension along `axes`,
    which are shared by the :math:`n` positions of the remaining axes. They are given, or measured
    by :meth:`ActivationNormalization.adapt`, which leaves those that were given as they are;
    otherwise the layer is the identity.

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
        location: Tensor | None = None,
        scale: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        self.location = None if location is None else check_finite("location", location)
        self.scale = None if scale is None else check_positive("scale", scale)
        super().__init__(shape=shape, axes=axes, **kwargs)

    def create_weights(self) -> None:
        """Creates location and scale."""
        self._location_ = self._add_constant("location", self.location, 0.0)
        self._scale_ = self._add_constant("scale", self.scale, 1.0)

    def _add_constant(self, name: str, values: Tensor | None, default: float) -> keras.Variable:
        values = np.array(default if values is None else values)
        _check_parameter_shape(name, values, self._shape_)
        values = np.broadcast_to(values, self._shape_)
        return self.add_weight(
            shape=self._shape_,
            initializer=given_values(values),
            trainable=False,
            name=name,
        )

    def _settle(self, location: Tensor | None, scale: Tensor | None) -> None:
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
class YeoJohnson(ElementwiseLayer):
    r"""Raises each dimension to a learnable power, which makes skewed data more symmetric.

    .. math::
        y_i = \begin{cases}
        \left( (x_i + 1)^{\lambda_i} - 1 \right) / \lambda_i & \text{if } x_i \ge 0 \\
        -\left( (1 - x_i)^{2 - \lambda_i} - 1 \right) / (2 - \lambda_i) & \text{if } x_i < 0,
        \end{cases} \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \operatorname{sgn}(x_i) (\lambda_i - 1) \ln (1 + |x_i|),

    with :math:`\ln (1 + x_i)` instead of the first row for :math:`\lambda_i = 0`, and
    :math:`-\ln (1 - x_i)` instead of the second for :math:`\lambda_i = 2`. Both are the limits,
    and values and gradients are smooth there.

    The powers start at 1, which is the identity, and training keeps them between 0 and 2, where
    all numbers are mapped to all numbers. Others can be assigned; `invert` then returns NaN for
    what is not an output: values from :math:`-1 / \lambda_i` up if :math:`\lambda_i < 0`, and those
    down from :math:`-1 / (\lambda_i - 2)` if :math:`\lambda_i > 2`.

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

        def __call__(self, w: Tensor) -> Tensor:
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

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns signs, absolute values, and the powers that hold for those."""
        power = ops.cast(self.power, x.dtype)
        is_positive = x >= 0
        # Not `ops.sign` and `ops.abs`, whose gradients vanish at zero.
        sign = ops.where(is_positive, ops.ones_like(x), -ops.ones_like(x))
        return sign, sign * x, ops.where(is_positive, power, 2 - power)

    def stretch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raises numbers to their powers."""
        sign, size, power = self._split(x)
        log_size = log1p(size)
        return sign * log_size * exponential_ratio(power * log_size), (power - 1) * log_size

    def compress(self, y: Tensor) -> Tensor:
        """Takes roots of numbers."""
        sign, size, power = self._split(y)
        return sign * expm1(scaled_log1p(size, power))
