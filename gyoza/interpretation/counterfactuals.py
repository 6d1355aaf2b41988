"""The search for the smallest change of latent vectors that changes what a network answers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients, vjp
from gyoza.interpretation.latents import to_tensor
from gyoza.modelling.functions.tensors import larger, to_numpy
from gyoza.typing import Tensor, Tensors

__all__ = [
    "Counterfactual",
    "check_target",
    "check_losses",
    "are_probabilities",
    "compute_margin",
    "differentiate_margin",
    "find_nearest",
]

_SMALLEST_PROBABILITY = 1e-30
_MEMORY = 4
"""The number of linearisations that are considered together."""
_SWEEPS = 30
_SPARE = 1e-3
"""The margin by which answers have to be right, as a share of the initial one."""
_LEAST_SPARE = 1e-6
_LONGEST_STEP = 1.0
_SHORTENING = 0.9
"""The factor by which each step of the second half of the search is shortened."""
_TOLERANCE = 1e-4
_BISECTIONS = 12


class Counterfactual(NamedTuple):
    """What :meth:`Interpreter.counterfactual` returns: arrays with one row for each instance."""

    outputs: Tensors
    """The outputs of the network for the changed factors."""
    factors: dict[str, np.ndarray]
    """The changed factors by name, `[instances, size of the factor]`."""
    distance: np.ndarray
    """How far they were moved, `[instances]`: 0 if the answer was right, infinite if not found."""
    found: np.ndarray
    """Whether the network gives the wanted answer, `[instances]`."""


def check_target(target: Tensor, outputs: Tensors, count: int) -> np.ndarray:
    """Checks the classes that a network should answer.

    Args:
        target: A class, or one for each instance.
        outputs: The current outputs of the network.
        count: The number of instances.

    Returns:
        The classes, `[count]`.

    Raises:
        ValueError: If they do not fit the outputs.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            "`target` should be a callable unless outputs have shape [batch, classes], with at "
            f"least two classes. Received: target={target!r}, outputs of shape {shape}"
        )
    classes = np.asarray(target)
    if (
        classes.dtype.kind not in "iu"
        or classes.shape not in ((), (count,))
        or np.any((classes < 0) | (classes >= shape[1]))
    ):
        raise ValueError(
            f"`target` should be the index of one of {shape[1]} classes, one for each of the "
            f"{count} instances, or a callable. Received: target={target!r}"
        )
    return np.broadcast_to(classes, [count]).astype("int32")


def check_losses(target: Callable[[Tensors], Tensor], outputs: Tensors, count: int) -> None:
    """Checks that a callable returns a loss for each instance.

    Args:
        target: The callable.
        outputs: The current outputs of the network.
        count: The number of instances.

    Raises:
        ValueError: If it returns something else.
    """
    with forget_gradients():
        shape = np.shape(to_numpy(target(keras.tree.map_structure(to_tensor, outputs))))
    if shape != (count,):
        raise ValueError(
            f"`target` should map outputs to a loss for each instance, of shape [{count}]. "
            f"Received: a callable that returns shape {shape}"
        )


def are_probabilities(outputs: np.ndarray) -> bool:
    """Returns whether outputs are probabilities of classes, `[batch, classes]`."""
    return bool(
        np.all(outputs >= 0.0) and np.allclose(outputs.sum(axis=1, dtype="float64"), 1.0, atol=1e-2)
    )


def compute_margin(outputs: Tensor, target: Tensor, take_logarithms: bool) -> Tensor:
    """Computes by how much the output of the target exceeds that of every other class.

    Args:
        outputs: Outputs of a network, `[batch, classes]`.
        target: The classes, `[batch]`.
        take_logarithms: Whether to take logarithms of the outputs, which are probabilities.

    Returns:
        The margins, `[batch]`, positive where the network answers with the target.
    """
    if take_logarithms:
        outputs = ops.log(larger(_SMALLEST_PROBABILITY, outputs))
    is_target = ops.one_hot(target, outputs.shape[1], dtype=outputs.dtype)
    of_target = ops.sum(outputs * is_target, axis=1)
    of_others = ops.where(is_target > 0.0, ops.full_like(outputs, -np.inf), outputs)
    return of_target - ops.max(of_others, axis=1)


def differentiate_margin(margin: Callable[..., Any], z: Tensor) -> tuple[Tensor, Tensor]:
    """Computes margins and their gradients with respect to latent vectors.

    Args:
        margin: A callable that maps latent vectors to margins, `[batch]`.
        z: The latent vectors, `[batch, n]`.

    Returns:
        The margins, `[batch]`, and their gradients, `[batch, n]`.
    """
    margins, pull_back = vjp(margin, [z])
    return margins, pull_back(ops.ones_like(margins))[0]


