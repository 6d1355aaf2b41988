"""How many dimensions of a representation belong to each factor."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from gyoza.data.pairs.base import PairSource
from gyoza.modelling.axes import check_integers
from gyoza.modelling.flow_layers import PairAxes
from gyoza.modelling.pairs import Pairs, to_pairs
from gyoza.typing import Tensor

__all__ = ["estimate_factor_sizes", "estimate_pair_correlations", "name_factors", "to_sizes"]

_RULES = "proportional", "softmax", "likelihood"

_AXIS_COUNT, _VECTOR_COUNT = 256, 1024
"""The number of principal axes of a wide representation, and of the vectors they are found in."""

_CORRELATION_MARGIN = 1e-6
"""How close a correlation may come to 1, where the likelihood is infinite."""


def estimate_factor_sizes(
    pairs: Any, rule: str = "proportional", names: Iterable[str] | None = None
) -> dict[str, int]:
    r"""Estimates from pairs how many dimensions of a representation each factor needs.

    In pairs :math:`(a, b)` that share factor :math:`F`, and anything else only by chance, the
    dimensions that depend on :math:`F` alone are equal, and the others are independent. With the
    covariance :math:`c_i` of :math:`a_i` and :math:`b_i`, their variance :math:`v_i`, and :math:`n`
    dimensions, one of three rules determines the sizes:

    - "proportional": the sum of correlations, :math:`n_F = \sum_i c_i / v_i`, rounded. If factors
      are independent, and each acts on dimensions of its own, or on orthogonal directions of equal
      variance, these are their true sizes. If they sum to more than :math:`n`, they are scaled
      down. The rule counts units that correlate, and redundant units count repeatedly, so it does
      not measure how large a concept is. One parameter of drawn faces took up 235 of 2048 units of
      a network, 23 of 112 units, and 2 of 64 principal components.
    - "softmax", the rule of Esser et al.: the share of the variance,
      :math:`s_F = \sum_i c_i / \sum_i v_i`, enters :math:`n_F = n e^{s_F} / (e + \sum_G e^{s_G})`,
      rounded down. It draws sizes towards each other: as shares lie between 0 and 1, and the
      residual factor has the score 1, no factor is more than :math:`e` times as large as another.
      Even a factor that pairs do not share at all is given dimensions.
    - "likelihood": the number of axes that make held-out pairs more likely. Representations are
      whitened first, so that redundant units form a single axis. On one half of the pairs,
      :class:`~gyoza.modelling.flow_layers.PairAxes` finds the axes of a factor, in the order of
      their correlations, and the other half measures these correlations. The halves then change
      places, and :math:`r_i` is the mean of both. Where the instances of pairs are known, pairs
      with an instance in each half are left out. An axis with this correlation makes :math:`P`
      pairs more likely than one without, by

      .. math::
          g_i = -\tfrac{1}{2} P \ln (1 - r_i^2) \quad \text{nats},

      and :math:`n_F` is the number of leading axes with :math:`g_i > \ln P + 2 \ln n`, the price
      of a parameter chosen among :math:`n` axes (Chen & Chen, 2008). For a factor that is not
      linear, such as an angle, every axis along which it varies counts. If there are more than 256
      dimensions, or more than there are pairs, the leading principal axes are used.

    The remaining dimensions belong to the residual factor, so that the sizes sum to :math:`n`.

    Args:
        pairs: For each factor, a pair `(a, b)` of arrays, `[pairs, ...]`, whose instances share
            the factor: a dictionary of such pairs by name, or a sequence of them. Or a source of
            pairs such as :class:`~gyoza.data.CategoricalPairs`, made from representations, whose
            current epoch is used.
        rule: "proportional", "softmax" or "likelihood".
        names: The names of the factors, if `pairs` has none. "factor_1" and so on if omitted.

    Returns:
        The number of dimensions of each factor by name. The first is "residual".

    Raises:
        ValueError: If `rule` is unknown, or `pairs` do not have the shapes described, are fewer
            than two, or fewer than two in each half, are not finite, or do not vary.

    Example:

        >>> random = np.random.default_rng(0)
        >>> labels = random.integers(8, size=[4000, 2])
        >>> codes = random.normal(size=[2, 8, 3])  # of the classes of either factor
        >>> x = np.concatenate([
        ...     codes[0, labels[:, 0]], codes[1, labels[:, 1], :1], random.normal(size=[4000, 2])
        ... ], axis=1)
        >>> pairs = gyoza.data.CategoricalPairs(x, labels, seed=0)
        >>> gyoza.interpretation.estimate_factor_sizes(pairs, names=["shape", "colour"])
        {'residual': 2, 'shape': 3, 'colour': 1}

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
        - Chen, J. & Chen, Z. (2008). "Extended Bayesian information criteria for model selection
          with large model spaces." Biometrika 95(3), 759-771.
    """
    if rule not in _RULES:
        raise ValueError(f"`rule` should be one of {list(_RULES)}. Received: rule={rule!r}")
    source = pairs
    if isinstance(pairs, keras.utils.PyDataset):
        pairs = to_pairs(pairs).by_factor()
    if isinstance(pairs, Mapping):
        names, pairs = list(pairs), list(pairs.values())
    moments = np.array([_compute_moments(*pair) for pair in pairs])
    covariances, variances = moments[:, 0], moments[:, 1]
    dimension_count = moments.shape[-1]
    if rule == "softmax":
        scores = np.exp(covariances.sum(axis=1) / variances.sum(axis=1))
        sizes = np.floor(dimension_count * scores / (np.e + scores.sum()))
    else:
        if rule == "likelihood":
            sizes = np.array([_choose_count(*x) for x in _hold_out(source)], dtype="float64")
        else:
            correlations = covariances / np.where(variances > 0.0, variances, 1.0)
            sizes = np.maximum(correlations.sum(axis=1), 0.0)
        excess = max(1.0, sizes.sum() / dimension_count)
        sizes = np.round(sizes) if excess == 1.0 else np.floor(sizes / excess)
        if sizes.sum() > dimension_count:  # rounded up
            sizes[np.argmax(sizes)] -= sizes.sum() - dimension_count
    return name_factors([int(dimension_count - sizes.sum()), *map(int, sizes)], names)


def estimate_pair_correlations(
    pairs: Any, dimensions_per_factor: Mapping[str, int] | Iterable[int]
) -> dict[str, float]:
    r"""Estimates how strongly pairs can correlate in a factor of a given size.

    Instances that share a class are assumed to have a correlation of 0.9, or another number, but
    few representations allow for this in every dimension of a factor. The estimate is what a linear
    map reaches on held-out pairs: the mean correlation of the :math:`n_F` axes along which pairs
    that share factor :math:`F` correlate most, found on one half of the pairs and measured on the
    other, as for the rule "likelihood" of :func:`estimate_factor_sizes`. Pass the values as
    `correlation` to :class:`~gyoza.data.CategoricalPairs`, or to a
    :class:`~gyoza.modelling.losses.SupervisedFactorLoss` whose targets are indices of factors.

    Args:
        pairs: See :func:`estimate_factor_sizes`.
        dimensions_per_factor: The sizes of the factors, the residual one first: a dictionary by
            name, as :func:`estimate_factor_sizes` returns it, or a sequence. If `pairs` have names,
            too, factors are matched by name, in any order.

    Returns:
        The correlation, in [0, 1), of each factor except the residual one, by name. It is 0 for a
        factor that has no dimensions, or that does not correlate.

    Raises:
        ValueError: If `dimensions_per_factor` does not have a size for the residual factor and for
            each of the others, or has other names, or `pairs` are not as described.

    Example:

        >>> random = np.random.default_rng(0)
        >>> a, b, noise = random.normal(size=[3, 4000, 3])
        >>> b[:, 0] = 0.8 * a[:, 0] + 0.6 * noise[:, 0]
        >>> correlations = gyoza.interpretation.estimate_pair_correlations(
        ...     {"shape": (a, b)}, {"residual": 2, "shape": 1}
        ... )
        >>> round(correlations["shape"], 1)
        0.8
    """
    (_, *sizes), (_, *names) = zip(
        *[(size, name) for name, size in name_factors(dimensions_per_factor).items()], strict=True
    )
    held_out = _hold_out(pairs, dimensions_per_factor)
    if len(held_out) != len(sizes):
        raise ValueError(
            f"`dimensions_per_factor` should have a size for each of {len(held_out)} factors and "
            f"the residual one. Received: dimensions_per_factor={dimensions_per_factor}"
        )
    limit = 1.0 - _CORRELATION_MARGIN
    return {
        name: float(np.clip(correlations[:size].mean(), 0.0, limit)) if size else 0.0
        for name, size, (correlations, _) in zip(names, sizes, held_out, strict=True)
    }


def _hold_out(
    source: Any, dimensions_per_factor: Mapping[str, int] | Iterable[int] | None = None
) -> list[tuple[np.ndarray, int]]:
    """Returns the correlations of each factor's axes on held-out pairs, and their number."""
    pairs = to_pairs(source).in_order_of(dimensions_per_factor)
    random = np.random.default_rng(0)
    if isinstance(source, PairSource):
        is_first = random.permutation(1 + source.pairs.max()) % 2 == 0
        sides = is_first[source.pairs]
        parts = sides.all(axis=1), ~sides.any(axis=1)
    else:
        is_first = random.permutation(len(pairs.y)) % 2 == 0
        parts = is_first, ~is_first
    x = np.asarray(pairs.x, "float64").reshape(2, len(pairs.y), -1)
    halves = [Pairs(np.concatenate([*x[:, part]]), pairs.y[part]).by_factor() for part in parts]
    results = []
    for first, second in zip(*halves, strict=True):
        counts = len(first[0]), len(second[0])
        if min(counts) < 2:
            raise ValueError(
                "There should be at least two pairs for each factor in each half of `pairs`. "
                f"Received: {counts} pairs"
            )
        folds = [_correlate_axes(first, second), _correlate_axes(second, first)]
        axis_count = min(map(len, folds))
        folds = [fold[:axis_count] for fold in folds]
        correlations = np.average(folds, axis=0, weights=counts[::-1])
        results.append((correlations, sum(counts)))
    return results


