"""Zuko: flows as lazy distributions in PyTorch."""

from functools import partial

import zuko
from zuko.transforms import MonotonicRQSTransform

from speed.cells import Cell, Work
from speed.peers.torch_peers import DEVICE, make_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["zuko", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"eager"` and `"compiled"`."""
    is_compiled = variant == "compiled"
    if cell.kind not in (_COMPILABLE if is_compiled else _MAKERS):
        return None
    flow = _MAKERS[cell.kind](
        features=cell.size, transforms=cell.depth, hidden_features=cell.hidden
    ).to(DEVICE)
    return make_work(
        cell,
        flow,
        lambda batch: flow().log_prob(batch),
        lambda: flow().sample((cell.batch,)),
        is_compiled,
    )


_BINS = 8
_MAKERS = {
    "affine": zuko.flows.RealNVP,
    "spline": partial(
        zuko.flows.NICE,
        univariate=MonotonicRQSTransform,
        shapes=[(_BINS,), (_BINS,), (_BINS - 1,)],
    ),
    "maf": zuko.flows.MAF,
}

# On CPUs, PyTorch 2.13 compiles the gradients of the couplings wrongly: those of splines are off,
# and with several threads, those of affine couplings are added up outside of their array.
_COMPILABLE = {"maf"}
