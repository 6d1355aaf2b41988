"""FrEIA: invertible networks for PyTorch, whose blocks are appended one after the other.

Its coupling blocks transform both halves, one after the other, so each counts for two couplings.
With additive couplings, an activation normalization then precedes every other coupling only. For
images, its documentation advises `AllInOneBlock`, whose 1×1 convolution is a fixed rotation, and
whose activation normalization comes after the coupling.
"""

import math
from collections.abc import Callable
from functools import partial

import FrEIA.framework
import FrEIA.modules
import torch
from torch import Tensor

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

PACKAGES = ["FrEIA", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"eager"` and `"compiled"`."""
    is_compiled = variant == "compiled"
    if is_compiled and (cell.kind not in _COMPILABLE or cell.batch > 512):
        return None  # gradients of larger batches were not compared with those of eager code
    if cell.kind not in _APPENDERS:
        return None
    network = FrEIA.framework.SequenceINN(*get_shape(cell))
    _APPENDERS[cell.kind](network, cell)
    network.to(DEVICE)
    if cell.kind == "reflections":
        return make_reflections(
            cell,
            network,
            lambda inputs: network(inputs)[0],
            lambda inputs: network(inputs, rev=True)[0],
        )

    def log_prob(batch: Tensor) -> Tensor:
        latent, log_determinant = network(batch)
        log_normal = -0.5 * latent.square().flatten(1).sum(1) - _LOG_NORMALIZER * cell.size
        return log_normal + log_determinant

    def sample() -> Tensor:
        return network(torch.randn(cell.batch, *network.shapes[-1], device=DEVICE), rev=True)[0]

    return make_work(cell, network, log_prob, sample, is_compiled)


_LOG_NORMALIZER = 0.5 * math.log(2 * math.pi)


def _append_additive(network: FrEIA.framework.SequenceINN, cell: Cell) -> None:
    for _ in range(cell.depth // 2):
        network.append(FrEIA.modules.ActNorm)
        network.append(FrEIA.modules.NICECouplingBlock, subnet_constructor=_get_subnet(cell))


def _append_affine(network: FrEIA.framework.SequenceINN, cell: Cell) -> None:
    for _ in range(cell.depth // 2):
        network.append(FrEIA.modules.GLOWCouplingBlock, subnet_constructor=_get_subnet(cell))


def _append_glow(network: FrEIA.framework.SequenceINN, cell: Cell) -> None:
    network.append(FrEIA.modules.IRevNetDownsampling)
    subnet = partial(ConvConditioner, widths=cell.hidden)
    for _ in range(cell.depth):
        network.append(FrEIA.modules.AllInOneBlock, subnet_constructor=subnet, permute_soft=True)


def _append_reflections(network: FrEIA.framework.SequenceINN, cell: Cell) -> None:
    network.append(FrEIA.modules.HouseholderPerm, n_reflections=cell.depth)


def _get_subnet(cell: Cell) -> Callable:
    return partial(Conditioner, widths=cell.hidden)


_APPENDERS = {
    "additive": _append_additive,
    "affine": _append_affine,
    "glow": _append_glow,
    "reflections": _append_reflections,
}

_COMPILABLE = {"additive", "affine", "glow"}  # where it is faster
