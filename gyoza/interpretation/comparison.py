"""A comparison of methods that find factors in a network, on held-out data, with controls."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gyoza.interpretation.controls import (
    check_counts,
    check_labels,
    choose_judges,
    reinitialise,
    to_seeds,
)
from gyoza.interpretation.estimates import Estimate, format_table
from gyoza.interpretation.methods import Method, default_methods
from gyoza.interpretation.parts import LayerKey, Network, to_matrix, to_names, to_parts
from gyoza.interpretation.scores import PROBES, HeldOut, Judges, measure
from gyoza.typing import Tensor, Tensors

__all__ = ["compare", "Comparison"]

_NETWORKS = "trained", "re-initialised", "labels shuffled"
_TOLERANCE = 0.02
"""Differences in score up to this size do not count."""


class Comparison:
    """What :func:`compare` returns: scores of methods, on a network and on controls.

    Printed, it is a table with means and standard errors over seeds, followed by the findings:
    for which methods the network does not differ from the controls, and which method to use.

    Args:
        measurements: The scores of each method, network and seed: dictionaries with the keys
            "method", "network", "seed", "sizes" and the names of the scores. The measurements of
            several comparisons can be joined.

    Attributes:
        measurements: The same.
    """

    def __init__(self, measurements: Iterable[Mapping[str, Any]]) -> None:
        self.measurements = [dict(measurement) for measurement in measurements]

    @property
    def methods(self) -> list[str]:
        """The names of the methods, in their order."""
        return list(dict.fromkeys(row["method"] for row in self.measurements))

    @property
    def networks(self) -> list[str]:
        """The names of the networks: "trained" and the controls."""
        return list(dict.fromkeys(row["network"] for row in self.measurements))

    @property
    def columns(self) -> list[str]:
        """The names of the scores."""
        names = dict.fromkeys(name for row in self.measurements for name in row)
        return [name for name in names if name not in ("method", "network", "seed", "sizes")]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """For each method and network, the sizes of the factors, and estimates of all scores.

        If there are controls, "gap" is the smallest difference between the score on the trained
        network and that on a control.
        """
        rows = []
        for method in self.methods:
            for network in self.networks:
                values = self._select(method, network)
                sizes = dict.fromkeys("+".join(map(str, row["sizes"].values())) for row in values)
                scores = {column: self.estimate(method, column, network) for column in self.columns}
                row = {"method": method, "network": network, "sizes": " or ".join(sizes), **scores}
                if self._controls:
                    row["gap"] = self._smallest_gap(method) if network == "trained" else ""
                rows.append(row)
        return rows

    def _select(self, method: str, network: str) -> list[dict[str, Any]]:
        rows = [
            row
            for row in self.measurements
            if row["method"] == method and row["network"] == network
        ]
        if not rows:
            raise ValueError(
                f"`method` should be one of {self.methods}, and `network` one of {self.networks}. "
                f"Received: method={method!r}, network={network!r}"
            )
        return rows

    def estimate(self, method: str, column: str = "score", network: str = "trained") -> Estimate:
        """Returns the mean of a score over seeds, with its standard error.

        Args:
            method: The name of the method.
            column: The name of the score.
            network: The name of the network.

        Raises:
            ValueError: If there is no such method, score or network.
        """
        if column not in self.columns:
            raise ValueError(f"`column` should be one of {self.columns}. Received: {column!r}")
        return Estimate.of([row[column] for row in self._select(method, network)])

    def gap(self, method: str, network: str, column: str = "score") -> Estimate:
        """Returns by how much a score is higher on the trained network than on a control.

        Args:
            method: The name of the method.
            network: The name of the control.
            column: The name of the score.

        Returns:
            The mean difference over seeds, with its standard error.
        """
        pairs = zip(self._select(method, "trained"), self._select(method, network), strict=True)
        return Estimate.of([trained[column] - control[column] for trained, control in pairs])

    def best(self, column: str = "score") -> str:
        """Returns the simplest method that is as good as the best one on the trained network.

        The methods are in the order of simplicity. One is as good as the best if its score is lower
        by at most 0.02, or by at most twice the standard error of the difference. A method that
        scores as high on a control counts only if all methods do.

        Args:
            column: The name of the score.

        Returns:
            The name of the method.
        """
        methods = [name for name in self.methods if not self._is_empty(name, column)]
        estimates = {name: self.estimate(name, column) for name in methods or self.methods}
        highest = max(estimates.values(), key=lambda estimate: estimate.mean)
        return next(
            name
            for name, estimate in estimates.items()
            if _is_small(
                Estimate(highest.mean - estimate.mean, np.hypot(highest.error, estimate.error))
            )
        )

    @property
    def findings(self) -> list[str]:
        """Sentences on what the controls show, and on which method to use."""
        caveats = self._caveats
        empty = [method for method in self.methods if self._is_empty(method)]
        sentences = [
            f"{method}: its score of {self.estimate(method)} is not clearly higher than where "
            f"there is nothing to find: {self._describe_controls(method)}."
            for method in empty
        ]
        if len(empty) == len(self.methods):
            last = "There is nothing to find here, or these methods do not find it."
            return [*caveats, *sentences, last]
        best = self.best()
        top = max(
            (method for method in self.methods if method not in empty),
            key=lambda method: self.estimate(method).mean,
        )
        reason = (
            f", the simplest of those that are as good as {top}, with {self.estimate(top)}"
            if best != top
            else ""
        )
        last = f"Use {best}, with a score of {self.estimate(best)}{reason}."
        return [*caveats, *sentences, last]

    @property
    def _caveats(self) -> list[str]:
        """Sentences on what has not been measured."""
        sentences = []
        if not self._controls:
            sentences.append(
                "No control was run: the scores may be just as high where there is nothing to find."
            )
        if len({row["seed"] for row in self.measurements}) == 1:
            sentences.append(
                "There is only one seed, and so no standard error: differences of more than "
                f"{_TOLERANCE} are taken to be real."
            )
        for network in self.networks:
            scores = [row["score"] for row in self.measurements if row["network"] == network]
            count = int(np.isnan(scores).sum())
            if count:
                sentences.append(
                    f"{network}: {count} of {len(scores)} scores are missing, since the network "
                    "gives the same answer for all instances."
                )
        return sentences

    @property
    def _controls(self) -> list[str]:
        return [network for network in self.networks if network != "trained"]

    def _describe_controls(self, method: str) -> str:
        return ", ".join(
            f"{self.estimate(method, network=network)} ({network})" for network in self._controls
        )

    def _smallest_gap(self, method: str, column: str = "score") -> Estimate:
        return min(
            self._find_gaps(method, column),
            key=lambda gap: gap.mean,
            default=Estimate(np.nan, np.nan),
        )

    def _find_gaps(self, method: str, column: str) -> list[Estimate]:
        """Returns the gaps to those controls that could be measured."""
        gaps = (self.gap(method, network, column) for network in self._controls)
        return [gap for gap in gaps if not np.isnan(gap.mean)]

    def _is_empty(self, method: str, column: str = "score") -> bool:
        """Returns whether a method has no score, or none above that on a control."""
        gaps = self._find_gaps(method, column)
        return bool(np.isnan(self.estimate(method, column).mean)) or any(map(_is_small, gaps))

    def table(self, columns: Iterable[str]) -> str:
        """Returns the given columns of the rows as a table.

        Args:
            columns: Names of scores, or "method", "network", "sizes" and "gap".

        Returns:
            The table, with a line for each row.
        """
        return format_table(self.rows, list(columns))

    def __str__(self) -> str:
        """Returns a table of swaps, one of leakage for each factor, and the findings."""
        leaks = [column for column in self.columns if column.endswith(PROBES)]
        others = [column for column in self.columns if column not in leaks]
        gap = ["gap"] if self._controls else []
        rows = self.rows
        tables = [format_table(rows, ["method", "network", "sizes", *others, *gap])]
        for factor in dict.fromkeys(column.split(": ")[0] for column in leaks):
            columns = [column for column in leaks if column.startswith(f"{factor}: ")]
            tables.append(format_table(rows, ["method", "network", *columns]))
        return "\n\n".join([*tables, "\n".join(self.findings)])


def _is_small(difference: Estimate) -> bool:
    return difference.mean <= max(_TOLERANCE, 2 * np.nan_to_num(difference.error))


def compare(
    network: Network,
    x: Tensors,
    labels: Tensor,
    test_x: Tensors,
    test_labels: Tensor,
    dimensions_per_factor: Mapping[str, int] | Iterable[int] | None = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    methods: Mapping[str, Method] | None = None,
    judges: Judges | None = None,
    networks: Iterable[str] = _NETWORKS,
    held_out: Callable[[np.ndarray, int], Any] | None = None,
    seeds: int | Iterable[int] = 3,
    pair_count: int = 2000,
    probe_count: int = 2000,
) -> Comparison:
    r"""Compares methods that find factors in a network, on held-out data, with controls.

    Each method finds factors in three networks: the given one; one with the same architecture and
    fresh weights; and the given one with labels that are permuted among instances. Invertible maps
    can align with much that is not there (Sutter et al.), so only what is found in the first
    network, and not in the others, is something that the network has learnt.

    The scores range from 0 to 1, except the likelihood:

    - "follows": how often the network, given the factor of another instance, gives the answer that
      belongs to that instance; for numbers, the share :math:`1 - \sum (y - y_b)^2 / \sum (y_a -
      y_b)^2` of the difference.
    - "keeps": how often it keeps its answer when another block is exchanged, for the block with
      the lowest rate, which may be that of a factor or the residual one. Likewise for numbers.
    - "own", "elsewhere" and "residual", by a linear probe and by nearest neighbours: how well the
      label is read from the block of its factor, from the best block of another factor, and from
      the residual block. See :func:`~gyoza.modelling.metrics.leakage`.
    - "likelihood": the log-likelihood of pairs per hidden unit, in nats, by
      :class:`~gyoza.modelling.losses.SupervisedFactorLoss`. Latent dimensions are standardised, and
      the correlation in each block is the average over training pairs. It is a density of the
      hidden representation, with noise of a hundredth of its standard deviation, and so can be
      compared between methods, but not between networks.
    - "score": the mean over the judged factors of follows × keeps; if no factor is judged, the mean
      of own × (1 - the larger of elsewhere and residual), each by the better probe.

    Answers are compared with labels. A re-initialised network has no right answers: its answers to
    unedited instances are used instead of labels.

    Args:
        network: A head and a tail, `(head, tail)`, or a Keras model, which is split at `layer`.
        x: Inputs of the network, `[instances, ...]`, from which methods learn.
        labels: Their classes (integers, strings, booleans) or real numbers, one column for each
            factor, `[instances, K]`. Columns of whole numbers are classes.
        test_x: Inputs on which all scores are measured.
        test_labels: Their labels.
        dimensions_per_factor: The sizes of the factors, the residual one first, by name or as a
            sequence. If `None`, each method chooses its own for the trained network, and keeps them
            for the controls.
        layer: The layer at which `network` is split, if it is a model.
        names: The names of the K factors. "factor_1" and so on if omitted.
        methods: The methods by name, the simplest first: callables `method((head, tail), x, labels,
            dimensions_per_factor, names=names, seed=seed)` that return an
            :class:`~gyoza.interpretation.Interpreter`. :func:`default_methods` if omitted.
        judges: By name of the factor, a callable that maps the outputs of the network to the class,
            or number, of that factor, as in `labels`. If omitted, it is `{first: argmax}` for a
            network with as many outputs as the first factor has classes, which must then be
            integers from 0 on. `{}` for none.
        networks: Which of "trained", "re-initialised" and "labels shuffled" are examined.
        held_out: A callable that maps `labels` and a seed to booleans, `[instances]`: which
            instances no method may learn from. Tests then use only such instances. It can hold out
            combinations of classes, or a range of numbers, different for each seed.
        seeds: The seeds of methods, of fresh weights and permutations, and of pairs; or the number
            of seeds.
        pair_count: The number of test pairs whose factors are swapped.
        probe_count: The largest number of test instances for the probes.

    Returns:
        The comparison.

    Raises:
        TypeError: If `network` is neither a Keras model nor two parts, `methods` or `judges` are
            not dictionaries of callables, or seeds are not integers.
        ValueError: If other arguments are not as described.

    Example:

        >>> from gyoza import interpretation
        >>> random = np.random.default_rng(0)
        >>> labels = random.integers(2, size=[400, 1])
        >>> x = random.normal(size=[400, 3]) + 4.0 * labels * [1.0, 1.0, 0.0]
        >>> head = keras.Sequential([keras.Input([3]), keras.layers.Activation("linear")])
        >>> tail = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        >>> weights = np.array([[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]), np.array([4.0, -4.0])
        >>> tail.set_weights(weights)
        >>> comparison = interpretation.compare(
        ...     (head, tail), x, labels, x, labels, names=["side"], networks=["trained"], seeds=1,
        ...     methods={"difference of means": interpretation.baselines.difference_of_means},
        ... )
        >>> comparison.estimate("difference of means", "side: follows").mean > 0.95
        True

    References:
        - Sutter, D., Minder, J., Hofmann, T. & Pimentel, T. (2025). "The non-linear representation
          dilemma: Is causal abstraction enough for mechanistic interpretability?"
          `arXiv:2507.08802 <https://arxiv.org/abs/2507.08802>`_
        - Hewitt, J. & Liang, P. (2019). "Designing and interpreting probes with control tasks."
          `arXiv:1909.03368 <https://arxiv.org/abs/1909.03368>`_
    """
    parts = to_parts(network, layer)
    x, test_x = np.asarray(x), np.asarray(test_x)
    labels, test_labels = (to_matrix(values) for values in (labels, test_labels))
    names = to_names(names, labels.shape[1])
    for of_x, of_labels in ((x, labels), (test_x, test_labels)):
        check_labels(of_x, of_labels, len(names))
    methods = default_methods() if methods is None else methods
    _check_callables("methods", methods)
    if not methods:
        raise ValueError("`methods` should hold at least one method. Received: methods={}")
    check_counts(pair_count=pair_count, probe_count=probe_count)
    networks = _check_networks(networks)
    if judges is None:
        judges = choose_judges(parts, x, labels, names)
    if set(judges) - set(names):
        raise ValueError(
            f"`judges` should be of some of the factors {names}. Received: {list(judges)}"
        )
    _check_callables("judges", judges)
    splits = {}
    for seed in to_seeds(seeds):
        seen, new = np.ones(len(x), bool), np.ones(len(test_x), bool)
        if held_out is not None:
            seen, new = ~_hold_out(held_out, labels, seed), _hold_out(held_out, test_labels, seed)
            check_labels(x[seen], labels[seen], len(names))
            check_labels(test_x[new], test_labels[new], len(names))
        splits[seed] = seen, new
    measurements = []
    for seed, (seen, new) in splits.items():
        known = labels[seen]
        studies = {"trained": (parts, known)}
        if "re-initialised" in networks:
            studies["re-initialised"] = reinitialise(parts, seed), known
        if "labels shuffled" in networks:
            studies["labels shuffled"] = parts, np.random.default_rng(seed).permutation(known)
        test = HeldOut(test_x[new], test_labels[new], names, judges, pair_count, probe_count, seed)
        for method, fit in methods.items():
            sizes = dimensions_per_factor
            for name in networks:
                of_parts, of_labels = studies[name]
                interpreter = fit(of_parts, x[seen], of_labels, sizes, names=names, seed=seed)
                sizes = dict(interpreter.dimensions_per_factor)  # so that controls have the same
                row = {"method": method, "network": name, "seed": seed, "sizes": sizes}
                scores = measure(interpreter, x[seen], of_labels, test, name == "re-initialised")
                measurements.append({**row, **scores})
    return Comparison(measurements)


def _check_networks(networks: Iterable[str]) -> list[str]:
    """Returns the names of the networks, "trained" first."""
    networks = sorted(networks, key="trained".__ne__)
    if (
        networks[:1] != ["trained"]
        or set(networks) - set(_NETWORKS)
        or len(set(networks)) < len(networks)
    ):
        raise ValueError(
            f"`networks` should be 'trained' and any others of {list(_NETWORKS)}, each once. "
            f"Received: networks={networks}"
        )
    return networks


def _check_callables(name: str, values: Any) -> None:
    if not isinstance(values, Mapping) or not all(map(callable, values.values())):
        raise TypeError(f"`{name}` should be a dictionary of callables. Received: {name}={values}")


def _hold_out(held_out: Callable[..., Any], labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns which instances are held out."""
    is_held_out = np.asarray(held_out(labels, seed))
    if is_held_out.shape != (len(labels),) or is_held_out.dtype.kind != "b":
        raise ValueError(
            f"`held_out` should return {len(labels)} booleans, one for each instance. Received: "
            f"an array of shape {is_held_out.shape} and type {is_held_out.dtype}"
        )
    return is_held_out
