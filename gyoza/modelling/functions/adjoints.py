"""Gradients of solutions of ordinary differential equations that need little memory."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from gyoza.backend import isolate, keeps_gradients, vjp, with_gradient
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.solvers import State, make_step, solve, solve_adaptively
from gyoza.typing import Tensor

__all__ = ["solve_with_adjoint", "solve_with_recomputation"]

Values = Sequence[Any]
# Of the time, the values and the state.
ParametricField = Callable[[Tensor, Values, State], State]
# A function of its index, the state and the values.
Step = Callable[[Tensor, State, Values], State]

# The most states that are kept before steps, or blocks of steps, which are taken once more then.
_MOST_KEPT = 64


def solve_with_recomputation(
    field: ParametricField,
    state: State,
    values: Values,
    start: float,
    stop: float,
    solver: str,
    step_count: int,
) -> State:
    """Does what :func:`solve` does, and keeps few states for the gradient.

    The backward pass takes each step again, the last one first, and differentiates it there. So
    gradients are those of :func:`solve`, and what is computed within a step is not kept. Of more
    than 64 steps, states are kept before blocks of them, and the same is done within each block.

    Args:
        field: A function :math:`f` of the time, a scalar tensor, of `values`, and of the tensors of
            a state. It returns their derivatives, a tuple.
        state: The tensors at `start`, in floating-point dtypes.
        values: What else the result is to be differentiated by: floating-point tensors.
        start: See :func:`solve`.
        stop: See :func:`solve`.
        solver: See :func:`solve`.
        step_count: See :func:`solve`.

    Returns:
        The state at `stop`.

    Example:

        >>> from gyoza.modelling.functions import solve_with_recomputation
        >>> (y,) = solve_with_recomputation(
        ...     lambda t, rates, y: (-rates[0] * y[0],),
        ...     (keras.ops.array([1.0]),), [keras.ops.array(1.0)], 0.0, 1.0, "rk4", 8,
        ... )
        >>> keras.ops.convert_to_numpy(y).round(4)  # exp(-1)
        array([0.3679], dtype=float32)

    References:
        - Chen, T., Xu, B., Zhang, C. & Guestrin, C. (2016). "Training deep nets with sublinear
          memory cost." `arXiv:1604.06174 <https://arxiv.org/abs/1604.06174>`_
    """
    if not keeps_gradients():
        options = start, stop, solver, step_count
        return solve(lambda time, *state: field(time, values, state), state, *options)
    check_integer("step_count", step_count, minimum=1)

    def take_step(index: Tensor, state: State, values: Values) -> State:
        advance = make_step(
            lambda time, *state: field(time, values, state), start, stop, solver, step_count
        )
        return advance(index, state)

    return _take_steps(take_step, state, values, step_count)


def _take_steps(take_step: Step, state: State, values: Values, step_count: int) -> State:
    """Takes steps, and keeps the states before them: of many steps, those before each block."""
    if step_count <= _MOST_KEPT:
        return _take_kept_steps(take_step, state, values, step_count)
    length = -(-step_count // _MOST_KEPT)
    block_count, rest = divmod(step_count, length)

    def take_block(block: Tensor, state: State, values: Values) -> State:
        def take_one(index: Tensor, state: State, values: Values) -> State:
            *values, done = values
            done = ops.stop_gradient(done)
            return take_step(done + ops.cast(index, done.dtype), state, values)

        # What is differentiated on JAX must not refer to the index of another loop.
        done = ops.cast(block * length, state[0].dtype)
        return _take_steps(take_one, state, [*values, done], length)

    state = _take_kept_steps(take_block, state, values, block_count)
    if not rest:
        return state
    done = block_count * length
    return _take_steps(lambda index, *y: take_step(done + index, *y), state, values, rest)


def _take_kept_steps(take_step: Step, state: State, values: Values, step_count: int) -> State:
    """Takes steps, and keeps the states before them."""
    count = len(state)

    def forward(*arguments: Any) -> State:
        state, values = arguments[:count], arguments[count:]

        def advance(index: Tensor, parts: State) -> State:
            state, history = parts[:count], parts[count:]
            kept = (
                ops.slice_update(steps, (index, *(0 for _ in part.shape)), part[None])
                for steps, part in zip(history, state, strict=True)
            )
            return *take_step(index, state, values), *kept

        history = (ops.zeros((step_count, *ops.shape(part)), part.dtype) for part in state)
        return tuple(repeat(advance, (*state, *history), step_count))

    def backward(outputs: Values, others: Values, cotangents: Values) -> list[Tensor]:
        history, values = outputs[count:], others[count - 1 :]

        def go_back(index: Tensor, gradients: Values) -> tuple[Tensor, ...]:
            index = step_count - 1 - index
            state = [ops.take(part, index, axis=0) for part in history]
            of_state, of_values = gradients[:count], gradients[count:]
            _, pull_back = vjp(
                lambda *arguments: take_step(index, arguments[:count], arguments[count:]),
                [*state, *values],
            )
            products = pull_back(tuple(of_state))
            # Second derivatives also go through the states that were kept.
            of_kept = (ops.take(part, index, axis=0) for part in cotangents[count:])
            others = *of_kept, *of_values
            return tuple(a + b for a, b in zip(products, others, strict=True))

        zeros = [ops.zeros_like(value) for value in values]
        return list(repeat(isolate(go_back), (*cotangents[:count], *zeros), step_count))

    return tuple(with_gradient(forward, backward)(*state, *values)[:count])


def solve_with_adjoint(
    field: ParametricField,
    state: State,
    values: Values,
    start: float,
    stop: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_step_count: int = 1000,
) -> State:
    r"""Does what :func:`solve_adaptively` does, with a gradient by the adjoint equation.

    With values :math:`\theta`, the gradient :math:`a` of a loss with respect to the state and
    that with respect to the values follow from their equations, which are solved together with that
    of the state from `stop` to `start`, with the same tolerances:

    .. math::
        \frac{d a}{d t} = -a^\top \frac{\partial f}{\partial y}, \qquad
        \frac{d L}{d \theta} =
        \int a^\top \frac{\partial f}{\partial \theta} \, d t.

    Nothing but the result is kept. Errors of gradients with respect to the values do not decide on
    the length of steps.

    Args:
        field: See :func:`solve_with_recomputation`.
        state: See :func:`solve_adaptively`.
        values: See :func:`solve_with_recomputation`.
        start: See :func:`solve_adaptively`.
        stop: See :func:`solve_adaptively`.
        rtol: See :func:`solve_adaptively`.
        atol: See :func:`solve_adaptively`.
        max_step_count: See :func:`solve_adaptively`.

    Returns:
        The state at `stop`.

    Example:

        >>> from gyoza.modelling.functions import solve_with_adjoint
        >>> (y,) = solve_with_adjoint(
        ...     lambda t, rates, y: (-rates[0] * y[0],),
        ...     (keras.ops.array([[1.0]]),), [keras.ops.array(1.0)], 0.0, 1.0,
        ... )
        >>> keras.ops.convert_to_numpy(y).round(4)  # exp(-1)
        array([[0.3679]], dtype=float32)

    References:
        - Chen, R. T. Q., Rubanova, Y., Bettencourt, J. & Duvenaud, D. (2018). "Neural ordinary
          differential equations." `arXiv:1806.07366 <https://arxiv.org/abs/1806.07366>`_
        - Kidger, P., Chen, R. T. Q. & Lyons, T. (2021). "'Hey, that's not an ODE': Faster ODE
          adjoints via seminorms." `arXiv:2009.09457 <https://arxiv.org/abs/2009.09457>`_
    """
    count = len(state)
    tolerances = rtol, atol, max_step_count

    def forward(*arguments: Any) -> State:
        state, values = arguments[:count], arguments[count:]
        return solve_adaptively(
            lambda time, *state: field(time, values, state), state, start, stop, *tolerances
        )[0]

    def backward(outputs: Values, others: Values, cotangents: Values) -> list[Tensor]:
        values = others[count - 1 :]

        def go_back(time: Tensor, *parts: Any) -> State:
            slopes, pull_back = vjp(
                lambda *arguments: field(time, arguments[count:], arguments[:count]),
                [*parts[:count], *values],
            )
            products = pull_back(tuple(parts[count : 2 * count]))
            return *slopes, *(-product for product in products)

        zeros = [ops.zeros_like(value) for value in values]
        parts = *outputs, *cotangents, *zeros
        parts, _ = solve_adaptively(go_back, parts, stop, start, *tolerances, 2 * count)
        return list(parts[count:])

    return tuple(with_gradient(forward, backward)(*state, *values))
