"""Linear maps in closed form: principal axes of data, and axes along which pairs correlate."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.adaptation import is_left_alone
from gyoza.modelling.axes import read_shape
from gyoza.modelling.batches import iterate_inputs
from gyoza.modelling.factors import check_dimensions_per_factor
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.products import multiply
from gyoza.modelling.pairs import Pairs, to_pairs

__all__ = ["LinearMap", "PrincipalRotation", "PairAxes"]

# Variances below this share of what is typical are those of constants, up to rounding.
_NEGLIGIBLE = 1e-10

# When the division of a space among factors counts as found.
_MOST_SWEEPS, _LEAST_GAIN = 50, 1e-6


@keras.saving.register_keras_serializable(package="gyoza")
class LinearMap(FlowLayer):
    r"""Shifts its inputs and multiplies them by a fixed matrix.

    .. math::
        y = (x - l) M, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \ln |\det M|,

    for row vectors :math:`x`. The map is set by :meth:`set_map`, or by the `adapt` of a subclass,
    and not trained; a new layer is the identity. The cost is that of one matrix product, forward
    and backward.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        location: The weight :math:`l`, `[dimension_count]`.
        matrix: The weight :math:`M`, `[dimension_count, dimension_count]`.
        inverse_matrix: The weight :math:`M^{-1}`.
        log_det: The weight :math:`\ln |\det M|`, a scalar.

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
        self.log_det = self._add_constant("log_det", (), "zeros")

    def _add_constant(self, name: str, shape: tuple[int, ...], initializer: str) -> keras.Variable:
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype=self.log_det_dtype,
            trainable=False,
            autocast=False,
            name=name,
        )

    def set_map(self, location: Any, matrix: Any) -> None:
        """Sets the map.

        The matrix is rounded to the dtype of the weights first, so that its inverse and its
        determinant are its own.

        Args:
            location: The vector :math:`l`, `[dimension_count]`.
            matrix: The matrix :math:`M`, `[dimension_count, dimension_count]`.

        Raises:
            ValueError: If shapes are wrong, or the matrix is not invertible, or not finite; the
                weights are unchanged then.
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

    def _assign(self, location: Any, matrix: Any, inverse_matrix: Any, log_det: Any) -> None:
        self.location.assign(location)
        self.matrix.assign(matrix)
        self.inverse_matrix.assign(inverse_matrix)
        self.log_det.assign(log_det)

    def transform(self, inputs: Any) -> tuple[Any, Any]:
        """Maps vectors; see :meth:`FlowLayer.transform`."""
        x = ops.cast(inputs, self.log_det_dtype) - ops.cast(self.location, self.log_det_dtype)
        outputs = multiply(x, ops.cast(self.matrix, self.log_det_dtype))
        return ops.cast(outputs, inputs.dtype), ops.cast(self.log_det, self.log_det_dtype)

    def inverse_transform(self, outputs: Any) -> Any:
        """Maps vectors back; see :meth:`FlowLayer.inverse_transform`."""
        y = ops.cast(outputs, self.log_det_dtype)
        x = multiply(y, ops.cast(self.inverse_matrix, self.log_det_dtype))
        return ops.cast(x + ops.cast(self.location, self.log_det_dtype), outputs.dtype)

    def _iterate_vectors(self, data: Any, batch_size: int) -> Iterable[np.ndarray]:
        """Yields vectors in float64, `[instances and positions, dimension_count]`."""
        for batch in iterate_inputs(data, batch_size):
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

    where :math:`l` is the mean of data, and the columns of :math:`M` are the eigenvectors of their
    covariance. The sign of each is such that its largest entry is positive. A new layer is the
    identity; call :meth:`adapt`. It is not trained. Inputs keep their scale.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, the channels of images are rotated, by the
            covariance over all positions.
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
        """The share of each output in the total variance, `[dimension_count]`, in float64."""
        variances = np.asarray(ops.convert_to_numpy(self.variances), "float64")
        return variances / variances.sum()

    def set_map(self, location: Any, matrix: Any) -> None:
        """Sets the map; see :meth:`LinearMap.set_map`. The matrix should be orthogonal."""
        matrix = np.asarray(ops.convert_to_numpy(matrix), "float64")
        is_matrix = matrix.ndim == 2
        if is_matrix and not np.allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-4):
            raise ValueError(f"`matrix` should be orthogonal. Received: matrix={matrix}")
        super().set_map(location, matrix)

    def adapt(self, data: Any, batch_size: int = 4096) -> None:
        """Takes the principal axes of `data`.

        What was adapted is saved and loaded with the weights, and happens again only if this method
        is called again. A frozen layer is left as it is, with a warning. There can be fewer
        instances than dimensions; the last outputs are then constant on them.

        Args:
            data: The inputs: an array `[instances, ...]`, or a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or another iterable of batches, of which the inputs are
                taken (a pair of inputs counts as two batches).
            batch_size: Number of instances in which an array is worked through.

        Raises:
            TypeError: If `data` are not floating-point numbers.
            ValueError: If `data` are empty, not finite, or all the same, or have other shapes than
                the layer takes; the weights are unchanged then.
        """
        if is_left_alone(self):
            return
        mean, covariance, _ = _measure(self._iterate_vectors(data, batch_size))
        variances, matrix = _find_axes(covariance)
        self._assign(mean, matrix, matrix.T, 0.0)
        self.variances.assign(np.maximum(variances, 0.0))

    def transform(self, inputs: Any) -> tuple[Any, None]:
        """Rotates vectors; see :meth:`FlowLayer.transform`."""
        return super().transform(inputs)[0], None


@keras.saving.register_keras_serializable(package="gyoza")
class PairAxes(LinearMap):
    r"""Maps its inputs linearly to axes along which pairs that share a factor correlate most.

    This is the best linear answer to what a flow learns from pairs, in closed form. Inputs are
    whitened, :math:`u = (x - l) \Sigma^{-1/2}`, by their covariance, which is shrunk,
    :math:`\Sigma = (1 - \gamma) S + \gamma \frac{\operatorname{tr} S}{n} I`. What pairs
    :math:`(a, b)` that share factor :math:`F` have in common are the symmetrised covariances of
    their whitened instances,

    .. math::
        C_F = \tfrac{1}{2} \operatorname{E} \left[ u_a^T u_b + u_b^T u_a \mid F \right].

    An orthogonal matrix :math:`V = [V_0, V_1, …, V_K]`, with a block for each factor, then
    maximises the sum of correlations of all factors in their own blocks,

    .. math::
        \sum_{F=1}^K \rho_F \operatorname{tr}(V_F^T C_F V_F), \qquad
        y = u V \operatorname{diag}(s), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \ln |\det M|,

    where :math:`\rho_F` is the correlation that the source of pairs asks for, and :math:`s` gives
    outputs unit variance. Among all rotations of whitened data, this one is the most likely under
    a :class:`~gyoza.modelling.losses.SupervisedFactorLoss`, up to its weights of factors.

    For one factor, its block consists of the leading eigenvectors of :math:`C_F`; for classes,
    they are the axes of linear discriminant analysis. For several, no factor goes first: each two
    blocks in turn divide the space that they span by the eigenvectors of :math:`C_F - C_G`, with 0
    for the residual factor, until the sum grows no more. Within the block of a factor, axes are
    ordered by decreasing correlation, and in the residual block, which comes first, by decreasing
    variance explained.

    The cost is that of one matrix product, forward and backward. The map is not trained; a new
    layer is the identity.

    Args:
        dimensions_per_factor: The number of outputs of each factor, the residual one first: a
            dictionary by name, as :func:`~gyoza.interpretation.estimate_factor_sizes` gives it, or
            a sequence.
        shrinkage: The share :math:`\gamma` of the mean variance, from 0 to 1. If omitted, it is
            that of Ledoit & Wolf for the number of pairs, which is small for many.
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, the channels of images are mapped; the
            same position of both instances counts as a pair.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If sizes are not integers.
        ValueError: If sizes are negative or do not sum to the number of dimensions, or `shrinkage`
            is out of range.

    Attributes:
        correlations: The weight that holds the correlation of pairs that share each factor but the
            residual one (rows) along each output (columns), `[factors, dimension_count]`. Where
            pairs are asked for a negative correlation, its sign is turned.
        explained_variance: The weight that holds the share of each output in the total variance of
            the inputs, `[dimension_count]`.

    Example:

        >>> random = np.random.default_rng(0)
        >>> labels = random.integers(8, size=[4000, 2])
        >>> x = random.normal(size=[4000, 4])
        >>> x[:, 0] += 3.0 * labels[:, 0] + labels[:, 1]
        >>> x[:, 1] += labels[:, 0] - labels[:, 1]
        >>> pairs = gyoza.data.CategoricalPairs(x, labels, seed=0)
        >>> layer = gyoza.modelling.flow_layers.PairAxes({"residual": 2, "shape": 1, "colour": 1})
        >>> layer.adapt(pairs)
        >>> np.abs(keras.ops.convert_to_numpy(layer.correlations))[:, 2:].round(1)
        array([[1. , 0. ],
               [0. , 0.9]], dtype=float32)

    References:
        - Fisher, R. A. (1936). "The use of multiple measurements in taxonomic problems." Annals of
          Eugenics 7(2), 179-188.
        - Ledoit, O. & Wolf, M. (2004). "A well-conditioned estimator for large-dimensional
          covariance matrices." Journal of Multivariate Analysis 88(2), 365-411.
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    adapts_to_pairs = True

    def __init__(
        self,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        shrinkage: float | None = None,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(f"`shrinkage` should be from 0 to 1. Received: shrinkage={shrinkage}")
        sizes: Any = dimensions_per_factor
        if isinstance(sizes, Mapping):
            sizes = dict(zip(sizes, check_dimensions_per_factor(sizes.values()), strict=True))
        else:
            sizes = check_dimensions_per_factor(sizes)
        self.dimensions_per_factor = sizes
        self.shrinkage = shrinkage
        super().__init__(shape=shape, axes=axes, **kwargs)

    @property
    def _sizes(self) -> list[int]:
        sizes = self.dimensions_per_factor
        return list(sizes.values()) if isinstance(sizes, Mapping) else list(sizes)

    def create_weights(self) -> None:
        """Creates the map, as the identity, and what is known of its axes."""
        size = self.dimension_count
        if sum(self._sizes) != size:
            raise ValueError(
                f"`dimensions_per_factor` should sum to the number of dimensions, {size}. "
                f"Received: dimensions_per_factor={self.dimensions_per_factor}"
            )
        super().create_weights()
        self.correlations = self._add_constant(
            "correlations", (len(self._sizes) - 1, size), "zeros"
        )
        self.explained_variance = self._add_constant("explained_variance", (size,), "zeros")

    def adapt(self, pairs: Any, batch_size: int = 4096) -> None:
        """Takes the axes along which pairs that share a factor correlate most.

        What was adapted is saved and loaded with the weights, and happens again only if this method
        is called again. A frozen layer is left as it is, with a warning.

        Args:
            pairs: For each factor, a pair `(a, b)` of arrays, `[pairs, ...]`, whose instances share
                the factor: a dictionary of such pairs by name, or a sequence of them, in the order
                of `dimensions_per_factor`; where both have names, these count, in any order. Or a
                source of pairs such as :class:`~gyoza.data.CategoricalPairs`, whose current epoch
                is used.
            batch_size: Number of instances that are worked through at a time.

        Raises:
            TypeError: If instances are not floating-point numbers.
            ValueError: If there are no pairs, or not for each of the factors, or if two factors
                are shared alike by all pairs; or if instances are not finite, or all the same, or
                have other shapes than the layer takes. The weights are unchanged then.
        """
        if is_left_alone(self):
            return
        pairs = to_pairs(pairs).in_order_of(self.dimensions_per_factor)
        self._check_pairs(pairs.y)
        mean, covariance, fourth = _measure(self._iterate_vectors(pairs.x, batch_size))
        products = self._multiply_pairs(pairs, mean, batch_size)
        variances, vectors = _find_axes(covariance)
        shrinkage = self.shrinkage
        if shrinkage is None:
            shrinkage = _choose_shrinkage(variances, fourth, len(pairs.y))
        typical = variances.mean()
        shrunk = (1.0 - shrinkage) * variances + shrinkage * typical
        shrunk = np.maximum(shrunk, _NEGLIGIBLE * typical)
        whitening = vectors / np.sqrt(shrunk)
        y = np.abs(pairs.y[:, 1:])
        strengths = y.sum(axis=0) / np.count_nonzero(y, axis=0)
        common = strengths[:, None, None] * (whitening.T @ products @ whitening)
        blocks = _divide_space(common, self._sizes)
        blocks[0] = blocks[0] @ _find_axes(blocks[0].T @ (shrunk[:, None] * blocks[0]))[1]
        axes = np.concatenate(blocks, axis=1)
        spread = np.sum(axes**2 * (variances / shrunk)[:, None], axis=0)
        scales = 1.0 / np.sqrt(np.where(spread > _NEGLIGIBLE, spread, 1.0))
        matrix = _fix_signs(whitening @ axes * scales)
        self.set_map(mean, matrix)
        # The covariance of inputs with what each output contributes to them.
        inverse = np.linalg.inv(matrix)
        explained = np.sum(inverse * (matrix.T @ covariance), axis=1) / variances.sum()
        self.explained_variance.assign(explained)
        self.correlations.assign(np.sum(matrix * (products @ matrix), axis=1))

    def _check_pairs(self, y: np.ndarray) -> None:
        """Checks that pairs tell factors apart."""
        factor_count = len(self._sizes) - 1
        if y.shape[1] != 1 + factor_count:
            raise ValueError(
                f"There should be pairs for each of {factor_count} factors, as many as "
                f"`dimensions_per_factor` has but for the residual one. Received: pairs for "
                f"{y.shape[1] - 1} factors"
            )
        counts = np.count_nonzero(y[:, 1:], axis=0)
        if np.any(counts < 2):
            raise ValueError(
                "There should be at least two pairs for each factor. "
                f"Received: {counts.tolist()} pairs"
            )
        if len(np.unique(y[:, 1:], axis=1).T) < factor_count:
            raise ValueError(
                "Pairs should tell factors apart: no two factors should have the same correlation "
                f"in all pairs. Received: pairs with correlations such as {y[0].tolist()}"
            )

    def _multiply_pairs(self, pairs: Pairs, mean: np.ndarray, batch_size: int) -> np.ndarray:
        """Gives the symmetrised covariance of pairs that share each factor but the residual one."""
        count, sums = len(pairs.y), np.zeros((len(self._sizes) - 1, *mean.shape, *mean.shape))
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            signs = np.sign(pairs.y[rows, 1:]).astype("float64")
            a, b = (
                next(iter(self._iterate_vectors(x[rows], batch_size))) - mean
                for x in (pairs.x[:count], pairs.x[count:])
            )
            signs = np.repeat(signs, len(a) // len(signs), axis=0)
            for k, sign in enumerate(signs.T):
                chosen = sign != 0
                sums[k] += (sign[chosen, None] * a[chosen]).T @ b[chosen]
        positions = int(np.prod(pairs.x.shape[1:])) // len(mean)
        counts = positions * np.count_nonzero(pairs.y[:, 1:], axis=0)
        return (sums + sums.swapaxes(1, 2)) / (2.0 * counts[:, None, None])

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        sizes = self.dimensions_per_factor
        return {
            **super().get_config(),
            "dimensions_per_factor": dict(sizes) if isinstance(sizes, Mapping) else list(sizes),
            "shrinkage": self.shrinkage,
        }


def _measure(batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """Gives the mean and the covariance of vectors, and the mean fourth power of their length.

    The last is for centred vectors, each by the mean that was known when its batch came.
    """
    count, fourth = 0, 0.0
    mean, scatter = np.zeros(1), np.zeros((1, 1))
    for batch in batches:
        batch_mean = batch.mean(axis=0)
        centred = batch - batch_mean
        gap, total = batch_mean - mean, count + len(batch)
        scatter = scatter + centred.T @ centred + np.outer(gap, gap) * count * len(batch) / total
        mean = mean + gap * len(batch) / total
        fourth += np.sum(np.sum((batch - mean) ** 2, axis=1) ** 2)
        count = total
    if count == 0:
        raise ValueError("`data` should hold at least one instance. Received: no instance")
    variance = np.trace(scatter) / count
    if not np.all(np.isfinite(scatter)) or not variance > 0.0:
        raise ValueError(
            "Data should hold finite numbers, not all the same. "
            f"Received: a total variance of {variance}"
        )
    return mean, scatter / count, fourth / count


def _find_axes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives eigenvalues of a symmetric matrix, descending, and eigenvectors as columns."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1], _fix_signs(vectors[:, ::-1])


def _fix_signs(columns: np.ndarray) -> np.ndarray:
    """Gives columns such signs that the largest entry of each is positive."""
    if not columns.size:
        return columns
    largest = columns[np.argmax(np.abs(columns), axis=0), np.arange(columns.shape[1])]
    return columns * np.where(largest < 0.0, -1.0, 1.0)


def _choose_shrinkage(variances: np.ndarray, fourth: float, count: int) -> float:
    """Chooses the shrinkage of a covariance matrix by the rule of Ledoit & Wolf.

    Args:
        variances: The eigenvalues of the covariance.
        fourth: The mean fourth power of the lengths of centred vectors.
        count: The number of independent vectors.
    """
    distance = np.sum((variances - variances.mean()) ** 2)
    error = max(0.0, fourth - np.sum(variances**2)) / count
    return float(min(1.0, error / distance)) if distance > 0.0 else 0.0


def _divide_space(matrices: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Divides a space into orthogonal blocks, to maximise the sum of traces of matrices in them.

    Args:
        matrices: A symmetric matrix for each block but the first, `[blocks - 1, n, n]`.
        sizes: The number of dimensions of each block, n in all.

    Returns:
        For each block, its orthonormal axes as columns, by decreasing eigenvalue of its matrix.
    """
    size = sum(sizes)
    matrices = np.concatenate([np.zeros((1, size, size)), matrices])
    blocks = [np.eye(size), *(np.zeros((size, 0)) for _ in sizes[1:])]
    last = -np.inf
    for _ in range(_MOST_SWEEPS):
        for j, i in itertools.combinations(range(len(sizes)), 2):
            both = np.concatenate([blocks[i], blocks[j]], axis=1)
            gain = both.T @ (matrices[i] - matrices[j]) @ both
            both = both @ _find_axes(gain)[1]
            blocks[i], blocks[j] = both[:, : sizes[i]], both[:, sizes[i] :]
        value = sum(np.sum(block * (c @ block)) for c, block in zip(matrices, blocks, strict=True))
        if value <= last + _LEAST_GAIN * abs(value):
            break
        last = value
    return [
        block @ _find_axes(block.T @ c @ block)[1]
        for c, block in zip(matrices, blocks, strict=True)
    ]
