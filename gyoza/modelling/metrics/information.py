"""Scores of disentanglement from the information that codes hold about labels."""

from collections.abc import Iterable, Sequence

import numpy as np

from gyoza.extras import import_extra
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.metrics.codes import (
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
) -> np.ndarray:
    r"""The mutual information of codes and labels, in nats.

    It is computed from the frequencies :math:`p` of the dimensions :math:`z_i` of codes, divided
    into bins of equal width, and of labels :math:`v_k`:

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
        robust: Whether outliers, which are further from the central 99 % of all numbers than these
            are wide, go into the outermost bins. If `False`, a single outlier can move all others
            into one bin.

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
    return _inform(codes, _divide(columns, bins, robust), units, bins, robust)


def mutual_information_gap(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    bins: int = 20,
    categorical: bool | Sequence[bool] | None = None,
    robust: bool = True,
) -> float:
    r"""MIG: how much more the best factor tells about each label than the second best.

    With the information :math:`I(z_i; v_k)` of :func:`mutual_information`, and the entropy
    :math:`H(v_k)` of labels,

    .. math::
        \frac{1}{K} \sum_k \frac{I(z_{i(k)}; v_k) - \max_{j \neq i(k)} I(z_j; v_k)}{H(v_k)},
        \qquad i(k) = \operatorname{argmax}_i I(z_i; v_k).

    It is 1 if each label can be read from one factor and no other, and 0 if it can be read from two
    or from none.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`mutual_information`, also for the other arguments.
        labels: Likewise.
        dimensions_per_factor: Likewise.
        bins: Likewise.
        categorical: Likewise.
        robust: Likewise. The published definition has bins between the extremes, as for `False`.

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
    classes = _divide(columns, bins, robust)
    information = np.sort(_inform(codes, classes, units, bins, robust), axis=0)
    entropies = np.array([_compute_information(column, column) for column in classes])
    return to_unit_interval(np.mean((information[-1] - information[-2]) / entropies))


def modularity(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    bins: int = 20,
    categorical: bool | Sequence[bool] | None = None,
    robust: bool = True,
) -> float:
    r"""Modularity: to what extent each factor of a code is informative about one label only.

    With the information :math:`I(z_i; v_k)` of :func:`mutual_information`, it is the mean over
    factors :math:`i` of

    .. math::
        1 - \frac{\sum_{k \neq k(i)} I(z_i; v_k)^2}{(K - 1) I(z_i; v_{k(i)})^2},
        \qquad k(i) = \operatorname{argmax}_k I(z_i; v_k).

    It is 1 if each factor is informative about one label, though several may share a label. Factors
    without any information are left out. Leave out the residual factor, too, since the little
    information that it seems to hold in a finite sample is spread over all labels.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`mutual_information`, also for the other arguments.
        labels: Likewise, at least two.
        dimensions_per_factor: Likewise.
        bins: Likewise.
        categorical: Likewise.
        robust: Likewise. The published definition has bins between the extremes, as for `False`.

    Returns:
        The score, from 0 to 1; 0 if no factor has any information.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant, or
            there are fewer than two labels.
        ImportError: If scikit-learn is missing.

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
    squares = np.square(_inform(codes, _divide(columns, bins, robust), units, bins, robust))
    best = squares.max(axis=1)
    squares, best = squares[best > 0], best[best > 0]
    if not len(best):
        return 0.0
    ratios = (squares.sum(axis=1) - best) / ((len(columns) - 1) * best)
    return to_unit_interval(np.mean(1 - ratios))


def _divide(columns: list[np.ndarray], bins: int, robust: bool) -> list[np.ndarray]:
    """Divides columns of labels that are real numbers into bins."""
    check_integer("bins", bins, minimum=2)
    return [
        column if is_categorical(column) else find_bins(column, bins, robust) for column in columns
    ]


def _compute_information(first: np.ndarray, second: np.ndarray) -> float:
    # Rounding makes the information of independent classes slightly negative.
    return max(import_extra("sklearn.metrics", "metrics").mutual_info_score(first, second), 0.0)


def _inform(
    codes: np.ndarray,
    columns: list[np.ndarray],
    units: list[np.ndarray],
    bins: int,
    robust: bool,
) -> np.ndarray:
    binned = [find_bins(dimension, bins, robust) for dimension in codes.T]
    information = np.array(
        [[_compute_information(dimension, column) for column in columns] for dimension in binned]
    )
    return np.stack([information[unit].max(axis=0, initial=0.0) for unit in units])
