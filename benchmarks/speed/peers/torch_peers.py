"""What the libraries on PyTorch share: conditioners, the training loop and waiting for results."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from speed.cells import Cell, Work, make_batches
from speed.memory import get_counter

__all__ = [
    "DEVICE",
    "Conditioner",
    "ConvConditioner",
    "get_shape",
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
    log_prob: Callable[[Tensor], Tensor],
    sample: Callable[[], Tensor],
    is_compiled: bool = False,
) -> Work:
    """Makes the work of a flow.

    Args:
        cell: The cell.
        flow: The flow, on the device.
        log_prob: Computes log-densities of a batch with the flow.
        sample: Draws a batch of samples from the flow.
        is_compiled: Whether `torch.compile` is used.
    """
    batches = _load_batches(cell)
    with torch.no_grad():
        log_prob(batches[0])  # lets activation normalizations take their first values
    if is_compiled:
        log_prob, sample = torch.compile(log_prob), torch.compile(sample)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, fused=True)

    def train(steps: int) -> None:
        flow.train()
        for index in range(steps):
            optimizer.zero_grad()
            loss = -log_prob(batches[index % len(batches)]).mean()
            loss.backward()
            optimizer.step()
        _wait()

    return Work(
        train,
        _evaluate(flow, lambda: log_prob(batches[0])),
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
    *batches, cotangent = _load_batches(cell)
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


def _load_batches(cell: Cell) -> tuple[Tensor, ...]:
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
