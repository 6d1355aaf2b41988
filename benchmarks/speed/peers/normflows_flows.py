"""normflows: lists of flow layers in PyTorch, which map from the latent space to the data."""

from functools import partial

import normflows as nf
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from normflows.utils.masks import create_alternating_binary_mask

from speed.cells import Cell, Work
from speed.peers.torch_peers import DEVICE, Conditioner, get_shape, make_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["normflows", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"eager"` and `"compiled"`."""
    is_compiled = variant == "compiled"
    if cell.kind not in (_COMPILABLE if is_compiled else _MAKERS):
        return None
    shape = get_shape(cell)
    layers = [layer for index in range(cell.depth) for layer in _MAKERS[cell.kind](cell, index)]
    if cell.kind == "glow":
        channels, height, width = shape
        shape = 4 * channels, height // 2, width // 2
        layers.append(nf.flows.Squeeze())
    base = nf.distributions.DiagGaussian(shape, trainable=False)
    flow = nf.NormalizingFlow(base, layers).to(DEVICE)
    return make_work(cell, flow, flow.log_prob, lambda: flow.sample(cell.batch)[0], is_compiled)


def _make_additive_layers(cell: Cell, index: int) -> list[nf.flows.Flow]:
    half = cell.size // 2
    network = nf.nets.MLP([half, *cell.hidden, half])
    return [
        nf.flows.Permute(cell.size, mode="swap"),
        nf.flows.AffineCouplingBlock(network, scale=False),
        nf.flows.ActNorm(cell.shape),
    ]


def _make_affine_layers(cell: Cell, index: int) -> list[nf.flows.Flow]:
    network = nf.nets.MLP([cell.size // 2, *cell.hidden, cell.size], init_zeros=True)
    return [nf.flows.AffineCouplingBlock(network), nf.flows.Permute(cell.size, mode="swap")]


def _make_spline_layers(cell: Cell, index: int) -> list[nf.flows.Flow]:
    coupling = PiecewiseRationalQuadraticCoupling(
        create_alternating_binary_mask(cell.size, even=index % 2 == 0),
        partial(Conditioner, widths=cell.hidden),
        num_bins=8,
        tails="linear",
        tail_bound=5.0,
    )
    return [nf.flows.Reverse(coupling)]


def _make_maf_layers(cell: Cell, index: int) -> list[nf.flows.Flow]:
    width, *more = cell.hidden
    layer = nf.flows.MaskedAffineAutoregressive(
        cell.size, width, num_blocks=len(more), use_residual_blocks=False
    )
    return [nf.flows.Reverse(layer), nf.flows.Permute(cell.size)]


def _make_glow_layers(cell: Cell, index: int) -> list[nf.flows.Flow]:
    return [nf.flows.GlowBlock(4 * cell.shape[-1], cell.hidden[0])]


_MAKERS = {
    "additive": _make_additive_layers,
    "affine": _make_affine_layers,
    "spline": _make_spline_layers,
    "maf": _make_maf_layers,
    "glow": _make_glow_layers,
}

_COMPILABLE = {"affine", "maf"}  # where it is faster
