"""Solvers of differential equations, by those of SciPy, diffrax and torchdiffeq."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit
from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.flow_layers import ContinuousFlow
from gyoza.modelling.functions import solve, solve_adaptively

START = np.array([[1.0, 0.5], [2.0, 3.0], [0.2, 4.0]])
STOP = 3.0


def hunt(time, y):
    """Prey and predators after Lotka and Volterra, whose food depends on the season, `[3, 2]`."""
    season = 1.0 + 0.3 * (time - 1.0) ** 2
    prey, predators = y[:, :1], y[:, 1:]
    return [season * prey - 0.8 * prey * predators, 0.4 * prey * predators - 0.7 * predators]


def run(solver):
    """Solves the equation in float64, compiled; the number of steps is that of a fixed solver."""

    def field(time, y):
        return (ops.concatenate(hunt(time, y), axis=1),)

    def follow(y):
        if solver == "dopri5":
            return solve_adaptively(field, (y,), 0.0, STOP, 1e-7, 1e-7)[0]
        return solve(field, (y,), 0.0, STOP, solver, 12)

    start = ops.convert_to_tensor(START, dtype="float64")
    assert keras.backend.standardize_dtype(start.dtype) == "float64"
    return to_numpy(jit(follow)(start)[0])


def test_solutions_are_those_of_scipy():
    integrate = pytest.importorskip("scipy.integrate")

    def field(time, y):
        return np.concatenate(hunt(time, y.reshape(START.shape)), axis=1).ravel()

    solution = integrate.solve_ivp(field, (0.0, STOP), START.ravel(), rtol=1e-11, atol=1e-11)
    expected = solution.y[:, -1].reshape(START.shape)
    np.testing.assert_allclose(run("dopri5"), expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(run("rk4"), expected, rtol=2e-2)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="diffrax is for JAX")
@pytest.mark.parametrize(
    ("solver", "name"), [("euler", "Euler"), ("midpoint", "Midpoint"), ("dopri5", "Dopri5")]
)
def test_solutions_are_those_of_diffrax(solver, name):
    diffrax = pytest.importorskip("diffrax")
    is_adaptive = solver == "dopri5"
    controller = diffrax.PIDController(rtol=1e-9, atol=1e-9) if is_adaptive else None
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda time, y, _: ops.concatenate(hunt(time, y), axis=1)),
        getattr(diffrax, name)(),
        0.0,
        STOP,
        dt0=None if is_adaptive else STOP / 12,
        y0=ops.convert_to_tensor(START, dtype="float64"),
        stepsize_controller=controller or diffrax.ConstantStepSize(),
    )
    tolerance = 2e-6 if is_adaptive else 1e-9
    np.testing.assert_allclose(run(solver), to_numpy(solution.ys[0]), rtol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torchdiffeq is for PyTorch")
@pytest.mark.parametrize("solver", ["euler", "midpoint", "dopri5"])
def test_solutions_are_those_of_torchdiffeq(solver):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    times = np.linspace(0.0, STOP, 2 if solver == "dopri5" else 13)
    solution = torchdiffeq.odeint(
        lambda time, y: ops.concatenate(hunt(time, y), axis=1),
        ops.convert_to_tensor(START, dtype="float64"),
        ops.convert_to_tensor(times, dtype="float64"),
        rtol=1e-9,
        atol=1e-9,
        method=solver,
    )
    tolerance = 2e-6 if solver == "dopri5" else 1e-9
    np.testing.assert_allclose(run(solver), to_numpy(solution[-1]), rtol=tolerance)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_flows_are_those_of_the_augmented_equation(solver):
    """Of the equation of the point and of the trace of the Jacobian matrix, solved by SciPy."""
    integrate = pytest.importorskip("scipy.integrate")
    velocity = VelocityMLP([8, 8], "tanh", frequency_count=1)
    layer = ContinuousFlow(velocity, solver=solver, step_count=32)
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 2)).astype("float32")
    layer(x)
    weights = [0.6 * random.normal(size=weight.shape) for weight in velocity.weights]
    velocity.set_weights([weight.astype("float32") for weight in weights])

    def compute_velocity_and_jacobian(time, x):
        inputs = np.concatenate([x, [time, np.cos(np.pi * time), np.sin(np.pi * time)]])
        hidden = np.tanh(inputs @ weights[0] + weights[1])
        jacobian = weights[0][:2] * (1.0 - hidden**2)
        outputs = np.tanh(hidden @ weights[2] + weights[3])
        jacobian = jacobian + (jacobian @ weights[2]) * (1.0 - outputs**2)
        return (hidden + outputs) @ weights[4] + weights[5], jacobian @ weights[4]

    def move(time, state):
        slope, jacobian = compute_velocity_and_jacobian(time, state[:2])
        return [*slope, np.trace(jacobian)]

    expected = np.array(
        [
            integrate.solve_ivp(move, (1.0, 0.0), [*row, 0.0], rtol=1e-10, atol=1e-10).y[:, -1]
            for row in x
        ]
    )
    outputs, log_det = layer(x)
    assert np.abs(expected[:, 2]).max() > 0.3
    np.testing.assert_allclose(to_numpy(outputs), expected[:, :2], atol=1e-4)
    np.testing.assert_allclose(to_numpy(log_det), expected[:, 2], atol=1e-4)
