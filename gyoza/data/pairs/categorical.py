"""Pairs for factors that are classes."""

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
from gyoza.typing import Tensor

__all__ = ["CategoricalPairs"]


_CLASS_TYPES = (int, str, bytes, np.integer, np.bool_)
"""Types of a label. Python's bool is an int; NumPy's string scalars are str or bytes."""


class CategoricalPairs(PairSource):
    r"""Pairs that share the class of one factor, or of all but one, drawn anew in every epoch.

    Every instance is the first of exactly one pair per epoch. For its pair, one of the
    :math:`K` factors is chosen, and the second instance is drawn from the other members of its
    class in that factor:

    .. math::

        F \sim \mathcal{U}\{1, \dots, K\}, \qquad
        b \sim \mathcal{U}\{i \neq a : c_F(i) = c_F(a)\}, \qquad
        y_k = \begin{cases} \sigma_F & k = F \\ 0 & k \neq F \end{cases}

    where :math:`c_F` is the class in factor :math:`F` and :math:`\sigma_F` the correlation. In the
    other factors, the two share a class only by chance. Choose data whose factors are independent
    of each other; `realised_correlation` shows whether they are.

    With `share="all but one"`, the second instance is instead drawn from those that share the
    classes of all factors but :math:`F`, which is thereby drawn anew,

    .. math::

        b \sim \mathcal{U}\{i \neq a : c_k(i) = c_k(a) \;\forall k \neq F\}, \qquad
        y_k = \begin{cases} 0 & k = F \\ \sigma_k & k \neq F \end{cases}

    so that a pair informs about :math:`K - 1` factors at a time, and independence matters less.
    This needs data in which every combination of classes occurs at least twice. The residual factor
    is never shared.

    Args:
        x: The instances, array-like of shape [N, ...] and of any dtype, which the batches keep.
        labels: The classes, array-like of integers, booleans or strings and of shape [N], for a
            single factor, or [N, K].
        batch_size: Number of pairs in a batch. The last batch of an epoch may be smaller.
        correlation: The wanted correlation of the two instances of a pair in the factor whose class
            they share: one float in [0, 1), or K of them. The closer to 1, the more tightly the
            instances of a class are pulled together.
        shuffle: Whether to draw new pairs, in a new order, after every epoch. If False, the pairs
            of the first epoch are kept and `a` runs through `x` in its own order, as is useful for
            validation.
        seed: Non-negative integer that determines the pairs of every epoch, in any process. If
            None, a seed is drawn, which `keras.utils.set_random_seed` makes reproducible.
        share: The classes that the two instances of a pair share: that of "one" factor, or those of
            "all but one".
        **kwargs: Arguments of `keras.utils.PyDataset`: `workers`, `use_multiprocessing` and
            `max_queue_size`. A batch takes microseconds, so more than one worker pays off only if
            `x` is mapped from a slow disk; Keras 3.15 then also passes some batches that were
            queued before the end of an epoch on to the next one, instead of new ones.

    Raises:
        ValueError: If an argument has an unsuitable shape or value, if a factor has only one
            class, or if a class, or a combination of the classes of all factors but one, has only
            one member, which then has no partner.
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
        x: Tensor,
        labels: Tensor,
        batch_size: int = 256,
        correlation: float | Sequence[float] = 0.9,
        shuffle: bool = True,
        seed: int | None = None,
        share: str = "one",
        **kwargs: Any,
    ) -> None:
        x = to_instances(x)
        classes = _encode_classes(to_columns("labels", labels, x))
        correlations = to_correlations("correlation", correlation, len(classes))
        if not np.all((correlations >= 0) & (correlations < 1)):
            raise ValueError(
                "`correlation` should lie in [0, 1), since the two instances of a pair share a "
                f"class. Received: correlation={correlation}"
            )
        is_shared = to_shared_factors(share, ["one", "all but one"], len(classes))
        targets = np.concatenate([np.zeros([len(classes), 1]), is_shared * correlations], axis=1)
        super().__init__(x, targets.astype("float32"), batch_size, shuffle, seed, **kwargs)
        self._classes = classes
        self._groups = Groups((classes if share == "one" else _combine(classes)).reshape(-1))
        self.set_epoch(0)

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        factor = rng.integers(len(self._classes), size=len(first))
        # In the flattened groups, instance i of factor k stands at k * N + i.
        offset = factor * len(self._x)
        position = offset + first
        second = self._groups.draw(rng, self._groups.group_of[position], position) - offset
        return second, factor

    @property
    def realised_correlation(self) -> np.ndarray:
        r"""How much more often than by chance the current epoch's pairs agree, per factor.

        A float64 matrix of shape [K, K], without the residual factor. Row :math:`F` is about the
        pairs that were drawn for factor :math:`F`, column :math:`G` about their classes in factor
        :math:`G`:

        .. math::

            \kappa_{FG} = \frac{P(c_G(a) = c_G(b) \mid F) - P_G}{1 - P_G}, \qquad
            P_G = P(c_G(i) = c_G(j) \mid i \neq j)

        where :math:`P_G` is the agreement of two different instances that are drawn at random from
        all of them. This is Cohen's kappa with the chance agreement known from the data set. The
        diagonal is 1 by construction. Off the diagonal, the values scatter around 0 if the factors
        are independent, as `y` states; a value far from 0 shows that instances which share a class
        in factor :math:`F` tend to share one in :math:`G`, too, so that the data cannot distinguish
        the two factors. With `share="all but one"`, the diagonal should be close to 0, and the
        other values are 1. A row is NaN if the epoch has no pair for its factor.

        References:
            - Cohen, J. (1960). "A Coefficient of Agreement for Nominal Scales." Educational and
              Psychological Measurement, 20(1), 37-46.
        """
        _, first, second, factor = self._epoch_state
        agree = self._classes[:, first] == self._classes[:, second]
        drawn_for = factor == np.arange(len(self._classes))[:, None]
        with np.errstate(invalid="ignore"):
            agreement = drawn_for.astype(float) @ agree.T / drawn_for.sum(axis=1, keepdims=True)
        others = np.bincount(self._classes.reshape(-1))[self._classes] - 1
        chance = others.mean(axis=1) / (len(self._x) - 1)
        return (agreement - chance) / (1 - chance)


def _encode_classes(labels: np.ndarray) -> np.ndarray:
    """Numbers the classes of all factors consecutively, so that no number occurs in two factors.

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
            # Objects that cannot be compared, such as "red" and None.
            values = np.array([None])
        if not all(isinstance(v, _CLASS_TYPES) for v in values):
            raise TypeError(
                "`labels` should be integers, booleans or strings, and of the same kind within a "
                "factor; for numbers that are not classes, use `ContinuousPairs`. "
                f"Received: {name_factor(k)} of dtype {column.dtype} with labels such as "
                f"{column[0]!r}"
            )
        if len(values) == 1:
            raise ValueError(
                "`labels` should have at least two classes in every factor. "
                f"Received: {name_factor(k)} with the single class {values.tolist()[0]!r}"
            )
        if np.min(counts) == 1:
            alone = values[counts == 1].tolist()
            raise ValueError(
                "Every class in `labels` should have at least two members, since each instance is "
                f"paired with another one of its class. Received: {name_factor(k)} with one "
                f"member of class {alone[0]!r}"
                + (f" and of {len(alone) - 1} more" if alone[1:] else "")
            )
        classes[k] = codes + class_count
        class_count += len(values)
    return classes


def _combine(classes: np.ndarray) -> np.ndarray:
    """Numbers, for each factor, the combinations of the classes of all others consecutively.

    Args:
        classes: Integers of shape [K, N].

    Returns:
        Integer array of shape [K, N].

    Raises:
        ValueError: If a combination has only one member.
    """
    combinations = np.empty_like(classes)
    combination_count = 0
    for k in range(len(classes)):
        _, codes, counts = np.unique(
            np.delete(classes, k, axis=0), axis=1, return_inverse=True, return_counts=True
        )
        if np.min(counts) == 1:
            raise ValueError(
                "Every combination of the classes of all factors but one should have at least two "
                "members, since each instance is paired with another one of its combination. "
                f"Received: labels with {np.sum(counts == 1)} combinations of one member if "
                f"{name_factor(k)} is left out; `share='one'` does not need them"
            )
        combinations[k] = codes.reshape(-1) + combination_count
        combination_count += len(counts)
    return combinations
