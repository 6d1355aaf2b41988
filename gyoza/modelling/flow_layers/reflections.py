"""Orthogonal maps from Householder reflections."""

import threading
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.arguments import take_first
from gyoza.modelling.functions.checks import check_integer, is_integer
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.triangles import solve_triangle
from gyoza.typing import DType, Tensor

__all__ = ["Reflection", "Orthogonal", "reflect", "random_directions"]

# Held while the mode of a layer is switched, so that other threads do not see the wrong mode.
_LOCK = threading.RLock()


def reflect(x: Tensor, normals: Tensor, reverse: bool = False) -> Tensor:
    r"""Reflects vectors at hyperplanes, one after the other, with one or two matrix products.

    With the normals :math:`v_1, …, v_R` as rows of :math:`V`, the product of the Householder
    matrices :math:`H_r = I - 2 v_r v_r^T / \lVert v_r \rVert^2` has the compact form

    .. math::
        H_1 H_2 \cdots H_R = I - V^T S^{-1} V, \qquad
        S = \operatorname{striu}(V V^T) + \tfrac{1}{2} \operatorname{diag}(V V^T),

    where striu is the part strictly above the diagonal. Row vectors are multiplied by the matrix on
    their right, so that the first normal reflects first. In reverse order, :math:`S` is transposed.

    Args:
        x: Vectors, `[..., dimension_count]`.
        normals: Normals of any non-zero length, `[reflection_count, dimension_count]`. They are
            normalised here.
        reverse: Whether the last normal reflects first, which gives the inverse.

    Returns:
        The reflected vectors, in the shape of `x`.

    References:
        - Joffrain, T., Low, T. M., Quintana-Ortí, E. S., van de Geijn, R. & Van Zee, F. G. (2006).
          "Accumulating Householder transformations, revisited." ACM Transactions on Mathematical
          Software 32(2), 169-179.
    """
    x = ops.convert_to_tensor(x)
    dtype = at_least_float32(x.dtype)
    normals = _normalise(ops.cast(normals, dtype))
    # The operator keeps float64, which `ops.matmul` would round to float32 on PyTorch.
    gram = normals @ ops.transpose(normals)
    count, size = normals.shape
    weights = ops.triu(gram, k=1) + 0.5 * ops.eye(count, dtype=dtype)
    if reverse:
        weights = ops.transpose(weights)
    solved = solve_triangle(weights, normals, lower=reverse)
    if 2 * count > size:
        matrix = ops.eye(size, dtype=dtype) - ops.transpose(normals) @ solved
        return x @ ops.cast(matrix, x.dtype)
    return x - (x @ ops.cast(ops.transpose(normals), x.dtype)) @ ops.cast(solved, x.dtype)


