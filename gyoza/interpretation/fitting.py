"""Fitting a flow to a hidden layer, starting from the best linear answer, with validation."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.applications.interpretation_network import CAPACITIES, InterpretationNetwork
from gyoza.data.pairs.base import PairSource
from gyoza.interpretation.alignment import SwapTraining
from gyoza.interpretation.factor_sizes import estimate_factor_sizes, to_sizes
from gyoza.interpretation.fit_report import SMALL_DIFFERENCE, FitReport
from gyoza.interpretation.instances import (
    Instances,
    drop_unpartnered,
    find_chance,
    gather_instances,
)
from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.parts import (
    LayerKey,
    Network,
    make_pairs,
    run_in_batches,
    to_names,
    to_parts,
)
from gyoza.interpretation.probes import JIT_COMPILE, judge_exchanges, train_probe
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    DisentanglingFlowModel,
    FactorOut,
    FlowModel,
    PrincipalRotation,
)
from gyoza.modelling.functions.checks import check_integer, check_not_negative
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensor, Tensors

__all__ = ["fit_interpreter"]

_LEAST_VARIANCE, _MOST_KEPT = 0.999, 64
"""As many principal axes as have this share of the variance go through the flow, up to a limit."""

_SIZE_OF_NUMBER = 4
"""The number of dimensions for a number that linear axes do not capture."""


def fit_interpreter(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Mapping[str, int] | Iterable[int] | None = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
    validation_data: tuple[Tensors, Tensor] | None = None,
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
    r"""Finds factors in a hidden layer of a network: the whole procedure in one call.

    1. The hidden representations are rotated to their principal axes. Axes with hardly any variance
       skip the flow; they are part of the residual factor, so that the map remains invertible.
    2. The sizes of the factors are estimated from pairs that share a factor, as the number of
       linear axes along which held-out pairs correlate. If the answer follows an exchange of these
       axes less than half as well as the factor can be read, the factor is not linear, and is given
       more dimensions.
    3. The flow starts as the best linear answer,
       :class:`~gyoza.modelling.flow_layers.PairAxes`, and is trained from there
       (:func:`~gyoza.applications.InterpretationNetwork`). Its loss is the negative log-likelihood
       of pairs, in nats per dimension, plus the error of a *probe* after an exchange of factors,

       .. math::
           \frac{1}{n} \ell(a, b) + w \sum_k \operatorname{error}\left(
           p_k\left(T^{-1}(z)\right), y_k\right), \qquad
           z_i = \begin{cases} T(c)_i & \text{dimension } i \text{ belongs to factor } F \\
           T(a)_i & \text{otherwise,} \end{cases}

       for an instance :math:`a`, another one :math:`c`, and a random factor :math:`F`. The probe
       :math:`p` is a small network that has learnt to read all factors from unchanged
       representations; it should read the label of :math:`c` for factor :math:`F`, and the labels
       of :math:`a` for all others. This is distributed alignment search with a probe instead of
       the rest of the network. Training stops early, as validation pairs decide.
    4. A second probe, which is not used in training, judges exchanges between validation instances.
       The linear answer is kept unless the score of the trained flow is higher by 0.005, and by
       two standard errors.

    Whatever should stay the same when a factor is exchanged should be labelled as well, and so be a
    factor. Only the likelihood of pairs keeps in place what has no label, and a flow is flexible
    enough to exchange it along with the factor.

    Args:
        network: The network: a head and a tail, `(head, tail)`, as
            :func:`~gyoza.interpretation.split_network` returns them, or an encoder and its decoder;
            or a Keras model, which is split at `layer`.
        x: Inputs of the network, `[instances, ...]`.
        labels: What is known of them, `[instances, K]`: classes (integers, strings, booleans) or
            real numbers, one column for each factor. Columns of whole numbers are classes.
        dimensions_per_factor: The sizes of the factors, the residual one first: a dictionary by
            name, or a sequence. If `None`, they are estimated, and at least 1.
        layer: The layer at which `network` is split, if it is a model.
        names: The names of the K factors. "factor_1" and so on if omitted.
        seed: Seed of pairs, noise, and initial weights. The generators of Python, NumPy and Keras
            are seeded with it.
        validation_data: Inputs and labels, `(x, labels)`, for early stopping and for the choice of
            the method. If omitted, a seventh of the instances is drawn at random; pass your own if
            instances are copies of one another.
        capacity: The flow that is trained: "rotation", "linear", "affine" or "spline"; see
            :func:`~gyoza.applications.InterpretationNetwork`. It is then returned, whatever its
            score. "none" stands for the linear answer without training. If `None`, "affine" and
            "none" are compared.
        kept_count: The number of principal axes that go through the flow. If `None`, as many as
            have 99.9% of the variance, but at most 64.
        block_count: The number of blocks of the flow.
        hidden_sizes: The numbers of units in the hidden layers of each coupling's conditioner.
        correlation: The correlation of pairs in the factor that they share.
        swap_weight: The weight :math:`w` of exchanges. With 0, the flow learns from pairs alone.
        noise: The standard deviation of the noise on the representations that the flow learns from,
            relative to that of each principal axis.
        step_count: The number of training steps, rounded up to whole epochs.
        batch_size: The number of pairs in a training step.
        learning_rate: The initial learning rate, which decays to 0 along a cosine.

    Returns:
        The interpreter. Its attribute `report`, a :class:`FitReport`, describes what was found.

    Raises:
        TypeError: If `network` or sizes are of the wrong type.
        ValueError: If labels, names, sizes and hidden representations do not fit one another, or
            are not finite, if validation data are of another kind, or if an option is unknown or
            out of range.

    Example:

        >>> random = np.random.default_rng(0)
        >>> head = keras.Sequential([keras.Input([4]), keras.layers.Dense(6)])
        >>> tail = keras.Sequential([keras.Input([6]), keras.layers.Dense(3)])
        >>> labels = random.integers(3, size=[300, 1])
        >>> x = (labels + random.normal(size=[300, 4])).astype("float32")
        >>> interpreter = gyoza.interpretation.fit_interpreter(
        ...     (head, tail), x, labels, names=["shape"], block_count=1, step_count=4
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
    _check_options(capacity, swap_weight, noise, seed, step_count, kept_count)
    head, tail = to_parts(network, layer)
    instances, is_held_out = gather_instances(head, x, labels, validation_data, seed)
    if names is None and isinstance(dimensions_per_factor, Mapping):
        names = list(dimensions_per_factor)[1:]
    names = to_names(names, len(instances.columns))

    # Principal axes, scaled to variance 1. The thin ones skip the flow.
    rotation, scaling = PrincipalRotation(), ActivationNormalization()
    outer = FlowModel([rotation, scaling])
    outer.adapt(instances.values[~is_held_out])
    shares = np.cumsum(rotation.explained_variance)
    sizes = None
    if dimensions_per_factor is not None:
        sizes = to_sizes(dimensions_per_factor, names, len(shares))
    kept_count = _choose_kept_count(kept_count, shares, len(names), sizes)
    thin_count = len(shares) - kept_count

    coordinates = run_in_batches(lambda batch: outer(batch)[0], instances.values, 4096)
    kept = Instances(coordinates[:, :kept_count], instances.columns)
    train, validation = (
        drop_unpartnered(kept.choose(chosen), names) for chosen in (~is_held_out, is_held_out)
    )
    options: dict[str, Any] = {"correlation": correlation, "batch_size": batch_size, "seed": seed}
    deviations = np.sqrt(ops.convert_to_numpy(rotation.variances)[:kept_count])
    study = _Study(
        names=names,
        train=train,
        validation=validation,
        pairs=make_pairs(train.values, train.columns, **options),
        held_out_pairs=make_pairs(validation.values, validation.columns, shuffle=False, **options),
        teacher=train_probe(train, deviations, seed + 1),
        judge=train_probe(train, deviations, seed + 2),
        make_flow=functools.partial(InterpretationNetwork, block_count, hidden_sizes),
        seed=seed,
    )
    if sizes is None:
        inner_sizes = study.estimate_sizes()
        sizes = {**inner_sizes, "residual": inner_sizes["residual"] + thin_count}
    else:
        inner_sizes = {**sizes, "residual": sizes["residual"] - thin_count}

    scores = {"unchanged": study.score(None, inner_sizes)}
    flows, history = {}, {}
    for name in ("none", "affine") if capacity is None else (capacity,):
        flow = study.start(inner_sizes, "linear" if name == "none" else name)
        if name != "none":
            history = study.fit(flow, inner_sizes, swap_weight, noise, step_count, learning_rate)
        scores[name], flows[name] = study.score(flow, inner_sizes), flow
    report = FitReport(
        sizes, kept_count, float(shares[kept_count - 1]), names, study.chances, scores, history
    )
    inner = flows[report.chosen]
    last = inner if thin_count == 0 else FactorOut(inner, kept_count)
    flow = DisentanglingFlowModel([rotation, scaling, last])
    flow.build((None, len(shares)))
    interpreter = Interpreter(head, flow, tail, sizes)
    interpreter.report = report
    return interpreter


def _check_options(
    capacity: str | None,
    swap_weight: float,
    noise: float,
    seed: int,
    step_count: int,
    kept_count: int | None,
) -> None:
    if capacity not in (None, "none", *CAPACITIES):
        raise ValueError(
            f"`capacity` should be None, 'none' or one of {list(CAPACITIES)}. "
            f"Received: capacity={capacity!r}"
        )
    check_integer("seed", seed, minimum=0)
    check_integer("step_count", step_count, minimum=1)
    if kept_count is not None:
        check_integer("kept_count", kept_count, minimum=1)
    check_not_negative("swap_weight", swap_weight)
    check_not_negative("noise", noise)


def _choose_kept_count(
    kept_count: int | None, shares: np.ndarray, factor_count: int, sizes: dict[str, int] | None
) -> int:
    """Returns the number of principal axes that go through the flow.

    Args:
        kept_count: The number that was asked for, or `None`.
        shares: The share of the variance that the leading axes have, `[axes]`.
        factor_count: The number of factors, without the residual one.
        sizes: The sizes of the factors, or `None` if they are to be estimated.
    """
    if kept_count is None:
        kept_count = min(int(np.sum(shares < _LEAST_VARIANCE)) + 1, _MOST_KEPT)
        least = 1 + factor_count if sizes is None else sum([*sizes.values()][1:])
        kept_count = min(max(kept_count, least), len(shares))
    if not factor_count < kept_count <= len(shares):
        raise ValueError(
            f"`kept_count` should be more than the number of factors, {factor_count}, and at most "
            f"the number of dimensions, {len(shares)}. Received: kept_count={kept_count}"
        )
    thin_count = len(shares) - kept_count
    if sizes is not None and sizes["residual"] < thin_count:
        raise ValueError(
            f"`dimensions_per_factor` should give the residual factor at least those {thin_count} "
            f"dimensions that skip the flow. Received: dimensions_per_factor={sizes}"
        )
    return kept_count


@dataclasses.dataclass(frozen=True)
class _Study:
    """What flows are fitted to, and judged by."""

    names: list[str]
    train: Instances
    validation: Instances
    pairs: PairSource
    held_out_pairs: PairSource
    teacher: keras.Model
    """The probe whose readings flows learn from."""
    judge: keras.Model
    """The probe that judges them."""
    make_flow: Callable[..., DisentanglingFlowModel]
    seed: int

    @property
    def chances(self) -> list[float]:
        """The score of each factor by chance."""
        return [find_chance(column) for column in self.validation.columns]

    def start(self, sizes: dict[str, int], capacity: str) -> DisentanglingFlowModel:
        """Returns a flow that is the best linear answer."""
        keras.utils.set_random_seed(self.seed)
        flow = self.make_flow(dimensions_per_factor=sizes, capacity=capacity)
        flow.adapt(self.pairs)
        return flow

    def score(self, flow: FlowModel | None, sizes: dict[str, int]) -> np.ndarray:
        """Returns the scores of exchanges; see :class:`FitReport`."""
        return judge_exchanges(flow, self.judge, self.validation, sizes, self.seed)

    def estimate_sizes(self) -> dict[str, int]:
        """Estimates the sizes of the factors within the flow, each at least 1."""
        kept_count = self.train.values.shape[1]
        estimated = estimate_factor_sizes(self.pairs, "likelihood", self.names)
        sizes = _fill({name: max(estimated[name], 1) for name in self.names}, kept_count)
        scores = self.score(self.start(sizes, "linear"), sizes)
        readings = self.score(None, sizes)
        room = _find_room(scores, readings, self.chances, self.validation.columns, kept_count)
        least = dict(zip(self.names, room, strict=True))
        return _fill({name: max(sizes[name], least[name]) for name in self.names}, kept_count)

    def fit(
        self,
        flow: DisentanglingFlowModel,
        sizes: dict[str, int],
        swap_weight: float,
        noise: float,
        step_count: int,
        learning_rate: float,
    ) -> dict[str, list[float]]:
        """Trains a flow, and returns its losses by epoch; see :func:`fit_interpreter`."""
        likelihood_weight = 1.0 / self.train.values.shape[1]
        model = _Training(flow, self.teacher, sizes, likelihood_weight, name="training")
        source = _Source(self.pairs, self.train.columns, noise, self.seed)
        epochs = -(-step_count // len(source))
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(source))
        model.compile(
            keras.optimizers.Adam(schedule, global_clipnorm=10.0),
            self.teacher.loss,
            loss_weights=[swap_weight] * len(self.names),
            jit_compile=JIT_COMPILE,
        )
        return model.fit(
            source,
            epochs=epochs,
            validation_data=_Source(self.held_out_pairs, self.validation.columns, 0.0, self.seed),
            callbacks=[keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)],
            verbose=0,
        ).history


def _fill(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Shrinks the largest sizes until they fit in `count`; the residual factor gets the rest."""
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
    """Returns the least size of each factor: more where linear axes do not capture it.

    Such a factor is not linear, and the number of linear axes says little about the room that it
    needs. It gets as many dimensions as its classes would need at right angles to one another, but
    no more than its share of one half of the dimensions.
    """
    room = []
    for k, (column, chance) in enumerate(zip(columns, chances, strict=True)):
        follows, reading = (
            float(np.nanmean(x[:, row, k])) - chance for x, row in ((scores, 1 + k), (readings, 0))
        )
        is_captured = reading < SMALL_DIFFERENCE or follows > 0.5 * reading
        wanted = int(column.max()) if is_categorical(column) else _SIZE_OF_NUMBER
        room.append(1 if is_captured else min(wanted, kept_count // (2 * len(columns))))
    return room


class _Training(SwapTraining):
    """Learns from pairs that share a factor, and from exchanges with the next pair's instance."""

    def _choose_givers(self, z_b: Tensor) -> Tensor:
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

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
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
