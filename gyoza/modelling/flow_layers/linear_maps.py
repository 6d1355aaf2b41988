"""Linear maps that are set rather than trained, and the principal axes of data."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.adaptation import check_finite_rows, is_left_alone
from gyoza.modelling.axes import read_shape
from gyoza.modelling.batches import iterate_inputs
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.principal_axes import find_axes, measure_spread
from gyoza.modelling.functions.products import multiply
from gyoza.typing import Data, Tensor

__all__ = ["LinearMap", "PrincipalRotation"]


@keras.saving.register_keras_serializable(package="gyoza")
class LinearMap(FlowLayer):
    r"""Shifts its inputs and multiplies them by a fixed matrix.

    .. math::
        y = (x - l) M, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \ln |\det M|,

    for row vectors :math:`x`. The map is set by :meth:`set_map`, or by the `adapt` method of a
    subclass, and is not trained; a new layer is the identity. Each direction costs one matrix
    product.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        location: The weight :math:`l`, `[dimension_count]`.
        matrix: The weight :math:`M`, `[dimension_count, dimension_count]`.
        inverse_matrix: The weight :math:`M^{-1}`.
        log_abs_det: The weight :math:`\ln |\det M|`, a scalar.

    Example:

        >>> layer = gyoza.modelling.flow_layers.LinearMap()
        >>> layer.set_map([1.0, 0.0], [[0.0, 2.0], [1.0, 0.0]])
        >>> outputs, log_det = layer(np.array([[4.0, 5.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[5., 6.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([0.6931], dtype=float32)
    """

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates the map, as the identity."""
        size = self.dimension_count
        self.location = self._add_constant("location", (size,), "zeros")
        self.matrix = self._add_constant("matrix", (size, size), "identity")
        self.inverse_matrix = self._add_constant("inverse_matrix", (size, size), "identity")
        self.log_abs_det = self._add_constant("log_det", (), "zeros")

    def _add_constant(self, name: str, shape: tuple[int, ...], initializer: str) -> keras.Variable:
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype=self.log_det_dtype,
            trainable=False,
            autocast=False,
            name=name,
        )

    def set_map(self, location: Tensor, matrix: Tensor) -> None:
        """Sets the map.

        The matrix is first rounded to the dtype of the weights, so that the stored inverse and
        determinant belong to the stored matrix.

        Args:
            location: The vector :math:`l`, `[dimension_count]`.
            matrix: The matrix :math:`M`, `[dimension_count, dimension_count]`.

        Raises:
            ValueError: If a shape is wrong, or the matrix is not invertible or not finite. The
                weights are then left unchanged.
        """
        location, matrix = (
            np.asarray(ops.convert_to_numpy(value), "float64") for value in (location, matrix)
        )
        size = (*matrix.shape, 1)[0] if self._shape_ is None else self.dimension_count
        if location.shape != (size,) or matrix.shape != (size, size):
            raise ValueError(
                f"`location` and `matrix` should have shapes ({size},) and ({size}, {size}). "
                f"Received: shapes {location.shape} and {matrix.shape}"
            )
        if self._shape_ is None:
            self.build((None, size))
        matrix = matrix.astype(self.matrix.dtype).astype("float64")
        sign, log_det = np.linalg.slogdet(matrix)
        if not (np.isfinite(log_det) and np.all(np.isfinite(location))) or sign == 0:
            raise ValueError(
                "`matrix` should be invertible, and finite like `location`. Received: "
                f"location={location}, a matrix whose determinant has the logarithm {log_det}"
            )
        self._assign(location, matrix, np.linalg.inv(matrix), log_det)

    def _assign(
        self, location: Tensor, matrix: Tensor, inverse_matrix: Tensor, log_det: Tensor
    ) -> None:
        self.location.assign(location)
        self.matrix.assign(matrix)
        self.inverse_matrix.assign(inverse_matrix)
        self.log_abs_det.assign(log_det)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps vectors; see :meth:`FlowLayer.transform`."""
        x = ops.cast(inputs, self.log_det_dtype) - ops.cast(self.location, self.log_det_dtype)
        outputs = multiply(x, ops.cast(self.matrix, self.log_det_dtype))
        return ops.cast(outputs, inputs.dtype), ops.cast(self.log_abs_det, self.log_det_dtype)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Maps vectors back; see :meth:`FlowLayer.inverse_transform`."""
        y = ops.cast(outputs, self.log_det_dtype)
        x = multiply(y, ops.cast(self.inverse_matrix, self.log_det_dtype))
        return ops.cast(x + ops.cast(self.location, self.log_det_dtype), outputs.dtype)

    def _iterate_vectors(self, data: Data, batch_size: int) -> Iterable[np.ndarray]:
        """Yields vectors in float64, `[instances and positions, dimension_count]`."""
        row_count = 0
        for batch in iterate_inputs(data, batch_size):
            check_finite_rows(self.name, batch, row_count)
            row_count += len(batch)
            if not self.built:
                self.build((None, *batch.shape[1:]))
            read_shape((None, *batch.shape[1:]), self._shape_, self._axes_)  # checks it
            rest = [axis for axis in range(batch.ndim) if axis not in self._axes_]
            vectors = batch.transpose(*rest, *self._axes_).astype("float64")
            yield vectors.reshape(-1, self.dimension_count)


@keras.saving.register_keras_serializable(package="gyoza")
class PrincipalRotation(LinearMap):
    r"""Rotates its inputs to their principal axes, by decreasing variance.

    .. math::
        y = (x - l) M, \qquad M^T M = I, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0,

    where :math:`l` is the mean of the data, and the columns of :math:`M` are the eigenvectors of
    their covariance, each with the sign that makes its largest entry positive. A new layer is the
    identity until :meth:`adapt` is called. It is not trained, and inputs keep their scale.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, the channels of images are rotated, using
            their covariance over all positions.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        variances: The weight that holds the variance of each output, `[dimension_count]`; ones in
            a new layer.

    Example:

        >>> random = np.random.default_rng(0)
        >>> x = (random.normal(size=[500, 1]) * [3.0, 4.0] + 5.0).astype("float32")  # on a line
        >>> layer = gyoza.modelling.flow_layers.PrincipalRotation()
        >>> layer.adapt(x)
        >>> keras.ops.convert_to_numpy(layer.matrix)[:, 0].round(4)
        array([0.6, 0.8], dtype=float32)
        >>> layer.explained_variance.round(4)
        array([1., 0.])

    References:
        - Hotelling, H. (1933). "Analysis of a complex of statistical variables into principal
          components." Journal of Educational Psychology 24(6), 417-441.
    """

    preserves_volume = True

    def create_weights(self) -> None:
        """Creates the map, as the identity, and the variances."""
        super().create_weights()
        self.variances = self._add_constant("variances", (self.dimension_count,), "ones")

    @property
    def explained_variance(self) -> np.ndarray:
        """The share of the total variance in each output, `[dimension_count]`, in float64."""
        variances = np.asarray(ops.convert_to_numpy(self.variances), "float64")
        return variances / variances.sum()

    def set_map(self, location: Tensor, matrix: Tensor) -> None:
        """Sets the map; see :meth:`LinearMap.set_map`. The matrix should be orthogonal."""
        matrix = np.asarray(ops.convert_to_numpy(matrix), "float64")
        is_matrix = matrix.ndim == 2
        if is_matrix and not np.allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-4):
            raise ValueError(f"`matrix` should be orthogonal. Received: matrix={matrix}")
        super().set_map(location, matrix)

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Finds the principal axes of `data`.

        The result is saved and loaded with the weights, and changes only if this method is called
        again. A frozen layer is left as it is, with a warning. There may be fewer instances than
        dimensions; the last outputs are then constant on these data.

        Args:
            data: The inputs: an array `[instances, ...]`, or a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or another iterable of batches, from which inputs are
                taken (a pair of inputs counts as two batches).
            batch_size: Number of instances processed at a time.

        Raises:
            TypeError: If `data` are not floating-point numbers.
            ValueError: If `data` are empty, not finite or all the same, or do not have the shape
                that the layer expects. The weights are then left unchanged.
        """
        if is_left_alone(self):
            return
        mean, covariance, _ = measure_spread(self._iterate_vectors(data, batch_size))
        variances, matrix = find_axes(covariance)
        self._assign(mean, matrix, matrix.T, 0.0)
        self.variances.assign(np.maximum(variances, 0.0))

    def transform(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Rotates vectors; see :meth:`FlowLayer.transform`."""
        return super().transform(inputs)[0], None
