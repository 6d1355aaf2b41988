"""Scores of disentanglement from the information that codes hold about labels."""

from collections.abc import Iterable, Sequence

import numpy as np

from gyoza.extras import import_extra
from gyoza.modelling.functions.checks import check_integer, is_between
from gyoza.modelling.metrics.codes import (
    announce_difference,
    check_codes,
    check_labels,
    find_bins,
    is_categorical,
    split_units,
    to_unit_interval,
)
from gyoza.typing import Tensor

__all__ = ["mutual_information", "mutual_information_gap", "modularity"]


def mutual_information(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    bins: int = 20,
    categorical: bool | Sequence[bool] | None = None,
    robust: bool = True,
    ranks: bool = False,
) -> np.ndarray:
    r"""The mutual information of codes and labels, in nats.

    It is computed from the frequencies :math:`p` of the dimensions :math:`z_i` of codes, divided
    into bins of equal width or of equal mass, and of labels :math:`v_k`:

    .. math::
        I(z_i; v_k) = \sum_{z, v} p(z, v) \ln \frac{p(z, v)}{p(z) p(v)}.

    For a factor of several dimensions, that of its most informative dimension is returned, a lower
    bound. With few instances per bin, independent dimensions seem to hold some information.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: The codes, `[N, n]`.
        labels: Classes or real numbers, `[N, K]` or `[N]`.
        dimensions_per_factor: The number of dimensions of each factor, in order. If `None`, each
            dimension is a factor of its own.
        bins: The number of bins for dimensions, and for labels that are real numbers.
        categorical: Which columns of `labels` are classes, or one truth value for all. If `None`,
            columns of whole numbers and of non-numbers are, with a warning if whole numbers may
            well be measurements.
        robust: Whether outliers, which are further from the central 99% of all numbers than these
            are wide, go into the outermost bins. If `False`, a single outlier can move all others
            into one bin.
        ranks: Whether bins divide ranks rather than values, so that they hold equally many
            instances. No outlier and no increasing transform of a dimension changes the result
            then. A dimension of at most `bins` distinct values has one bin for each.

    Returns:
        The information in each factor about each label, `[factor count, K]`.

    Raises:
        ValueError: If shapes do not match, values are not finite, or a label is constant.
        ImportError: If scikit-learn is missing.

    Example:

        >>> labels = np.array([0, 0, 1, 1])
        >>> codes = np.array([[0.0, 5.0], [0.0, 6.0], [3.0, 5.0], [3.0, 6.0]])
        >>> gyoza.modelling.metrics.mutual_information(codes, labels).round(4)
        array([[0.6931],
               [0.    ]])
    """
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical)
    units = split_units(codes.shape[1], dimensions_per_factor)
    return _inform(codes, _divide(columns, bins, robust, ranks), units, bins, robust, ranks)


def mutual_information_gap(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    bins: int = 20,
    categorical: bool | Sequence[bool] | None = None,
    robust: bool = True,
    ranks: bool | None = None,
) -> float:
    r"""MIG: how much more the best factor tells about each label than the second best.

    With the information :math:`I(z_i; v_k)` of :func:`mutual_information`, and the entropy
    :math:`H(v_k)` of labels,

    .. math::
        \frac{1}{K} \sum_k \frac{I(z_{i(k)}; v_k) - \max_{j \neq i(k)} I(z_j; v_k)}{H(v_k)},
        \qquad i(k) = \operatorname{argmax}_i I(z_i; v_k).

    It is 1 if each label can be read from one factor and no other, and 0 if it can be read from two
    or from none. With bins of equal width, as published, it depends on how factors are spread: a
    transform of one dimension, such as :math:`e^{5 z}`, can bring it from 1 to almost 0, although
    the label can still be read. With `ranks=True` it cannot.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`mutual_information`, also for the other arguments.
        labels: Likewise.
        dimensions_per_factor: Likewise.
        bins: Likewise.
        categorical: Likewise.
        robust: Likewise. The published definition has bins between the extremes, as for `False`.
        ranks: Likewise. If `None`, bins have equal width, as published, with a warning if the score
            by ranks differs by more than 0.2.

    Returns:
        The score, from 0 to 1.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant, or
            there are fewer than two factors.
        ImportError: If scikit-learn is missing.

    Example:

        >>> labels = np.random.default_rng(0).integers(4, size=[1000, 2])
        >>> round(gyoza.modelling.metrics.mutual_information_gap(labels, labels), 1)
        1.0
        >>> twice = np.concatenate([labels, labels], axis=1)
        >>> gyoza.modelling.metrics.mutual_information_gap(twice, labels)
        0.0

    References:
        - Chen, R. T. Q., Li, X., Grosse, R. & Duvenaud, D. (2018). "Isolating sources of
          disentanglement in variational autoencoders."
          `arXiv:1802.04942 <https://arxiv.org/abs/1802.04942>`_
    """
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical)
    units = split_units(codes.shape[1], dimensions_per_factor, at_least=2)

    def compute(ranks: bool) -> float:
        classes = _divide(columns, bins, robust, ranks)
        information = np.sort(_inform(codes, classes, units, bins, robust, ranks), axis=0)
        entropies = np.array([_compute_information(column, column) for column in classes])
        return to_unit_interval(np.mean((information[-1] - information[-2]) / entropies))

    if ranks is not None:
        return compute(ranks)
    score = compute(False)
    announce_difference("mutual_information_gap", score, compute(True))
    return score


