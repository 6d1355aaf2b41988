"""Layers that move points along a few directions: planar, radial and Sylvester flows."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.reflections import random_directions, reflect
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.exponentials import log1p
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.tangents import tanh_and_slope
from gyoza.modelling.functions.triangles import create_diagonal
from gyoza.typing import DType, Tensor

__all__ = ["Planar", "Radial", "Sylvester"]

# The strength of a bend stays this far above -1, where the inverse has an infinite slope.
_MARGIN = 1e-3

# Logarithms of radii beyond this, 10^±17, count as this.
_LARGEST_LOG_RADIUS = 40.0


def _bound_strength(parameter: Tensor) -> Tensor:
    """Maps all numbers to those above -1, and 0 to 0."""
    return (1 - _MARGIN) * (ops.softplus(parameter + math.log(math.e - 1)) - 1)


def _solve_bend(target: Tensor, outer: Tensor, inner: Tensor, shift: Tensor) -> Tensor:
    """Solves `x + outer tanh(inner x + shift) = target` for `x`, where `outer inner > -1`."""

    def equation(
        x: Tensor, target: Tensor, outer: Tensor, inner: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        bent, slope = tanh_and_slope(inner * x + shift)
        return x + outer * bent - target, 1 + outer * inner * slope

    reach = ops.abs(outer)
    return find_root(
        equation,
        target - reach,
        target + reach,
        parameters=[target, outer, inner, shift],
        magnitudes=ops.abs(target) + reach,
    )


@keras.saving.register_keras_serializable(package="gyoza")
class Planar(FlowLayer):
    r"""Moves points along one direction, depending on their distance from a plane.

    .. math::
        y = x + u \tanh(w^T x + b), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \ln \left( 1 + w^T u \left( 1 - \tanh^2(w^T x + b) \right) \right).

    This is invertible if :math:`w^T u > -1`, which is ensured by

    .. math::
        u = v + \left( m(w^T v) - w^T v \right) \frac{w}{\lVert w \rVert^2}

    with a learnt :math:`v` and a softplus :math:`m` that maps all numbers to numbers above -0.999,
    and 0 to 0. A new layer, with :math:`v = 0`, is the identity.

    The forward direction costs two dot products per vector. The inverse solves one equation with
    one unknown per vector, in a compiled loop of at most about 30 steps in float32, or 60 in
    float64. All is computed in at least float32.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        normal: The weight :math:`w`, `[dimension_count]`. It starts in a random direction.
        direction: The weight :math:`v`, `[dimension_count]`.
        bias: The weight :math:`b`, `[]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Planar(shape=[2])
        >>> for weight, value in ((layer.normal, [1.0, 0.0]), (layer.direction, [0.0, 3.0])):
        ...     _ = weight.assign(value)
        >>> x = np.array([[100.0, -1.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs).round(3)
        array([[100.,   2.]], dtype=float32)
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.invert(outputs)), x, atol=1e-6))
        True

    References:
        - Rezende, D. J. & Mohamed, S. (2015). "Variational inference with normalizing flows."
          `arXiv:1505.05770 <https://arxiv.org/abs/1505.05770>`_
    """

    recomputable = False

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the plane and the direction."""
        size = (self.dimension_count,)
        self.normal = self.add_weight(
            shape=size, initializer=_random_direction, autocast=False, name="normal"
        )
        self.direction = self.add_weight(
            shape=size, initializer="zeros", autocast=False, name="direction"
        )
        self.bias = self.add_weight(shape=(), initializer="zeros", autocast=False, name="bias")

    def _cast_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the normal, the direction, their product and the bias, in `log_det_dtype`."""
        normal, direction, bias = (
            ops.cast(weight, self.log_det_dtype)
            for weight in (self.normal, self.direction, self.bias)
        )
        product, squared = ops.sum(normal * direction), ops.sum(normal * normal)
        strength = _bound_strength(product)
        squared = ops.where(squared > 0, squared, ops.ones_like(squared))
        return normal, direction + (strength - product) / squared * normal, strength, bias

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Moves vectors; see :meth:`FlowLayer.transform`."""
        normal, direction, strength, bias = self._cast_weights()
        x = ops.cast(inputs, self.log_det_dtype)
        bent, slope = tanh_and_slope(ops.sum(x * normal, axis=-1) + bias)
        outputs = x + ops.expand_dims(bent, -1) * direction
        return ops.cast(outputs, inputs.dtype), log1p(strength * slope)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Moves vectors back; see :meth:`FlowLayer.inverse_transform`."""
        normal, direction, strength, bias = self._cast_weights()
        y = ops.cast(outputs, self.log_det_dtype)
        distance = _solve_bend(ops.sum(y * normal, axis=-1), strength, ops.ones_like(bias), bias)
        bent, _ = tanh_and_slope(distance + bias)
        return ops.cast(y - ops.expand_dims(bent, -1) * direction, outputs.dtype)


@keras.saving.register_keras_serializable(package="gyoza")
class Radial(FlowLayer):
    r"""Moves points away from a centre, or towards it.

    .. math::
        y = x + m q (x - c), \qquad q = \frac{1}{1 + r / \alpha}, \quad r = \lVert x - c \rVert,
        \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        (n - 1) \ln (1 + m q) + \ln (1 + m q^2),

    for :math:`n` dimensions, with a learnt centre :math:`c`, radius :math:`\alpha > 0` and strength
    :math:`m`, which is kept above -0.999 so that the layer is invertible. (:math:`\ln \alpha`
    beyond ±40 counts as ±40. In the paper,
    :math:`\beta = \alpha m`.) A new layer, with :math:`m = 0`, is the identity.

    Both directions cost the same: the inverse is the root of a quadratic equation. All is computed
    in at least float32.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        centre: The weight :math:`c`, `[dimension_count]`. It starts at a standard normal point.
        log_radius: The weight :math:`\ln \alpha`, `[]`.
        strength: The weight, `[]`, that a softplus maps to :math:`m`. It starts at 0.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Radial(shape=[2])
        >>> x = np.array([[0.5, -1.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.invert(outputs)), x, atol=1e-6))
        True

    References:
        - Rezende, D. J. & Mohamed, S. (2015). "Variational inference with normalizing flows."
          `arXiv:1505.05770 <https://arxiv.org/abs/1505.05770>`_
    """

    recomputable = False

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the centre, the radius and the strength."""
        self.centre = self.add_weight(
            shape=(self.dimension_count,),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            autocast=False,
            name="centre",
        )
        self.log_radius, self.strength = (
            self.add_weight(shape=(), initializer="zeros", autocast=False, name=name)
            for name in ("log_radius", "strength")
        )

    def _cast_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the centre, the radius and the strength m, in `log_det_dtype`."""
        centre, log_radius, strength = (
            ops.cast(weight, self.log_det_dtype)
            for weight in (self.centre, self.log_radius, self.strength)
        )
        log_radius = ops.clip(log_radius, -_LARGEST_LOG_RADIUS, _LARGEST_LOG_RADIUS)
        return centre, ops.exp(log_radius), _bound_strength(strength)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Moves vectors; see :meth:`FlowLayer.transform`."""
        centre, radius, strength = self._cast_weights()
        gap = ops.cast(inputs, self.log_det_dtype) - centre
        share = 1 / (1 + self._measure(gap, radius))
        outputs = centre + (1 + strength * share) * gap
        share = share[..., 0]
        log_det = (self.dimension_count - 1) * log1p(strength * share)
        return ops.cast(outputs, inputs.dtype), log_det + log1p(strength * share * share)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Moves vectors back; see :meth:`FlowLayer.inverse_transform`."""
        centre, radius, strength = self._cast_weights()
        gap = ops.cast(outputs, self.log_det_dtype) - centre
        # In units of the radius, lengths s before and d after are related by s² + k s - d = 0.
        length = self._measure(gap, radius)
        k = 1 + strength - length
        # Squares of large numbers would overflow. The unit is a constant in gradients, too.
        unit = ops.stop_gradient(1 + length)
        root = unit * ops.sqrt(ops.square(k / unit) + 4 * (length / unit) / unit)
        larger = 0.5 * (ops.where(k > 0, k, -k) + root)
        share = 1 / (1 + ops.where(k > 0, length / larger, larger))
        return ops.cast(centre + gap / (1 + strength * share), outputs.dtype)

    def _measure(self, vectors: Tensor, radius: Tensor) -> Tensor:
        """Returns the lengths of vectors in units of the radius, `[..., 1]`, and finite ones."""
        largest = float(np.finfo(self.log_det_dtype).max) / 16
        return ops.clip(_length(vectors) / radius, 0.0, largest)


def _length(vectors: Tensor) -> Tensor:
    """Returns the lengths of vectors, `[..., 1]`, with a finite gradient at zero."""
    unit = ops.stop_gradient(ops.sum(ops.abs(vectors), axis=-1, keepdims=True))
    is_zero = unit == 0
    unit = ops.where(is_zero, ops.ones_like(unit), unit)  # squares neither overflow nor vanish
    squared = ops.sum(ops.square(vectors / unit), axis=-1, keepdims=True)
    root = unit * ops.sqrt(ops.where(is_zero, ops.ones_like(squared), squared))
    return ops.where(is_zero, ops.zeros_like(root), root)


def _random_direction(shape: tuple[int], dtype: DType) -> Tensor:
    return random_directions((1, *shape), dtype)[0]


@keras.saving.register_keras_serializable(package="gyoza")
class Sylvester(FlowLayer):
    r"""Moves points along several directions, like a :class:`Planar` layer with several planes.

    .. math::
        y = x + Q R \tanh(S Q^T x + b), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_{i=1}^M \ln \left( 1 + R_{ii} S_{ii} (1 - \tanh^2 a_i) \right), \quad
        a = S Q^T x + b,

    with orthonormal columns :math:`Q`, `[dimension_count, M]`, from :math:`M` Householder
    reflections, and upper triangular matrices :math:`R` and :math:`S`. This is invertible if
    :math:`R_{ii} S_{ii} > -1`. The product is kept above -0.999, with :math:`S_{ii} > 0`, which
    loses no generality. A new layer, with :math:`R = 0`, is the identity.

    The forward direction costs a few matrix products with `M` columns. As the matrices are
    triangular, the inverse solves `M` equations with one unknown each, one after the other, in a
    compiled loop of at most about 30 steps in float32, or 60 in float64, each. All is computed in
    at least float32.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        column_count: The number of directions, :math:`M`, from 1 to the number of dimensions,
            which is the default.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `column_count` is below 1 or above the number of dimensions.

    Attributes:
        reflection_normals: The weight, `[M, dimension_count]`, with the normals of the reflections
            that map the first unit vectors to the columns of :math:`Q`.
        outer: The weight, `[M, M]`, that holds :math:`R` above its diagonal and, on it, numbers
            that a softplus maps to :math:`R_{ii} S_{ii}`.
        inner: The weight, `[M, M]`, that holds :math:`S` above its diagonal and
            :math:`\ln S_{ii}` on it.
        bias: The weight :math:`b`, `[M]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Sylvester(shape=[5], column_count=2)
        >>> x = np.ones([1, 5], "float32")
        >>> outputs, log_det = layer(x)
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.invert(outputs)), x, atol=1e-6))
        True

    References:
        - van den Berg, R., Hasenclever, L., Tomczak, J. M. & Welling, M. (2018). "Sylvester
          normalizing flows for variational inference."
          `arXiv:1803.05649 <https://arxiv.org/abs/1803.05649>`_
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        column_count: int | None = None,
        **kwargs: Any,
    ) -> None:
        if column_count is not None:
            column_count = check_integer("column_count", column_count, minimum=1)
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.column_count = column_count
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the reflections and the triangular matrices."""
        count = self.column_count or self.dimension_count
        if count > self.dimension_count:
            raise ValueError(
                "`column_count` should be at most the number of dimensions, "
                f"{self.dimension_count}. Received: column_count={count}"
            )
        self.reflection_normals = self.add_weight(
            shape=(count, self.dimension_count),
            initializer=random_directions,
            autocast=False,
            name="reflection_normals",
        )
        self.outer, self.inner = (
            self.add_weight(shape=(count, count), initializer="zeros", autocast=False, name=name)
            for name in ("outer", "inner")
        )
        self.bias = self.add_weight(
            shape=(count,), initializer="zeros", autocast=False, name="bias"
        )

    def _cast_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns the rows Qᵀ, the matrices R and S, R_ii S_ii, and b, in `log_det_dtype`."""
        normals, outer, inner, bias = (
            ops.cast(weight, self.log_det_dtype)
            for weight in (self.reflection_normals, self.outer, self.inner, self.bias)
        )
        rows = reflect(ops.eye(*normals.shape, dtype=self.log_det_dtype), normals)
        strength, log_scale = _bound_strength(ops.diagonal(outer)), ops.diagonal(inner)
        outer = ops.triu(outer, k=1) + create_diagonal(strength * ops.exp(-log_scale))
        inner = ops.triu(inner, k=1) + create_diagonal(ops.exp(log_scale))
        return rows, outer, inner, strength, bias

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Moves vectors; see :meth:`FlowLayer.transform`."""
        rows, outer, inner, strength, bias = self._cast_weights()
        x = ops.cast(inputs, self.log_det_dtype)
        bent, slope = tanh_and_slope(x @ ops.transpose(rows) @ ops.transpose(inner) + bias)
        outputs = x + bent @ ops.transpose(outer) @ rows
        log_det = ops.sum(log1p(strength * slope), axis=-1)
        return ops.cast(outputs, inputs.dtype), log_det

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Moves vectors back; see :meth:`FlowLayer.inverse_transform`."""
        rows, outer, inner, _, bias = self._cast_weights()
        y = ops.cast(outputs, self.log_det_dtype)
        target = y @ ops.transpose(rows)
        start = _solve_triangular_bend(*map(ops.stop_gradient, (target, outer, inner, bias)))
        # One step of Newton's method, which makes the result differentiable.
        start = ops.stop_gradient(start)
        bent, slope = tanh_and_slope(start @ ops.transpose(inner) + bias)
        error = start + bent @ ops.transpose(outer) - target
        jacobian = ops.eye(bias.shape[0], dtype=bias.dtype) + (
            (outer * ops.expand_dims(slope, -2)) @ inner
        )
        step = ops.solve_triangular(ops.stop_gradient(jacobian), ops.expand_dims(error, -1))
        bent, _ = tanh_and_slope((start - step[..., 0]) @ ops.transpose(inner) + bias)
        return ops.cast(y - bent @ ops.transpose(outer) @ rows, outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "column_count": self.column_count}


def _solve_triangular_bend(target: Tensor, outer: Tensor, inner: Tensor, bias: Tensor) -> Tensor:
    """Solves `x + R tanh(S x + b) = target` for vectors x, from the last dimension to the first."""
    count = bias.shape[0]

    def solve_dimension(index: Tensor, x: Tensor) -> Tensor:
        index = count - 1 - index
        unit = ops.one_hot(index, count, dtype=x.dtype)
        outer_row, inner_row = ops.take(outer, index, axis=0), ops.take(inner, index, axis=0)
        # The dimensions of `x` up to this one are still zero.
        bent, _ = tanh_and_slope(x @ ops.transpose(inner) + bias)
        root = _solve_bend(
            target=ops.sum(target * unit - bent * outer_row * (1 - unit), axis=-1),
            outer=ops.sum(outer_row * unit),
            inner=ops.sum(inner_row * unit),
            shift=ops.sum(x * inner_row + bias * unit, axis=-1),
        )
        return x + ops.expand_dims(root, -1) * unit

    return repeat(solve_dimension, ops.zeros_like(target), count)
