"""Distrax: bijectors over functions of JAX, as in the library's example of a flow."""

import distrax
import jax
import jax.numpy as jnp

from speed.cells import Cell, Work
from speed.peers.jax_peers import apply_mlp, make_likelihood_work, make_mlp

__all__ = ["PACKAGES", "make"]

PACKAGES = ["distrax", "jax"]


def make(cell: Cell, variant: str) -> Work | None:
    del variant
    if cell.kind == "affine":
        make_bijector, param_count = _make_affine, 2
    elif cell.kind == "spline":
        make_bijector, param_count = _make_spline, 3 * 8 + 1
    else:
        return None
    half = cell.size // 2
    sizes = [half, *cell.hidden, half * param_count]
    params = [make_mlp(key, sizes) for key in jax.random.split(jax.random.key(0), cell.depth)]

    def make_layer(index: int, layers: list) -> distrax.SplitCoupling:
        def condition(x: jax.Array) -> jax.Array:
            return apply_mlp(layers, x).reshape(*x.shape, param_count)

        return distrax.SplitCoupling(half, 1, condition, make_bijector, swap=index % 2 == 1)

    def make_flow(params: list) -> distrax.Transformed:
        layers = [make_layer(index, layers) for index, layers in enumerate(params)]
        base = distrax.MultivariateNormalDiag(jnp.zeros(cell.shape), jnp.ones(cell.shape))
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain(layers)))

    def log_prob(params: list, batch: jax.Array) -> jax.Array:
        return make_flow(params).log_prob(batch)

    def sample(params: list, key: jax.Array) -> jax.Array:
        return make_flow(params).sample(seed=key, sample_shape=cell.batch)

    return make_likelihood_work(cell, params, log_prob, sample)


def _make_affine(params: jax.Array) -> distrax.Bijector:
    return distrax.ScalarAffine(shift=params[..., 0], log_scale=jnp.tanh(params[..., 1]))


def _make_spline(params: jax.Array) -> distrax.Bijector:
    return distrax.RationalQuadraticSpline(params, -5.0, 5.0, boundary_slopes="identity")
