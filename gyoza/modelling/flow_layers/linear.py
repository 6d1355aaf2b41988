"""Invertible linear maps that are learnt, with the determinants of triangular matrices."""

import random
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.initializers import given_values
from gyoza.modelling.functions.products import multiply
from gyoza.modelling.functions.triangles import create_diagonal, solve_triangle
from gyoza.typing import Shape, Tensor

__all__ = ["LULinear", "InvertibleConvolution", "TriangularAffine"]


@keras.saving.register_keras_serializable(package="gyoza")
class LULinear(FlowLayer):
    r"""Multiplies its inputs by a learnable matrix, which is stored as its LU decomposition.

    .. math::
        y = x W + b, \qquad W = P L (U + \operatorname{diag}(s)), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i \ln |s_i|,

    for row vectors :math:`x`, with a fixed permutation matrix :math:`P`, a lower triangular
    :math:`L` with ones on its diagonal, and a strictly upper triangular :math:`U`. :math:`L`,
    :math:`U` and :math:`\ln |s|` are learnt and the signs of :math:`s` are fixed, so that the
    matrix always stays invertible.

    A new layer is a random orthogonal map, or the identity, without a shift. Each direction costs
    one matrix product, `[batch, dimension_count] × [dimension_count, dimension_count]`. The inverse
    is computed in at least float32.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        use_bias: Whether there is a shift :math:`b`.
        seed: Integer from 0 to 2³² - 1 that determines the orthogonal map. If omitted, it is drawn
            from Python's generator, which `keras.utils.set_random_seed` seeds.
        initializer: Which map a new layer is: "orthogonal" or "identity".
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `initializer` is unknown.

    Attributes:
        factors: The weight `[dimension_count, dimension_count]` that holds :math:`L` below its
            diagonal, :math:`\ln |s|` on it, and :math:`U` above.
        signs: The signs of :math:`s`, `[dimension_count]`, not trained.
        permutation: The indices :math:`\pi` with :math:`P_{i, \pi(i)} = 1`, int32,
            `[dimension_count]`, not trained.
        bias: The weight :math:`b`, `[dimension_count]`, or `None`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.LULinear(shape=[3])
        >>> x = np.array([[1.0, 2.0, 2.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> round(float(keras.ops.sum(outputs**2)), 3)  # a new layer keeps lengths
        9.0
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.invert(outputs)), x, atol=1e-5))
        True

    References:
        - Kingma, D. P. & Dhariwal, P. (2018). "Glow: Generative flow with invertible 1x1
          convolutions." `arXiv:1807.03039 <https://arxiv.org/abs/1807.03039>`_
        - Oliva, J. B. et al. (2018). "Transformation autoregressive networks."
          `arXiv:1801.09819 <https://arxiv.org/abs/1801.09819>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        use_bias: bool = True,
        seed: int | None = None,
        initializer: str = "orthogonal",
        **kwargs: Any,
    ) -> None:
        if initializer not in ("orthogonal", "identity"):
            raise ValueError(
                "`initializer` should be 'orthogonal' or 'identity'. "
                f"Received: initializer={initializer!r}"
            )
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.use_bias = use_bias
        self.seed = random.randrange(2**32) if seed is None else seed
        self.initializer = initializer
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the weights, from the decomposition of the initial matrix."""
        size = self.dimension_count
        is_identity = self.initializer == "identity"
        matrix = np.eye(size) if is_identity else _draw_orthogonal(size, self.seed)
        packed, order = _decompose(matrix)
        scales = np.diag(packed).copy()
        np.fill_diagonal(packed, np.log(np.abs(scales)))
        self.factors = self.add_weight(
            shape=(size, size), initializer=given_values(packed), autocast=False, name="factors"
        )
        self.signs = self.add_weight(
            shape=(size,),
            initializer=given_values(np.sign(scales)),
            autocast=False,
            trainable=False,
            name="signs",
        )
        self.permutation = self.add_weight(
            shape=(size,),
            initializer=given_values(np.argsort(order)),
            dtype="int32",
            trainable=False,
            name="permutation",
        )
        self.bias = _add_bias(self) if self.use_bias else None

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Returns the triangular matrices L and U + diag(s), in `log_det_dtype`."""
        factors = ops.cast(self.factors, self.log_det_dtype)
        signs = ops.cast(self.signs, self.log_det_dtype)
        lower = ops.tril(factors, k=-1) + ops.eye(self.dimension_count, dtype=self.log_det_dtype)
        upper = ops.triu(factors, k=1) + create_diagonal(signs * ops.exp(ops.diagonal(factors)))
        return lower, upper

    @property
    def matrix(self) -> Tensor:
        """The matrix :math:`W`, `[dimension_count, dimension_count]`."""
        lower, upper = self._triangles()
        # The operator keeps float64, which `ops.matmul` would round to float32 on PyTorch.
        return ops.take(lower @ upper, self.permutation, axis=0)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies vectors by the matrix; see :meth:`FlowLayer.transform`."""
        outputs = multiply(inputs, ops.cast(self.matrix, inputs.dtype))
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, inputs.dtype)
        return outputs, _sum_diagonal(self.factors, inputs, self.log_det_dtype)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Multiplies vectors by the inverse; see :meth:`FlowLayer.inverse_transform`."""
        lower, upper = self._triangles()
        vectors = ops.cast(outputs, self.log_det_dtype)
        if self.bias is not None:
            vectors = vectors - ops.cast(self.bias, self.log_det_dtype)
        # For images, one product is much cheaper than solving for every position.
        inverse = ops.eye(self.dimension_count, dtype=self.log_det_dtype)
        inverse = solve_triangle(lower, inverse, lower=True)
        inverse = solve_triangle(upper, inverse, lower=False)
        inverse = ops.take(inverse, self.permutation, axis=-1)
        return ops.cast(multiply(vectors, inverse), outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "use_bias": self.use_bias,
            "seed": self.seed,
            "initializer": self.initializer,
        }


@keras.saving.register_keras_serializable(package="gyoza")
class InvertibleConvolution(LULinear):
    r"""Mixes the channels of images by one learnable matrix, the same at every pixel.

    This is the invertible 1×1 convolution of Glow, :class:`LULinear` along the last axis:

    .. math::
        y_{hw} = x_{hw} W + b, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = H W \sum_i \ln |s_i|

    for images of :math:`H \times W` pixels.

    Args:
        shape: The number of channels, `[channels]`, read from the first inputs if omitted.
        axes: See :class:`FlowLayer`. If omitted, the last axis of the inputs.
        use_bias: See :class:`LULinear`.
        seed: See :class:`LULinear`.
        initializer: See :class:`LULinear`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `shape` has more than one length while `axes` are omitted.

    Example:

        >>> layer = gyoza.modelling.flow_layers.InvertibleConvolution()
        >>> outputs, log_det = layer(np.ones([1, 4, 4, 3], "float32"))
        >>> tuple(outputs.shape), tuple(layer.matrix.shape)
        ((1, 4, 4, 3), (3, 3))

    References:
        - Kingma, D. P. & Dhariwal, P. (2018). "Glow: Generative flow with invertible 1x1
          convolutions." `arXiv:1807.03039 <https://arxiv.org/abs/1807.03039>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        use_bias: bool = True,
        seed: int | None = None,
        initializer: str = "orthogonal",
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, use_bias, seed, initializer, **kwargs)
        if axes is None and self._shape_ is not None:
            if len(self._shape_) != 1:
                raise ValueError(
                    "`shape` should hold only the number of channels if `axes` are omitted. "
                    f"Received: shape={self._shape_}"
                )
            # The last axis is known only when the layer is built.
            self._axes_, self.input_spec = None, None

    def build(self, input_shape: Shape | None = None) -> None:
        """Selects the last axis unless `axes` are given; see :meth:`FlowLayer.build`."""
        if self._axes_ is None and input_shape is not None:
            self._axes_ = [max(len(input_shape) - 1, 1)]
        super().build(input_shape)


