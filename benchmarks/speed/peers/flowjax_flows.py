"""FlowJAX: flows of Equinox modules, their layers run by one `lax.scan`."""

from collections.abc import Callable

import equinox as eqx
import jax
import paramax
from flowjax import bijections
from flowjax.distributions import StandardNormal, Transformed

from speed.cells import Cell, Work
from speed.peers.jax_peers import make_likelihood_work, make_reflections_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["flowjax", "equinox", "jax"]


def make(cell: Cell, variant: str) -> Work | None:
    del variant
    if cell.kind == "reflections":
        return _make_reflections(cell)
    if cell.kind == "affine":
        layer, transformer = _make_coupling, _make_affine()
    elif cell.kind == "spline":
        layer = _make_coupling
        transformer = bijections.RationalQuadraticSpline(knots=7, interval=5)  # 8 bins between
    elif cell.kind == "maf":
        layer, transformer = bijections.MaskedAutoregressive, _make_affine()
    else:
        return None
    flip = bijections.Flip(cell.shape)

    def make_block(key: jax.Array) -> bijections.AbstractBijection:
        bijection = layer(
            key,
            transformer=transformer,
            dim=cell.size,
            nn_width=cell.hidden[0],
            nn_depth=len(cell.hidden),
        )
        return bijections.Chain([bijection, flip])

    stack = bijections.Scan(_vmap(make_block, cell.depth))
    params, static = _split(Transformed(StandardNormal(cell.shape), bijections.Invert(stack)))

    def log_prob(params, batch):
        return eqx.combine(params, static).log_prob(batch)

    def sample(params, key):
        return eqx.combine(params, static).sample(key, (cell.batch,))

    return make_likelihood_work(cell, params, log_prob, sample)


def _make_coupling(key: jax.Array, *, dim: int, **options) -> bijections.Coupling:
    return bijections.Coupling(key, untransformed_dim=dim // 2, dim=dim, **options)


def _make_affine() -> bijections.Affine:
    """Makes the transformer that `coupling_flow` and `masked_autoregressive_flow` default to."""
    scale = paramax.Parameterize(
        lambda x: jax.nn.softplus(x) + 1e-2, paramax.utils.inv_softplus(1 - 1e-2)
    )
    return eqx.tree_at(lambda affine: affine.scale, bijections.Affine(), scale)


def _make_reflections(cell: Cell) -> Work:
    def make_block(key: jax.Array) -> bijections.Householder:
        return bijections.Householder(jax.random.normal(key, cell.shape))

    params, static = _split(_vmap(make_block, cell.depth))

    def make_stack(params) -> bijections.Scan:
        """Unwraps each reflection by itself: unwrapped as one, all would share one length."""
        return bijections.Scan(eqx.filter_vmap(paramax.unwrap)(eqx.combine(params, static)))

    def forward(params, batch):
        return jax.vmap(make_stack(params).transform)(batch)

    def inverse(params, batch):
        return jax.vmap(make_stack(params).inverse)(batch)

    return make_reflections_work(cell, params, forward, inverse)


def _vmap(make_block: Callable, depth: int) -> bijections.AbstractBijection:
    return eqx.filter_vmap(make_block)(jax.random.split(jax.random.key(0), depth))


def _split(module):
    """Parts what is trained from what is not, as `flowjax.train` does."""
    return eqx.partition(
        module,
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )
