"""TorchCFM, which trains by flow matching, and solves by torchdiffeq."""

import math

import torch
from torch import Tensor
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchdiffeq import odeint

from speed.cells import TOLERANCE, Cell, Work, make_velocity_weights
from speed.peers.torch_peers import DEVICE, Velocity, load_batches, make_adaptive, make_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["torchcfm", "torchdiffeq", "torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; the variant is `"eager"`."""
    del variant
    makers = {"continuous": _make_continuous, "adaptive": _make_adaptive}
    return makers[cell.kind](cell) if cell.kind in makers else None


def _make_continuous(cell: Cell) -> Work:
    velocity = Velocity(cell).to(DEVICE)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    times = torch.linspace(0.0, 1.0, cell.depth + 1, device=DEVICE)

    def loss(data: Tensor) -> Tensor:
        source = torch.randn_like(data)
        time, points, slope = matcher.sample_location_and_conditional_flow(source, data)
        return (velocity(time[:, None], points) - slope).square().mean()

    def sample() -> Tensor:
        z = torch.randn(cell.batch, cell.size, device=DEVICE)
        return odeint(velocity, z, times, method="rk4")[-1]

    return make_work(cell, velocity, None, sample, loss=loss)


def _make_adaptive(cell: Cell) -> Work:
    velocity = Velocity(cell, make_velocity_weights(cell)).to(DEVICE)
    batch = load_batches(cell)[0]

    def solve(move, state, start: float, stop: float):
        times = torch.tensor([start, stop], device=DEVICE)
        return odeint(move, state, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")

    def log_prob() -> Tensor:
        signs = torch.randint(0, 2, batch.shape, device=DEVICE) * 2.0 - 1.0

        def move(time: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = state[0].detach().requires_grad_()
                slope = velocity(time, x)
            (product,) = torch.autograd.grad(slope, x, signs)
            return slope.detach(), (product * signs).sum(dim=-1)

        z, log_det = (y[-1] for y in solve(move, (batch, torch.zeros_like(batch[:, 0])), 1.0, 0.0))
        return -0.5 * (z.square() + math.log(2.0 * math.pi)).sum(dim=-1) + log_det

    def sample() -> Tensor:
        z = torch.randn(cell.batch, cell.size, device=DEVICE)
        return solve(velocity, z, 0.0, 1.0)[-1]

    return make_adaptive(velocity, log_prob, sample)
