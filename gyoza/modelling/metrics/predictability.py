"""Scores of disentanglement from how well labels can be predicted from factors of codes."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gyoza.extras import import_extra
from gyoza.modelling.metrics.codes import (
    check_codes,
    check_labels,
    is_categorical,
    split_units,
    to_unit_interval,
)
from gyoza.typing import Tensor

__all__ = [
    "leakage",
    "separated_attribute_predictability",
    "DisentanglementScores",
    "disentanglement_completeness_informativeness",
]


def leakage(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    probe: str = "linear",
    neighbours: int = 5,
    test_size: float = 0.3,
    seed: int | None = 0,
    categorical: bool | Sequence[bool] | None = None,
) -> np.ndarray:
    r"""How well a probe can read each label from each factor, on held-out instances.

    With the balanced accuracy :math:`A` for a label with :math:`C` classes, and the share
    :math:`R^2` of explained variance for a label of real numbers, scores are

    .. math::
        \max\left(0, \frac{A - 1 / C}{1 - 1 / C}\right) \qquad \text{and} \qquad \max(0, R^2),

    so that 0 is chance and 1 is perfect. If factors are disentangled, the score of a label is high
    in its own factor and close to 0 in all others. Dimensions are standardised first.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: The codes, `[N, n]`.
        labels: Classes or real numbers, `[N, K]` or `[N]`.
        dimensions_per_factor: The number of dimensions of each factor, in order. If `None`, each
            dimension is a factor of its own.
        probe: `"linear"` for logistic regression, weighted by class, and ridge regression;
            `"nearest"` for the nearest neighbours.
        neighbours: The number of neighbours.
        test_size: The share of instances that is held out.
        seed: Seed for the division of instances.
        categorical: Which columns of `labels` are classes, or one truth value for all. If `None`,
            columns of whole numbers and of non-numbers are, with a warning if whole numbers may
            well be measurements.

    Returns:
        The scores, `[factor count, K]`; 0 for a factor without dimensions.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant, a
            class is seen once, or `probe` is unknown.
        ImportError: If scikit-learn is missing.

    Example:

        >>> labels = np.random.default_rng(0).integers(2, size=[400, 2])
        >>> codes = labels + 0.01 * np.random.default_rng(1).normal(size=[400, 2])
        >>> gyoza.modelling.metrics.leakage(codes, labels).round()
        array([[1., 0.],
               [0., 1.]])
    """
    if probe not in _PROBES:
        raise ValueError(f"`probe` should be one of {list(_PROBES)}. Received: probe={probe!r}")
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical)
    units = split_units(codes.shape[1], dimensions_per_factor)
    scores = [
        [
            _score(_PROBES[probe](column, neighbours), codes[:, unit], column, test_size, seed)
            for column in columns
        ]
        for unit in units
    ]
    return np.clip(scores, 0.0, 1.0)


def separated_attribute_predictability(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    test_size: float = 0.3,
    seed: int | None = 0,
    categorical: bool | Sequence[bool] | None = None,
) -> float:
    r"""SAP: how much better the best factor predicts each label than the second best.

    With the score :math:`S_{ik}` of label :math:`k`, predicted from factor :math:`i` by a linear
    probe, which is the balanced accuracy for classes and :math:`R^2` for real numbers, it is

    .. math::
        \frac{1}{K} \sum_k \left(S_{i(k) k} - \max_{j \neq i(k)} S_{jk}\right),
        \qquad i(k) = \operatorname{argmax}_i S_{ik}.

    It is 0 if labels can be predicted from several factors or from none. For :math:`C` equally
    likely classes, it is at most :math:`1 - 1 / C`. If outliers spoil the fit of linear probes,
    pass the ranks of codes instead, `scipy.stats.rankdata(codes, axis=0)`.

    Needs scikit-learn: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`leakage`, also for the other arguments.
        labels: Likewise.
        dimensions_per_factor: Likewise.
        test_size: Likewise.
        seed: Likewise.
        categorical: Likewise.

    Returns:
        The score, from 0 to 1.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant, a
            class is seen once, or there are fewer than two factors.
        ImportError: If scikit-learn is missing.

    Example:

        >>> labels = np.random.default_rng(0).normal(size=[1000, 2])
        >>> round(gyoza.modelling.metrics.separated_attribute_predictability(labels, labels), 2)
        1.0

    References:
        - Kumar, A., Sattigeri, P. & Balakrishnan, A. (2018). "Variational inference of disentangled
          latent concepts from unlabeled observations."
          `arXiv:1711.00848 <https://arxiv.org/abs/1711.00848>`_
    """
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical)
    split_units(codes.shape[1], dimensions_per_factor, at_least=2)
    scores = leakage(
        codes,
        np.stack(columns, axis=1),
        dimensions_per_factor,
        test_size=test_size,
        seed=seed,
        categorical=[is_categorical(column) for column in columns],
    )
    # From the scale on which chance is 0 back to balanced accuracy, which shrinks differences.
    scales = [1 - 1 / (column.max() + 1) if is_categorical(column) else 1.0 for column in columns]
    scores = np.sort(scores, axis=0)
    return to_unit_interval(np.mean((scores[-1] - scores[-2]) * scales))


class DisentanglementScores(NamedTuple):
    """What :func:`disentanglement_completeness_informativeness` returns, each from 0 to 1."""

    disentanglement: float
    """To what extent each factor serves to predict one label only."""
    completeness: float
    """To what extent each label is predicted from one factor only."""
    informativeness: float
    """How well labels are predicted from the whole code."""


def disentanglement_completeness_informativeness(
    codes: Tensor,
    labels: Tensor,
    dimensions_per_factor: Iterable[int] | None = None,
    *,
    estimator: str = "gradient_boosting",
    test_size: float = 0.3,
    seed: int | None = 0,
    categorical: bool | Sequence[bool] | None = None,
) -> DisentanglementScores:
    r"""DCI: disentanglement, completeness and informativeness.

    Decision trees predict each label :math:`k` from the whole code, and yield the importance
    :math:`R_{ik}` of each factor :math:`i`, summed over its dimensions. With the entropy
    :math:`H_m` to base :math:`m` of importances divided by their sum,

    .. math::
        \text{disentanglement} &= \sum_i \frac{\sum_k R_{ik}}{\sum_{jk} R_{jk}}
        \left(1 - H_K(R_{i \cdot})\right), \\
        \text{completeness} &= \frac{1}{K} \sum_k \left(1 - H_m(R_{\cdot k})\right)

    for :math:`m` factors and :math:`K` labels. Informativeness is the mean score of the predictions
    on held-out instances, on the scale of :func:`leakage`, rather than an error.

    Gradient boosting grows a hundred trees per class, which takes minutes for codes with dozens of
    dimensions and labels with dozens of classes. A few thousand instances are enough.

    Needs scikit-learn and scipy: `pip install "gyoza[metrics]"`.

    Args:
        codes: See :func:`leakage`.
        labels: Likewise, at least two.
        dimensions_per_factor: Likewise.
        estimator: `"gradient_boosting"`, or `"random_forest"`, whose number of trees does not
            depend on the number of classes.
        test_size: See :func:`leakage`.
        seed: Seed for the division of instances and for the trees.
        categorical: See :func:`leakage`.

    Returns:
        The three scores.

    Raises:
        ValueError: If shapes do not match, values are not finite, a label is constant, a
            class is seen once, there are fewer than two factors or labels, or `estimator` is
            unknown.
        ImportError: If scikit-learn or scipy is missing.

    Example:

        >>> labels = np.random.default_rng(0).integers(3, size=[300, 2])
        >>> codes = labels[:, [0, 0, 1]]  # the first label twice
        >>> scores = gyoza.modelling.metrics.disentanglement_completeness_informativeness(
        ...     codes, labels, dimensions_per_factor=[2, 1]
        ... )
        >>> print(np.round(scores, 4))
        [1. 1. 1.]

    References:
        - Eastwood, C. & Williams, C. K. I. (2018). "A framework for the quantitative evaluation of
          disentangled representations." ICLR.
    """
    if estimator not in _TREES:
        raise ValueError(
            f"`estimator` should be one of {list(_TREES)}. Received: estimator={estimator!r}"
        )
    codes = check_codes(codes)
    columns = check_labels(labels, len(codes), categorical, at_least=2)
    units = split_units(codes.shape[1], dimensions_per_factor, at_least=2)
    scores, importances = [], []
    for column in columns:
        trees = _TREES[estimator](column, seed)
        scores.append(max(_score(trees, codes, column, test_size, seed), 0.0))
        # Rounding can make the importances of useless dimensions negative.
        useful = np.maximum(trees.feature_importances_, 0.0)
        importances.append([useful[unit].sum() for unit in units])
    matrix = np.array(importances)
    return DisentanglementScores(
        _concentrate(matrix.T), _concentrate(matrix), float(np.mean(scores))
    )


def _concentrate(importances: np.ndarray) -> float:
    """Averages over rows how concentrated each is on one column, weighted by the rows' sums."""
    sums = importances.sum(axis=1)
    used = sums > 0
    if not np.any(used):
        return 0.0
    entropies = import_extra("scipy.stats", "metrics").entropy(
        importances[used], base=importances.shape[1], axis=1
    )
    return to_unit_interval(np.average(1 - entropies, weights=sums[used]))


