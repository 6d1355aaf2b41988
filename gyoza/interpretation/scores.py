"""Scores of an interpreter on held-out data."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.latents import get_flow_shape
from gyoza.interpretation.parts import make_pairs, read_hidden, run_in_batches, to_columns
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.metrics import leakage, swap_consistency
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensor

__all__ = ["PROBES", "Judges", "HeldOut", "measure", "measure_swaps", "rate_swaps"]

PROBES = "linear", "nearest"

_NOISE = 0.01
"""The noise in likelihoods, as a share of the standard deviation of hidden units."""

Judges = Mapping[str, Callable[[Any], Any]]


class HeldOut(NamedTuple):
    """Held-out data, and how scores are measured on them."""

    x: np.ndarray
    labels: np.ndarray
    names: list[str]
    judges: Judges
    pair_count: int
    probe_count: int
    seed: int


def measure(
    interpreter: Interpreter,
    x: np.ndarray,
    labels: np.ndarray,
    test: HeldOut,
    use_own_answers: bool,
) -> dict[str, float]:
    """Measures all scores of an interpreter that was fitted to `x` and `labels`.

    Scores of answers, and their mean, are NaN if the answers do not differ between instances.
    """
    scores = measure_swaps(interpreter, test, use_own_answers)
    scores |= _measure_leakage(interpreter, test)
    scores["likelihood"] = _measure_likelihood(interpreter, x, labels, test)
    names = list(test.judges) or test.names
    if test.judges:
        products = [scores[f"{name}: follows"] * scores[f"{name}: keeps"] for name in names]
    else:
        products = [_multiply_leakage(scores, name) for name in names]
    scores["score"] = float(np.mean(products))
    return scores


def measure_swaps(
    interpreter: Interpreter, test: HeldOut, use_own_answers: bool
) -> dict[str, float]:
    """Measures how often answers follow an exchange, and how often they stay the same."""
    columns = to_columns(test.labels, len(test.x))
    kinds = {name: is_categorical(column) for name, column in zip(test.names, columns, strict=True)}
    answers: dict[str, np.ndarray]
    if use_own_answers:
        outputs = interpreter.decode(interpreter.encode(test.x))
        answers = {name: np.asarray(judge(outputs)) for name, judge in test.judges.items()}
    else:
        answers = {
            name: np.asarray(test.labels[:, test.names.index(name)].tolist())
            for name in test.judges
        }
    a, b = np.random.default_rng(test.seed).integers(len(test.x), size=[2, test.pair_count])
    follows: dict[str, float] = {}
    keeps: dict[str, list[float]] = {name: [] for name in test.judges}
    for block in interpreter.dimensions_per_factor if test.judges else ():
        outputs = interpreter.swap(test.x[a], test.x[b], block)
        for name, judge in test.judges.items():
            of_a, of_b = answers[name][a], answers[name][b]
            follows_b, keeps_a = rate_swaps(judge(outputs), of_a, of_b, kinds[name])
            if block == name:
                follows[name] = float(follows_b)
            else:
                keeps[name].append(float(keeps_a))
    scores = {}
    for name in test.judges:
        scores[f"{name}: follows"] = follows[name]
        scores[f"{name}: keeps"] = min(keeps[name])
    return scores


def _measure_leakage(interpreter: Interpreter, test: HeldOut) -> dict[str, float]:
    """Measures how well labels are read from their own block, others, and the residual one."""
    codes = np.concatenate(list(interpreter.encode(test.x).values()), axis=1)
    columns = to_columns(test.labels, len(test.x))
    order = np.random.default_rng(test.seed).permutation(len(codes))[: test.probe_count]
    matrix = np.stack(columns, axis=1)[order]
    kinds = [is_categorical(column) for column in columns]
    sizes = list(interpreter.dimensions_per_factor.values())
    scores = {}
    for probe in PROBES:
        read = leakage(codes[order], matrix, sizes, probe=probe, seed=test.seed, categorical=kinds)
        for k, name in enumerate(test.names):
            scores[f"{name}: own, {probe}"] = float(read[1 + k, k])
            if len(test.names) > 1:
                elsewhere = np.delete(read[1:, k], k).max()
                scores[f"{name}: elsewhere, {probe}"] = float(elsewhere)
            scores[f"{name}: residual, {probe}"] = float(read[0, k])
    return scores


def _multiply_leakage(scores: Mapping[str, float], name: str) -> float:
    """Returns how well a label is read from its own block, and not from others."""
    own = max(scores[f"{name}: own, {probe}"] for probe in PROBES)
    leaks = (
        scores.get(f"{name}: {place}, {probe}", 0.0)
        for place in ("elsewhere", "residual")
        for probe in PROBES
    )
    return own * (1 - max(leaks))


def _measure_likelihood(
    interpreter: Interpreter, x: np.ndarray, labels: np.ndarray, test: HeldOut
) -> float:
    """Measures the log-likelihood of test pairs, per hidden unit.

    Latent dimensions are standardised, and the correlation of each block is chosen, by training
    pairs, so that methods are comparable even if they were not trained for this likelihood. Noise
    ensures that directions with little or no variance count equally for all methods.
    """
    hidden, of_test = (read_hidden(interpreter.head, values) for values in (x, test.x))
    noise = _NOISE * np.sqrt(hidden.var(axis=0).mean())
    a, b, is_shared = _encode_pairs(interpreter, hidden, labels, noise, test.seed)
    both = np.concatenate([a, b])
    mean, scale = both[:, :-1].mean(axis=0), both[:, :-1].std(axis=0)
    products = (a[:, :-1] - mean) * (b[:, :-1] - mean) / scale**2
    sizes = list(interpreter.dimensions_per_factor.values())
    blocks = np.split(products, np.cumsum(sizes)[:-1], axis=1)
    correlations = [
        np.clip(block[shared].mean(), 0.0, 0.999) if block[shared].size else 0.0
        for block, shared in zip(blocks, is_shared.T, strict=True)
    ]
    a, b, is_shared = _encode_pairs(interpreter, of_test, test.labels, noise, test.seed)
    z_a, z_b = ((codes[:, :-1] - mean) / scale for codes in (a, b))
    j_a, j_b = (codes[:, -1:] - np.log(scale).sum() for codes in (a, b))
    loss = SupervisedFactorLoss(sizes, include_constant=True, dtype="float32")
    value = loss(is_shared * np.array(correlations), np.concatenate([z_a, z_b, j_a, j_b], axis=1))
    return -float(value) / (2 * len(mean))


def _encode_pairs(
    interpreter: Interpreter, hidden: np.ndarray, labels: np.ndarray, noise: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes pairs of latent vectors of hidden representations with noise.

    Returns:
        Both instances, `[pairs, n + 1]`, with the log-determinant last, and which factor each pair
        shares, `[pairs, 1 + K]`, the residual one first.
    """
    hidden = hidden + noise * np.random.default_rng(seed).normal(size=hidden.shape)
    shape = get_flow_shape(interpreter.flow)[1:]
    z, log_dets = run_in_batches(interpreter.flow, hidden.reshape(-1, *shape))
    codes = np.concatenate([z, log_dets[:, None]], axis=1).astype("float64")
    columns = to_columns(labels, len(codes))
    (a, b), y = make_pairs(codes, columns, batch_size=len(codes), seed=seed)[0]
    return a, b, y > 0


