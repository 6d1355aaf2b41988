"""Solvers of ordinary differential equations."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from gyoza.modelling.functions.checks import check_choice, check_integer, check_positive
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.tensors import larger, mean, smaller, to_rows
from gyoza.typing import Tensor

__all__ = ["SOLVERS", "Field", "State", "check_solver", "make_step", "solve", "solve_adaptively"]


class _Method(NamedTuple):
    """An explicit Runge–Kutta method: where slopes are computed, and how they are weighted."""

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SOLVERS = {
    "euler": _Method((0.0,), ((),), (1.0,)),
    "midpoint": _Method((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "rk4": _Method(
        (0.0, 1 / 2, 1 / 2, 1.0),
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}
_DORMAND_PRINCE = _Method(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
)
# The difference of the results of fifth and fourth order, per slope.
_DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# As a fraction of the interval.
_SHORTEST = 1e-6

State = tuple[Tensor, ...]
Field = Callable[..., State]


def check_solver(solver: str) -> str:
    """Raises a `ValueError` unless there is such a solver, `"dopri5"` included."""
    check_choice("solver", solver, [*SOLVERS, "dopri5"])
    return solver


def solve(
    field: Field, state: State, start: float, stop: float, solver: str, step_count: int
) -> State:
    r"""Solves :math:`d y / d t = f(t, y)` by steps of equal length.

    The error is of the order :math:`h, h^2, h^4` in the length :math:`h` of a step for `"euler"`,
    `"midpoint"` and `"rk4"`, which compute :math:`f` once, twice and four times in a step.

    Args:
        field: The function :math:`f` of the time, a scalar tensor, and of the tensors of a state.
            It returns their derivatives, a tuple.
        state: The tensors of :math:`y` at `start`, in floating-point dtypes.
        start: The time to begin at.
        stop: The time to end at, which may be earlier.
        solver: One of the names in `SOLVERS`.
        step_count: The number of steps.

    Returns:
        The state at `stop`. It can be differentiated.

    Raises:
        ValueError: If there is no such solver, or `step_count` is not positive.

    Example:

        >>> from gyoza.modelling.functions import solve
        >>> (y,) = solve(lambda t, y: (-y,), (keras.ops.array([1.0]),), 0.0, 1.0, "rk4", 8)
        >>> keras.ops.convert_to_numpy(y).round(4)  # exp(-1)
        array([0.3679], dtype=float32)
    """
    if solver not in SOLVERS:
        raise ValueError(
            f"`solver` should be one of {list(SOLVERS)} where steps have equal lengths. "
            f"Received: solver={solver!r}"
        )
    check_integer("step_count", step_count, minimum=1)
    advance = make_step(field, start, stop, solver, step_count)
    return tuple(repeat(advance, state, step_count))


def make_step(
    field: Field, start: float, stop: float, solver: str, step_count: int
) -> Callable[[Tensor, State], State]:
    """Returns one of the steps that :func:`solve` takes: a function of its index and the state."""
    method = SOLVERS[solver]
    step = (stop - start) / step_count

    def advance(index: Tensor, state: State) -> State:
        time = ops.cast(index, state[0].dtype) * step + start
        return _step(field, method, time, state, step)[0]

    return advance


def _step(
    field: Field,
    method: _Method,
    time: Tensor,
    state: State,
    step: Tensor,
    first: State | None = None,
) -> tuple[State, list[State]]:
    """Takes a step, and returns the state after it and all slopes."""
    slopes = [field(time, *state) if first is None else first]
    for node, row in zip(method.nodes[1:], method.matrix[1:], strict=True):
        slopes.append(field(time + node * step, *_add(state, row, slopes, step)))
    return _add(state, method.weights, slopes, step), slopes


def _add(state: State, weights: tuple[float, ...], slopes: list[State], step: Tensor) -> State:
    """Returns `y + h (w_1 k_1 + w_2 k_2 + …)`."""
    return tuple(y + step * change for y, change in zip(state, _mix(weights, slopes), strict=True))


def _mix(weights: tuple[float, ...], slopes: list[State]) -> list[Tensor]:
    used = [(w, slope) for w, slope in zip(weights, slopes, strict=False) if w]
    return [sum(w * slope[i] for w, slope in used) for i in range(len(slopes[0]))]


def solve_adaptively(
    field: Field,
    state: State,
    start: float,
    stop: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_step_count: int = 1000,
    measured_count: int | None = None,
) -> tuple[State, Tensor]:
    r"""Solves :math:`d y / d t = f(t, y)` by steps whose length suits a tolerance.

    These are steps of the method of Dormand and Prince, of order 5. The difference to a result of
    order 4 is the error, which is compared with `atol + rtol |y|`: its root mean square is taken
    over the numbers of each row, and the largest one of all rows decides on the length of the next
    step, so that all rows take the same. Rows that are not finite do not count, nor do those for
    which a step of a millionth of the interval is too long: they become NaN.

    Args:
        field: See :func:`solve`.
        state: The tensors of :math:`y` at `start`, `[batch, ...]`.
        start: See :func:`solve`.
        stop: See :func:`solve`.
        rtol: The relative tolerance.
        atol: The absolute tolerance.
        max_step_count: The most steps to try. If they do not suffice, results are NaN.
        measured_count: The number of tensors, the first ones, whose errors decide on the steps.
            Others need no batch axis. All of them if omitted.

    Returns:
        The state at `stop`, and the number of steps that were tried. JAX cannot differentiate it
        in reverse mode; see :func:`solve_with_adjoint`.

    Raises:
        ValueError: If a tolerance is not positive.

    Example:

        >>> from gyoza.modelling.functions import solve_adaptively
        >>> (y,), step_count = solve_adaptively(
        ...     lambda t, y: (-y,), (keras.ops.array([[1.0]]),), 0.0, 1.0
        ... )
        >>> keras.ops.convert_to_numpy(y).round(4)  # exp(-1)
        array([[0.3679]], dtype=float32)

    References:
        - Dormand, J. R. & Prince, P. J. (1980). "A family of embedded Runge-Kutta formulae."
          Journal of Computational and Applied Mathematics 6(1), 19-26.
    """
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    check_integer("max_step_count", max_step_count, minimum=1)
    dtype = state[0].dtype
    count = len(state)
    measured = slice(measured_count)

    def scaled(progress: Tensor, *state: Tensor) -> State:
        """The derivatives by the progress, from 0 at `start` to 1 at `stop`."""
        slopes = field(start + (stop - start) * progress, *state)
        return tuple((stop - start) * slope for slope in slopes)

    def is_left(progress: Tensor, step: Tensor, step_count: Tensor, *_: Tensor) -> Tensor:
        return progress < 1.0

    def advance(progress: Tensor, step: Tensor, step_count: Tensor, *values: Tensor) -> State:
        state, slope = values[:count], values[count:]
        rest = 1.0 - progress
        is_last = step >= rest
        step = ops.where(is_last, rest, step)
        proposal, slopes = _step(scaled, _DORMAND_PRINCE, progress, state, step, slope)
        differences = tuple(step * difference for difference in _mix(_DIFFERENCE, slopes))
        rows, new_rows = state[measured], proposal[measured]
        error = _rate(differences[measured], rows, new_rows, rtol, atol)
        is_wrong = ~(error <= 1.0)  # or NaN
        # What the shortest step is too long for is given up: NaN, and not wrong.
        is_lost = is_wrong & (step <= _SHORTEST)
        proposal = (*(_forget_rows(y, is_lost) for y in new_rows), *proposal[len(rows) :])
        error = ops.where(ops.isfinite(error), error, np.inf)
        error = ops.where(is_lost | ~_are_finite(rows), ops.zeros_like(error), error)
        error = ops.max(error, initial=0.0)  # as of an empty batch
        accepted = error <= 1.0
        factor = ops.clip(0.9 * larger(error, 1e-10) ** -0.2, 0.2, 10.0)
        new_progress = ops.where(is_last, ops.ones_like(progress), progress + step)
        after = (new_progress, *proposal, *slopes[-1])
        before = (progress, *values)
        progress, *chosen = (
            ops.where(accepted, new, old) for new, old in zip(after, before, strict=True)
        )
        return progress, step * factor, step_count + 1, *chosen

    slope = scaled(ops.zeros((), dtype), *state)
    step = _guess_step(scaled, state, slope, measured, rtol, atol)
    progress, _, step_count, *values = ops.while_loop(
        is_left,
        advance,
        (ops.zeros((), dtype), step, ops.zeros((), "int32"), *state, *slope),
        maximum_iterations=max_step_count,
    )
    is_done = progress >= 1.0
    return tuple(_forget_rows(y, ~is_done) for y in values[:count]), step_count


def _guess_step(
    field: Field, state: State, slope: State, measured: slice, rtol: float, atol: float
) -> Tensor:
    """Returns the length of the first step, from the slopes now and a short step later.

    By Hairer, E., Nørsett, S. P. & Wanner, G. (1993). "Solving ordinary differential equations I",
    II.4: the shortest one of all rows.
    """
    rows = state[measured]
    size, speed = (_rate(values[measured], rows, rows, rtol, atol) for values in (state, slope))
    short = 0.01 * (size + 1e-3) / (speed + 1e-3)
    short = ops.clip(
        ops.min(ops.where(ops.isfinite(short), short, ops.ones_like(short)), initial=1.0), 1e-4, 1.0
    )
    later = field(short, *_add(state, (1.0,), [slope], short))
    changes = tuple((new - old) / short for new, old in zip(later, slope, strict=True))
    change = _rate(changes[measured], rows, rows, rtol, atol)
    scale = larger(speed, change)
    scale = ops.max(ops.where(ops.isfinite(scale), scale, ops.zeros_like(scale)), initial=0.0)
    return smaller(smaller(100.0 * short, 1.0), (0.01 / larger(scale, 1e-10)) ** 0.2)


def _rate(differences: State, first: State, second: State, rtol: float, atol: float) -> Tensor:
    """Returns the root mean square of errors in units of the tolerance, for each row."""
    parts = []
    for difference, y_1, y_2 in zip(differences, first, second, strict=True):
        error = difference / (atol + rtol * larger(ops.abs(y_1), ops.abs(y_2)))
        parts.append(to_rows(error))
    return ops.sqrt(mean(ops.square(ops.concatenate(parts, axis=-1)), -1))


def _forget_rows(y: Tensor, rows: Tensor) -> Tensor:
    """Returns `y` with NaN in some rows, or, for a scalar, in all of them."""
    if len(rows.shape):
        rows = ops.reshape(rows, (-1, *(1 for _ in y.shape[1:])))
    return ops.where(rows, np.nan * ops.ones_like(y), y)


def _are_finite(state: State) -> Tensor:
    """Returns which rows are finite."""
    parts = [to_rows(ops.isfinite(y)) for y in state]
    return ops.all(ops.concatenate(parts, axis=-1), axis=-1)
