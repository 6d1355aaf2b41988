"""Pairs of instances and the factors that they share, read from whatever holds them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from gyoza.typing import Tensor

__all__ = ["Pairs", "to_pairs"]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs :math:`(a, b)` of instances, and how they correlate in each factor.

    Attributes:
        x: The instances, first all :math:`a`, then all :math:`b`, `[2 * pairs, ...]`.
        y: The correlation that each pair should have in each factor, the residual one first,
            `[pairs, 1 + factors]`.
        names: The names of the factors but the residual one, if they are known.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...] | None = None

    def of_instances(self, x: Tensor) -> "Pairs":
        """Returns the same pairs of other instances, such as representations of them."""
        return dataclasses.replace(self, x=x)

    def in_order_of(
        self, dimensions_per_factor: Mapping[str, int] | Iterable[int] | None
    ) -> "Pairs":
        """Returns the same pairs, with factors in the order of their sizes.

        Args:
            dimensions_per_factor: The sizes, the residual one first. If they are a dictionary, and
                pairs have names, too, these are matched; otherwise, the order stays.

        Raises:
            ValueError: If the names are others.
        """
        if self.names is None or not isinstance(dimensions_per_factor, Mapping):
            return self
        names = tuple(dimensions_per_factor)[1:]
        if sorted(names) != sorted(self.names):
            raise ValueError(
                f"There should be pairs for each of the factors {list(names)} of "
                f"`dimensions_per_factor`. Received: pairs for {list(self.names)}"
            )
        order = [0, *(1 + self.names.index(name) for name in names)]
        return Pairs(self.x, self.y[:, order], names)

    def by_factor(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns arrays `(a, b)` for each factor but the residual one.

        Raises:
            ValueError: If a pair does not share exactly one factor.
        """
        counts = np.count_nonzero(self.y, axis=1)
        if np.any(counts != 1):
            raise ValueError(
                "Each of `pairs` should share exactly one factor, as those of `CategoricalPairs` "
                f"do. Received: a pair with the correlations {self.y[counts != 1][0]}"
            )
        a, b = self.x[: len(self.y)], self.x[len(self.y) :]
        return [(a[column != 0], b[column != 0]) for column in self.y.T[1:]]


def to_pairs(pairs: Any) -> Pairs:
    """Reads pairs.

    Args:
        pairs: For each factor, a pair `(a, b)` of arrays, `[pairs, ...]`, whose instances share
            the factor: a dictionary of such pairs by name, or a sequence of them. Or a source of
            batches `((a, b), y)`, such as :class:`~gyoza.data.CategoricalPairs`, whose current
            epoch is used.

    Returns:
        The pairs. Those by factor have the correlation 1 in theirs.

    Raises:
        ValueError: If they are none of that, or factors have instances of different shapes.
    """
    if isinstance(pairs, Pairs):
        return pairs
    names = None
    if isinstance(pairs, Mapping):
        names, pairs = tuple(pairs), list(pairs.values())
    if isinstance(pairs, list | tuple):
        one_hot = np.eye(1 + len(pairs), k=1)
        batches = [(pair, one_hot[k : k + 1]) for k, pair in enumerate(pairs)]
    elif isinstance(pairs, keras.utils.PyDataset):
        batches = [pairs[index] for index in range(len(pairs))]
    else:
        is_iterable = isinstance(pairs, Iterable) and not hasattr(pairs, "shape")
        batches = list(pairs) if is_iterable else []
    arrays = [batch for batch in map(_read_batch, batches) if batch is not None]
    if not arrays or len(arrays) < len(batches):
        raise ValueError(
            "There should be pairs: a source such as `CategoricalPairs`, or for each factor a pair "
            "(a, b) of arrays of the same shape, [pairs, ...]. Received: "
            + (f"shape {tuple(pairs.shape)}" if hasattr(pairs, "shape") else f"{type(pairs)}")
        )
    shapes = sorted({(a.shape[1:], y.shape[1:]) for a, _, y in arrays})
    if len(shapes) > 1:
        raise ValueError(
            "All pairs should have instances of the same shape, and correlations of as many "
            f"factors. Received: shapes {shapes[0]} and {shapes[1]}"
        )
    a, b, y = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
    return Pairs(np.concatenate([a, b]), y, names)


def _read_batch(batch: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns the arrays in a batch `((a, b), y)`, or `None` if it is something else."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return None
    if not hasattr(batch[0], "__len__") or len(batch[0]) != 2:
        return None
    a, b, y = (np.asarray(keras.ops.convert_to_numpy(part)) for part in (*batch[0], batch[1]))
    if a.ndim < 2 or a.shape != b.shape or y.ndim != 2 or len(y) not in (1, len(a)):
        return None
    return a, b, np.broadcast_to(y, (len(a), y.shape[1]))