def _make_linear(column: np.ndarray, neighbours: int) -> Any:
    linear = import_extra("sklearn.linear_model", "metrics")
    if is_categorical(column):
        return linear.LogisticRegression(class_weight="balanced", max_iter=1000)
    return linear.Ridge()


def _make_nearest(column: np.ndarray, neighbours: int) -> Any:
    nearest = import_extra("sklearn.neighbors", "metrics")
    if is_categorical(column):
        return nearest.KNeighborsClassifier(neighbours)
    return nearest.KNeighborsRegressor(neighbours)


def _make_boosting(column: np.ndarray, seed: int | None) -> Any:
    ensemble = import_extra("sklearn.ensemble", "metrics")
    if is_categorical(column):
        return ensemble.GradientBoostingClassifier(random_state=seed)
    return ensemble.GradientBoostingRegressor(random_state=seed)


def _make_forest(column: np.ndarray, seed: int | None) -> Any:
    ensemble = import_extra("sklearn.ensemble", "metrics")
    # Trees that see only some dimensions would have to make do with uninformative ones.
    if is_categorical(column):
        return ensemble.RandomForestClassifier(max_features=None, n_jobs=-1, random_state=seed)
    return ensemble.RandomForestRegressor(max_features=None, n_jobs=-1, random_state=seed)


