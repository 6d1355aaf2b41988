"""What the libraries on PyTorch share: conditioners, the training loop and waiting for results."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from speed.cells import FREQUENCIES, Cell, Work, make_batches
from speed.memory import get_counter

__all__ = [
    "DEVICE",
    "Conditioner",
    "ConvConditioner",
    "Velocity",
    "get_shape",
    "load_batches",
    "make_adaptive",
    "make_reflections",
    "make_work",
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Conditioner(nn.Sequential):
    """A network of dense layers as nflows and normflows want it: with a context, always `None`.

    Attributes:
        hidden_features: The width, by which they scale the parameters of splines.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]):
        super().__init__()
        sizes = [inputs, *widths, outputs]
        for index, (before, after) in enumerate(itertools.pairwise(sizes)):
            if index > 0:
                self.append(nn.ReLU())
            self.append(self._make_layer(before, after, 0 < index < len(widths)))
        self.hidden_features = widths[0]

    @staticmethod
    def _make_layer(before: int, after: int, is_inner: bool) -> nn.Module:
        return nn.Linear(before, after)

    def forward(self, inputs: Tensor, context: None = None) -> Tensor:
        """Maps inputs to parameters of a transform."""
        return super().forward(inputs)


class ConvConditioner(Conditioner):
    """The same with convolutions of sizes 3, 1 and 3."""

    @staticmethod
    def _make_layer(before: int, after: int, is_inner: bool) -> nn.Module:
        return nn.Conv2d(before, after, 1 if is_inner else 3, padding="same")


def get_shape(cell: Cell) -> tuple[int, ...]:
    """Returns the shape of an instance as PyTorch has it, channels first."""
    return cell.shape[-1:] + cell.shape[:-1]


def make_work(
    cell: Cell,
    flow: nn.Module,
    log_prob: Callable[[Tensor], Tensor] | None,
    sample: Callable[[], Tensor],
    is_compiled: bool = False,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> Work:
    """Makes the work of a flow.

    Args:
        cell: The cell.
        flow: The flow, on the device.
        log_prob: Computes log-densities of a batch with the flow, if it can.
        sample: Draws a batch of samples from the flow.
        is_compiled: Whether `torch.compile` is used.
        loss: Computes the loss of a batch. The mean negative log-likelihood if omitted.
    """
    batches = load_batches(cell)
    if loss is None:
        with torch.no_grad():
            log_prob(batches[0])  # lets activation normalizations take their first values
        if is_compiled:
            log_prob, sample = torch.compile(log_prob), torch.compile(sample)
        compute_log_prob = log_prob

        def loss(batch: Tensor) -> Tensor:
            return -compute_log_prob(batch).mean()

    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, fused=True)

    def train(steps: int) -> None:
        flow.train()
        for index in range(steps):
            optimizer.zero_grad()
            loss(batches[index % len(batches)]).backward()
            optimizer.step()
        _wait()

    return Work(
        train,
        None if log_prob is None else _evaluate(flow, lambda: log_prob(batches[0])),
        _evaluate(flow, sample),
        _count_weights(flow),
        get_counter("torch"),
    )


def make_reflections(
    cell: Cell,
    layer: nn.Module,
    transform: Callable[[Tensor], Tensor],
    invert: Callable[[Tensor], Tensor],
) -> Work:
    """Makes the work of a layer of reflections.

    Args:
        cell: The cell.
        layer: The layer, on the device.
        transform: Maps a batch with the layer.
        invert: Maps a batch with the inverse of the layer.
    """
    *batches, cotangent = load_batches(cell)
    weights = [weight for weight in layer.parameters() if weight.requires_grad]

    def train(steps: int) -> None:
        for index in range(steps):
            inputs = batches[index % len(batches)].detach().requires_grad_()
            loss = torch.sum(transform(inputs) * cotangent)
            torch.autograd.grad(loss, [inputs, *weights])
        _wait()

    return Work(
        train,
        _evaluate(layer, lambda: transform(batches[0])),
        _evaluate(layer, lambda: invert(batches[0])),
        _count_weights(layer),
        get_counter("torch"),
    )


class Velocity(nn.Module):
    """A velocity whose inputs are points, `[batch, size]`, the time, and its cosines and sines.

    Hidden layers but the first are added to their inputs.
    """

    def __init__(self, cell: Cell, weights: Sequence[np.ndarray] = ()):
        super().__init__()
        self.register_buffer("frequencies", torch.from_numpy(FREQUENCIES))
        sizes = [cell.size + 1 + 2 * len(FREQUENCIES), *cell.hidden, cell.size]
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.first, *others, self.last = layers
        self.others = nn.ModuleList(others)
        with torch.no_grad():
            for layer, kernel, bias in zip(layers, weights[::2], weights[1::2], strict=False):
                layer.weight.copy_(torch.from_numpy(kernel.T))
                layer.bias.copy_(torch.from_numpy(bias))

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        """Computes velocities at a time, a scalar or `[batch, 1]`."""
        time = time.expand(len(x), 1)
        angles = time * self.frequencies
        x = nn.functional.silu(self.first(torch.cat([x, time, angles.cos(), angles.sin()], dim=-1)))
        for layer in self.others:
            x = x + nn.functional.silu(layer(x))
        return self.last(x)


def make_adaptive(
    velocity: Velocity, log_prob: Callable[[], Tensor], sample: Callable[[], Tensor]
) -> Work:
    """Makes the work of a solver.

    Args:
        velocity: The velocity, on the device.
        log_prob: Computes log-densities of a batch.
        sample: Draws a batch of samples.
    """
    draw = _evaluate(velocity, sample)

    def draw_batches(count: int) -> None:
        for _ in range(count):
            draw()

    velocity.requires_grad_(False)
    return Work(draw_batches, _evaluate(velocity, log_prob))


def load_batches(cell: Cell) -> tuple[Tensor, ...]:
    """Returns the batches of a cell on the device, channels first."""
    batches = torch.from_numpy(make_batches(cell)).movedim(-1, 2)
    return batches.contiguous().to(DEVICE).unbind()


def _evaluate(module: nn.Module, function: Callable[[], Tensor]) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        if module.training:
            module.eval()
        function()
        _wait()

    return run


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _count_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
