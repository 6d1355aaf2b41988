"""How similar the factors of two codes of the same instances are."""

from collections.abc import Iterable, Mapping

import numpy as np

from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.metrics.codes import check_codes, split_units
from gyoza.typing import Tensor

__all__ = ["agreement"]


def agreement(
    codes_1: Tensor,
    codes_2: Tensor,
    dimensions_per_factor: Mapping[str, int] | Iterable[int],
    *,
    seed: int | None = 0,
) -> np.ndarray:
    r"""How well factors of one code are linearly predicted from those of another, and vice versa.

    The codes may come from two trainings that differ in their seed. For the block :math:`u` of a
    factor in one code and the block :math:`v` of a factor in the other, whitened so that all
    directions have equal weight, the score is

    .. math::
        \frac{1}{2} \left(R^2_{u \to v} + R^2_{v \to u}\right), \qquad
        R^2_{u \to v} = 1 - \frac{\operatorname{E} \lVert v - \hat v(u) \rVert^2}
        {\operatorname{E} \lVert v - \operatorname{E} v \rVert^2},

    where :math:`\hat v` is fitted by least squares to one half of the instances, and the score is
    computed on the other. For two blocks of the same size and many instances, it is the mean of
    their squared canonical correlations: 1 if each block is a linear function of the other, and 0
    if they have nothing linear in common. If factors agree, the matrix of scores has ones on its
    diagonal and zeros elsewhere.

    Args:
        codes_1: The codes, `[N, n]`.
        codes_2: Other codes of the same instances, `[N, n]`.
        dimensions_per_factor: The number of dimensions of each factor, in order, in both codes: a
            sequence, or a dictionary by name.
        seed: Seed for the division of instances, a non-negative integer. If `None`, it is drawn.

    Returns:
        The scores of factors of the first code (rows) with those of the second (columns), `[factor
        count, factor count]`; 0 for a factor without dimensions.

    Raises:
        ValueError: If shapes do not match, values are not finite, there are not more than twice as
            many instances as dimensions in a factor, or `seed` is negative.

    Example:

        >>> codes = np.random.default_rng(0).normal(size=[1000, 3])
        >>> other = codes @ [[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]
        >>> gyoza.modelling.metrics.agreement(codes, other, [2, 1]).round()
        array([[1., 0.],
               [0., 1.]])

    References:
        - Hotelling, H. (1936). "Relations between two sets of variates." Biometrika 28, 321-377.
        - Kornblith, S., Norouzi, M., Lee, H. & Hinton, G. (2019). "Similarity of neural network
          representations revisited." `arXiv:1905.00414 <https://arxiv.org/abs/1905.00414>`_
    """
    codes_1, codes_2 = check_codes(codes_1, "codes_1"), check_codes(codes_2, "codes_2")
    if codes_1.shape != codes_2.shape:
        raise ValueError(
            "`codes_1` and `codes_2` should have the same shape. Received: "
            f"codes_1.shape={codes_1.shape}, codes_2.shape={codes_2.shape}"
        )
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    if isinstance(dimensions_per_factor, Mapping):
        dimensions_per_factor = dimensions_per_factor.values()
    units = split_units(codes_1.shape[1], dimensions_per_factor)
    half = len(codes_1) // 2
    if half <= max(map(len, units)):
        raise ValueError(
            "There should be more than twice as many instances as dimensions in a factor. "
            f"Received: {len(codes_1)} instances, factors of {[len(unit) for unit in units]}"
        )
    order = np.random.default_rng(seed).permutation(len(codes_1))
    first, second = (
        [_whiten(codes[order][:, unit], half) for unit in units] for codes in (codes_1, codes_2)
    )
    scores = [[_explain(u, v, half) + _explain(v, u, half) for v in second] for u in first]
    return np.clip(np.array(scores) / 2, 0.0, 1.0)


def _whiten(block: np.ndarray, half: int) -> np.ndarray:
    """Whitens a block by the statistics of its first half, without directions that do not vary."""
    centred = block - block[:half].mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred[:half], full_matrices=False)
    varies = lengths > 1e-6 * lengths.max(initial=1e-300)
    return centred @ axes[varies].T / lengths[varies] * np.sqrt(half)


def _explain(u: np.ndarray, v: np.ndarray, half: int) -> float:
    """Returns the share of v's second half that a linear map explains, fitted to the first half."""
    if not u.shape[1] or not v.shape[1]:
        return 0.0
    # Whitened columns are orthonormal up to their length.
    error = v[half:] - u[half:] @ (u[:half].T @ v[:half] / half)
    return max(0.0, 1.0 - float(np.sum(error**2) / np.sum(v[half:] ** 2)))