_PROBES = {"linear": _make_linear, "nearest": _make_nearest}
_TREES = {"gradient_boosting": _make_boosting, "random_forest": _make_forest}


def _score(
    predictor: Any, codes: np.ndarray, label: np.ndarray, test_size: float, seed: int | None
) -> float:
    """Fits to a part of the instances and scores on the rest: 0 is chance, 1 is perfect."""
    if codes.shape[1] == 0:
        return 0.0
    if is_categorical(label) and np.bincount(label).min() < 2:
        raise ValueError(
            "`labels` should have at least two instances of each class, one to learn from and one "
            "to test on. If they are real numbers, pass `categorical=False`. Received: "
            f"{np.sum(np.bincount(label) == 1)} classes seen once"
        )
    split = import_extra("sklearn.model_selection", "metrics").train_test_split
    train, test, y_train, y_test = split(
        codes,
        label,
        test_size=test_size,
        random_state=seed,
        stratify=label if is_categorical(label) else None,
    )
    scaler = import_extra("sklearn.preprocessing", "metrics").StandardScaler().fit(train)
    predicted = predictor.fit(scaler.transform(train), y_train).predict(scaler.transform(test))
    metrics = import_extra("sklearn.metrics", "metrics")
    if is_categorical(label):
        return float(metrics.balanced_accuracy_score(y_test, predicted, adjusted=True))
    return float(metrics.r2_score(y_test, predicted))