@keras.saving.register_keras_serializable(package="gyoza")
class Reflection(FlowLayer):
    r"""Reflects its inputs at learnable hyperplanes, one after the other.

    .. math::
        y = H_R \cdots H_2 H_1 x, \qquad H_r = I - 2 v_r v_r^T, \quad \lVert v_r \rVert = 1, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0.

    This is an orthogonal map. With `reflection_count` equal to the number of dimensions, every
    orthogonal map whose determinant is :math:`(-1)^R` can be learnt. Each direction costs two
    matrix products, `[batch, dimension_count] × [dimension_count, reflection_count]`, or one by a
    square matrix if that is cheaper.

    Args:
        shape: See :class:`FlowLayer`. A single integer is the number of reflections:
            `Reflection(8)` is `Reflection(reflection_count=8)`.
        axes: See :class:`FlowLayer`. These are axes of the tensor, not axes of reflection.
        reflection_count: The number of reflections, :math:`R`, at least 1.
        inverse_mode: Whether `call` reflects in reverse order, and `invert` in forward order.
        initializer: "random" for normals in random directions, or "identity" for pairs of equal
            normals, so that a new layer is the identity.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `reflection_count` is below 1, or `initializer` is unknown, or "identity" for
            an odd number of reflections.

    Attributes:
        _reflection_normals_: The weight that holds the normals :math:`v_r` as rows,
            `[reflection_count, dimension_count]`. They start with unit length. Training may change
            their length, without effect: they are normalised whenever they are used.
        _inverse_mode_: The value of `inverse_mode`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Reflection(shape=[2], reflection_count=1)
        >>> _ = layer._reflection_normals_.assign([[1.0, 0.0]])
        >>> outputs, log_det = layer(np.array([[3.0, 4.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[-3.,  4.]], dtype=float32)

    References:
        - Meng, C., Song, Y., Song, J. & Ermon, S. (2020). "Gaussianization flows."
          `arXiv:2003.01941 <https://arxiv.org/abs/2003.01941>`_
        - Tomczak, J. M. & Welling, M. (2016). "Improving variational auto-encoders using
          Householder flow." `arXiv:1611.09630 <https://arxiv.org/abs/1611.09630>`_
    """

    preserves_volume = True

    def __init__(
        self,
        shape: Iterable[int] | int | None = None,
        axes: Iterable[int] | None = None,
        reflection_count: int = 1,
        inverse_mode: bool = False,
        initializer: str = "random",
        **kwargs: Any,
    ) -> None:
        lengths, reflection_count = take_first(shape, reflection_count, is_integer, default=1)
        reflection_count = check_integer("reflection_count", reflection_count, minimum=1)
        if initializer not in _INITIALIZERS:
            raise ValueError(
                f"`initializer` should be one of {list(_INITIALIZERS)}. "
                f"Received: initializer={initializer!r}"
            )
        super().__init__(shape=lengths, axes=axes, **kwargs)
        self.initializer = initializer
        self.reflection_count = reflection_count
        self._inverse_mode_ = inverse_mode
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the normals."""
        if self.initializer == "identity" and self.reflection_count % 2:
            raise ValueError(
                "`reflection_count` should be even if `initializer` is 'identity'. "
                f"Received: reflection_count={self.reflection_count}"
            )
        self._reflection_normals_ = self.add_weight(
            shape=(self.reflection_count, self.dimension_count),
            initializer=_INITIALIZERS[self.initializer],
            name="reflection_normals",
        )

    def _reflect_(self, x: Tensor) -> Tensor:
        """Applies all reflections, in reverse order if `_inverse_mode_` is set.

        A subclass may override it. `invert` calls it in the other mode.

        Args:
            x: Vectors, `[..., dimension_count]`.

        Returns:
            The reflected vectors, in the shape of `x`.
        """
        return reflect(x, self._reflection_normals_, reverse=self._inverse_mode_)

    def transform(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Reflects vectors; see :meth:`FlowLayer.transform`."""
        return self._run(inputs), None

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Reflects vectors in the opposite order; see :meth:`FlowLayer.inverse_transform`."""
        return self._run(outputs, is_back=True)

    def _run(self, x: Tensor, is_back: bool = False) -> Tensor:
        """Reflects vectors forward or back, with `_reflect_` if a subclass overrides it."""
        if type(self)._reflect_ is Reflection._reflect_:
            return reflect(x, self._reflection_normals_, reverse=self._inverse_mode_ != is_back)
        with _LOCK:
            given = self._inverse_mode_
            self._inverse_mode_ = given != is_back
            try:
                return self._reflect_(x)
            finally:
                self._inverse_mode_ = given

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "reflection_count": self.reflection_count,
            "inverse_mode": self._inverse_mode_,
            "initializer": self.initializer,
        }


@keras.saving.register_keras_serializable(package="gyoza")
class Orthogonal(Reflection):
    r"""Multiplies its inputs by a learnable orthogonal matrix.

    .. math::
        y = H_R \cdots H_2 H_1 x, \qquad H_r = I - 2 v_r v_r^T, \quad \lVert v_r \rVert = 1, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0.

    This is a :class:`Reflection` with as many reflections as dimensions, :math:`R = D`. Each
    reflection has the determinant -1, so that the determinant of the layer is always
    :math:`(-1)^D`: the layer is a rotation if :math:`D` is even, and a rotation with a reflection
    if :math:`D` is odd. Every such map can be learnt. With one reflection fewer, every map with the
    other sign can be. For densities the sign is irrelevant if the base distribution is symmetric
    about some plane, as the standard normal distribution is.

    Each direction costs one matrix product, `[batch, D] × [D, D]`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        reflection_count: The number of reflections, :math:`R`. If omitted, the number of
            dimensions, plus one if that is odd and `initializer` is "identity".
        inverse_mode: See :class:`Reflection`.
        initializer: See :class:`Reflection`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: See :class:`Reflection`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Orthogonal(shape=[4])
        >>> matrix = keras.ops.convert_to_numpy(layer(np.eye(4, dtype="float32"))[0])
        >>> bool(np.allclose(matrix @ matrix.T, np.eye(4), atol=1e-5))
        True
        >>> bool(np.linalg.det(matrix) > 0)  # for an even number of dimensions
        True

    References:
        - Meng, C., Song, Y., Song, J. & Ermon, S. (2020). "Gaussianization flows."
          `arXiv:2003.01941 <https://arxiv.org/abs/2003.01941>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        reflection_count: int | None = None,
        inverse_mode: bool = False,
        initializer: str = "random",
        **kwargs: Any,
    ) -> None:
        self.has_full_count = reflection_count is None
        count = 1 if reflection_count is None else reflection_count
        super().__init__(shape, axes, count, inverse_mode, initializer, **kwargs)

    def create_weights(self) -> None:
        """Creates the normals, one for each dimension unless `reflection_count` was given."""
        if self.has_full_count:
            count = self.dimension_count
            self.reflection_count = count + count % 2 * (self.initializer == "identity")
        super().create_weights()

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        return {**config, "reflection_count": None} if self.has_full_count else config


def random_directions(shape: tuple[int, int], dtype: DType) -> Tensor:
    """Draws vectors of unit length as the rows of a matrix. This is a Keras initialiser."""
    return _normalise(keras.initializers.RandomNormal(stddev=1.0)(shape, dtype=dtype))


def _repeat_directions(shape: tuple[int, int], dtype: DType) -> Tensor:
    """Draws pairs of equal directions, whose reflections cancel."""
    return ops.repeat(random_directions((shape[0] // 2, shape[1]), dtype), 2, axis=0)


_INITIALIZERS = {"random": random_directions, "identity": _repeat_directions}


def _normalise(normals: Tensor) -> Tensor:
    """Scales rows to unit length. `ops.norm` would compute float64 in float32 on some backends."""
    return normals / ops.sqrt(ops.sum(ops.square(normals), axis=-1, keepdims=True))
