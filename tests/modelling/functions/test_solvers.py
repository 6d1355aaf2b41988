"""Solvers of differential equations, by closed forms."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.linalg import expm, expm_frechet

from gyoza.backend import forget_gradients, jit, vjp
from gyoza.modelling.functions import (
    adjoints,
    compute_products,
    compute_quadratic_forms,
    make_units,
    solve,
    solve_adaptively,
    solve_with_adjoint,
    solve_with_recomputation,
)
from gyoza.modelling.functions.solvers import check_solver

MATRIX = np.array([[-1.0, 2.0], [-3.0, 0.5]])
START = np.array([[1.0, 2.0], [0.5, -1.0]])


def follow(time, y):
    """The linear equation y' = M y, by rows."""
    return (y @ ops.convert_to_tensor(MATRIX.T.astype(keras.backend.standardize_dtype(y.dtype))),)


def solution(duration=1.0):
    return START @ expm(MATRIX.T * duration)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_errors_fall_with_the_order_of_the_solver(solver, order):
    errors = []
    for step_count in (16, 32):
        start = ops.convert_to_tensor(START, dtype="float64")
        (y,) = solve(follow, (start,), 0.0, 1.0, solver, step_count)
        errors.append(np.abs(to_numpy(y) - solution()).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_the_time_is_that_of_each_stage():
    # Simpson's rule is exact for cubic functions of the time.
    (y,) = solve(lambda t, y: (y * 0.0 + t**3,), (ops.zeros((1, 1)),), 1.0, 3.0, "rk4", 1)
    assert to_numpy(y)[0, 0] == pytest.approx((3.0**4 - 1.0) / 4)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_adaptive_errors_are_as_tolerated(tolerance):
    start = ops.convert_to_tensor(START, dtype="float64")
    (y,), step_count = solve_adaptively(follow, (start,), 0.0, 1.0, tolerance, tolerance)
    assert np.abs(to_numpy(y) - solution()).max() < 3.0 * tolerance
    (y,), _ = solve_adaptively(follow, (y,), 1.0, 0.0, tolerance, tolerance)
    assert np.abs(to_numpy(y) - START).max() < 20.0 * tolerance
    assert 3 <= int(step_count) <= 20
    assert keras.backend.standardize_dtype(step_count.dtype) == "int32"


def test_errors_fall_with_the_fifth_power_of_adaptive_steps():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # along which all steps have the same length
    start, duration = ops.convert_to_tensor(START, dtype="float64"), 12.0
    errors, counts = [], []
    for tolerance in (1e-4, 1e-7):
        (y,), step_count = solve_adaptively(
            lambda _, y: (y @ ops.convert_to_tensor(turn),),
            (start,),
            0.0,
            duration,
            tolerance,
            tolerance,
        )
        errors.append(np.abs(to_numpy(y) - START @ expm(turn * duration)).max())
        counts.append(int(step_count))
    order = np.log(errors[0] / errors[1]) / np.log(counts[1] / counts[0])
    assert order == pytest.approx(5.0, abs=0.3), (errors, counts)


@pytest.mark.compiled_by
def test_tolerances_are_1e_5_unless_they_are_given():
    start = ops.convert_to_tensor(START, dtype="float64")
    for run in (
        lambda *options: solve_adaptively(follow, (start,), 0.0, 1.0, *options)[0],
        lambda *options: solve_with_adjoint(
            lambda time, _, y: follow(time, *y), (start,), [], 0.0, 1.0, *options
        ),
    ):
        np.testing.assert_array_equal(to_numpy(run()[0]), to_numpy(run(1e-5, 1e-5)[0]))


def test_numbers_beyond_those_of_float32_have_errors_as_tolerated():
    start = ops.convert_to_tensor([[1e-60], [1e60]], dtype="float64")
    (y,), _ = solve_adaptively(lambda t, y: (-y,), (start,), 0.0, 1.0, 1e-8, 1e-70)
    np.testing.assert_allclose(to_numpy(y), np.exp(-1.0) * to_numpy(start), 1e-7)


def test_adaptive_results_are_those_of_scipy():
    integrate = pytest.importorskip("scipy.integrate")

    def equation(time, y):
        return (ops.sin(5.0 * time) - y**3,)

    (y,), _ = jit(lambda y: solve_adaptively(equation, (y,), 0.0, 2.0, 1e-6, 1e-6))(
        ops.convert_to_tensor([[0.5], [2.0]])
    )
    expected = [
        integrate.solve_ivp(
            lambda t, y: np.sin(5.0 * t) - y**3, (0.0, 2.0), [start], rtol=1e-9, atol=1e-9
        ).y[0, -1]
        for start in (0.5, 2.0)
    ]
    np.testing.assert_allclose(to_numpy(y)[:, 0], expected, atol=1e-5)


def test_rows_that_cannot_be_solved_are_nan_and_do_not_disturb_others():
    start = np.array([[np.nan], [2.0], [0.5]], "float32")  # y = 1 / (1 / y_0 - t)
    (y,), step_count = jit(lambda y: solve_adaptively(lambda t, y: (y * y,), (y,), 0.0, 1.0))(
        ops.convert_to_tensor(start)
    )
    y = to_numpy(y)[:, 0]
    assert np.isnan(y[:2]).all()
    assert y[2] == pytest.approx(1.0, abs=1e-4)
    assert int(step_count) < 200


def test_an_empty_batch_is_solved_at_once():
    state = ops.zeros([0, 3, 2]), ops.zeros([0])
    solution, step_count = solve_adaptively(
        lambda t, y, _: (-y, ops.sum(y, axis=(1, 2))), state, 0.0, 1.0
    )
    assert [tuple(part.shape) for part in solution] == [(0, 3, 2), (0,)]
    assert int(step_count) < 10


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a loop is traced once there")
@pytest.mark.parametrize(
    ("rate", "rtol", "atol"),
    [(1e-3, 1e-3, 1e-4), (1.0, 1e-3, 1e-4), (30.0, 1e-3, 1e-4), (30.0, 0.1, 0.1)],
)
def test_the_first_step_is_that_of_the_formula(rate, rtol, atol):
    start, times = np.array([[1.0, 2.0], [0.1, -0.4]]), []

    def decay(time, y):
        times.append(float(to_numpy(time)))
        return (-rate * y,)

    solve_adaptively(decay, (ops.convert_to_tensor(start, "float64"),), 0.0, 1.0, rtol, atol)

    def measure(values):
        units = values / (atol + rtol * np.abs(start))
        return np.sqrt(np.mean(units**2, axis=1))

    speed = measure(-rate * start)
    short = np.clip(np.min(0.01 * (measure(start) + 1e-3) / (speed + 1e-3)), 1e-4, 1.0)
    largest = max(np.max(speed), np.max(measure(rate**2 * start)))
    step = min(100.0 * short, 1.0, (0.01 / largest) ** 0.2)
    # The formula looks at the slope now and a short step later; the next one is within the step.
    np.testing.assert_allclose(times[:3], [0.0, short, step / 5.0], rtol=1e-6)


@pytest.mark.parametrize("most", [1, 4])
def test_too_few_steps_give_nan(most):
    start = ops.convert_to_tensor(START.astype("float32"))
    (y,), step_count = solve_adaptively(follow, (start,), 0.0, 1.0, 1e-6, 1e-6, max_step_count=most)
    assert np.isnan(to_numpy(y)).all()
    assert int(step_count) == most


@pytest.fixture
def few_kept(monkeypatch):
    """Lets three states be kept: of 22 steps, those before blocks of eight, three and two."""
    monkeypatch.setattr(adjoints, "_MOST_KEPT", 3)


@pytest.mark.parametrize(
    ("run", "options"),
    [(solve_with_recomputation, ("rk4", 24)), (solve_with_adjoint, (1e-6, 1e-6))],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_matrix_exponentials(run, options, compiled):
    check_matrix_exponentials(run, options, compiled)


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_the_same_where_few_states_are_kept(few_kept, compiled):
    check_matrix_exponentials(solve_with_recomputation, ("rk4", 22), compiled)


def check_matrix_exponentials(run, options, compiled):
    weights = np.random.default_rng(0).normal(size=START.shape)

    def compute(start, matrix):
        def multiply(time, values, state):
            return (state[0] @ ops.transpose(values[0]),)

        def run_from(start, matrix):
            return run(multiply, (start,), [matrix], 0.0, 1.0, *options)[0]

        result, pull_back = vjp(run_from, [start, matrix])
        return result, *pull_back(ops.convert_to_tensor(weights))

    arguments = [ops.convert_to_tensor(array) for array in (START, MATRIX)]
    result, of_start, of_matrix = (jit(compute, xla=True) if compiled else compute)(*arguments)
    np.testing.assert_allclose(to_numpy(result), solution(), atol=1e-5)
    np.testing.assert_allclose(to_numpy(of_start), weights @ expm(MATRIX), atol=1e-5)
    # Frechet derivatives of the transposed matrix pull back.
    _, expected = expm_frechet(MATRIX.T, weights.T @ START)
    np.testing.assert_allclose(to_numpy(of_matrix), expected, atol=2e-5)


@pytest.mark.compiled_by
@pytest.mark.parametrize(
    ("run", "options"),
    [(solve_with_recomputation, ("rk4", 16)), (solve_with_adjoint, (1e-6, 1e-6))],
)
def test_gradients_by_several_values_of_an_equation_of_the_time(run, options):
    y_0, a, b = 0.5, 0.7, -0.3  # y' = a t y + b t, so y + b / a grows by exp(a t^2 / 2)
    growth = np.exp(a / 2.0)

    def run_from(y, *values):
        def move(time, values, state):
            return (values[0] * time * state[0] + values[1] * time,)

        return run(move, (y,), list(values), 0.0, 1.0, *options)[0]

    arguments = [ops.convert_to_tensor(x, dtype="float32") for x in ([[y_0]], a, b)]
    y, pull_back = vjp(run_from, arguments)
    gradients = [to_numpy(gradient).item() for gradient in pull_back(ops.ones_like(y))]
    assert to_numpy(y).item() == pytest.approx((y_0 + b / a) * growth - b / a, rel=1e-5)
    by_a = (y_0 + b / a) * growth / 2.0 - b / a**2 * (growth - 1.0)
    np.testing.assert_allclose(gradients, [growth, by_a, (growth - 1.0) / a], rtol=1e-4)


def test_one_step_can_be_recomputed():
    (y,) = solve_with_recomputation(
        lambda time, _, state: state, (ops.ones([1, 1]),), [], 0.0, 1.0, "euler", 1
    )
    assert to_numpy(y).item() == 2.0


def test_results_are_those_of_solve_also_where_no_gradients_are_kept():
    options = (0.0, 1.0, "rk4", 24)
    start = ops.convert_to_tensor(START)
    (expected,) = solve(follow, (start,), *options)
    for scope in (contextlib.nullcontext, forget_gradients):
        with scope():
            (y,) = solve_with_recomputation(
                lambda time, _, state: follow(time, *state), (start,), [], *options
            )
        np.testing.assert_allclose(to_numpy(y), to_numpy(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (solve_with_recomputation, ("rk4", 16)),
        pytest.param(
            solve_with_adjoint,
            (1e-6, 1e-6),
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax", reason="JAX derives loops of any length once"
            ),
        ),
    ],
)
def test_gradients_can_be_differentiated(run, options):
    check_second_derivatives(run, options)


def test_gradients_can_be_differentiated_where_few_states_are_kept(few_kept):
    check_second_derivatives(solve_with_recomputation, ("rk4", 22))


def check_second_derivatives(run, options):
    starts = np.array([[0.5], [0.25]])
    x, rate = (ops.convert_to_tensor(value, dtype="float32") for value in (starts, 0.7))

    def differentiate(rate):
        def run_from(x):  # the solution of y' = r y^2 is x / (1 - r t x)
            def square(time, values, y):
                return (values[0] * y[0] ** 2,)

            return run(square, (x,), [rate], 0.0, 1.0, *options)[0]

        y, pull_back = vjp(run_from, [x])
        return pull_back(ops.ones_like(y))[0]

    first, pull_back = vjp(differentiate, [rate])
    (second,) = pull_back(ops.ones_like(first))
    shrinkage = 1.0 - 0.7 * starts
    np.testing.assert_allclose(to_numpy(first), shrinkage**-2, rtol=1e-5)
    expected = np.sum(2.0 * starts * shrinkage**-3)
    assert to_numpy(second).item() == pytest.approx(expected, rel=1e-5)


def test_forms_are_those_of_the_jacobian_matrix():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")

    def square(x):
        return ops.stack([x[:, 0] * x[:, 1], x[:, 1] ** 2 + x[:, 0]], axis=1)

    units = make_units(ops.convert_to_tensor(x))
    values, products = compute_products(square, ops.convert_to_tensor(x), units)
    forms = compute_quadratic_forms(products, units)
    np.testing.assert_allclose(to_numpy(values), to_numpy(square(x)), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(forms), [x[:, 1], 2.0 * x[:, 1]], rtol=1e-5)
    ones = ops.ones((1, 3, 2))
    _, products = compute_products(square, ops.convert_to_tensor(x), ones)
    forms = compute_quadratic_forms(products, ones)
    expected = x[:, 1] + x[:, 0] + 1.0 + 2.0 * x[:, 1]
    np.testing.assert_allclose(to_numpy(forms)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda y: solve(follow, (y,), 0.0, 1.0, "rk5", 3), "one of .*'rk4'.*Received: .*'rk5'"),
        (lambda y: solve(follow, (y,), 0.0, 1.0, "rk4", 0), "Received: step_count=0"),
        (
            lambda y: solve_with_recomputation(follow, (y,), [], 0.0, 1.0, "rk4", 0),
            "^`step_count` should be .* at least 1. Received: step_count=0",
        ),
        (
            lambda _: check_solver("rk5"),
            "^`solver` should be one of .*'dopri5'.* Received: solver=",
        ),
        (
            lambda y: solve_adaptively(follow, (y,), 0.0, 1.0, max_step_count=0),
            "^`max_step_count` should be .* at least 1. Received: max_step_count=0",
        ),
        (lambda y: solve_adaptively(follow, (y,), 0.0, 1.0, rtol=0.0), "`rtol` should be positive"),
        (lambda y: solve_adaptively(follow, (y,), 0.0, 1.0, atol=-1.0), "`atol` should be pos"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run(ops.convert_to_tensor(START))
