r"""Pairs of instances with a known correlation per factor, from which a flow is disentangled.

`gyoza.modelling.losses.SupervisedFactorLoss` learns from pairs of instances :math:`(a, b)` and,
for each pair, from the correlation :math:`\sigma_{ab}` of its two instances along every factor.
The sources of this module draw such pairs from a labelled data set, and draw them anew in every
epoch:

- `CategoricalPairs` for factors that are classes, such as a digit, a colour or a person.
- `ContinuousPairs` for factors that are numbers, such as an angle, an age or a temperature.

Both are Keras data sets that yield batches `((a, b), y)`, to be passed to `fit` as they are. The
matrix `y` has one column per factor, and an additional first one for the residual factor, which
collects whatever no factor explains and is therefore always zero.

References:
    - Esser, P., Rombach, R., & Ommer, B. (2020). "A Disentangling Invertible Interpretation
      Network for Explaining Latent Representations."
      `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np

from gyoza.modelling.axes import is_integer

__all__ = ["CategoricalPairs", "ContinuousPairs"]

_CLASS_TYPES = (int, str, bytes, np.integer, np.bool_)
"""Types of a label. Python's bool is an int, numpy's string scalars are str or bytes."""


class _PairSource(keras.utils.PyDataset):
    """Base of the pair sources: epochs, batches and the checks that all of them share.

    A subclass sets up whatever it draws from, implements `_draw_partners`, and calls `set_epoch(0)`
    at the end of its constructor.

    Args:
        x: The instances, of shape [N, ...].
        targets: The rows of which `y` is made, of shape [row count, 1 + factor count].
        batch_size: Number of pairs in a batch.
        shuffle: Whether to draw new pairs, in a new order, after every epoch.
        seed: Non-negative integer, or None.
        **kwargs: Arguments of `keras.utils.PyDataset`.
    """

    def __init__(
        self,
        x: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not is_integer(batch_size) or batch_size < 1:
            raise ValueError(
                f"`batch_size` should be a positive integer. Received: batch_size={batch_size!r}"
            )
        if seed is None:
            # Python's generator is the one that `keras.utils.set_random_seed` seeds and that
            # Keras takes its own default seeds from.
            seed = random.getrandbits(32)
        elif not is_integer(seed) or seed < 0:
            raise ValueError(
                f"`seed` should be a non-negative integer or None. Received: seed={seed!r}"
            )
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.seed = int(seed)
        self._x = x
        self._targets = targets

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a partner for every instance.

        Args:
            rng: The generator that all randomness comes from.
            first: Indices of the instances that need a partner, of shape [N].

        Returns:
            Two integer arrays of shape [N]: the indices of the partners, and for each pair the
            row of `targets` that describes it.
        """
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Draws the pairs of a given epoch, for instance to resume an interrupted training.

        Keras moves on to the next epoch by itself, after every pass of `fit`, `evaluate` or
        `predict`, and once more when it resets the source before the first. The pairs depend on
        the arguments of the source and on the epoch alone, not on the epochs drawn before.

        Args:
            epoch: Non-negative integer.

        Raises:
            ValueError: If `epoch` is not a non-negative integer.
        """
        if not is_integer(epoch) or epoch < 0:
            raise ValueError(f"`epoch` should be a non-negative integer. Received: epoch={epoch!r}")
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self._x)
        first = rng.permutation(count) if self.shuffle else np.arange(count)
        second, rows = self._draw_partners(rng, first)
        # A single assignment, so that a worker thread never sees half of a new epoch.
        self._epoch_state = (int(epoch), first, second, rows)

    @property
    def epoch(self) -> int:
        """The epoch whose pairs this source currently holds, starting at 0."""
        return self._epoch_state[0]

    @property
    def pairs(self) -> np.ndarray:
        """Indices into `x` of the current epoch's pairs (a, b), of shape [N, 2], in batch order."""
        _, first, second, _ = self._epoch_state
        return np.stack([first, second], axis=1)

    @property
    def factor_count(self) -> int:
        """Number of factors, without the residual factor."""
        return self._targets.shape[1] - 1

    def on_epoch_end(self) -> None:
        """Draws the next epoch's pairs, unless `shuffle` is False. Keras calls it."""
        if self.shuffle:
            self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self._x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Gathers a batch of the current epoch.

        Args:
            index: Position of the batch in the epoch.

        Returns:
            `((a, b), y)`, where `a` and `b` have shape [batch, ...] and the dtype of `x`, and
            `y` is float32 of shape [batch, 1 + factor count]. The last batch may be smaller.

        Raises:
            IndexError: If there is no such batch.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"`index` should be smaller than the number of batches, {len(self)}. "
                f"Received: index={index}"
            )
        start = (index % len(self)) * self.batch_size
        _, first, second, rows = self._epoch_state
        batch = slice(start, start + self.batch_size)
        a = np.take(self._x, first[batch], axis=0)
        b = np.take(self._x, second[batch], axis=0)
        y = np.take(self._targets, rows[batch], axis=0)
        return (a, b), y


