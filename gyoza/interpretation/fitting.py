"""Fitting a flow to a hidden layer, from the best linear answer on, with validation."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gyoza.applications.interpretation_network import CAPACITIES, InterpretationNetwork
from gyoza.backend import forget_gradients
from gyoza.data.pairs.base import PairSource
from gyoza.interpretation.alignment import SwapTraining
from gyoza.interpretation.factor_sizes import estimate_factor_sizes, name_factors
from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.latents import slice_factors
from gyoza.interpretation.parts import make_pairs, read_hidden, to_columns, to_names, to_parts
from gyoza.modelling.axes import is_integer
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    DisentanglingFlowModel,
    FactorOut,
    FlowModel,
    PrincipalRotation,
)
from gyoza.modelling.metrics.codes import is_categorical

__all__ = ["fit_interpreter", "FitReport"]

_LEAST_VARIANCE, _MOST_KEPT = 0.999, 64
"""As many principal axes as have this share of the variance go through the flow, but no more."""

_VALIDATION_SHARE = 1 / 7
_PROBE_WIDTH, _PROBE_EPOCHS, _LEAST_PROBE_STEPS = 256, 15, 20
_LEAST_GAIN = 0.005
_LITTLE = 0.1
_SIZE_OF_NUMBER = 4
_JUDGED_COUNT = 2000
"""The number of held-out exchanges of each factor that are judged."""


def fit_interpreter(
    network: Any,
    x: Any,
    labels: Any,
    dimensions_per_factor: Mapping[str, int] | Iterable[int] | None = None,
    *,
    layer: Any = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
    validation_data: tuple[Any, Any] | None = None,
    capacity: str | None = None,
    kept_count: int | None = None,
    block_count: int = 4,
    hidden_sizes: Iterable[int] = (128, 128),
    correlation: float = 0.95,
    swap_weight: float = 1.0,
    noise: float = 0.1,
    step_count: int = 600,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
) -> Interpreter:
    r"""Takes a hidden layer of a network apart into factors: the whole recipe in one call.

    1. The hidden representations are rotated to their principal axes. Thin directions skip the
       flow; they are part of the residual factor, so that the way back stays exact.
    2. The sizes of factors are estimated from pairs that share a factor, by the number of linear
       axes along which held-out pairs correlate. A factor of which these axes take less than half
       along is not linear, and given more.
    3. The flow starts as the best linear answer,
       :class:`~gyoza.modelling.flow_layers.PairAxes`, and is trained from there
       (:func:`~gyoza.applications.InterpretationNetwork`). Its loss is the negative log-likelihood
       of pairs, in nats per dimension, and the error of a *probe* after an exchange of factors,

       .. math::
           \frac{1}{n} \ell(a, b) + w \sum_k \operatorname{error}\left(
           p_k\left(T^{-1}(z)\right), y_k\right), \qquad
           z_i = \begin{cases} T(c)_i & \text{entry } i \text{ belongs to factor } F \\
           T(a)_i & \text{otherwise,} \end{cases}

       for :math:`a`, another instance :math:`c`, and a factor :math:`F` drawn at random. The probe
       :math:`p`, a small network, has learnt to read all factors from unchanged representations;
       it should read the label of :math:`c` for factor :math:`F` and those of :math:`a` for all
       others. This is distributed alignment search with a probe as the rest of the network.
       Training stops early, on validation pairs.
    4. A second probe, which no training has seen, judges exchanges of validation instances. The
       linear answer is kept unless the trained flow does better by half a point of a hundred, and
       by two standard errors.

    What is to stay when a factor is exchanged should be labelled, too, and so be a factor. Nothing
    but the likelihood of pairs keeps in place what no label tells of, and a flow is free enough to
    take it along.

    Args:
        network: The network: a head and a tail, `(head, tail)`, as
            :func:`~gyoza.interpretation.split_network` returns them, or an encoder and its decoder;
            or a Keras model, which is split at `layer`.
        x: Inputs of the network, `[instances, ...]`.
        labels: What is known of them, `[instances, K]`: classes (integers, strings, booleans) or
            real numbers, one column for each factor. Columns of whole numbers are classes.
        dimensions_per_factor: The sizes of factors, the residual one first: a dictionary by name,
            or a sequence. If `None`, they are estimated, and at least 1.
        layer: The layer at which `network` is split, where it is a model.
        names: The names of the K factors. "factor_1" and so on if omitted.
        seed: Seed of pairs, noise, and initial weights. The generators of Python, NumPy and Keras
            are seeded with it.
        validation_data: Inputs and labels, `(x, labels)`, for early stopping and the choice. If
            omitted, these are a seventh of the instances, drawn at random: give them yourself where
            instances are copies of one another.
        capacity: The flow that is trained: "rotation", "linear", "affine" or "spline"; see
            :func:`~gyoza.applications.InterpretationNetwork`. It is then returned whatever it
            reaches; "none" stands for the linear answer without training. If `None`, "affine" and
            "none" are compared.
        kept_count: The number of principal axes that go through the flow. If `None`, as many as
            have 99.9 % of the variance, but at most 64.
        block_count: The number of blocks of the flow.
        hidden_sizes: The numbers of units of the hidden layers of the networks of couplings.
        correlation: The correlation of pairs in the factor that they share.
        swap_weight: The weight :math:`w` of exchanges. With 0, the flow learns from pairs alone.
        noise: The standard deviation of noise on the representations that the flow learns from, in
            units of that of each principal axis.
        step_count: The number of training steps, rounded up to whole epochs.
        batch_size: The number of pairs of a training step.
        learning_rate: The first learning rate, from which it decays to 0 by a cosine.

    Returns:
        The interpreter. Its attribute `report`, a :class:`FitReport`, tells what was found.

    Raises:
        TypeError: If `network` or sizes are of the wrong type.
        ValueError: If labels, names, sizes and hidden representations do not fit one another, or
            are not finite, if validation data are of another kind, or an option is unknown or out
            of range.

    Example:

        >>> random = np.random.default_rng(0)
        >>> head = keras.Sequential([keras.Input([4]), keras.layers.Dense(6)])
        >>> tail = keras.Sequential([keras.Input([6]), keras.layers.Dense(3)])
        >>> labels = random.integers(3, size=[300, 1])
        >>> x = (labels + random.normal(size=[300, 4])).astype("float32")
        >>> interpreter = gyoza.interpretation.fit_interpreter(
        ...     (head, tail), x, labels, names=["shape"], step_count=4, hidden_sizes=[8]
        ... )
        >>> list(interpreter.encode(x))
        ['residual', 'shape']

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
        - Geiger, A., Wu, Z., Potts, C., Icard, T. & Goodman, N. D. (2024). "Finding alignments
          between interpretable causal variables and distributed neural representations."
          `arXiv:2303.02536 <https://arxiv.org/abs/2303.02536>`_
    """
    if capacity not in (None, "none", *CAPACITIES):
        raise ValueError(
            f"`capacity` should be None, 'none' or one of {list(CAPACITIES)}. "
            f"Received: capacity={capacity!r}"
        )
    _check_options(seed=seed, step_count=step_count, kept_count=kept_count)
    for name, value in (("swap_weight", swap_weight), ("noise", noise)):
        if not value >= 0.0:
            raise ValueError(f"`{name}` should be at least 0. Received: {name}={value}")
    head, tail = to_parts(network, layer)
    hidden, columns, is_held_out = _gather(head, x, labels, validation_data, seed)
    if names is None and isinstance(dimensions_per_factor, Mapping):
        names = list(dimensions_per_factor)[1:]
    names = to_names(names, len(columns))

    # Principal axes, each of variance 1, of which the thin ones skip the flow.
    rotation, scaling = PrincipalRotation(), ActivationNormalization()
    outer = FlowModel([rotation, scaling])
    outer.adapt(hidden[~is_held_out])
    shares = np.cumsum(rotation.explained_variance)
    if dimensions_per_factor is not None:
        sizes = _check_sizes(name_factors(dimensions_per_factor, names), names, len(shares))
    if kept_count is None:
        kept_count = min(int(np.sum(shares < _LEAST_VARIANCE)) + 1, _MOST_KEPT)
        least = 1 + len(names) if dimensions_per_factor is None else sum([*sizes.values()][1:])
        kept_count = min(max(kept_count, least), len(shares))
    if not len(names) < kept_count <= len(shares):
        raise ValueError(
            f"`kept_count` should be more than the number of factors, {len(names)}, and at most "
            f"that of dimensions, {len(shares)}. Received: kept_count={kept_count}"
        )
    thin_count = len(shares) - kept_count
    if dimensions_per_factor is not None:
        inner_sizes = {**sizes, "residual": sizes["residual"] - thin_count}
        if inner_sizes["residual"] < 0:
            raise ValueError(
                f"`dimensions_per_factor` should give at least those {thin_count} dimensions to "
                f"the residual factor that skip the flow. Received: dimensions_per_factor={sizes}"
            )
    kept = _Instances(_run(outer, hidden)[:, :kept_count], columns)
    train, validation = (_drop_lonely(kept.choose(x), names) for x in (~is_held_out, is_held_out))

    options: dict[str, Any] = {"correlation": correlation, "batch_size": batch_size, "seed": seed}
    pairs = make_pairs(train.values, train.columns, **options)
    held_out_pairs = make_pairs(validation.values, validation.columns, shuffle=False, **options)
    scales = np.sqrt(ops.convert_to_numpy(rotation.variances)[:kept_count])
    teacher, judge = (_train_probe(train, scales, seed + number) for number in (1, 2))
    chances = [_find_chance(column) for column in validation.columns]

    def start(sizes: dict[str, int], capacity: str) -> DisentanglingFlowModel:
        keras.utils.set_random_seed(seed)
        flow = InterpretationNetwork(
            block_count, hidden_sizes, dimensions_per_factor=sizes, capacity=capacity
        )
        flow.adapt(pairs)
        return flow

    def judge_exchanges(flow: FlowModel | None, sizes: dict[str, int]) -> np.ndarray:
        return _judge(flow, judge, validation, sizes, seed)

    if dimensions_per_factor is None:
        estimated = estimate_factor_sizes(pairs, "likelihood", names)
        inner_sizes = _fill({name: max(estimated[name], 1) for name in names}, kept_count)
        scores = judge_exchanges(start(inner_sizes, "linear"), inner_sizes)
        readings = judge_exchanges(None, inner_sizes)
        room = _find_room(scores, readings, chances, validation.columns, kept_count)
        inner_sizes = _fill(
            {name: max(inner_sizes[name], least) for name, least in zip(names, room, strict=True)},
            kept_count,
        )
        sizes = {**inner_sizes, "residual": inner_sizes["residual"] + thin_count}

    scores_of = {"unchanged": judge_exchanges(None, inner_sizes)}
    flows, history = {}, {}
    for name in ("none", "affine") if capacity is None else (capacity,):
        flow = start(inner_sizes, "linear" if name == "none" else name)
        if name != "none":
            model = _Training(flow, teacher, inner_sizes, 1.0 / kept_count, name="training")
            source = _Source(pairs, train.columns, noise, seed)
            epochs = -(-step_count // len(source))
            schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(source))
            model.compile(
                keras.optimizers.Adam(schedule, global_clipnorm=10.0),
                teacher.loss,
                loss_weights=[swap_weight] * len(columns),
                jit_compile=_JIT_COMPILE,
            )
            history = model.fit(
                source,
                epochs=epochs,
                validation_data=_Source(held_out_pairs, validation.columns, 0.0, seed),
                callbacks=[keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)],
                verbose=0,
            ).history
        scores_of[name], flows[name] = judge_exchanges(flow, inner_sizes), flow
    report = FitReport(
        sizes, kept_count, float(shares[kept_count - 1]), names, chances, scores_of, history
    )
    inner = flows[report.chosen]
    last = inner if thin_count == 0 else FactorOut(inner, kept_count)
    flow = DisentanglingFlowModel([rotation, scaling, last])
    flow.build((None, len(shares)))
    interpreter = Interpreter(head, flow, tail, sizes)
    interpreter.report = report
    return interpreter


@dataclasses.dataclass(frozen=True)
class FitReport:
    """What :func:`fit_interpreter` found, on validation instances.

    `str(report)` is a table.

    Attributes:
        dimensions_per_factor: The sizes of factors by name.
        kept_count: The number of principal axes that go through the flow.
        explained_variance: Their share of the variance of the hidden representation.
        names: The names of the factors but the residual one.
        chances: The score of each of them without any knowledge: of classes, how often the best
            constant answer is right; 0 for numbers.
        scores: For each method by name ("none" is the linear answer, "unchanged" stands for
            instances without an exchange), what the judging probe reads after exchanges, `[pairs,
            1 + K, K]`: the first axis after the pairs is the factor that was exchanged, residual
            first, the last one the factor that is read. Of classes, 1 stands for the right one and
            0 for others; of numbers, it is 1 minus the squared error in units of the variance. It
            is NaN where both instances of the pair have the same class.
        history: The losses of the flow that was trained, by epoch, as `fit` of Keras returns them;
            empty if none was.
    """

    dimensions_per_factor: dict[str, int]
    kept_count: int
    explained_variance: float
    names: list[str]
    chances: list[float]
    scores: dict[str, np.ndarray]
    history: dict[str, list[float]]

    @property
    def means(self) -> dict[str, np.ndarray]:
        """The mean scores of each method, `[1 + K, K]`."""
        return {name: np.nanmean(scores, axis=0) for name, scores in self.scores.items()}

    @property
    def gain(self) -> tuple[float, float]:
        """How much better the trained flow does than the linear answer, and the standard error.

        It is the difference of the scores' mean over all exchanges and readings, NaN unless both
        have been judged.
        """
        if "none" not in self.scores or "affine" not in self.scores:
            return np.nan, np.nan
        difference = (self.scores["affine"] - self.scores["none"]).reshape(_JUDGED_COUNT, -1)
        # Weighted such that each exchange and reading counts the same, however many are NaN.
        weights = 1.0 / np.sum(np.isfinite(difference), axis=0) / difference.shape[1]
        of_pairs = np.nansum(weights * difference, axis=1)
        return float(of_pairs.sum()), float(of_pairs.std() * np.sqrt(len(of_pairs)))

    @property
    def chosen(self) -> str:
        """The method that was chosen."""
        *_, last = self.scores
        gain, error = self.gain
        return "none" if gain <= max(_LEAST_GAIN, 2.0 * error) else last

    def __str__(self) -> str:
        """Returns a table of scores."""
        count = sum(self.dimensions_per_factor.values())
        lines = [
            f"{count} dimensions, of which {self.kept_count} principal axes "
            f"({self.explained_variance:.1%} of the variance) go through the flow",
            "sizes: " + ", ".join(f"{k} {n}" for k, n in self.dimensions_per_factor.items()),
            "",
            "held-out exchanges, read by a probe: 1 is perfect",
            f"{'exchanged':14}" + "".join(f"{name:>20}" for name in ("residual", *self.names)),
            f"{'':14}{'others keep':>20}" + f"{'follows':>10}{'keep':>10}" * len(self.names),
        ]
        for method, means in self.means.items():
            cells = [f"{means[0].mean():20.3f}"]
            for k in range(len(self.names)):
                others = np.delete(means[1 + k], k)
                keep = f"{others.mean():10.3f}" if len(others) else f"{'':10}"
                cells.append(f"{means[1 + k, k]:10.3f}{keep}")
            lines.append(f"{_TITLES.get(method, method + ' flow'):14}" + "".join(cells))
        gain, error = self.gain
        if np.isfinite(gain):
            lines += ["", f"gain of the trained flow: {gain:.3f} ± {error:.3f}"]
        lines.append(f"chosen: {_TITLES.get(self.chosen, self.chosen + ' flow')}")
        lines += [
            f"{name} is hardly read from this layer at all: there is little to exchange"
            for name, reading, chance in zip(
                self.names, self.means["unchanged"][0], self.chances, strict=True
            )
            if reading < chance + _LITTLE
        ]
        return "\n".join(lines)


_TITLES = {"unchanged": "no exchange", "none": "pair axes"}

# Training takes a minute, which XLA would double; on JAX, Keras would run without it step by step.
_JIT_COMPILE = "auto" if keras.config.backend() == "jax" else False


@dataclasses.dataclass(frozen=True)
class _Instances:
    """Instances in principal coordinates, and their labels."""

    values: np.ndarray
    columns: list[np.ndarray]

    def choose(self, chosen: np.ndarray) -> "_Instances":
        return _Instances(self.values[chosen], [column[chosen] for column in self.columns])


def _check_options(**options: int | None) -> None:
    """Checks options that are whole numbers."""
    least = {"seed": 0, "step_count": 1, "kept_count": 1}
    for name, value in options.items():
        if name == "kept_count" and value is None:
            continue
        if not is_integer(value) or value < least[name]:  # type: ignore[operator]
            raise ValueError(
                f"`{name}` should be an integer of at least {least[name]}. Received: {name}={value}"
            )


def _gather(
    head: keras.Layer, x: Any, labels: Any, validation_data: Any, seed: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Returns hidden representations, columns of labels, and which instances are held out."""
    hidden, labels = read_hidden(head, x).astype("float32"), _to_matrix(labels)
    count = len(hidden)
    if validation_data is None:
        is_held_out = np.random.default_rng(seed).permutation(count) < _VALIDATION_SHARE * count
    else:
        if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
            raise ValueError(
                "`validation_data` should be inputs and labels, `(x, labels)`. "
                f"Received: {type(validation_data)}"
            )
        held_out = read_hidden(head, validation_data[0]).astype("float32")
        held_out_labels = _to_matrix(validation_data[1])
        shapes = labels.shape[1:], held_out_labels.shape[1:]
        kinds = labels.dtype.kind, held_out_labels.dtype.kind
        if shapes[0] != shapes[1] or kinds[0] != kinds[1] or not len(held_out):
            raise ValueError(
                "Labels of `validation_data` should be of the same kind as `labels`, with as many "
                f"columns, and not be empty. Received: shapes {labels.shape} and "
                f"{held_out_labels.shape}, dtypes {labels.dtype} and {held_out_labels.dtype}"
            )
        hidden = np.concatenate([hidden, held_out])
        labels = np.concatenate([labels, held_out_labels])
        is_held_out = np.arange(len(hidden)) >= count
    is_finite = np.isfinite(hidden).all(axis=1)
    if not is_finite.all():
        raise ValueError(
            "Hidden representations should be finite. Received: "
            f"{np.sum(~is_finite)} of {len(hidden)} that are not"
        )
    columns = [_standardise(x, ~is_held_out) for x in to_columns(labels, len(hidden))]
    is_known = np.ones(len(hidden), bool)
    for column in filter(is_categorical, columns):
        is_known &= np.isin(column, column[~is_held_out])
    if validation_data is not None and not is_known.all():
        raise ValueError(
            "Classes of `validation_data` should be among those of `labels`. Received: "
            f"{np.sum(~is_known)} instances of other classes"
        )
    return hidden[is_known], [column[is_known] for column in columns], is_held_out[is_known]