def rate_swaps(
    answers: Tensor, of_a: np.ndarray, of_b: np.ndarray, is_class: bool
) -> tuple[Any, Any]:
    """Returns how much answers are those of b, and how much those of a, from 0 to 1.

    Args:
        answers: The answers after an exchange, `[pairs]`.
        of_a: The answers that belong to the edited instances.
        of_b: The answers that belong to the instances whose factor they were given.
        is_class: Whether answers are classes, not numbers.

    Returns:
        The rates among pairs whose answers differ; NaN if no answers differ.

    Raises:
        ValueError: If answers do not have the shape or kind of those of the instances.
    """
    answers = np.asarray(np.asarray(answers).tolist())
    if answers.shape != of_a.shape or (answers.dtype.kind in "US") != (of_a.dtype.kind in "US"):
        raise ValueError(
            f"A judge should return what labels are, of shape {of_a.shape} and type {of_a.dtype}. "
            f"Received: shape {answers.shape} and type {answers.dtype}"
        )
    if np.all(of_a == of_b):
        return np.nan, np.nan
    if is_class:
        return tuple(swap_consistency(answers, of_a, of_b))
    difference = np.sum((of_a - of_b) ** 2)
    follows, keeps = (1 - np.sum((answers - of_one) ** 2) / difference for of_one in (of_b, of_a))
    return max(follows, 0.0), max(keeps, 0.0)
