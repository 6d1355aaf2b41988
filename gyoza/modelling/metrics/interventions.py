"""Scores of what changes and what stays the same when one factor is fixed or replaced."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.metrics.codes import (
    announce_difference,
    check_codes,
    check_labels,
    find_bins,
    find_ranks,
    is_categorical,
    split_units,
)
from gyoza.typing import Tensor

__all__ = ["factor_vae_score", "SwapConsistency", "swap_consistency"]


def factor_vae_score(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    votes: int = 800,
    batch_size: int = 64,
    bins: int = 20,
    seed: int | None = 0,
    categorical: bool | Sequence[bool] | None = None,
    ranks: bool | None = None,
) -> float:
    r"""FactorVAE score: how reliably the factor that varies least reveals which label was fixed.

    A vote is cast by instances :math:`B` that are drawn from those with the same value of label
    :math:`k`. It goes to the factor that varies least among them, relative to all instances:

    .. math::
        \operatorname{argmin}_G \frac{1}{|G|} \sum_{i \in G}
        \frac{\operatorname{var}_B(z_i)}{\operatorname{var}(z_i)}.

    Equally many votes are cast for each label. One half of them determines the label that most
    often leads to each factor, and the score is the accuracy with which this predicts the labels of
    the other half. It is 1 if each label has a factor of its own, and :math:`1 / K` by chance.

    As published, a single outlier in a dimension can bring the score from 1 to chance, since all
    else then seems not to vary. With `ranks=True`, neither outliers nor increasing transforms of a
    dimension matter.

    Args:
        codes: The codes, `[N, n]`.
        labels: Classes or real numbers, `[N, K]`, at least two.
        dimensions_per_factor: The number of dimensions of each factor, in order. If `None`, each
            dimension is a factor of its own.
        votes: The number of votes to learn from, and likewise of those to predict, for all labels
            together.
        batch_size: The number of instances that cast a vote. They are drawn with replacement.
        bins: The number of bins for labels that are real numbers.
        seed: Seed of all draws.
        categorical: Which columns of `labels` are classes, or one truth value for all. If `None`,
            columns of whole numbers and of non-numbers are, with a warning if whole numbers may
            well be measurements.
        ranks: Whether the variances are those of ranks, and bins of labels hold equally many
            instances. If `None`, they are as published: the variances are those of values and bins
            have equal width, with a warning if the score by ranks differs by more than 0.2.

    Returns:
        The score, from 0 to 1.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant,
            there are fewer than two labels, or no two instances share a value.

    Example:

        >>> labels = np.random.default_rng(0).integers(4, size=[1000, 2])
        >>> gyoza.modelling.metrics.factor_vae_score(labels, labels)
        1.0

    References:
        - Kim, H. & Mnih, A. (2018). "Disentangling by factorising."
          `arXiv:1802.05983 <https://arxiv.org/abs/1802.05983>`_
    """
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical, at_least=2)
    units = split_units(codes.shape[1], dimensions_per_factor)
    for name, value in (("votes", votes), ("batch_size", batch_size), ("bins", bins)):
        check_integer(name, value, minimum=2)
    rng = np.random.default_rng(seed)
    rounds = -(-votes // len(columns))

    def compute(ranks: bool) -> float:
        values = np.apply_along_axis(find_ranks, 0, codes) if ranks else codes
        classes = [
            column if is_categorical(column) else find_bins(column, bins, ranks=ranks)
            for column in columns
        ]
        drawn = [_draw_alike(rng, column, 2 * rounds, batch_size) for column in classes]
        return _vote(values, drawn, units)

    if ranks is not None:
        return compute(ranks)
    score = compute(False)
    announce_difference("factor_vae_score", score, compute(True))
    return score


def _vote(codes: np.ndarray, drawn: list[np.ndarray], units: list[np.ndarray]) -> float:
    """Computes the score from the indices of the instances of each vote, a matrix per label."""
    rounds = len(drawn[0]) // 2
    variances = codes.var(axis=0)
    scale = np.where(variances > 0, variances, 1.0)
    winners = []
    for indices in drawn:
        # A constant dimension is not fixed by any label.
        ratios = np.where(variances > 0, codes[indices].var(axis=1) / scale, np.inf)
        of_units = [ratios[:, unit].mean(axis=1) for unit in units if len(unit)]
        winners.append(np.argmin(of_units, axis=0))
    counts = np.array([np.bincount(winner[:rounds], minlength=len(units)) for winner in winners])
    predicted = np.argmax(counts, axis=0)[np.array([winner[rounds:] for winner in winners])]
    return float(np.mean(predicted == np.arange(len(drawn))[:, None]))


def _draw_alike(rng: np.random.Generator, classes: np.ndarray, count: int, size: int) -> np.ndarray:
    """Draws indices of instances of the same class, `[count, size]`, from classes of several."""
    _, members, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind="stable")
    (candidates,) = np.nonzero(sizes[members] > 1)
    if not len(candidates):
        raise ValueError(
            "`labels` should have instances that share a value. "
            f"Received: {len(sizes)} different values of {len(classes)} instances"
        )
    chosen = members[rng.choice(candidates, size=count)]
    starts = np.cumsum(sizes) - sizes
    offsets = rng.integers(sizes[chosen][:, None], size=(count, size))
    return order[starts[chosen][:, None] + offsets]


class SwapConsistency(NamedTuple):
    """What :func:`swap_consistency` returns: rates from 0 to 1 for each label."""

    follows: Any
    """How often the prediction is the label of b, `[K]` or one number."""
    keeps: Any
    """How often it is the label of a, likewise."""


def swap_consistency(predicted: Tensor, labels_a: Tensor, labels_b: Tensor) -> SwapConsistency:
    """How often edits transfer what they should, and leave the rest as it was.

    Instances a have been given one factor of instances b, and a classifier has been shown the
    result: the rest of the network that was edited, or one that sees decoded images. The rates are
    over the pairs whose labels differ. For the label of the factor that was swapped, `follows`
    should be 1; for all others, `keeps` should be.

    Args:
        predicted: The classes predicted after the edit, `[N, K]` or `[N]`.
        labels_a: The classes of the instances that were edited, likewise.
        labels_b: The classes of those whose factor they were given, likewise.

    Returns:
        The two rates, arrays `[K]`, or numbers if arguments have shape `[N]`.

    Raises:
        ValueError: If shapes differ, values are real numbers, or all pairs have the same label.

    Example:

        >>> a, b = np.array([0, 0, 1, 2]), np.array([1, 2, 1, 0])
        >>> predicted = np.array([1, 2, 1, 2])  # two of the three pairs that differ follow b
        >>> gyoza.modelling.metrics.swap_consistency(predicted, a, b)
        SwapConsistency(follows=0.6666666666666666, keeps=0.3333333333333333)
    """
    predicted, a, b = (np.asarray(labels) for labels in (predicted, labels_a, labels_b))
    if predicted.ndim not in (1, 2) or not predicted.shape == a.shape == b.shape:
        raise ValueError(
            "`predicted`, `labels_a` and `labels_b` should have the same shape, [N, K] or [N]. "
            f"Received: predicted.shape={predicted.shape}, labels_a.shape={a.shape}, "
            f"labels_b.shape={b.shape}"
        )
    for name, labels in (("predicted", predicted), ("labels_a", a), ("labels_b", b)):
        if labels.dtype.kind == "f" and not np.all(labels == np.round(labels)):
            raise ValueError(f"`{name}` should be classes. Received: real numbers")
    differ = a != b
    counts = differ.sum(axis=0)
    if np.any(counts == 0):
        raise ValueError(
            "`labels_a` and `labels_b` should differ in some pairs. Received: the same labels"
        )
    follows = ((predicted == b) & differ).sum(axis=0) / counts
    keeps = ((predicted == a) & differ).sum(axis=0) / counts
    if predicted.ndim == 1:
        return SwapConsistency(float(follows), float(keeps))
    return SwapConsistency(follows, keeps)