def _to_matrix(labels: Any) -> np.ndarray:
    labels = np.asarray(labels)
    return labels[:, None] if labels.ndim == 1 else labels


def _drop_lonely(instances: _Instances, names: list[str]) -> _Instances:
    """Leaves out the only members of classes, who have no partner."""
    while True:
        for name, column in zip(names, instances.columns, strict=True):
            if len(np.unique(column)) < 2:
                raise ValueError(
                    "There should be at least two classes of each factor with two members each, in "
                    "training and in validation. Received: no more than one class of factor "
                    f"'{name}' with several members, or a constant"
                )
        is_alone = np.zeros(len(instances.values), bool)
        for column in filter(is_categorical, instances.columns):
            is_alone |= np.bincount(column)[column] < 2
        if not is_alone.any():
            return instances
        instances = instances.choose(~is_alone)


def _find_chance(column: np.ndarray) -> float:
    """Returns how often one and the same answer is right, of pairs whose classes differ."""
    if not is_categorical(column):
        return 0.0
    shares = np.bincount(column) / len(column)
    return float(np.max(shares * (1.0 - shares)) / np.sum(shares * (1.0 - shares)))


def _check_sizes(sizes: dict[str, int], names: list[str], count: int) -> dict[str, int]:
    if list(sizes) != ["residual", *names] or sum(sizes.values()) != count:
        raise ValueError(
            f"`dimensions_per_factor` should have the sizes of {['residual', *names]}, in this "
            f"order, and sum to the number of dimensions, {count}. "
            f"Received: dimensions_per_factor={sizes}"
        )
    return sizes


