"""Chains of flow layers whose backward pass recomputes activations instead of storing them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import after, vjp, with_gradient
from gyoza.modelling.distributions import Distribution

__all__ = ["can_be_recomputed", "run_and_forget"]


def can_be_recomputed(layer: Any) -> bool:
    """Tells whether inputs follow from outputs, and `call` then does again what it did before.

    Random numbers and moving statistics prevent that, also in networks that layers have.
    """
    return not any(
        not getattr(part, "recomputable", True)
        or isinstance(part, keras.layers.BatchNormalization)
        or part._seed_generators
        for part in layer._flatten_layers()
        if not isinstance(part, Distribution)  # that of a model, which `call` does not use
    )


def run_and_forget(
    layers: Sequence[Any],
    x: Any,
    context: Any,
    run: Callable[..., Any],
    invert: Callable[..., Any],
) -> Any:
    r"""Executes layers one after the other, and keeps nothing but the last outputs.

    The backward pass goes from the last layer to the first. It gets the inputs :math:`x` of each
    layer from its outputs :math:`y`, and computes its vector-Jacobian product there: with the
    gradients :math:`\bar y` and :math:`\bar d` with respect to outputs and log-determinants
    :math:`d`, weights :math:`w` and context :math:`c`,

    .. math::
        (\bar x, \bar w, \bar c) = \bar y^\top \frac{\partial y}{\partial (x, w, c)}
        + \bar d^\top \frac{\partial d}{\partial (x, w, c)}.

    Args:
        layers: Built layers for which :func:`can_be_recomputed` holds.
        x: Inputs of the first one, `[batch, ...]`.
        context: The context, or `None`.
        run: A callable of layer, inputs and context that gives outputs and log-determinants.
        invert: A callable of layer, outputs and context that gives inputs.

    Returns:
        The pair of outputs of the last layer and summed log-determinants, `[batch]`.

    References:
        - Gomez, A. N., Ren, M., Urtasun, R. & Grosse, R. B. (2017). "The reversible residual
          network: backpropagation without storing activations."
          `arXiv:1707.04585 <https://arxiv.org/abs/1707.04585>`_
    """
    variables = list({id(v): v for layer in layers for v in layer.variables}.values())
    indices = {id(variable): index for index, variable in enumerate(variables)}
    has_context = context is not None

    def call(function: Callable[..., Any], layer: Any, x: Any, context: Any, values: Any) -> Any:
        """Calls `run` or `invert` with weights of these values."""
        mapping = [(variable, values[indices[id(variable)]]) for variable in layer.variables]
        with keras.StatelessScope(state_mapping=mapping):
            return function(layer, x, context if has_context else None)

    def forward(x: Any, context: Any, *values: Any) -> tuple[Any, Any]:
        log_det: Any = 0.0
        for layer in layers:
            x, of_layer = call(run, layer, x, context, values)
            log_det = log_det + of_layer
        return x, log_det

    def backward(
        outputs: Sequence[Any], others: Sequence[Any], cotangents: Sequence[Any]
    ) -> list[Any]:
        context, *values = others
        y, y_bar, log_det_bar = outputs[0], *cotangents
        context_bar = ops.zeros_like(context)
        gradients: list[Any] = [None] * len(variables)
        for layer in reversed(layers):
            trained = [indices[id(variable)] for variable in layer.trainable_variables]

            def run_with(x: Any, context: Any, *of_layer: Any, layer: Any, trained: Any) -> Any:
                replaced = dict(zip(trained, of_layer, strict=True))
                return call(run, layer, x, context, {**dict(enumerate(values)), **replaced})

            # Otherwise all inputs might be computed first, and be stored.
            y = call(invert, layer, after(y, y_bar), context, values)
            _, pull_back = vjp(
                functools.partial(run_with, layer=layer, trained=trained),
                [y, context, *(values[k] for k in trained)],
            )
            y_bar, of_context, *of_layer = pull_back((y_bar, log_det_bar))
            context_bar = context_bar + of_context
            for k, gradient in zip(trained, of_layer, strict=True):
                gradients[k] = gradient if gradients[k] is None else gradients[k] + gradient
        return [y_bar, context_bar, *gradients]

    if not has_context:
        context = ops.zeros((0,), dtype=x.dtype)
    values = [ops.convert_to_tensor(variable) for variable in variables]
    return with_gradient(forward, backward)(x, context, *values)
