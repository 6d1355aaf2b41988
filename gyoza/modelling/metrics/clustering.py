"""Metrics of clusters."""

from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.checks import check_integer
from gyoza.typing import Tensor

__all__ = ["ClusteringAccuracy"]


@keras.saving.register_keras_serializable(package="gyoza")
class ClusteringAccuracy(keras.metrics.Metric):
    r"""The accuracy of a classifier that assigns each cluster to its most frequent class.

    For :math:`n_{jc}` instances of class :math:`c` in cluster :math:`j`, it is

    .. math::
        \frac{\sum_j \max_c n_{jc}}{\sum_{jc} n_{jc}}.

    It is also called purity. Several clusters may be assigned to the same class, so that it grows
    with the number of clusters, up to 1 for one cluster per instance.

    Args:
        class_count: The number of classes.
        cluster_count: The number of clusters. If omitted, that of classes.
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Raises:
        ValueError: If `class_count` or `cluster_count` is not a positive integer, or `y_pred` has
            scores for another number of clusters.

    Attributes:
        counts: The number of instances in each cluster and class, or the sum of their weights,
            `[cluster_count, class_count]`.

    Example:

        >>> metric = gyoza.modelling.metrics.ClusteringAccuracy(class_count=2, cluster_count=3)
        >>> metric.update_state([0, 0, 1, 1, 1], [2, 2, 0, 0, 2])
        >>> round(float(metric.result()), 4)
        0.8
    """

    def __init__(
        self,
        class_count: int,
        cluster_count: int | None = None,
        name: str = "clustering_accuracy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if cluster_count is None:
            cluster_count = class_count
        self.class_count = check_integer("class_count", class_count, minimum=1)
        self.cluster_count = check_integer("cluster_count", cluster_count, minimum=1)
        self.counts = self.add_variable(
            (self.cluster_count, self.class_count),
            initializer="zeros",
            dtype=self.dtype,
            name="counts",
        )

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Takes a batch into account.

        Args:
            y_true: Classes from 0 to `class_count - 1`, `[batch]` or `[batch, 1]`.
            y_pred: Clusters from 0 to `cluster_count - 1`, `[batch]` or `[batch, 1]`, or a score
                for each cluster, the highest of which counts, `[batch, cluster_count]`. If classes
                or clusters are out of range, the result is NaN.
            sample_weight: Weights, `[batch]`.
        """
        classes = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        clusters = ops.convert_to_tensor(y_pred)
        if len(clusters.shape) == 2 and clusters.shape[1] != 1:
            if clusters.shape[1] != self.cluster_count:
                raise ValueError(
                    f"`y_pred` should hold clusters, or scores of {self.cluster_count} clusters. "
                    f"Received: y_pred.shape={tuple(clusters.shape)}"
                )
            clusters = ops.argmax(clusters, axis=1)
        clusters = ops.reshape(ops.cast(clusters, "int32"), (-1,))
        weights = ops.ones_like(classes, dtype=self.dtype)
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        of_class = self._one_hot(classes, self.class_count)
        of_cluster = self._one_hot(clusters, self.cluster_count)
        self.counts.assign_add(ops.transpose(of_cluster * weights[:, None]) @ of_class)

    def _one_hot(self, indices: Tensor, count: int) -> Tensor:
        """Returns rows with a single 1, or of NaN where an index is out of range."""
        rows = ops.cast(indices[:, None] == ops.arange(count), self.dtype)
        known = (indices >= 0) & (indices < count)
        return ops.where(known[:, None], rows, np.nan)

    def result(self) -> Tensor:
        """Computes the accuracy."""
        return ops.divide_no_nan(ops.sum(ops.max(self.counts, axis=1)), ops.sum(self.counts))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal metric."""
        return {
            **super().get_config(),
            "class_count": self.class_count,
            "cluster_count": self.cluster_count,
        }
