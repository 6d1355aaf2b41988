"""JAX's own operations: plain loops over reflections, and over the steps of a solver."""

import jax
import jax.numpy as jnp

from speed.cells import Cell, Work, make_velocity_weights
from speed.peers.jax_peers import (
    compute_normal_log_prob,
    estimate_trace,
    make_reflections_work,
    make_work,
    run_velocity,
)

__all__ = ["PACKAGES", "make"]

PACKAGES = ["jax"]


def make(cell: Cell, variant: str) -> Work | None:
    del variant
    if cell.kind == "continuous":
        return _make_continuous(cell)
    if cell.kind != "reflections":
        return None
    normals = jax.random.normal(jax.random.key(0), (cell.depth, cell.size))
    return make_reflections_work(
        cell, normals, _reflect, lambda normals, x: _reflect(normals[::-1], x)
    )


def _reflect(normals: jax.Array, x: jax.Array) -> jax.Array:
    def reflect_once(x: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
        return x - 2 * jnp.outer(x @ v, v), None

    lengths = jnp.linalg.norm(normals, axis=1, keepdims=True)
    return jax.lax.scan(reflect_once, x, normals / lengths)[0]


def _make_continuous(cell: Cell) -> Work:
    weights = [jnp.asarray(weight) for weight in make_velocity_weights(cell)]
    weights[-2:] = [jnp.zeros_like(weight) for weight in weights[-2:]]

    def loss(weights, data, key):
        of_source, of_time = jax.random.split(key)
        source = jax.random.normal(of_source, data.shape)
        time = jax.random.uniform(of_time, (len(data), 1))
        velocity = run_velocity(weights, source + time * (data - source), time)
        return jnp.mean((velocity - (data - source)) ** 2)

    def log_prob(weights, x, key):
        signs = jax.random.rademacher(key, x.shape, x.dtype)

        def move(time, state):
            return estimate_trace(weights, state[0], time, signs)

        z, log_det = _solve(move, (x, jnp.zeros(len(x))), 1.0, 0.0, cell.depth)
        return compute_normal_log_prob(z) + log_det

    def sample(weights, key):
        z = jax.random.normal(key, (cell.batch, *cell.shape))
        return _solve(lambda time, x: run_velocity(weights, x, time), z, 0.0, 1.0, cell.depth)

    return make_work(cell, weights, loss, log_prob, sample)


def _solve(move, state, start: float, stop: float, step_count: int):
    """Solves an equation by the classical method of Runge and Kutta."""
    step = (stop - start) / step_count

    def add(state, slope, length):
        return jax.tree.map(lambda y, k: y + length * k, state, slope)

    def mix(a, b, c, d):
        return (a + 2.0 * (b + c) + d) / 6.0

    def advance(state, time):
        first = move(time, state)
        second = move(time + 0.5 * step, add(state, first, 0.5 * step))
        third = move(time + 0.5 * step, add(state, second, 0.5 * step))
        fourth = move(time + step, add(state, third, step))
        return add(state, jax.tree.map(mix, first, second, third, fourth), step), None

    return jax.lax.scan(advance, state, start + step * jnp.arange(step_count))[0]
