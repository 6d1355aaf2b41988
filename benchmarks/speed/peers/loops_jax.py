"""JAX's own operations: reflections in a plain sequential loop."""

import jax
import jax.numpy as jnp

from speed.cells import Cell, Work
from speed.peers.jax_peers import make_reflections_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["jax"]


def make(cell: Cell, variant: str) -> Work | None:
    del variant
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
