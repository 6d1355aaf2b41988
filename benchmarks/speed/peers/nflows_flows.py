"""nflows: transforms and distributions as modules of PyTorch."""

from collections.abc import Callable
from functools import partial

from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow, MaskedAutoregressiveFlow
from nflows.utils import create_alternating_binary_mask
from torch import nn

from speed.cells import Cell, Work
from speed.peers.torch_peers import (
    DEVICE,
    Conditioner,
    ConvConditioner,
    get_shape,
    make_reflections,
    make_work,
)

__all__ = ["PACKAGES", "make"]

PACKAGES = ["nflows", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"eager"` and `"compiled"`."""
    is_compiled = variant == "compiled"
    if is_compiled and cell.kind not in _COMPILABLE:
        return None
    if cell.kind == "reflections":
        layer = transforms.HouseholderSequence(cell.size, cell.depth).to(DEVICE)
        return make_reflections(
            cell, layer, lambda inputs: layer(inputs)[0], lambda inputs: layer.inverse(inputs)[0]
        )
    if cell.kind not in _MAKERS:
        return None
    flow = _MAKERS[cell.kind](cell).to(DEVICE)
    return make_work(cell, flow, flow.log_prob, lambda: flow.sample(cell.batch), is_compiled)


def _make_additive(cell: Cell) -> Flow:
    layers = []
    for index in range(cell.depth):
        layers += [
            transforms.ActNorm(cell.size),
            _make_coupling(transforms.AdditiveCouplingTransform, cell, index),
        ]
    return _make_flow(cell.shape, layers)


def _make_couplings(cell: Cell, make_transform: Callable) -> Flow:
    layers = [_make_coupling(make_transform, cell, index) for index in range(cell.depth)]
    return _make_flow(cell.shape, layers)


def _make_maf(cell: Cell) -> Flow:
    width, *more = cell.hidden
    return MaskedAutoregressiveFlow(
        cell.size, width, cell.depth, len(more), use_residual_blocks=False
    )


def _make_glow(cell: Cell) -> Flow:
    squeeze = transforms.SqueezeTransform()
    shape = squeeze.get_output_shape(*get_shape(cell))
    layers = [squeeze]
    for _ in range(cell.depth):
        layers += [
            transforms.ActNorm(shape[0]),
            transforms.OneByOneConvolution(shape[0]),
            transforms.AffineCouplingTransform(
                create_alternating_binary_mask(shape[0]),
                partial(ConvConditioner, widths=cell.hidden),
            ),
        ]
    return _make_flow(shape, layers)


def _make_coupling(make_transform: Callable, cell: Cell, index: int) -> transforms.Transform:
    mask = create_alternating_binary_mask(cell.size, even=index % 2 == 0)
    return make_transform(mask, partial(Conditioner, widths=cell.hidden))


def _make_flow(shape: tuple[int, ...], layers: list[nn.Module]) -> Flow:
    return Flow(transforms.CompositeTransform(layers), StandardNormal(shape))


_MAKERS = {
    "additive": _make_additive,
    "affine": partial(_make_couplings, make_transform=transforms.AffineCouplingTransform),
    "spline": partial(
        _make_couplings,
        make_transform=partial(
            transforms.PiecewiseRationalQuadraticCouplingTransform,
            num_bins=8,
            tails="linear",
            tail_bound=5.0,
        ),
    ),
    "maf": _make_maf,
    "glow": _make_glow,
}

_COMPILABLE = {"additive", "affine", "maf", "glow"}  # where it is faster
