"""Chains of flow layers whose backward pass recomputes activations instead of storing them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import after, flatten_layers, list_seeds, make_zeros, vjp, with_gradient
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.invertible import Inversion
from gyoza.typing import Tensor, Tensors

__all__ = ["can_be_recomputed", "run_and_forget", "run_and_recompute"]


def can_be_recomputed(layer: keras.Layer) -> bool:
    """Returns whether inputs follow from outputs, and `call` then does again what it did before.

    Random numbers and moving statistics prevent that, also in networks that layers have.
    """
    return not any(
        not getattr(part, "recomputable", True)
        or isinstance(part, keras.layers.BatchNormalization)
        or list_seeds(part)
        for part in flatten_layers(layer)
        if not isinstance(part, Distribution)  # that of a model, which `call` does not use
    )


def run_and_recompute(
    layers: Sequence[keras.Layer], x: Tensor, context: Tensor | None, training: bool | None
) -> tuple[Tensor, Tensor]:
    """Executes layers one after the other, and keeps inputs of those that cannot be recomputed.

    Args:
        layers: The layers, built.
        x: See :func:`run_and_forget`.
        context: Likewise.
        training: Likewise.

    Returns:
        The pair of outputs of the last layer and summed log-determinants, `[batch]`.
    """
    log_det: Tensor = 0.0
    for recomputed, group in itertools.groupby(layers, can_be_recomputed):
        if recomputed:
            x, of_group = run_and_forget([*group], x, context, training)
            log_det = log_det + of_group
            continue
        for layer in group:
            x, of_layer = layer(x, **_pass_on(context, layer), training=training)
            log_det = log_det + of_layer
    return x, log_det


def _pass_on(context: Tensor | None, layer: keras.Layer) -> dict[str, Tensor]:
    """Returns the argument that passes the context to a layer."""
    return {"context": context} if context is not None and layer.accepts_context else {}


def run_and_forget(
    layers: Sequence[keras.Layer], x: Tensor, context: Tensor | None, training: bool | None
) -> tuple[Tensor, Tensor]:
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
        training: Whether the model is being trained.

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

    def call(
        run: Callable[..., Any],
        layer: keras.Layer,
        x: Tensor,
        context: Tensor,
        values: Tensor,
        **kwargs: Any,
    ) -> Tensors:
        """Runs a layer, or its `recompute`, with weights of these values."""
        mapping = [(variable, values[indices[id(variable)]]) for variable in layer.variables]
        of_context = _pass_on(context if has_context else None, layer)
        with keras.StatelessScope(state_mapping=mapping):
            return run(x, **of_context, **kwargs, training=training)

    def forward(x: Tensor, context: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        log_det: Tensor = 0.0
        for layer in layers:
            x, of_layer = call(layer, layer, x, context, values)
            log_det = log_det + of_layer
        return x, log_det

    def recompute(
        layer: keras.Layer, y: Tensor, values: Sequence[Tensor], trained: Sequence[int]
    ) -> Callable[..., Tensors]:
        """Returns a function of what the outputs of a layer are differentiated by."""
        run = Inversion(layer, type(layer).recompute)

        def function(shift: Tensor, context: Tensor, *weights: Tensor) -> Tensors:
            of_layer = {**dict(enumerate(values)), **dict(zip(trained, weights, strict=True))}
            return call(run, layer, y, context, of_layer, shift=shift)

        return function

    def backward(
        outputs: Sequence[Tensor], others: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> list[Tensor | None]:
        context, *values = others
        y, y_bar, log_det_bar = outputs[0], *cotangents
        # The gradient of a mean is constant, and TensorFlow would compute what follows from it.
        log_det_bar = log_det_bar + make_zeros(ops.shape(log_det_bar), log_det_bar.dtype)
        context_bar = ops.zeros_like(context)
        gradients: list[Tensor | None] = [None] * len(variables)
        for layer in reversed(layers):
            trained = [indices[id(variable)] for variable in layer.trainable_variables]
            shape = layer.compute_input_shape(tuple(y.shape))
            shift = make_zeros((ops.shape(y)[0], *shape[1:]), y.dtype)
            # Otherwise all inputs might be computed first, and be stored.
            y = after(y, y_bar)
            (y, *_), pull_back = vjp(
                recompute(layer, y, values, trained),
                [shift, context, *(values[k] for k in trained)],
            )
            y_bar, of_context, *of_layer = pull_back((shift, y_bar, log_det_bar))
            context_bar = context_bar + of_context
            for k, gradient in zip(trained, of_layer, strict=True):
                gradients[k] = gradient if gradients[k] is None else gradients[k] + gradient
        return [y_bar, context_bar, *gradients]

    if not has_context:
        context = ops.zeros((0,), dtype=x.dtype)
    values = [ops.convert_to_tensor(variable) for variable in variables]
    return with_gradient(forward, backward)(x, context, *values)