def _correlate_axes(fitted: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the correlations of held-out pairs along the axes of the fitted ones, in order."""
    x = np.concatenate(fitted)
    axis_count = min(x.shape[1], len(fitted[0]), _AXIS_COUNT)
    if axis_count < x.shape[1]:
        few = np.random.default_rng(0).permutation(x)[:_VECTOR_COUNT]
        principal = np.linalg.svd(few - few.mean(axis=0), full_matrices=False)[2][:axis_count].T
        fitted, held_out = ([side @ principal for side in pair] for pair in (fitted, held_out))
    layer = PairAxes([0, len(fitted[0].T)])
    layer.adapt([tuple(fitted)])
    location, matrix = map(keras.ops.convert_to_numpy, (layer.location, layer.matrix))
    covariance, variance = _compute_moments(*[(side - location) @ matrix for side in held_out])
    return covariance / np.where(variance > 0.0, variance, 1.0)


def _choose_count(correlations: np.ndarray, pair_count: int) -> int:
    """Returns the number of leading axes that each make pairs more likely."""
    means = np.clip(correlations, 0.0, 1.0 - _CORRELATION_MARGIN)
    gains = -0.5 * pair_count * np.log1p(-(means**2))
    price = np.log(pair_count) + 2.0 * np.log(len(correlations))
    return int(np.cumprod(gains > price).sum())


def name_factors(
    dimensions_per_factor: Mapping[str, int] | Iterable[int], names: Iterable[str] | None = None
) -> dict[str, int]:
    """Returns the sizes of factors, the residual one first, by name.

    Args:
        dimensions_per_factor: The sizes, as a sequence, or as a dictionary by name.
        names: The names of all factors except the residual one. "factor_1" and so on if omitted.

    Returns:
        The sizes by name.

    Raises:
        TypeError: If sizes are not integers.
        ValueError: If there are not as many names as factors, or names are not unique.
    """
    if isinstance(dimensions_per_factor, Mapping):
        return dict(
            zip(
                dimensions_per_factor,
                check_integers("dimensions_per_factor", dimensions_per_factor.values()),
                strict=True,
            )
        )
    sizes = check_integers("dimensions_per_factor", dimensions_per_factor)
    if names is None:
        names = [f"factor_{index}" for index in range(1, len(sizes))]
    names = ["residual", *names]
    if len(names) != len(sizes) or len(set(names)) != len(names):
        raise ValueError(
            f"`names` should be {len(sizes) - 1} different names other than 'residual'. "
            f"Received: names={names[1:]}"
        )
    return dict(zip(names, sizes, strict=True))


def to_sizes(
    dimensions_per_factor: Mapping[str, int] | Iterable[int], names: list[str], count: int
) -> dict[str, int]:
    """Returns the given sizes of factors by name, the residual one first.

    Args:
        dimensions_per_factor: The sizes, as a sequence, or as a dictionary by name.
        names: The names of all factors except the residual one.
        count: The number of dimensions.

    Raises:
        TypeError: If sizes are not integers.
        ValueError: If factors are missing, or sizes are negative or do not sum to `count`.
    """
    sizes = name_factors(dimensions_per_factor, names)
    if (
        list(sizes) != ["residual", *names]
        or sum(sizes.values()) != count
        or min(sizes.values()) < 0
    ):
        raise ValueError(
            f"`dimensions_per_factor` should have the sizes of {['residual', *names]}, in this "
            f"order, none of them negative, and sum to the number of dimensions, {count}. "
            f"Received: dimensions_per_factor={sizes}"
        )
    return sizes


def _compute_moments(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the covariance within pairs, and the variance, of each dimension."""
    a, b = (np.asarray(keras.ops.convert_to_numpy(x), "float64") for x in (a, b))
    if a.shape != b.shape or a.ndim < 2 or len(a) < 2:
        raise ValueError(
            "The instances of `pairs` should be two arrays of the same shape, [pairs, ...], with "
            f"at least two pairs for each factor. Received: shapes {a.shape} and {b.shape}"
        )
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    both = np.concatenate([a, b])
    mean = both.mean(axis=0)
    covariance, variance = np.mean((a - mean) * (b - mean), axis=0), both.var(axis=0)
    if not np.all(np.isfinite(variance)) or not np.any(variance > 0.0):
        raise ValueError(
            "`pairs` should hold finite numbers, not all the same. "
            f"Received: a total variance of {variance.sum()}"
        )
    return covariance, variance
