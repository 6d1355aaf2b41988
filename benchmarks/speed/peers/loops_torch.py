"""Reflections one after the other in PyTorch: what a library does without compact products."""

import torch
from torch import Tensor, nn

from speed.cells import Cell, Work
from speed.peers.torch_peers import DEVICE, make_reflections

__all__ = ["PACKAGES", "make"]

PACKAGES = ["torch"]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; the variant is `"torch"`."""
    if cell.kind != "reflections":
        return None
    layer = _Reflections(cell.depth, cell.size).to(DEVICE)
    return make_reflections(cell, layer, layer, layer.invert)


class _Reflections(nn.Module):
    """Reflections `x - 2 (x·v) v / |v|²`."""

    def __init__(self, count: int, size: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(count, size))

    def forward(self, inputs: Tensor) -> Tensor:
        return _reflect(inputs, self.vectors)

    def invert(self, outputs: Tensor) -> Tensor:
        return _reflect(outputs, self.vectors.flip(0))


def _reflect(values: Tensor, vectors: Tensor) -> Tensor:
    scaled_vectors = 2 * vectors / vectors.square().sum(1, keepdim=True)
    for vector, scaled_vector in zip(vectors, scaled_vectors, strict=True):
        values = torch.addr(values, values @ vector, scaled_vector, alpha=-1)
    return values
