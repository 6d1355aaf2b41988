"""A layer that is checked."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit
from gyoza.modelling.flow_layers import FlowLayer
from gyoza.testing.copies import copy_layer, make_symbolic, move_weights
from gyoza.testing.functions import there_and_back
from gyoza.typing import Tensor

__all__ = ["CheckedLayer"]


class CheckedLayer:
    """A layer with random weights, its inputs and contexts, and what it makes of them."""

    def __init__(
        self,
        layer: FlowLayer,
        inputs: np.ndarray,
        contexts: Sequence[np.ndarray],
        tolerance: float,
        seed: int,
    ) -> None:
        self.name = type(layer).__name__
        self.tolerance, self.inputs, self.contexts = tolerance, inputs, contexts
        self.random = np.random.default_rng(seed)
        self.layer = copy_layer(layer, "float32")
        self.layer(*make_symbolic(inputs, *contexts))
        move_weights(self.layer, self.random)
        self.outputs, self.log_det = map(to_numpy, self.call(self.layer))
        self.compiled = jit(there_and_back(self.layer))

    def fail(self, message: str) -> NoReturn:
        """Raises the error that names the layer."""
        raise AssertionError(f"{self.name}: {message}")

    def call(self, layer: Any) -> Sequence[Tensor]:
        """Returns the outputs and log-determinants of a layer for the inputs."""
        results = layer(self.inputs, *self.contexts)
        if not isinstance(results, tuple | list) or len(results) != 2:
            self.fail(
                "`call` should return the pair (outputs, log-determinants). "
                f"Received: {type(results)}"
            )
        return results

    def compare(
        self, what: str, expected: Tensor, received: Tensor, tolerance: float | None = None
    ) -> None:
        """Fails unless two arrays are equal up to the tolerance, relative to the largest value."""
        expected, received = to_numpy(expected), to_numpy(received)
        if expected.shape != received.shape:
            self.fail(f"{what}: expected shape {expected.shape}. Received: {received.shape}")
        if not np.all(np.isfinite(received)):
            self.fail(f"{what}: {np.sum(~np.isfinite(received))} elements are not finite.")
        scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
        gap = float(np.max(np.abs(expected - received), initial=0.0)) / scale
        if gap > (self.tolerance if tolerance is None else tolerance):
            index = np.unravel_index(np.argmax(np.abs(expected - received)), expected.shape)
            self.fail(
                f"{what}: expected {expected[index]} at index {tuple(map(int, index))}. "
                f"Received: {received[index]} (the relative error is {gap:.2g})."
            )

    def tensors(self, x: np.ndarray, chosen: slice = slice(None)) -> list[Tensor]:
        """Returns inputs or outputs, with their contexts, as tensors of the backend."""
        return [ops.convert_to_tensor(array[chosen]) for array in (x, *self.contexts)]
