"""The base of all sources of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from gyoza.data.checks import to_seed
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Tensor

__all__ = [
    "PairSource",
    "to_instances",
    "to_columns",
    "to_correlations",
    "to_shared_factors",
    "name_factor",
]


class PairSource(keras.utils.PyDataset):
    """Base of the pair sources: epochs, batches and the checks that all of them share.

    A subclass prepares what it draws from, implements `_draw_partners`, and calls `set_epoch(0)` at
    the end of its constructor.

    Args:
        x: The instances, of shape [N, ...].
        targets: The rows from which `y` is composed, of shape [row count, 1 + factor count].
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
        check_integer("batch_size", batch_size, minimum=1)
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.seed = to_seed(seed)
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
        `predict`, and once more when it resets the source before the first. The pairs depend only
        on the arguments of the source and on the epoch, not on the epochs drawn before.

        Args:
            epoch: Non-negative integer.

        Raises:
            ValueError: If `epoch` is not a non-negative integer.
        """
        check_integer("epoch", epoch, minimum=0)
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self._x)
        first = rng.permutation(count) if self.shuffle else np.arange(count)
        second, rows = self._draw_partners(rng, first)
        # A single assignment, so that a worker thread never sees half of a new epoch.
        self._epoch_state = (int(epoch), first, second, rows)

    def get_state(self) -> dict[str, int]:
        """Returns all that the pairs of this epoch, and of those to come, depend on but the data.

        Returns:
            `"seed"`, which may have been drawn, `"epoch"` and `"instance_count"`: integers, of
            which one can make JSON.
        """
        return {"seed": self.seed, "epoch": self.epoch, "instance_count": len(self._x)}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where a source of the same data was, which may have had another seed.

        `gyoza.callbacks.ResumableTraining` calls it.

        Args:
            state: What `get_state` returned.

        Raises:
            ValueError: If it is the state of something else, or of another number of instances.
        """
        names = self.get_state().keys()
        if state.keys() != names:
            raise ValueError(
                f"`state` should be a dictionary with {', '.join(map(repr, names))}. "
                f"Received: state={state}"
            )
        if state["instance_count"] != len(self._x):
            raise ValueError(
                f"`state` should be that of a source with as many instances, {len(self._x)}. "
                f"Received: state={state}"
            )
        seed = check_integer("seed", state["seed"], minimum=0)
        check_integer("epoch", state["epoch"], minimum=0)
        self.seed = seed
        self.set_epoch(state["epoch"])

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
        """Returns a batch of the current epoch.

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


def to_instances(x: Tensor) -> np.ndarray:
    """Converts `x` to NumPy and checks that pairs can be made from it."""
    x = to_numpy(x)
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(
            "`x` should hold at least two instances along its first axis, since each instance is "
            f"paired with another one. Received: x.shape={x.shape}"
        )
    return x


def to_columns(name: str, values: Tensor, x: np.ndarray) -> np.ndarray:
    """Converts labels or factors of the instances to a checked array of shape [N, K]."""
    values = to_numpy(values)
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


def to_correlations(name: str, value: float | Sequence[float], factor_count: int) -> np.ndarray:
    """Converts a correlation, or one per factor, to a float array of shape [factor count]."""
    correlations = np.asarray(value, dtype="float64")
    if correlations.shape not in ((), (factor_count,)):
        raise ValueError(
            f"`{name}` should be a float or have one value for each of the {factor_count} factors "
            f"(the residual factor is not one of them). Received: {name}={value}"
        )
    return np.broadcast_to(correlations, factor_count)


def to_shared_factors(share: str, kinds: Sequence[str], factor_count: int) -> np.ndarray:
    """Returns the factors that each kind of pair shares: booleans of shape [kinds, factor count].

    Args:
        share: "all", "one" or "all but one". There is a kind of pair for each factor that is shared
            alone, or that is the only one not shared.
        kinds: The values that `share` may have.
        factor_count: Number of factors.

    Raises:
        ValueError: If `share` has another value, or nothing would be shared.
    """
    if share not in kinds:
        raise ValueError(f"`share` should be one of {kinds}. Received: share={share!r}")
    if share == "all":
        return np.ones([1, factor_count], dtype=bool)
    is_shared = np.eye(factor_count, dtype=bool)
    if share == "one":
        return is_shared
    if factor_count == 1:
        raise ValueError(
            f"There should be at least two factors to share all but one of them. "
            f"Received: share={share!r} and one factor"
        )
    return ~is_shared


def name_factor(column: int) -> str:
    """Names a factor by its number in the loss, from 1, and by its column in the caller's array."""
    return f"factor {column + 1} (column {column})"