def modularity(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    bins: int = 20,
    categorical: bool | Sequence[bool] | None = None,
    robust: bool = True,
    ranks: bool | None = None,
    significance: float | None = None,
) -> float:
    r"""Modularity: to what extent each factor of a code is informative about one label only.

    With the information :math:`I(z_i; v_k)` of :func:`mutual_information`, it is the mean over
    factors :math:`i` of

    .. math::
        1 - \frac{\sum_{k \neq k(i)} I(z_i; v_k)^2}{(K - 1) I(z_i; v_{k(i)})^2},
        \qquad k(i) = \operatorname{argmax}_k I(z_i; v_k).

    It is 1 if each factor is informative about one label, though several may share a label. Factors
    without any information are left out. As published, this does not concern noise, since the
    little information that it seems to hold in a finite sample is spread over all labels: 50
    dimensions of noise next to five perfect ones bring the score from 1 to 0.4. Pass `significance`
    to leave them out, too.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`mutual_information`, also for the other arguments.
        labels: Likewise, at least two.
        dimensions_per_factor: Likewise.
        bins: Likewise.
        categorical: Likewise.
        robust: Likewise. The published definition has bins between the extremes, as for `False`.
        ranks: Likewise. If `None`, bins have equal width, as published, with a warning if the score
            by ranks, and at a significance of 0.01 unless given, differs by more than 0.2.
        significance: The probability, such as 0.01, that some dimension and label seem to be
            dependent if none are. Information that is less certain counts as none, by chi-squared
            tests of the frequencies, at this level divided by the number of tests. If `None`, as
            published, all counts.

    Returns:
        The score, from 0 to 1; 0 if no factor has any information.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant,
            there are fewer than two labels, or `significance` is not between 0 and 1.
        ImportError: If scikit-learn or scipy is missing.

    Example:

        >>> labels = np.random.default_rng(0).integers(4, size=[1000, 2])
        >>> round(gyoza.modelling.metrics.modularity(labels, labels), 2)
        1.0
        >>> mixed = labels @ np.array([[1, 1], [1, -1]])
        >>> round(gyoza.modelling.metrics.modularity(mixed, labels), 2)
        0.0

    References:
        - Ridgeway, K. & Mozer, M. C. (2018). "Learning deep disentangled embeddings with the
          F-statistic loss." `arXiv:1802.05312 <https://arxiv.org/abs/1802.05312>`_
    """
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical, at_least=2)
    units = split_units(codes.shape[1], dimensions_per_factor)
    if significance is not None and not is_between(0, significance, 1):
        raise ValueError(
            f"`significance` should be between 0 and 1. Received: significance={significance}"
        )

    def compute(ranks: bool, level: float | None) -> float:
        classes = _divide(columns, bins, robust, ranks)
        squares = np.square(_inform(codes, classes, units, bins, robust, ranks, level))
        best = squares.max(axis=1)
        squares, best = squares[best > 0], best[best > 0]
        if not len(best):
            return 0.0
        ratios = (squares.sum(axis=1) - best) / ((len(columns) - 1) * best)
        return to_unit_interval(np.mean(1 - ratios))

    if ranks is not None:
        return compute(ranks, significance)
    score, level = compute(False, significance), significance or 0.01
    remedy = f"ranks=True, significance={level}"
    announce_difference("modularity", score, compute(True, level), remedy)
    return score


def _divide(columns: list[np.ndarray], bins: int, robust: bool, ranks: bool) -> list[np.ndarray]:
    """Divides columns of labels that are real numbers into bins."""
    check_integer("bins", bins, minimum=2)
    return [
        column if is_categorical(column) else find_bins(column, bins, robust, ranks)
        for column in columns
    ]


def _compute_information(first: np.ndarray, second: np.ndarray) -> float:
    # Rounding makes the information of independent classes slightly negative.
    return max(import_extra("sklearn.metrics", "metrics").mutual_info_score(first, second), 0.0)


def _is_significant(first: np.ndarray, second: np.ndarray, level: float) -> bool:
    """Returns whether two columns of classes depend on each other, by Pearson's chi-squared test.

    Where cells are few, its statistic has the right mean, unlike the likelihood ratio.
    """
    count = import_extra("sklearn.metrics.cluster", "metrics").contingency_matrix
    test = import_extra("scipy.stats", "metrics").chi2_contingency
    return bool(test(count(first, second), correction=False).pvalue < level)


def _inform(
    codes: np.ndarray,
    columns: list[np.ndarray],
    units: list[np.ndarray],
    bins: int,
    robust: bool,
    ranks: bool,
    significance: float | None = None,
) -> np.ndarray:
    """Returns the information of each unit about each column, or 0 where it is not significant."""
    binned = [find_bins(dimension, bins, robust, ranks) for dimension in codes.T]
    information = np.array(
        [[_compute_information(dimension, column) for column in columns] for dimension in binned]
    )
    if significance is not None:
        level = significance / information.size
        information *= [
            [_is_significant(dimension, column, level) for column in columns]
            for dimension in binned
        ]
    return np.stack([information[unit].max(axis=0, initial=0.0) for unit in units])
