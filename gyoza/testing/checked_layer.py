"""A layer that is checked."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import flatten_layers, jit
from gyoza.modelling.flow_layers import ContinuousFlow, FlowLayer
from gyoza.modelling.flow_layers.continuous import refine_steps
from gyoza.testing.copies import copy_layer, make_symbolic, move_weights
from gyoza.testing.functions import compile_on_jax, there_and_back
from gyoza.typing import Tensor

__all__ = ["CheckedLayer"]

# How often the change by shorter steps, there and back, two results of a solver may be apart.
_SOLVER_MARGIN = 10.0
# Errors above which nothing is left to be checked.
_LARGEST_SOLVER_ERROR = 0.1


class CheckedLayer:
    """A layer with random weights, its inputs and contexts, and what it makes of them.

    Attributes:
        solver_error: How far results that should be equal may be apart since the layer solves an
            equation by steps. Zero for others.
    """

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
        self.solver_error = self._measure_solver_error()

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
        """Fails unless two arrays are equal up to the tolerance, relative to the largest value.

        Errors of solvers come on top.
        """
        expected, received = to_numpy(expected), to_numpy(received)
        if expected.shape != received.shape:
            self.fail(f"{what}: expected shape {expected.shape}. Received: {received.shape}")
        if not np.all(np.isfinite(received)):
            self.fail(f"{what}: {np.sum(~np.isfinite(received))} elements are not finite.")
        gap = measure_gap(expected, received)
        if gap > (self.tolerance if tolerance is None else tolerance) + self.solver_error:
            index = np.unravel_index(np.argmax(np.abs(expected - received)), expected.shape)
            self.fail(
                f"{what}: expected {expected[index]} at index {tuple(map(int, index))}. "
                f"Received: {received[index]} (the relative error is {gap:.2g})."
            )

    def _measure_solver_error(self) -> float:
        parts = [part for part in flatten_layers(self.layer) if isinstance(part, ContinuousFlow)]
        if not parts:
            return 0.0
        if any(part.dimension_count > part.exact_limit for part in parts):
            self.fail(
                "Log-determinants should be exact to be checked, and are estimated where there are "
                "more dimensions than `exact_limit`. Received: "
                f"exact_limit={[part.exact_limit for part in parts]}"
            )
        coarse = self.compiled(*self.tensors(self.inputs))
        with refine_steps():
            fine = compile_on_jax(there_and_back(self.layer))(*self.tensors(self.inputs))
        pairs = [map(to_numpy, pair) for pair in zip(coarse, fine, strict=True)]
        error = _SOLVER_MARGIN * max(measure_gap(*pair) for pair in pairs)
        if not error < _LARGEST_SOLVER_ERROR:
            self.fail(
                "Steps should be short enough for the velocity, here with random weights: shorter "
                f"ones change results by {error / _SOLVER_MARGIN:.2g}. Give it more."
            )
        return error

    def tensors(self, x: np.ndarray, chosen: slice = slice(None)) -> list[Tensor]:
        """Returns inputs or outputs, with their contexts, as tensors of the backend."""
        return [ops.convert_to_tensor(array[chosen]) for array in (x, *self.contexts)]


def measure_gap(expected: np.ndarray, received: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value, or to 1 if that is more."""
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    return float(np.max(np.abs(expected - received), initial=0.0)) / scale
