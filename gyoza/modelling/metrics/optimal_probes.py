"""The accuracy that no probe can exceed, from the densities of classes."""

from typing import NamedTuple

import numpy as np

from gyoza.typing import Tensor

__all__ = ["OptimalProbe", "optimal_probe_accuracy"]


class OptimalProbe(NamedTuple):
    """What :func:`optimal_probe_accuracy` returns: balanced accuracies from 0 to 1."""

    accuracy: float
    """The accuracy of the most likely class on the instances."""
    low: float
    """The lower end of its confidence interval."""
    high: float
    """The upper end, which no probe exceeds if the densities are right."""
    expected: float
    """The accuracy that the densities themselves predict."""


def optimal_probe_accuracy(
    log_probs: Tensor, labels: Tensor, confidence: float = 0.95
) -> OptimalProbe:
    r"""How well the best of all probes can tell classes apart, given their densities.

    No probe, linear or not, has a higher balanced accuracy than the one that answers the class with
    the highest density :math:`p_c`. This Bayes-optimal probe is right with the probability

    .. math::
        A = \frac{1}{C} \int \max_c p_c(x) \, dx,
        \qquad A = \frac{1 + \operatorname{TV}(p_0, p_1)}{2} \text{ for two classes,}

    with the total variation distance TV. Evaluate it on instances that the densities were not
    fitted to. By Hoeffding's inequality, with :math:`n_c` instances of class c, :math:`A` is within

    .. math::
        \pm \sqrt{\frac{1}{2 C^2} \ln \frac{2}{\alpha} \sum_c \frac{1}{n_c}}

    of the result with confidence :math:`1 - \alpha`.

    It is a bound on other probes only if the densities are right: with poor ones, another probe may
    do better. As a check, the accuracy that the densities predict,
    :math:`\frac{1}{C} \sum_c \operatorname{mean}_{x \in c} \max_k p_k(x) / \sum_j p_j(x)`, is
    returned, too: if it is outside the confidence interval, the densities are wrong. If it is
    inside, they may still be wrong; compare with the probes of :func:`leakage`, which should not
    exceed the bound.

    Args:
        log_probs: The log-density of each instance under each class, `[N, C]`, for example
            `log_prob` of one flow per class.
        labels: The class of each instance, integers from 0 to C - 1, `[N]`.
        confidence: The probability with which the interval contains the accuracy.

    Returns:
        A named tuple of `accuracy`, `low`, `high` and `expected`.

    Raises:
        ValueError: If shapes do not match, there are fewer than two classes, a class has
            no instance, `confidence` is not between 0 and 1, or an instance has no likelihood.

    Example:

        >>> random = np.random.default_rng(0)
        >>> labels = np.repeat([0, 1], 5000)
        >>> x = random.normal(size=10_000) + 2.0 * labels  # the best probe asks whether x > 1
        >>> log_probs = -0.5 * (x[:, None] - np.array([0.0, 2.0])) ** 2
        >>> result = gyoza.modelling.metrics.optimal_probe_accuracy(log_probs, labels)
        >>> round(result.accuracy, 2), round(result.low, 2), round(result.high, 2)  # 0.8413
        (0.84, 0.83, 0.86)

    References:
        - Balunović, M., Ruoss, A. & Vechev, M. (2022). "Fair normalizing flows."
          `arXiv:2106.05937 <https://arxiv.org/abs/2106.05937>`_
        - Hoeffding, W. (1963). "Probability inequalities for sums of bounded random variables."
          Journal of the American Statistical Association 58, 13–30.
    """
    log_probs, labels = np.asarray(log_probs, "float64"), np.asarray(labels)
    if log_probs.ndim != 2 or log_probs.shape[1] < 2 or labels.shape != log_probs.shape[:1]:
        raise ValueError(
            "`log_probs` should have shape [N, C] with at least two classes, and `labels` [N]. "
            f"Received: log_probs.shape={log_probs.shape}, labels.shape={labels.shape}"
        )
    class_count = log_probs.shape[1]
    largest = log_probs.max(axis=1)
    if not np.all(np.isfinite(largest)):
        raise ValueError(
            "`log_probs` should be numbers or -infinity, and finite under some class. Received: "
            f"{np.sum(~np.isfinite(largest))} instances for which they are not"
        )
    if labels.dtype.kind not in "iub" or set(np.unique(labels)) != set(range(class_count)):
        raise ValueError(
            f"`labels` should be integers from 0 to {class_count - 1}, each of them at least once. "
            f"Received: the values {np.unique(labels)[:10].tolist()}"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            f"`confidence` should be between 0 and 1. Received: confidence={confidence}"
        )
    posteriors = 1.0 / np.exp(log_probs - largest[:, None]).sum(axis=1)
    counts = np.bincount(labels.astype(int))
    weights = 1.0 / (class_count * counts[labels.astype(int)])
    accuracy = float(np.sum(weights * (np.argmax(log_probs, axis=1) == labels)))
    width = np.sqrt(np.log(2.0 / (1.0 - confidence)) * np.sum(1.0 / counts) / 2.0) / class_count
    return OptimalProbe(
        accuracy,
        max(accuracy - float(width), 0.0),
        min(accuracy + float(width), 1.0),
        float(np.sum(weights * posteriors)),
    )
