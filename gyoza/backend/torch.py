"""PyTorch; see `gyoza.backend` for what each function is for."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import torch

from gyoza.backend import shared
from gyoza.backend.shared import (
    XLA_ERRORS,
    chain,
    check_states_change,
    cos_and_sin,
    draw_normal,
    draw_uniform,
    enter_scope,
    find_unsupported,
    is_distributed,
    isolate,
    jit_step,
    keep_values,
    make_zeros,
    mark_replica,
    shuffles_alike,
    tanh,
    to_data_set,
    trace_once,
)
from gyoza.typing import Tensor, Tensors

__all__ = [
    "vjp",
    "with_gradient",
    "after",
    "make_zeros",
    "cos_and_sin",
    "tanh",
    "add_product",
    "jit",
    "trace_once",
    "isolate",
    "jit_batches",
    "jit_step",
    "jit_steps",
    "XLA_ERRORS",
    "find_unsupported",
    "is_distributed",
    "enter_scope",
    "mark_replica",
    "check_states_change",
    "to_data_set",
    "is_traced",
    "has_slow_convolutions",
    "has_slow_substitution",
    "SHORT_AXIS",
    "take_along_short",
    "draw_uniform",
    "draw_normal",
    "forget_gradients",
    "keeps_gradients",
    "keep_values",
    "get_random_states",
    "set_random_states",
    "shuffles_alike",
]

SHORT_AXIS = 0


def vjp(
    function: Callable[..., Any], primals: Sequence[Tensor]
) -> tuple[Tensors, Callable[[Tensors], tuple[Tensor, ...]]]:
    if torch.is_inference_mode_enabled():  # whose tensors nothing can be differentiated by
        with torch.inference_mode(False), torch.no_grad():
            return vjp(function, [torch.as_tensor(primal).clone() for primal in primals])
    primals = [_derive_from(torch.as_tensor(primal)) for primal in primals]
    # Like the outputs of any function, those of this one and of `pullback` can be differentiated
    # if that is so where they are computed.
    is_differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = function(*primals)
    flat_outputs = keras.tree.flatten(outputs)
    if not is_differentiable:
        outputs = keras.tree.map_structure(torch.Tensor.detach, outputs)

    def pullback(cotangents: Tensor) -> tuple[Tensor, ...]:
        connected = [
            (output, cotangent)
            for output, cotangent in zip(flat_outputs, keras.tree.flatten(cotangents), strict=True)
            if output.requires_grad
        ]
        if not connected:
            return tuple(torch.zeros_like(primal) for primal in primals)
        return torch.autograd.grad(
            [output for output, _ in connected],
            primals,
            [cotangent for _, cotangent in connected],
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )

    return outputs, pullback


def _derive_from(x: Tensor) -> Tensor:
    """Returns a tensor with the values of another, to compute derivatives with respect to it."""
    if x.requires_grad and torch.is_grad_enabled():
        return x.view_as(x)
    return x.detach().requires_grad_()


def with_gradient(
    forward: Callable[..., Sequence[Tensor]], backward: Callable[..., Sequence[Tensor]]
) -> Callable[..., Any]:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *others: Any) -> Tensors:
            outputs = tuple(forward(x, *others))
            ctx.output_count = len(outputs)
            ctx.save_for_backward(*outputs, *others)
            return outputs

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Any:
            kept = ctx.saved_tensors
            outputs, others = kept[: ctx.output_count], kept[ctx.output_count :]
            return tuple(backward(outputs, others, cotangents))

    return Function.apply


def after(x: Tensor, other: Tensor) -> Tensor:
    return x


def add_product(offset: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    if torch.is_autocast_enabled(vectors.device.type):  # which would round the sum, too
        return offset + vectors @ matrix
    return torch.addmm(offset, vectors, matrix)


def take_along_short(indices: Tensor, *values: Tensor) -> list[Tensor]:
    # Without what Keras does for negative indices, which takes longer than to take.
    indices = indices.to(torch.int64)
    shape = indices.shape[1:]
    return [torch.gather(value.expand(-1, *shape), 0, indices)[0] for value in values]


def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
    return function


def is_traced(tensors: Iterable[Tensor]) -> bool:
    return False


def has_slow_convolutions() -> bool:
    return False


def has_slow_substitution(size: int) -> bool:
    return False


def jit_batches(
    function: Callable[..., Any],
    xla: bool = True,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    function = chain(prepare, function)
    return lambda model, *tensors: function(*tensors)


def jit_steps(
    function: Callable[..., Any], leave_xla: Callable[..., contextlib.AbstractContextManager]
) -> Callable[..., Any]:
    raise NotImplementedError("Keras compiles steps on PyTorch itself.")


def forget_gradients() -> contextlib.AbstractContextManager:
    return torch.no_grad()


def keeps_gradients() -> bool:
    return torch.is_grad_enabled()


def get_random_states() -> dict[str, Any]:
    states = {**shared.get_random_states(), "torch": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        states["cuda"] = [state.numpy() for state in torch.cuda.get_rng_state_all()]
    return states


def set_random_states(states: dict[str, Any]) -> None:
    shared.set_random_states(states)
    torch.set_rng_state(torch.tensor(states["torch"]))
    if "cuda" in states:
        torch.cuda.set_rng_state_all([torch.tensor(state) for state in states["cuda"]])
