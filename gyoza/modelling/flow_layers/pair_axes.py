"""Axes along which pairs that share a factor correlate most, in closed form."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from gyoza.modelling.adaptation import is_left_alone
from gyoza.modelling.factors import check_dimensions_per_factor
from gyoza.modelling.flow_layers.linear_maps import LinearMap
from gyoza.modelling.functions.principal_axes import find_axes, fix_signs, measure_spread
from gyoza.modelling.pairs import Pairs, to_pairs

__all__ = ["PairAxes"]

# Variances below this share of the mean variance are those of constants, up to rounding.
_NEGLIGIBLE = 1e-10

# Dividing a space among factors ends after this many sweeps, or at so small a relative gain.
_MOST_SWEEPS, _LEAST_GAIN = 50, 1e-6


@keras.saving.register_keras_serializable(package="gyoza")
class PairAxes(LinearMap):
    r"""Maps its inputs linearly to axes along which pairs that share a factor correlate most.

    This is, in closed form, the best linear approximation of what a flow learns from pairs. Inputs
    are whitened, :math:`u = (x - l) \Sigma^{-1/2}`, by their shrunk covariance,
    :math:`\Sigma = (1 - \gamma) S + \gamma \frac{\operatorname{tr} S}{n} I`. What pairs
    :math:`(a, b)` that share factor :math:`F` have in common is described by the symmetrised
    covariance of their whitened instances,

    .. math::
        C_F = \tfrac{1}{2} \operatorname{E} \left[ u_a^T u_b + u_b^T u_a \mid F \right].

    An orthogonal matrix :math:`V = [V_0, V_1, …, V_K]`, with a block for each factor, then
    maximises the sum of correlations of all factors in their own blocks,

    .. math::
        \sum_{F=1}^K \rho_F \operatorname{tr}(V_F^T C_F V_F), \qquad
        y = u V \operatorname{diag}(s), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \ln |\det M|,

    where :math:`\rho_F` is the correlation that the source of pairs specifies, and :math:`s` gives
    outputs unit variance. Among all rotations of whitened data, this one is the most likely under
    a :class:`~gyoza.modelling.losses.SupervisedFactorLoss`, apart from its factor weights.

    The block of a single factor consists of the leading eigenvectors of :math:`C_F`; for classes,
    these are the axes of linear discriminant analysis. With several factors, none takes precedence:
    each pair of blocks in turn divides the space that it spans by the eigenvectors of
    :math:`C_F - C_G`, with 0 for the residual factor, until the sum stops growing. Within the block
    of a factor, axes are ordered by decreasing correlation, and in the residual block, which comes
    first, by decreasing explained variance.

    Each direction costs one matrix product. The map is not trained; a new layer is the identity.

    Args:
        dimensions_per_factor: The number of outputs of each factor, the residual one first: a
            dictionary by name, as :func:`~gyoza.interpretation.estimate_factor_sizes` returns, or
            a sequence.
        shrinkage: The weight :math:`\gamma` of the mean variance, from 0 to 1. If omitted, it is
            chosen by the rule of Ledoit & Wolf for the number of pairs, and is small for many.
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. With `axes=[3]`, the channels of images are mapped, and the
            same position in both instances counts as a pair.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If sizes are not integers.
        ValueError: If sizes are negative or do not sum to the number of dimensions, or `shrinkage`
            is out of range.

    Attributes:
        correlations: The weight that holds, for each factor other than the residual one (rows) and
            each output (columns), the correlation of pairs that share the factor, `[factors,
            dimension_count]`. Where a negative correlation is specified, the sign is flipped.
        explained_variance: The weight that holds the share of the total variance of the inputs in
            each output, `[dimension_count]`.

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
        """Creates the map, as the identity, and the statistics of its axes."""
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
        """Finds the axes along which pairs that share a factor correlate most.

        The result is saved and loaded with the weights, and changes only if this method is called
        again. A frozen layer is left as it is, with a warning.

        Args:
            pairs: For each factor, a pair `(a, b)` of arrays, `[pairs, ...]`, whose instances share
                the factor: a dictionary of such pairs by name, or a sequence of them in the order
                of `dimensions_per_factor`. If both have names, pairs are matched by name, whatever
                the order. Alternatively a source of pairs such as
                :class:`~gyoza.data.CategoricalPairs`, whose current epoch is used.
            batch_size: Number of instances processed at a time.

        Raises:
            TypeError: If instances are not floating-point numbers.
            ValueError: If a factor has no pairs, or all pairs share two factors equally, or if
                instances are not finite, are all the same, or do not have the shape that the layer
                expects. The weights are then left unchanged.
        """
        if is_left_alone(self):
            return
        pairs = to_pairs(pairs).in_order_of(self.dimensions_per_factor)
        self._check_pairs(pairs.y)
        mean, covariance, fourth = measure_spread(self._iterate_vectors(pairs.x, batch_size))
        products = self._multiply_pairs(pairs, mean, batch_size)
        variances, vectors = find_axes(covariance)
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
        blocks[0] = blocks[0] @ find_axes(blocks[0].T @ (shrunk[:, None] * blocks[0]))[1]
        axes = np.concatenate(blocks, axis=1)
        spread = np.sum(axes**2 * (variances / shrunk)[:, None], axis=0)
        scales = 1.0 / np.sqrt(np.where(spread > _NEGLIGIBLE, spread, 1.0))
        matrix = fix_signs(whitening @ axes * scales)
        self.set_map(mean, matrix)
        # The covariance of the inputs with the contribution of each output to them.
        inverse = np.linalg.inv(matrix)
        explained = np.sum(inverse * (matrix.T @ covariance), axis=1) / variances.sum()
        self.explained_variance.assign(explained)
        self.correlations.assign(np.sum(matrix * (products @ matrix), axis=1))

    def _check_pairs(self, y: np.ndarray) -> None:
        """Raises an error unless pairs tell factors apart."""
        factor_count = len(self._sizes) - 1
        if y.shape[1] != 1 + factor_count:
            raise ValueError(
                f"There should be pairs for each of {factor_count} factors, those of "
                "`dimensions_per_factor` without the residual one. "
                f"Received: pairs for {y.shape[1] - 1} factors"
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
        """Returns, for each factor but the residual one, the covariance of pairs that share it."""
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
    """Divides a space into orthogonal blocks that maximise the sum of traces of matrices in them.

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
            both = both @ find_axes(gain)[1]
            blocks[i], blocks[j] = both[:, : sizes[i]], both[:, sizes[i] :]
        value = sum(np.sum(block * (c @ block)) for c, block in zip(matrices, blocks, strict=True))
        if value <= last + _LEAST_GAIN * abs(value):
            break
        last = value
    return [
        block @ find_axes(block.T @ c @ block)[1] for c, block in zip(matrices, blocks, strict=True)
    ]
