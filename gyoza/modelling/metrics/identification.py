"""Scores of how well the sources of data have been recovered."""

import numpy as np

from gyoza.extras import import_extra
from gyoza.modelling.metrics.codes import check_codes, to_unit_interval
from gyoza.typing import Tensor

__all__ = ["mean_correlation_coefficient"]


def mean_correlation_coefficient(
    codes: Tensor, sources: Tensor, correlation: str = "pearson"
) -> float:
    r"""MCC: how well codes recover sources, up to order, sign and scale.

    Each source :math:`s_k` is assigned a dimension :math:`z_{\pi(k)}` of its own, such that the
    mean of absolute correlations is largest:

    .. math::
        \max_\pi \frac{1}{K} \sum_k |\operatorname{corr}(z_{\pi(k)}, s_k)|.

    It is 1 if each source is recovered in a dimension of its own. If there are more sources than
    dimensions, those left over count as 0.

    Needs scipy: `pip install "gyoza[metrics]"`.

    Args:
        codes: The codes, `[N, n]`.
        sources: The sources, `[N, K]`.
        correlation: `"pearson"`, or `"spearman"` if sources can be recovered only up to a monotonic
            function.

    Returns:
        The score, from 0 to 1.

    Raises:
        ValueError: If shapes do not match, values are not finite, a source is constant,
            or `correlation` is unknown.
        ImportError: If scipy is missing.

    Example:

        >>> sources = np.random.default_rng(0).normal(size=[100, 2])
        >>> codes = sources[:, ::-1] * [1.0, -3.0]
        >>> round(gyoza.modelling.metrics.mean_correlation_coefficient(codes, sources), 4)
        1.0

    References:
        - Hyvärinen, A. & Morioka, H. (2016). "Unsupervised feature extraction by time-contrastive
          learning and nonlinear ICA." `arXiv:1605.06336 <https://arxiv.org/abs/1605.06336>`_
        - Khemakhem, I., Kingma, D. P., Monti, R. P. & Hyvärinen, A. (2020). "Variational
          autoencoders and nonlinear ICA: A unifying framework."
          `arXiv:1907.04809 <https://arxiv.org/abs/1907.04809>`_
    """
    codes, sources = check_codes(codes), check_codes(sources, "sources")
    if len(codes) != len(sources):
        raise ValueError(
            "`codes` and `sources` should have the same number of instances. Received: "
            f"codes.shape={codes.shape}, sources.shape={sources.shape}"
        )
    if np.any(np.ptp(sources, axis=0) == 0):
        raise ValueError(
            "`sources` should vary, since a constant has no correlation. Received: constant columns"
        )
    if correlation not in ("pearson", "spearman"):
        raise ValueError(
            "`correlation` should be 'pearson' or 'spearman'. "
            f"Received: correlation={correlation!r}"
        )
    if correlation == "spearman":
        rank = import_extra("scipy.stats", "metrics").rankdata
        codes, sources = rank(codes, axis=0), rank(sources, axis=0)
    correlations = np.abs(_standardise(codes).T @ _standardise(sources)) / len(codes)
    pairs = import_extra("scipy.optimize", "metrics").linear_sum_assignment(
        correlations, maximize=True
    )
    return to_unit_interval(np.sum(correlations[pairs]) / sources.shape[1])


def _standardise(columns: np.ndarray) -> np.ndarray:
    """Shifts and scales columns to mean 0 and variance 1; those that are constant become 0."""
    centred = columns - columns.mean(axis=0)
    varies = np.ptp(columns, axis=0) > 0
    return np.where(varies, centred / np.where(varies, columns.std(axis=0), 1.0), 0.0)
