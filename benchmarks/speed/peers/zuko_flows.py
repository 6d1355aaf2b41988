"""Zuko: flows as lazy distributions in PyTorch."""

from functools import partial

import torch
import zuko
from torch import Tensor, nn
from zuko.transforms import FreeFormJacobianTransform, MonotonicRQSTransform

from speed.cells import FREQUENCIES, TOLERANCE, Cell, Work, make_velocity_weights
from speed.peers.torch_peers import DEVICE, Velocity, load_batches, make_adaptive, make_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["zuko", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"eager"` and `"compiled"`."""
    if cell.kind == "continuous":
        return _make_continuous(cell)
    if cell.kind == "adaptive":
        return _make_adaptive(cell)
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


def _make_continuous(cell: Cell) -> Work:
    """Makes the work of its flow in continuous time, which it would train by likelihood."""
    flow = zuko.flows.CNF(
        features=cell.size,
        freqs=len(FREQUENCIES),
        hidden_features=cell.hidden,
        activation=nn.SiLU,
        exact=False,
    ).to(DEVICE)

    def loss(data: Tensor) -> Tensor:
        source, time = torch.randn_like(data), torch.rand(len(data), 1, device=DEVICE)
        velocity = flow.transform.f(time[:, 0], data + time * (source - data))
        return (velocity - (source - data)).square().mean()

    return make_work(
        cell,
        flow,
        lambda batch: flow().log_prob(batch),
        lambda: flow().sample((cell.batch,)),
        loss=loss,
    )


def _make_adaptive(cell: Cell) -> Work:
    velocity = Velocity(cell, make_velocity_weights(cell)).to(DEVICE)
    transform = FreeFormJacobianTransform(
        velocity, 1.0, 0.0, rtol=TOLERANCE, atol=TOLERANCE, exact=False
    )
    zeros = torch.zeros(cell.size, device=DEVICE)
    base = zuko.distributions.DiagNormal(zeros, torch.ones_like(zeros))
    batch = load_batches(cell)[0]

    def log_prob() -> Tensor:
        z, log_det = transform.call_and_ladj(batch)
        return base.log_prob(z) + log_det

    return make_adaptive(velocity, log_prob, lambda: transform.inv(base.sample((cell.batch,))))


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
