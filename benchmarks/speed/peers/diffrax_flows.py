"""Diffrax: solvers of differential equations on JAX."""

import diffrax
import jax
import jax.numpy as jnp

from speed.cells import TOLERANCE, Cell, Work, make_velocity_weights
from speed.peers.jax_peers import (
    compute_normal_log_prob,
    estimate_trace,
    make_adaptive_work,
    run_velocity,
)

__all__ = ["PACKAGES", "make"]

PACKAGES = ["diffrax", "jax"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; the variant is `"batch"`, since all rows take the same steps."""
    del variant
    if cell.kind != "adaptive":
        return None
    weights = [jnp.asarray(weight) for weight in make_velocity_weights(cell)]

    def log_prob(weights, x, key):
        signs = jax.random.rademacher(key, x.shape, x.dtype)

        def move(time, state, _):
            return estimate_trace(weights, state[0], time, signs)

        z, log_det = _solve(move, (x, jnp.zeros(len(x))), 1.0, 0.0)
        return compute_normal_log_prob(z) + log_det

    def sample(weights, key):
        z = jax.random.normal(key, (cell.batch, *cell.shape))
        return _solve(lambda time, x, _: run_velocity(weights, x, time), z, 0.0, 1.0)

    return make_adaptive_work(cell, weights, log_prob, sample)


def _solve(move, state, start: float, stop: float):
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(move),
        diffrax.Dopri5(),
        start,
        stop,
        dt0=None,
        y0=state,
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
    )
    return jax.tree.map(lambda y: y[0], solution.ys)