def _fill(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Gives the residual factor what is left of `count` dimensions, and no more to others."""
    sizes = dict(sizes)
    while sum(sizes.values()) > count:
        sizes[max(sizes, key=lambda name: sizes[name])] -= 1
    return {"residual": count - sum(sizes.values()), **sizes}


def _find_room(
    scores: np.ndarray,
    readings: np.ndarray,
    chances: list[float],
    columns: list[np.ndarray],
    kept_count: int,
) -> list[int]:
    """Returns the least sizes of factors: more for those that linear axes do not take along.

    Such a factor is not linear, and the number of linear axes says little of the room that it
    needs. It is given as many dimensions as classes would take at right angles to each other, and
    no more than all factors could have in one half of the dimensions.
    """
    room = []
    for k, (column, chance) in enumerate(zip(columns, chances, strict=True)):
        follows, reading = (
            float(np.nanmean(x[:, row, k])) - chance for x, row in ((scores, 1 + k), (readings, 0))
        )
        is_taken = reading < _LITTLE or follows > 0.5 * reading
        wanted = int(column.max()) if is_categorical(column) else _SIZE_OF_NUMBER
        room.append(1 if is_taken else min(wanted, kept_count // (2 * len(columns))))
    return room


def _standardise(column: np.ndarray, is_train: np.ndarray) -> np.ndarray:
    """Gives numbers mean 0 and variance 1 in training; leaves classes as they are."""
    if is_categorical(column):
        return column
    return (column - column[is_train].mean()) / column[is_train].std()


def _run(flow: FlowModel, x: np.ndarray, back: bool = False) -> np.ndarray:
    run = flow.invert if back else lambda batch: flow(batch)[0]
    with forget_gradients():
        parts = [ops.convert_to_numpy(run(x[i : i + 4096])) for i in range(0, len(x), 4096)]
    return np.concatenate(parts)


def _train_probe(instances: _Instances, scales: np.ndarray, seed: int) -> keras.Model:
    """Trains a small network that reads all factors.

    It sees axes in their own scales, relative to one another, as the rest of the network does.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(instances.values.shape[1:])
    variances = np.mean(scales**2) / scales**2
    x = layers.Normalization(mean=np.zeros_like(scales), variance=variances)(inputs)
    x = layers.GaussianNoise(0.2)(x)
    for _ in range(2):
        x = layers.Dropout(0.2)(layers.Dense(_PROBE_WIDTH, activation="gelu")(x))
    counts = [int(c.max()) + 1 if is_categorical(c) else 1 for c in instances.columns]
    probe = keras.Model(inputs, [layers.Dense(count)(x) for count in counts])
    # Few instances are repeated, since each epoch takes its time.
    steps_per_epoch = -(-len(instances.values) // 256)
    copies = -(-_LEAST_PROBE_STEPS // steps_per_epoch)
    step_count = copies * steps_per_epoch * _PROBE_EPOCHS
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, step_count)
    probe.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        [
            keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            if is_categorical(column)
            else keras.losses.MeanSquaredError()
            for column in instances.columns
        ],
        jit_compile=_JIT_COMPILE,
    )
    x, *y = (np.concatenate(copies * [a]) for a in (instances.values, *instances.columns))
    probe.fit(x, y, 256, _PROBE_EPOCHS, verbose=0)
    return probe


class _Training(SwapTraining):
    """Learns from pairs that share a factor, and from exchanges with the next pair's instance."""

    def _choose_givers(self, z_b: Any) -> Any:
        return ops.roll(z_b, 1, axis=0)


class _Source(keras.utils.PyDataset):
    """Pairs with noise, and the labels that an exchange of a random factor should lead to."""

    def __init__(
        self, pairs: PairSource, columns: list[np.ndarray], noise: float, seed: int
    ) -> None:
        super().__init__()
        self._pairs, self._columns, self._noise, self._seed = pairs, columns, noise, seed

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[tuple[Any, ...], tuple[np.ndarray, ...]]:
        (a, b), correlations = self._pairs[index]
        random = np.random.default_rng([self._seed, self._pairs.epoch, index])
        a, b = (x + self._noise * random.normal(size=x.shape) for x in (a, b))
        factor = random.integers(1 + len(self._columns), size=len(a))
        start = index * self._pairs.batch_size
        of_a, of_b = self._pairs.pairs[start : start + len(a)].T
        givers = np.roll(of_b, 1)
        wanted = tuple(
            column[np.where(factor == 1 + k, givers, of_a)]
            for k, column in enumerate(self._columns)
        )
        return (a.astype("float32"), b.astype("float32"), factor, correlations), wanted

    def on_epoch_end(self) -> None:
        self._pairs.on_epoch_end()


def _judge(
    flow: FlowModel | None, judge: keras.Model, x: _Instances, sizes: dict[str, int], seed: int
) -> np.ndarray:
    """Scores exchanges of each factor between random pairs; see :class:`FitReport`."""
    a, b = np.random.default_rng(seed).integers(len(x.values), size=[2, _JUDGED_COUNT])
    scores = np.empty([len(a), len(sizes), len(x.columns)])
    for row, block in enumerate(slice_factors(sizes).values()):
        values = x.values[a]
        if flow is not None:
            z = _run(flow, values)
            z[:, block] = _run(flow, x.values[b])[:, block]
            values = _run(flow, z, back=True)
        readings = judge.predict(values, batch_size=1024, verbose=0)
        readings = readings if isinstance(readings, list) else [readings]
        for k, (reading, column) in enumerate(zip(readings, x.columns, strict=True)):
            wanted = column[b if flow is not None and row == 1 + k else a]
            is_finite = np.isfinite(reading).all(axis=1)  # others count as wrong
            if is_categorical(column):
                right = np.where(is_finite, reading.argmax(axis=-1) == wanted, 0.0)
                scores[:, row, k] = np.where(column[a] != column[b], right, np.nan)
            else:
                scores[:, row, k] = np.where(is_finite, 1.0 - (reading[:, 0] - wanted) ** 2, -1.0)
    return scores
