"""Pairs for factors that are numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gyoza.data.pairs.base import (
    PairSource,
    name_factor,
    to_columns,
    to_correlations,
    to_instances,
    to_shared_factors,
)
from gyoza.data.pairs.groups import Groups
from gyoza.extras import import_extra
from gyoza.typing import Tensor

__all__ = ["ContinuousPairs"]


class ContinuousPairs(PairSource):
    r"""Pairs that have a given correlation in every factor, drawn anew in every epoch.

    Every instance is the first of exactly one pair per epoch. The factors are mapped to normal
    scores (ranks, as quantiles of the standard normal distribution, standardised), so that their
    distribution does not matter. For an instance :math:`a` with scores :math:`s(a)`, a target with
    the wanted correlations :math:`\rho` is drawn, and the instance nearest to it is taken:

    .. math::

        t = \rho \odot s(a) + \epsilon, \qquad
        \epsilon \sim \mathcal{N}\big(0, R \odot (1 - \rho \rho^\top)\big), \qquad
        b = \underset{i \neq a}{\mathrm{argmin}} \, \lVert s(i) - t \rVert, \qquad
        y = (0, \rho_1, \dots, \rho_K)

    where :math:`R` is the correlation matrix of the scores. For independent factors, this is
    :math:`t_k = \rho_k s_k(a) + \sqrt{1 - \rho_k^2} \, \epsilon_k` with standard normal noise. For
    dependent ones, the targets are distributed like the scores, so that no instance is drawn much
    more often than others. Instances that have the same scores are drawn equally often.

    With `share="one"`, pairs are alike in one factor at a time, like those of `CategoricalPairs`:
    for each pair, one of the factors :math:`F` is drawn uniformly, and the correlations of all
    others are set to 0, in the equation and in :math:`y`. With `share="all but one"`, only that of
    :math:`F` is set to 0.

    `realised_correlation` shows how closely the data can match the wanted correlations. The match
    is close if the factors are continuous and not too many: with 1000 instances of independent
    factors and :math:`\rho = 0.9`, about 0.89 is realised for three factors, but only 0.84 for
    five, because the nearest instance is no longer near. It fails if two factors that depend
    strongly on each other are to have very different correlations (the off-diagonal noise
    covariance is then reduced until the matrix is a covariance), and if a factor takes few
    different values; for such a factor use `CategoricalPairs`.

    SciPy is needed: `pip install "gyoza[data]"`.

    Args:
        x: The instances, array-like of shape [N, ...] and of any dtype, which the batches keep.
        factors: The factors' values, array-like of finite real numbers and of shape [N], for a
            single factor, or [N, K].
        correlations: The wanted correlation, in (-1, 1), of the two instances of each pair in each
            factor: K floats, or one that holds for all factors. The residual factor is not among
            them; its correlation is 0.
        batch_size: Number of pairs in a batch. The last batch of an epoch may be smaller.
        shuffle: Whether to draw new pairs, in a new order, after every epoch. If False, the pairs
            of the first epoch are kept and `a` runs through `x` in its own order, as is useful for
            validation.
        seed: Non-negative integer that determines the pairs of every epoch, in any process. If
            None, a seed is drawn, which `keras.utils.set_random_seed` makes reproducible.
        share: The factors in which the two instances of a pair correlate: "all", "one", or "all but
            one".
        **kwargs: Arguments of `keras.utils.PyDataset`: `workers`, `use_multiprocessing` and
            `max_queue_size`. A batch takes microseconds, so more than one worker pays off only if
            `x` is mapped from a slow disk; Keras 3.15 then also passes some batches that were
            queued before the end of an epoch on to the next one, instead of new ones.

    Raises:
        ValueError: If an argument has an unsuitable shape or value, or if a factor is constant or
            not finite.
        TypeError: If the factors are not real numbers.
        ImportError: If SciPy is missing.

    Example:
        >>> import numpy as np
        >>> from gyoza.data import ContinuousPairs
        >>> rng = np.random.default_rng(0)
        >>> angle, size = rng.uniform(size=5000), rng.lognormal(size=5000)
        >>> x = np.stack([size * np.cos(angle), size * np.sin(angle)], axis=1)
        >>> factors = np.stack([angle, size], axis=1)
        >>> pairs = ContinuousPairs(x, factors, correlations=[0.9, -0.5], seed=0)
        >>> (a, b), y = pairs[0]
        >>> print(a.shape, b.shape, y[0])
        (256, 2) (256, 2) [ 0.   0.9 -0.5]
        >>> print(np.diag(pairs.realised_correlation).round(1))
        [ 0.9 -0.5]

    References:
        - Esser, P., Rombach, R., & Ommer, B. (2020). "A Disentangling Invertible Interpretation
          Network for Explaining Latent Representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    def __init__(
        self,
        x: Tensor,
        factors: Tensor,
        correlations: float | Sequence[float],
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int | None = None,
        share: str = "all",
        **kwargs: Any,
    ) -> None:
        x = to_instances(x)
        scores = _normal_scores(to_columns("factors", factors, x))
        factor_count = scores.shape[1]
        correlations_of_factors = to_correlations("correlations", correlations, factor_count)
        if not np.all(np.abs(correlations_of_factors) < 1):
            raise ValueError(
                f"`correlations` should lie in (-1, 1). Received: correlations={correlations}"
            )
        self._kinds = correlations_of_factors * to_shared_factors(
            share, ["all", "one", "all but one"], factor_count
        )
        targets = np.concatenate([np.zeros([len(self._kinds), 1]), self._kinds], axis=1)
        super().__init__(x, targets.astype("float32"), batch_size, shuffle, seed, **kwargs)
        self._share = share
        self._scores = scores
        self._noise_roots = [_noise_root(scores, correlations) for correlations in self._kinds]
        # The tree holds each combination of scores once. Among equal points it would find the same
        # one every time; drawing from the group of instances that share them is fair.
        points, group_of = np.unique(scores, axis=0, return_inverse=True)
        self._groups = Groups(group_of.reshape(-1))
        self._tree = import_extra("scipy.spatial", "data").KDTree(points)
        self.set_epoch(0)

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(self._kinds)
        kind = np.zeros_like(first) if count == 1 else rng.integers(count, size=len(first))
        noise = rng.standard_normal(self._scores.shape)
        for index, root in enumerate(self._noise_roots):
            noise[kind == index] = noise[kind == index] @ root
        targets = self._kinds[kind] * self._scores[first] + noise
        return self._nearest_others(rng, targets, first), kind

    def _nearest_others(
        self, rng: np.random.Generator, targets: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """Finds the instance nearest to every target, other than the one in `first`."""
        # Neighbouring queries visit the same nodes of the tree. One after the other, they find them
        # in the processor's cache, which makes the query two to three times as fast.
        order = np.lexsort(np.floor(3 * targets).T)
        nearest = np.empty((len(targets), 2), dtype=np.intp)
        nearest[order] = self._tree.query(targets[order], k=2)[1]
        best, second_best = nearest.T
        is_alone = (best == self._groups.group_of[first]) & (self._groups.sizes[best] == 1)
        return self._groups.draw(rng, np.where(is_alone, second_best, best), first)

    @property
    def realised_correlation(self) -> np.ndarray:
        r"""Correlation of the normal scores of `a` with those of `b` over the current epoch.

        A float64 matrix of shape [K, K], without the residual factor. Element :math:`(j, k)` is
        Pearson's correlation of the normal scores :math:`s_j(a)` with :math:`s_k(b)`. The diagonal
        is what `y` states, and should be close to `correlations`. Off the diagonal, the values are
        close to 0 if the factors are independent; otherwise expect :math:`\rho_j R_{jk}`. A value
        is NaN if all `b` share one value of the factor, which can happen in tiny data sets.

        If pairs do not share all factors, element :math:`(F, k)` is the correlation of
        :math:`s_k(a)` with :math:`s_k(b)` over the pairs for which :math:`F` was drawn, as `y`
        states.
        """
        _, first, second, kind = self._epoch_state
        if self._share == "all":
            return self._correlate(first, second)
        drawn_for = (kind == index for index in range(self.factor_count))
        return np.stack([np.diag(self._correlate(first[f], second[f])) for f in drawn_for])

    def _correlate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Returns the correlations of all scores (rows) of `first` with those of `second`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.corrcoef(self._scores[first], self._scores[second], rowvar=False)
        return correlation[: self.factor_count, self.factor_count :]


def _normal_scores(factors: np.ndarray) -> np.ndarray:
    """Maps every factor to a standard normal distribution by its ranks.

    Args:
        factors: Values of shape [N, K].

    Returns:
        Float64 array of shape [N, K], whose columns have mean 0 and variance 1. Equal values
        have equal scores, that of their average rank.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If a factor is constant or not finite.
    """
    if factors.dtype.kind not in "iuf":
        raise TypeError(
            "`factors` should be real numbers; for classes, use `CategoricalPairs`. "
            f"Received: factors.dtype={factors.dtype}"
        )
    ndtri = import_extra("scipy.special", "data").ndtri
    scores = np.empty(factors.shape)
    for k, column in enumerate(factors.T):
        if not np.all(np.isfinite(column)):
            raise ValueError(
                "`factors` should be finite. "
                f"Received: {np.sum(~np.isfinite(column))} non-finite values in {name_factor(k)}"
            )
        values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(values) == 1:
            raise ValueError(
                "`factors` should vary, since a constant has no correlation. "
                f"Received: {name_factor(k)} with the single value {values[0]}"
            )
        # Ranks start at 1, so `counts` equal values have the average rank cumsum - counts/2 + 1/2.
        score = ndtri((np.cumsum(counts) - counts / 2) / len(column))[inverse]
        scores[:, k] = (score - score.mean()) / score.std()
    return scores


def _noise_root(scores: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    r"""Computes the matrix that gives standard normal noise the covariance it needs.

    The covariance is :math:`R \odot (1 - \rho \rho^\top)`, where :math:`R` is the correlation
    matrix of the scores. If it is not positive semi-definite, its off-diagonal elements are
    shrunk, in units of the noise's standard deviations, just enough that it is.

    Args:
        scores: Standardised scores of shape [N, K].
        correlations: The wanted correlations, of shape [K].

    Returns:
        Array `root` of shape [K, K], such that `noise @ root` has the covariance.
    """
    deviations = np.sqrt(1 - correlations**2)
    covariance = scores.T @ scores / len(scores) * (1 - np.outer(correlations, correlations))
    off_diagonal = covariance / np.outer(deviations, deviations)
    np.fill_diagonal(off_diagonal, 0.0)
    off_diagonal /= max(1.0, -np.linalg.eigvalsh(off_diagonal)[0])
    values, vectors = np.linalg.eigh(np.eye(len(correlations)) + off_diagonal)
    return (vectors * np.sqrt(np.maximum(values, 0.0))).T * deviations