@keras.saving.register_keras_serializable(package="gyoza")
class TriangularAffine(FlowLayer):
    r"""Multiplies by a learnable triangular matrix with a positive diagonal, and shifts.

    .. math::
        y = x L^T + b, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i \ln L_{ii},

    for row vectors :math:`x` and a lower triangular matrix :math:`L`, so that :math:`y_i` depends
    on :math:`x_1, …, x_i`. A new layer is the identity. With a standard normal base distribution,
    it models a normal distribution with any mean and covariance: the density of :math:`x` has the
    precision matrix :math:`L^T L`.

    Each direction costs one matrix product. The inverse is computed in at least float32.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        factors: The weight `[dimension_count, dimension_count]` that holds :math:`L` below its
            diagonal and :math:`\ln L_{ii}` on it. Entries above the diagonal are not used.
        bias: The weight :math:`b`, `[dimension_count]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.TriangularAffine(shape=[2])
        >>> _ = layer.factors.assign([[np.log(2.0), 0.0], [3.0, np.log(4.0)]])
        >>> outputs, log_det = layer(np.array([[1.0, 1.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[2., 7.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([2.0794], dtype=float32)
    """

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the triangular matrix and the shift."""
        self.factors = self.add_weight(
            shape=(self.dimension_count, self.dimension_count),
            initializer="zeros",
            autocast=False,
            name="factors",
        )
        self.bias = _add_bias(self)

    @property
    def matrix(self) -> Tensor:
        """The matrix :math:`L`, `[dimension_count, dimension_count]`."""
        factors = ops.cast(self.factors, self.log_det_dtype)
        return ops.tril(factors, k=-1) + create_diagonal(ops.exp(ops.diagonal(factors)))

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies vectors by the matrix; see :meth:`FlowLayer.transform`."""
        matrix, bias = (ops.cast(weight, inputs.dtype) for weight in (self.matrix, self.bias))
        outputs = inputs @ ops.transpose(matrix) + bias
        return outputs, _sum_diagonal(self.factors, inputs, self.log_det_dtype)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Multiplies vectors by the inverse; see :meth:`FlowLayer.inverse_transform`."""
        dtype = self.log_det_dtype
        vectors = ops.cast(outputs, dtype) - ops.cast(self.bias, dtype)
        inverse = ops.eye(self.dimension_count, dtype=dtype)
        inverse = solve_triangle(self.matrix, inverse, lower=True)
        return ops.cast(vectors @ ops.transpose(inverse), outputs.dtype)


def _add_bias(layer: FlowLayer) -> keras.Variable:
    return layer.add_weight(
        shape=(layer.dimension_count,), initializer="zeros", autocast=False, name="bias"
    )


def _sum_diagonal(factors: Tensor, inputs: Tensor, dtype: str) -> Tensor:
    """Returns the log-determinant, which is the same for all vectors in `inputs`."""
    log_det = ops.sum(ops.diagonal(ops.cast(factors, dtype)))
    return ops.broadcast_to(log_det, ops.shape(inputs)[:-1])


def _draw_orthogonal(size: int, seed: int) -> np.ndarray:
    """Draws an orthogonal matrix from the uniform distribution."""
    # NumPy never changes the stream of `RandomState`.
    q, r = np.linalg.qr(np.random.RandomState(seed).normal(size=(size, size)))
    return q * np.sign(np.diag(r))


def _decompose(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decomposes `matrix[order]` into L U by Gaussian elimination with partial pivoting.

    Args:
        matrix: A square matrix that is not singular.

    Returns:
        L below the diagonal and U from the diagonal on, in one matrix, and `order`.
    """
    packed, order = matrix.copy(), np.arange(len(matrix))
    for k in range(len(matrix)):
        pivot = k + int(np.argmax(np.abs(packed[k:, k])))
        packed[[k, pivot]] = packed[[pivot, k]]
        order[[k, pivot]] = order[[pivot, k]]
        packed[k + 1 :, k] /= packed[k, k]
        packed[k + 1 :, k + 1 :] -= np.outer(packed[k + 1 :, k], packed[k, k + 1 :])
    return packed, order