class CategoricalPairs(_PairSource):
    r"""Pairs that share the class of one factor, drawn anew in every epoch.

    Every instance is the first of exactly one pair per epoch. For its pair, one of the
    :math:`K` factors is chosen, and the second instance is drawn from the other members of its
    class in that factor:

    .. math::

        F \sim \mathcal{U}\{1, \dots, K\}, \qquad
        b \sim \mathcal{U}\{i \neq a : c_F(i) = c_F(a)\}, \qquad
        y_k = \begin{cases} \sigma_F & k = F \\ 0 & k \neq F \end{cases}

    where :math:`c_F` is the class in factor :math:`F` and :math:`\sigma_F` the correlation. In the
    other factors, the two may or may not happen to share the class. Choose data whose factors are
    independent of each other; `realised_correlation` shows whether they are.

    Args:
        x: The instances, array-like of shape [N, ...] and of any dtype, which the batches keep.
        labels: The classes, array-like of integers, booleans or strings and of shape [N], for a
            single factor, or [N, K].
        batch_size: Number of pairs in a batch. The last batch of an epoch may be smaller.
        correlation: The correlation that the two instances of a pair are to have in the factor
            whose class they share: one float in [0, 1), or K of them. The closer to 1, the more
            tightly the instances of a class are pulled together.
        shuffle: Whether to draw new pairs, in a new order, after every epoch. If False, the pairs
            of the first epoch are kept and `a` runs through `x` in its own order, as is useful for
            validation.
        seed: Non-negative integer from which the pairs of every epoch follow, in any process. If
            None, a seed is drawn that `keras.utils.set_random_seed` makes reproducible.
        **kwargs: Arguments of `keras.utils.PyDataset`: `workers`, `use_multiprocessing` and
            `max_queue_size`. A batch takes microseconds, so more than one worker pays only if `x`
            is mapped from a slow disk; Keras 3.15 then also hands some batches that were queued
            before the end of an epoch to the next one, in place of new ones.

    Raises:
        ValueError: If an argument has an unsuitable shape or value, if a factor has only one
            class, or if a class has only one member, who then has no partner.
        TypeError: If the labels are neither integers nor booleans nor strings.

    Example:
        >>> import numpy as np
        >>> from gyoza.data import CategoricalPairs
        >>> x = np.arange(8.0)[:, None]
        >>> labels = [["red", 0], ["red", 0], ["red", 1], ["red", 1],
        ...           ["blue", 0], ["blue", 0], ["blue", 1], ["blue", 1]]
        >>> pairs = CategoricalPairs(x, labels, batch_size=4, correlation=0.9, seed=0)
        >>> (a, b), y = pairs[0]
        >>> print(np.concatenate([a, b], axis=1))
        [[2. 1.]
         [4. 1.]
         [3. 6.]
         [6. 7.]]
        >>> print(y)
        [[0.  0.9 0. ]
         [0.  0.  0.9]
         [0.  0.  0.9]
         [0.  0.  0.9]]

    References:
        - Esser, P., Rombach, R., & Ommer, B. (2020). "A Disentangling Invertible Interpretation
          Network for Explaining Latent Representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    def __init__(
        self,
        x: Any,
        labels: Any,
        batch_size: int = 256,
        correlation: float | Sequence[float] = 0.9,
        shuffle: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        x = _to_instances(x)
        classes = _encode_classes(_to_columns("labels", labels, x))
        correlations = _to_correlations("correlation", correlation, len(classes))
        if not np.all((correlations >= 0) & (correlations < 1)):
            raise ValueError(
                "`correlation` should lie in [0, 1), since the two instances of a pair share a "
                f"class. Received: correlation={correlation}"
            )
        targets = np.eye(len(classes), 1 + len(classes), k=1) * correlations[:, None]
        super().__init__(x, targets.astype("float32"), batch_size, shuffle, seed, **kwargs)
        self._classes = classes
        self._groups = _Groups(classes.reshape(-1))
        self.set_epoch(0)

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        factor = rng.integers(len(self._classes), size=len(first))
        # In the flattened classes, instance i of factor k stands at k * N + i.
        offset = factor * len(self._x)
        position = offset + first
        second = self._groups.draw(rng, self._groups.group_of[position], position) - offset
        return second, factor

    @property
    def realised_correlation(self) -> np.ndarray:
        r"""How much more often than by chance the current epoch's pairs agree, per factor.

        A float64 matrix of shape [K, K], without the residual factor. Row :math:`F` regards the
        pairs that were drawn for factor :math:`F`, column :math:`G` their classes in factor
        :math:`G`:

        .. math::

            \kappa_{FG} = \frac{P(c_G(a) = c_G(b) \mid F) - P_G}{1 - P_G}, \qquad
            P_G = P(c_G(i) = c_G(j) \mid i \neq j)

        where :math:`P_G` is the agreement of two different instances that are drawn at random from
        all of them. This is Cohen's kappa with the chance agreement known from the data set. The
        diagonal is 1 by construction. Off the diagonal, the entries scatter around 0 if the
        factors are independent, as `y` claims; an entry far from 0 says that instances which
        share the class in factor :math:`F` tend to share it in :math:`G`, too, so that the data
        cannot tell the two factors apart. A row is NaN if the epoch has no pair for its factor.

        References:
            - Cohen, J. (1960). "A Coefficient of Agreement for Nominal Scales." Educational and
              Psychological Measurement, 20(1), 37-46.
        """
        _, first, second, factor = self._epoch_state
        agree = self._classes[:, first] == self._classes[:, second]
        drawn_for = factor == np.arange(len(self._classes))[:, None]
        with np.errstate(invalid="ignore"):
            agreement = drawn_for.astype(float) @ agree.T / drawn_for.sum(axis=1, keepdims=True)
        others = self._groups.sizes[self._classes] - 1
        chance = others.mean(axis=1) / (len(self._x) - 1)
        return (agreement - chance) / (1 - chance)


class ContinuousPairs(_PairSource):
    r"""Pairs that have a given correlation in every factor, drawn anew in every epoch.

    Every instance is the first of exactly one pair per epoch. The factors are mapped to normal
    scores (ranks, as quantiles of the standard normal distribution, standardised), such that their
    distribution does not matter. For an instance :math:`a` with scores :math:`s(a)`, a target is
    drawn that has the wanted correlations :math:`\rho`, and the instance nearest to it is taken:

    .. math::

        t = \rho \odot s(a) + \epsilon, \qquad
        \epsilon \sim \mathcal{N}\big(0, R \odot (1 - \rho \rho^\top)\big), \qquad
        b = \underset{i \neq a}{\mathrm{argmin}} \, \lVert s(i) - t \rVert, \qquad
        y = (0, \rho_1, \dots, \rho_K)

    where :math:`R` is the correlation matrix of the scores. For independent factors, this is
    :math:`t_k = \rho_k s_k(a) + \sqrt{1 - \rho_k^2} \, \epsilon_k` with standard normal noise. For
    dependent ones, it lets the targets be distributed like the scores, so that no instance is
    drawn much more often than others. Instances that have the same scores are drawn equally often.

    `realised_correlation` tells how well the data allow for the wanted correlations. They are met
    closely if the factors are continuous and not too many: with 1000 instances of independent
    factors and :math:`\rho = 0.9`, about 0.89 is realised for three factors, but only 0.84 for
    five, because the nearest instance is no longer near. They cannot be met if two factors that
    depend strongly on each other are to have very different correlations (the off-diagonal noise
    covariance is then reduced until it is a covariance), nor if a factor takes few different
    values; for such a factor use `CategoricalPairs`.

    Needs scipy: `pip install "gyoza[data]"`.

    Args:
        x: The instances, array-like of shape [N, ...] and of any dtype, which the batches keep.
        factors: The factors' values, array-like of finite real numbers and of shape [N], for a
            single factor, or [N, K].
        correlations: The correlation in (-1, 1) that the two instances of each pair are to have
            along each factor: K floats, or one that holds for all factors. The residual factor is
            not among them; its correlation is 0.
        batch_size: Number of pairs in a batch. The last batch of an epoch may be smaller.
        shuffle: Whether to draw new pairs, in a new order, after every epoch. If False, the pairs
            of the first epoch are kept and `a` runs through `x` in its own order, as is useful for
            validation.
        seed: Non-negative integer from which the pairs of every epoch follow, in any process. If
            None, a seed is drawn that `keras.utils.set_random_seed` makes reproducible.
        **kwargs: Arguments of `keras.utils.PyDataset`: `workers`, `use_multiprocessing` and
            `max_queue_size`. A batch takes microseconds, so more than one worker pays only if `x`
            is mapped from a slow disk; Keras 3.15 then also hands some batches that were queued
            before the end of an epoch to the next one, in place of new ones.

    Raises:
        ValueError: If an argument has an unsuitable shape or value, or if a factor is constant or
            not finite.
        TypeError: If the factors are not real numbers.
        ImportError: If scipy is missing.

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
        x: Any,
        factors: Any,
        correlations: float | Sequence[float],
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        x = _to_instances(x)
        scores = _normal_scores(_to_columns("factors", factors, x))
        factor_count = scores.shape[1]
        self._correlations = _to_correlations("correlations", correlations, factor_count)
        if not np.all(np.abs(self._correlations) < 1):
            raise ValueError(
                f"`correlations` should lie in (-1, 1). Received: correlations={correlations}"
            )
        targets = np.concatenate([[0.0], self._correlations])[None, :]
        super().__init__(x, targets.astype("float32"), batch_size, shuffle, seed, **kwargs)
        self._scores = scores
        self._noise_root = _noise_root(scores, self._correlations)
        # The tree holds each combination of scores once. Of many equal points it would find the
        # same one every time; drawing from the group that shares them is fair.
        points, group_of = np.unique(scores, axis=0, return_inverse=True)
        self._groups = _Groups(group_of.reshape(-1))
        self._tree = _import_scipy("spatial").KDTree(points)
        self.set_epoch(0)

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.standard_normal(self._scores.shape) @ self._noise_root
        targets = self._correlations * self._scores[first] + noise
        return self._nearest_others(rng, targets, first), np.zeros_like(first)

    def _nearest_others(
        self, rng: np.random.Generator, targets: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """Finds for every target the instance nearest to it, other than the one in `first`."""
        # Neighbouring queries visit the same nodes of the tree; asked one after the other, they
        # find them in the processor's cache, which makes the query two to three times as fast.
        order = np.lexsort(np.floor(3 * targets).T)
        nearest = np.empty((len(targets), 2), dtype=np.intp)
        nearest[order] = self._tree.query(targets[order], k=2)[1]
        best, second_best = nearest.T
        is_alone = (best == self._groups.group_of[first]) & (self._groups.sizes[best] == 1)
        return self._groups.draw(rng, np.where(is_alone, second_best, best), first)

    @property
    def realised_correlation(self) -> np.ndarray:
        r"""Correlation of the normal scores of `a` with those of `b` over the current epoch.

        A float64 matrix of shape [K, K], without the residual factor. Entry :math:`(j, k)` is
        Pearson's correlation of the normal scores :math:`s_j(a)` with :math:`s_k(b)`. The diagonal
        is what `y` claims and should be close to `correlations`. The entries off the diagonal
        should be close to 0, and are so if the factors are independent; else expect
        :math:`\rho_j R_{jk}`. An entry is NaN if all `b` share one value of the factor, which can
        happen in tiny data sets.
        """
        _, first, second, _ = self._epoch_state
        scores_a, scores_b = self._scores[first], self._scores[second]
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.corrcoef(scores_a, scores_b, rowvar=False)
        return correlation[: self.factor_count, self.factor_count :]


class _Groups:
    """A partition of instances into groups, from which others than a given one can be drawn.

    Args:
        group_of: Each instance's group, an integer array of shape [N] with values in
            [0, group count) of which none is left out.

    Attributes:
        group_of: As given.
        sizes: Number of members of each group, of shape [group count].
    """

    def __init__(self, group_of: np.ndarray) -> None:
        self.group_of = group_of
        self.sizes = np.bincount(group_of)
        self._members = np.argsort(group_of, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._rank = np.empty_like(self._members)
        self._rank[self._members] = np.arange(len(group_of)) - np.repeat(self._starts, self.sizes)

    def draw(
        self, rng: np.random.Generator, groups: np.ndarray, excluded: np.ndarray
    ) -> np.ndarray:
        """Draws uniformly from each group, leaving out one instance.

        Args:
            rng: The generator that all randomness comes from.
            groups: The groups to draw from, of shape [M].
            excluded: For each of them an instance not to be drawn, of shape [M]. It need not be a
                member. A group whose only member is excluded cannot be drawn from.

        Returns:
            The drawn instances, of shape [M].
        """
        is_member = self.group_of[excluded] == groups
        rank = rng.integers(self.sizes[groups] - is_member)
        rank += is_member & (rank >= self._rank[excluded])
        return self._members[self._starts[groups] + rank]


def _normal_scores(factors: np.ndarray) -> np.ndarray:
    """Maps every factor to a standard normal distribution by its ranks.

    Args:
        factors: Values of shape [N, K].

    Returns:
        Float64 array of shape [N, K], whose columns have mean 0 and variance 1. Equal values
        have equal scores, namely that of their average rank.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If a factor is constant or not finite.
    """
    if factors.dtype.kind not in "iuf":
        raise TypeError(
            "`factors` should be real numbers; for classes, use `CategoricalPairs`. "
            f"Received: factors.dtype={factors.dtype}"
        )
    ndtri = _import_scipy("special").ndtri
    scores = np.empty(factors.shape)
    for k, column in enumerate(factors.T):
        if not np.all(np.isfinite(column)):
            raise ValueError(
                "`factors` should be finite. "
                f"Received: {np.sum(~np.isfinite(column))} non-finite values in {_name(k)}"
            )
        values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(values) == 1:
            raise ValueError(
                "`factors` should vary, since a constant has no correlation. "
                f"Received: {_name(k)} with the single value {values[0]}"
            )
        # Ranks start at 1, so `counts` equal values have the average rank cumsum - counts/2 + 1/2.
        score = ndtri((np.cumsum(counts) - counts / 2) / len(column))[inverse]
        scores[:, k] = (score - score.mean()) / score.std()
    return scores


def _noise_root(scores: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    r"""Computes the matrix that gives standard normal noise the covariance it needs.

    The covariance is :math:`R \odot (1 - \rho \rho^\top)`, where :math:`R` is the correlation
    matrix of the scores. If it is not positive semi-definite, its off-diagonal entries are
    shrunk, in units of the noise's standard deviations, just until it is.

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


def _encode_classes(labels: np.ndarray) -> np.ndarray:
    """Numbers the classes of all factors consecutively, such that no number occurs in two factors.

    Args:
        labels: Classes of shape [N, K].

    Returns:
        Integer array of shape [K, N].

    Raises:
        TypeError: If the labels are neither integers nor booleans nor strings.
        ValueError: If a factor has only one class or a class has only one member.
    """
    classes = np.empty(labels.shape[::-1], dtype=np.intp)
    class_count = 0
    for k, column in enumerate(labels.T):
        try:
            values, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
        except TypeError:
            # Objects that have no order among each other, such as "red" and None.
            values = np.array([None])
        if not all(isinstance(v, _CLASS_TYPES) for v in values):
            raise TypeError(
                "`labels` should be integers, booleans or strings, and of the same kind within a "
                "factor; for numbers that are not classes, use `ContinuousPairs`. "
                f"Received: {_name(k)} of dtype {column.dtype} with labels such as {column[0]!r}"
            )
        if len(values) == 1:
            raise ValueError(
                "`labels` should have at least two classes in every factor. "
                f"Received: {_name(k)} with the single class {values.tolist()[0]!r}"
            )
        if np.min(counts) == 1:
            alone = values[counts == 1].tolist()
            raise ValueError(
                "Every class in `labels` should have at least two members, since an instance is "
                f"paired with another one of its class. Received: {_name(k)} with one member of "
                f"class {alone[0]!r}" + (f" and of {len(alone) - 1} more" if alone[1:] else "")
            )
        classes[k] = codes + class_count
        class_count += len(values)
    return classes


def _to_instances(x: Any) -> np.ndarray:
    """Converts `x` to numpy and checks that it is possible to make a pair of it."""
    x = _to_numpy(x)
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(
            "`x` should hold at least two instances along its first axis, since an instance is "
            f"paired with another one. Received: x.shape={x.shape}"
        )
    return x


def _to_columns(name: str, values: Any, x: np.ndarray) -> np.ndarray:
    """Converts what describes the instances to a numpy array of shape [N, K] and checks that."""
    values = _to_numpy(values)
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise ValueError(
            f"`{name}` should have shape [instance count] or [instance count, factor count]. "
            f"Received: {name}.shape={values.shape}"
        )
    if len(values) != len(x):
        raise ValueError(
            f"`{name}` should have as many rows as `x` has instances, {len(x)}. "
            f"Received: {name}.shape={values.shape}"
        )
    return values.reshape(len(values), -1)


def _to_correlations(name: str, value: float | Sequence[float], factor_count: int) -> np.ndarray:
    """Converts a correlation, or one per factor, to a float array of shape [factor count]."""
    correlations = np.asarray(value, dtype="float64")
    if correlations.shape not in ((), (factor_count,)):
        raise ValueError(
            f"`{name}` should be a float or have one entry for each of the {factor_count} factors "
            f"(the residual factor is not one of them). Received: {name}={value}"
        )
    return np.broadcast_to(correlations, factor_count)


def _to_numpy(values: Any) -> np.ndarray:
    """Converts any array-like, tensors of the Keras backend included, to numpy."""
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else np.asarray(values)


def _name(column: int) -> str:
    """Names a factor as the loss counts it, from 1, and by its column in the caller's array."""
    return f"factor {column + 1} (column {column})"


def _import_scipy(submodule: str) -> ModuleType:
    try:
        return importlib.import_module(f"scipy.{submodule}")
    except ImportError as error:
        raise ImportError(
            '`ContinuousPairs` needs scipy. Install it with `pip install "gyoza[data]"`.'
        ) from error