def find_nearest(
    differentiate: Callable[..., tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    others: Sequence[np.ndarray],
    is_free: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Finds the nearest points at which a margin is positive, by a sequence of linearisations.

    Once the margin :math:`m` is known for a few moves :math:`\delta_k`, the next move
    :math:`\delta` is the shortest that the linearisations allow,

    .. math::
        \min \lVert \delta \rVert \quad \text{such that} \quad
        m_k + \nabla m_k \cdot (\delta - \delta_k) \geq \varepsilon \quad \text{for each } k,

    or goes in its direction as far as a single step may. With one linearisation, this is the step
    of the first-order reliability method. Several keep the search from oscillating where classes
    meet. The shortest move with a positive margin is kept, and shortened by bisection.

    Args:
        differentiate: A callable that maps latent vectors and other arrays to margins, `[N]`, and
            their gradients, `[N, n]`.
        start: The initial latent vectors, `[N, n]`.
        others: The other arrays.
        is_free: Which dimensions may change, `[n]`.
        steps: The largest number of linearisations.

    Returns:
        The latent vectors, `[N, n]`, unchanged if there is nothing to change or nothing is found;
        the lengths of the moves, `[N]`, infinite if nothing is found; and whether a move is found,
        `[N]`.
    """

    def add(move: np.ndarray) -> np.ndarray:
        z = start.copy()
        z[:, is_free] += move
        return z

    margins, gradients = differentiate(start, *others)
    answered = margins > 0.0
    spare = np.maximum(_SPARE * np.abs(margins), _LEAST_SPARE)
    move = np.zeros([len(start), np.sum(is_free)])
    best, shortest = move.copy(), np.where(answered, 0.0, np.inf)
    normals: list[np.ndarray] = []
    bounds: list[np.ndarray] = []
    longest_step, resting = _LONGEST_STEP, np.zeros(len(start))
    for step in range(steps):
        normals = [*normals, gradients[:, is_free].astype("float64")][-_MEMORY:]
        # The aim is twice the spare margin, so that the margin is reached and not only approached.
        bound = 2.0 * spare - margins + np.sum(normals[-1] * move, axis=1)
        bounds = [*bounds, bound][-_MEMORY:]
        change = _find_shortest(normals, bounds) - move
        length = np.linalg.norm(change, axis=1)
        rests = answered | (length <= _TOLERANCE * (1.0 + np.linalg.norm(move, axis=1)))
        resting = np.where(rests, resting + 1, 0)
        if np.all(resting >= _MEMORY):  # all linearisations in memory are from here
            break
        move += change * np.minimum(1.0, longest_step / np.maximum(length, longest_step))[:, None]
        if step >= steps // 2:
            longest_step *= _SHORTENING
        margins, gradients = differentiate(add(move), *others)
        length = np.linalg.norm(move, axis=1)
        is_better = (margins >= spare) & (length < shortest)
        best[is_better], shortest[is_better] = move[is_better], length[is_better]
    below, above = np.zeros(len(start)), np.ones(len(start))
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2.0
        margins, _ = differentiate(add(middle[:, None] * best), *others)
        below, above = np.where(margins >= spare, [below, middle], [middle, above])
    found = np.isfinite(shortest)
    distance = np.where(found, np.linalg.norm(above[:, None] * best, axis=1), np.inf)
    return add(above[:, None] * best), distance, found


def _find_shortest(normals: list[np.ndarray], bounds: list[np.ndarray]) -> np.ndarray:
    r"""Finds the shortest vectors with :math:`w_k \cdot \delta \geq b_k` for each k.

    This is Hildreth's method, which corrects one inequality after the other.

    Args:
        normals: The vectors :math:`w_k`, each `[N, n]`.
        bounds: The numbers :math:`b_k`, each `[N]`.

    Returns:
        The vectors, `[N, n]`. If no vector satisfies all inequalities, some long vector.
    """
    w, b = np.stack(normals, axis=1), np.stack(bounds, axis=1)
    gram = w @ np.swapaxes(w, 1, 2)
    weights = np.zeros(b.shape)
    squares = np.diagonal(gram, axis1=1, axis2=2)
    scales = np.where(squares > 0.0, squares, np.inf)
    for _ in range(_SWEEPS if len(normals) > 1 else 1):
        for k in range(len(normals)):
            missing = b[:, k] - np.sum(gram[:, k] * weights, axis=1)
            weights[:, k] = np.maximum(weights[:, k] + missing / scales[:, k], 0.0)
    return np.sum(weights[:, :, None] * w, axis=1)
