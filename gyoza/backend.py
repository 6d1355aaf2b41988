"""What gyoza needs from a backend and `keras.ops` does not offer: derivatives and compilation.

This is the only module that imports TensorFlow, JAX or PyTorch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

__all__ = ["vjp", "jit"]

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    import tensorflow as tf

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """Evaluates `function` and returns its vector-Jacobian product.

        Args:
            function: A callable of `len(primals)` tensors that returns one tensor or a (nested)
                sequence of tensors.
            primals: The floating-point tensors at which the function is evaluated.

        Returns:
            The pair `(outputs, pullback)`. `pullback(cotangents)`, with cotangents of the structure
            and shapes of `outputs`, gives one gradient per primal: zeros where the outputs do not
            depend on it. It can be called more than once.
        """
        primals = [tf.convert_to_tensor(primal) for primal in primals]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(primals)
            outputs = function(*primals)

        def pullback(cotangents: Any) -> tuple[Any, ...]:
            return tuple(
                tape.gradient(
                    outputs, primals, output_gradients=cotangents, unconnected_gradients="zero"
                )
            )

        return outputs, pullback

    def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
        """Compiles `function`: TensorFlow by XLA when `xla` is set, JAX always, PyTorch never."""
        # TensorFlow counts traces by code, and would warn of methods compiled for several objects.
        return tf.function(functools.partial(function), jit_compile=xla, autograph=False)

elif _BACKEND == "jax":
    import jax

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        return jax.vjp(function, *primals)

    def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
        return jax.jit(function)

elif _BACKEND == "torch":
    import torch

    def vjp(
        function: Callable[..., Any], primals: Sequence[Any]
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        primals = [torch.as_tensor(primal).detach().requires_grad_() for primal in primals]
        with torch.enable_grad():
            outputs = function(*primals)
        flat_outputs = keras.tree.flatten(outputs)

        def pullback(cotangents: Any) -> tuple[Any, ...]:
            connected = [
                (output, cotangent)
                for output, cotangent in zip(
                    flat_outputs, keras.tree.flatten(cotangents), strict=True
                )
                if output.requires_grad
            ]
            if not connected:
                return tuple(torch.zeros_like(primal) for primal in primals)
            return torch.autograd.grad(
                [output for output, _ in connected],
                primals,
                [cotangent for _, cotangent in connected],
                retain_graph=True,
                materialize_grads=True,
            )

        return outputs, pullback

    def jit(function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
        return function

else:
    raise ValueError(
        "gyoza runs on the Keras backends 'tensorflow', 'jax' and 'torch'. "
        f"Received: backend={_BACKEND!r}"
    )
