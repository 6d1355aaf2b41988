"""How many dimensions of a representation belong to each factor."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from gyoza.modelling.axes import check_integers
from gyoza.modelling.pairs import to_pairs

__all__ = ["estimate_factor_sizes", "name_factors"]

_RULES = "proportional", "softmax"


def estimate_factor_sizes(
    pairs: Any, rule: str = "proportional", names: Any = None
) -> dict[str, int]:
    r"""Estimates from pairs how many dimensions of a representation each factor should be given.

    For pairs :math:`(a, b)` that share factor :math:`F`, and nothing else but by chance, the
    dimensions that depend on :math:`F` alone are equal, and the others are independent. With
    :math:`c_i` as the covariance of :math:`a_i` and :math:`b_i`, :math:`v_i` as their variance, and
    :math:`n` dimensions, one of two rules gives the sizes:

    - "proportional": the sum of correlations, :math:`n_F = \sum_i c_i / v_i`, rounded. If factors
      are independent and act on dimensions, or on orthogonal directions of equal variance, of their
      own, these are their true numbers. If the sum of all exceeds :math:`n`, they are scaled down.
    - "softmax", that of Esser et al.: the share of the variance,
      :math:`s_F = \sum_i c_i / \sum_i v_i`, enters :math:`n_F = n e^{s_F} / (e + \sum_G e^{s_G})`,
      rounded down. It draws sizes towards each other: as shares lie between 0 and 1, and the
      residual factor has the score 1, no factor gets more than :math:`e` times another.

    What is left belongs to the residual factor, so that the sizes sum to :math:`n`.

    Args:
        pairs: For each factor, a pair `(a, b)` of arrays, `[pairs, ...]`, whose instances share
            the factor: a dictionary of such pairs by name, or a sequence of them. Or a source of
            pairs such as :class:`~gyoza.data.CategoricalPairs`, made from representations, whose
            current epoch is used.
        rule: "proportional" or "softmax".
        names: The names of the factors, where `pairs` has none. "factor_1" and so on if omitted.

    Returns:
        The number of dimensions of each factor by name. The first is "residual".

    Raises:
        ValueError: If `rule` is unknown, or `pairs` have other shapes than described, are fewer
            than two, are not finite, or do not vary.

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
    """
    if rule not in _RULES:
        raise ValueError(f"`rule` should be one of {list(_RULES)}. Received: rule={rule!r}")
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
        correlations = covariances / np.where(variances > 0.0, variances, 1.0)
        sizes = np.maximum(correlations.sum(axis=1), 0.0)
        excess = max(1.0, sizes.sum() / dimension_count)
        sizes = np.round(sizes) if excess == 1.0 else np.floor(sizes / excess)
        if sizes.sum() > dimension_count:  # rounded up
            sizes[np.argmax(sizes)] -= sizes.sum() - dimension_count
    return name_factors([int(dimension_count - sizes.sum()), *map(int, sizes)], names)


def name_factors(dimensions_per_factor: Any, names: Any = None) -> dict[str, int]:
    """Gives the sizes of factors, the residual one first, by name.

    Args:
        dimensions_per_factor: The sizes, as a sequence, or as a dictionary by name.
        names: The names of all factors but the residual one. "factor_1" and so on if omitted.

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


def _compute_moments(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gives the covariance within pairs, and the variance, of each dimension."""
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
