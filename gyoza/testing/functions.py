"""What is done with a layer to check it, as functions of tensors, which can be compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling.flow_layers import FlowLayer
from gyoza.modelling.flow_layers.recomputation import run_and_forget
from gyoza.typing import Tensor, Tensors

__all__ = [
    "RUNS_EAGERLY",
    "call_and_forget",
    "compile_on_jax",
    "differentiate",
    "has_float64",
    "there_and_back",
]

# JAX compiles eager operations, too, one by one, which takes longer than to compile all at once.
# Elsewhere it takes longer to compile a function than to run it a few times.
RUNS_EAGERLY = keras.backend.backend() != "jax"


def has_float64() -> bool:
    """Returns whether there is float64, which has to be enabled on JAX."""
    return keras.backend.standardize_dtype(ops.ones((), dtype="float64").dtype) == "float64"


def compile_on_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the faster way to run a function once: compiled on JAX, as it is elsewhere."""
    return function if RUNS_EAGERLY else jit(function)


def there_and_back(layer: FlowLayer) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Returns a function of inputs and context: outputs, log-determinants, and inputs again."""

    def run(inputs: Tensor, *contexts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs, log_det = layer(inputs, *contexts)
        return outputs, log_det, layer.invert(outputs, *contexts)

    return run


def call_and_forget(layer: FlowLayer) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns a function that calls the layer as a memory-efficient model does."""

    def run(x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return run_and_forget([layer], x, context, training=None)

    return run


def differentiate(
    function: Callable[..., Any], weights: Sequence[keras.Variable]
) -> Callable[..., Any]:
    """Returns what pulls cotangents of a function's outputs back to all that it depends on.

    That is a function of a list of cotangents, of its tensors, and of values of the weights.
    """

    def run(*primals: Tensor) -> Tensors:
        count = len(primals) - len(weights)
        mapping = list(zip(weights, primals[count:], strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function(*primals[:count])

    def pull_back(cotangents: list[Tensor], *primals: Tensor) -> tuple[Tensor, ...]:
        outputs, pullback = vjp(run, primals)
        return pullback(keras.tree.pack_sequence_as(outputs, cotangents))

    return pull_back
