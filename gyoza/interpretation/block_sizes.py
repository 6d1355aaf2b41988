"""How many answers follow an exchange, by the size of the exchanged block."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from gyoza.interpretation.baselines import pair_axes, random_subspace
from gyoza.interpretation.controls import (
    answer,
    check_counts,
    check_labels,
    choose_judges,
    reinitialise,
    to_seeds,
)
from gyoza.interpretation.estimates import Estimate, format_table
from gyoza.interpretation.methods import Method
from gyoza.interpretation.parts import (
    LayerKey,
    Network,
    find_partnered,
    read_hidden,
    to_columns,
    to_matrix,
    to_parts,
)
from gyoza.interpretation.scores import rate_swaps
from gyoza.modelling.axes import check_integers
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensor, Tensors

__all__ = ["answers_by_size", "AnswersBySize"]


class AnswersBySize(NamedTuple):
    """What :func:`answers_by_size` returns. Printed, it is a table."""

    sizes: list[int]
    """The sizes of the block."""
    follows: dict[str, np.ndarray]
    """For the method and each control, the share of answers that follow, `[sizes, seeds]`."""

    def __str__(self) -> str:
        """Returns a table of means over seeds, with standard errors."""
        rows = [
            {
                "": name,
                **{str(s): Estimate.of(row) for s, row in zip(self.sizes, rates, strict=True)},
            }
            for name, rates in self.follows.items()
        ]
        return format_table(rows, ["", *map(str, self.sizes)])


def answers_by_size(
    network: Network,
    x: Tensors,
    labels: Tensor,
    test_x: Tensors,
    test_labels: Tensor,
    sizes: Iterable[int] | None = None,
    *,
    layer: LayerKey = None,
    method: Method = pair_axes,
    judge: Callable[[Tensors], Tensor] | None = None,
    seeds: int | Iterable[int] = 3,
    pair_count: int = 2000,
) -> AnswersBySize:
    r"""Measures how many answers follow when blocks of growing size are exchanged, with controls.

    The larger a block, the more answers follow, whatever it holds; a block of all dimensions is the
    whole representation. What a method has found shows in how much smaller its blocks can be than
    those of the controls:

    - "random subspace": random directions,
    - "fake pairs": the method, with labels that are permuted among instances,
    - "re-initialised": the method, in a network of the same architecture with fresh weights,
    - "re-initialised, own answers": the same, with the answers of that network as labels.

    A re-initialised network is judged by its own answers to unedited instances, instead of labels.

    Args:
        network: See :func:`compare`.
        x: See :func:`compare`.
        labels: The classes or numbers of one factor, `[instances]`.
        test_x: See :func:`compare`.
        test_labels: The labels of `test_x`.
        sizes: The sizes of the factor's block. If omitted, powers of two up to the number of hidden
            units, and this number.
        layer: See :func:`compare`.
        method: A method, like those of :func:`compare`.
        judge: A callable that maps outputs of the network to the class, or number. The class with
            the largest output if omitted.
        seeds: See :func:`compare`.
        pair_count: See :func:`compare`.

    Returns:
        The shares of answers that follow.

    Raises:
        TypeError: If sizes or seeds are not integers.
        ValueError: If sizes are not between 0 and the number of hidden units, if there is no judge
            and not one output for each class, or if other arguments are not as described.

    Example:

        >>> from gyoza import interpretation
        >>> random = np.random.default_rng(0)
        >>> labels = random.integers(2, size=400)
        >>> x = random.normal(size=[400, 3]) + 4.0 * labels[:, None] * [1.0, 1.0, 0.0]
        >>> head = keras.Sequential([keras.Input([3]), keras.layers.Activation("linear")])
        >>> tail = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        >>> weights = np.array([[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]), np.array([4.0, -4.0])
        >>> tail.set_weights(weights)
        >>> rates = interpretation.answers_by_size((head, tail), x, labels, x, labels, [1], seeds=1)
        >>> bool(rates.follows["pair axes"] > 0.9)
        True
    """
    parts = to_parts(network, layer)
    x, test_x = np.asarray(x), np.asarray(test_x)
    labels, test_labels = (to_matrix(values) for values in (labels, test_labels))
    for of_x, of_labels in ((x, labels), (test_x, test_labels)):
        check_labels(of_x, of_labels, 1)
    seeds = to_seeds(seeds)
    check_counts(pair_count=pair_count)
    width = read_hidden(parts[0], x[:1]).shape[1]
    if sizes is None:
        sizes = [*(2**k for k in range(width.bit_length()) if 2**k < width), width]
    sizes = check_integers("sizes", sizes)
    if not sizes or min(sizes) < 0 or max(sizes) > width:
        raise ValueError(
            f"`sizes` should be between 0 and the number of hidden units, {width}. "
            f"Received: sizes={sizes}"
        )
    if judge is None:
        judge = choose_judges(parts, x, labels, ["factor"]).get("factor")
    if judge is None:
        raise ValueError(
            "`judge` should map outputs of the network to the class, or number, unless there is "
            "one output for each class of `labels`. Received: judge=None"
        )
    is_class = is_categorical(to_columns(test_labels, len(test_x))[0])
    name = getattr(method, "__name__", "method").replace("_", " ")
    follows: dict[str, list[list[float]]] = {}
    for seed in seeds:
        fresh = reinitialise(parts, seed)
        own, of_test = (np.asarray(judge(answer(fresh, values))) for values in (x, test_x))
        shuffled = np.random.default_rng(seed).permutation(labels)
        true = np.asarray(test_labels[:, 0].tolist())
        frequent = _is_frequent(own) if is_class else np.ones(len(x), bool)
        studies = {
            name: (method, parts, x, labels, true),
            "random subspace": (random_subspace, parts, x, labels, true),
            "fake pairs": (method, parts, x, shuffled, true),
            "re-initialised": (method, fresh, x, labels, of_test),
            "re-initialised, own answers": (method, fresh, x[frequent], own[frequent], of_test),
        }
        a, b = np.random.default_rng(seed).integers(len(test_x), size=[2, pair_count])
        for study, (fit, of_parts, seen, known, answers) in studies.items():
            rates = []
            for size in sizes:
                if np.all(known == known[0]):  # a network that always gives the same answer
                    rates.append(np.nan)
                    continue
                found = fit(
                    of_parts, seen, known, [width - size, size], names=["factor"], seed=seed
                )
                swapped = judge(found.swap(test_x[a], test_x[b], "factor"))
                rates.append(float(rate_swaps(swapped, answers[a], answers[b], is_class)[0]))
            follows.setdefault(study, []).append(rates)
    return AnswersBySize(sizes, {study: np.transpose(rates) for study, rates in follows.items()})


def _is_frequent(classes: np.ndarray) -> np.ndarray:
    """Returns which instances are not the only one of their class."""
    return find_partnered(np.unique(classes, return_inverse=True)[1].reshape(-1, 1))
