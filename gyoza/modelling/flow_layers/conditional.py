"""Flow layers that can take a context, for conditional flows."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import align_context
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.dtypes import check_floating
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.tensors import PLAIN_TYPES, to_tensor
from gyoza.modelling.tables import is_frame
from gyoza.typing import Data, Shape, Tensor

__all__ = ["TakesContext", "PassesContext", "ConditionalFlowLayer", "check_context_rank"]

_CAST_ADVICE = (
    "one-hot rows for classes, or integers of shape (batch, 1) for a model with `context_encoder="
    "keras.Sequential([keras.layers.Embedding(class_count, 8), keras.layers.Flatten()])`; cast "
    "other numbers, for example by `context.astype('float32')`."
)


def check_context_rank(context: Tensor) -> None:
    """Raises a `ValueError` if a context has no axis besides that of the batch."""
    shape = tuple(np.shape(context))
    if len(shape) < 2:
        raise ValueError(
            "`context` should have a batch axis and at least one more: `context[:, None]` for one "
            "number per instance, one-hot rows for classes. "
            f"Received: context.shape={shape}"
        )


class TakesContext:
    """What layers and models that can take a context have in common.

    It remembers, until it is built and in the saved model, whether there is a context and what its
    shape is, and checks later ones against that. Classes that derive from it have a `call` and an
    `invert` with an argument `context`, `None` by default.
    """

    name: str
    built: bool
    # The shape of a context without its batch axis, and its dtype; `None` without one.
    context_shape: tuple[int | None, ...] | None = None
    context_dtype: str | None = None

    def _prepare_call(
        self, inputs: Tensor, context: Tensor | None = None, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        context = self._prepare_context(inputs, context)
        return (), kwargs if context is None else {**kwargs, "context": context}

    def _prepare_context(self, inputs: Tensor, context: Tensor | None) -> Tensor | None:
        """Checks a context and remembers its shape, or checks that none is missing."""
        if context is not None and type(context) not in PLAIN_TYPES:
            is_read = hasattr(context, "assign") or is_frame(context)
            context = to_tensor(context) if is_read else context
            context = context if hasattr(context, "shape") else np.asarray(context)
        shape = None if context is None else tuple(context.shape)
        if shape is not None:
            check_context_rank(context)
        if not self.built:
            self.context_shape, self.context_dtype = None, None
            if context is not None:
                self.context_shape = tuple(context.shape[1:])
                self.context_dtype = keras.backend.standardize_dtype(context.dtype)
        expected = self.context_shape
        if expected is not None and shape is None:
            raise ValueError(
                f"'{self.name}' should be given a `context` of shape (batch, "
                f"{', '.join(map(str, expected))}). Received: context=None"
            )
        if shape is None:
            return None
        if expected is None:
            raise ValueError(
                f"'{self.name}' was built without a context, and should be given none. "
                f"Received: context.shape={shape}"
            )
        batch_size = _batch_size(inputs)
        fits = len(shape) == 1 + len(expected) and all(
            None in sizes or sizes[0] == sizes[1]
            for sizes in zip(shape, (batch_size, *expected), strict=True)
        )
        if not fits:
            raise ValueError(
                f"`context` should have shape ({batch_size}, {', '.join(map(str, expected))}) for "
                f"'{self.name}' and inputs of batch size {batch_size}. "
                f"Received: context.shape={shape}"
            )
        return context

    def _describe_context(self) -> Tensor | None:
        """Returns a symbolic tensor in the shape of contexts, or `None`."""
        if self.context_shape is None:
            return None
        return keras.KerasTensor((None, *self.context_shape), dtype=self.context_dtype)

    def _describe_arguments(self) -> dict[str, Any]:
        return given(context=self._describe_context())

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shapes that the layer was built for."""
        config = super().get_build_config()  # type: ignore[misc]
        if not config or self.context_shape is None:
            return config
        context_shape = list(self.context_shape)
        return {**config, "context_shape": context_shape, "context_dtype": self.context_dtype}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer for the shapes that `get_build_config` returned."""
        config = dict(config)
        context_shape = config.pop("context_shape", None)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.context_dtype = config.pop("context_dtype", None)
        super().build_from_config(config)  # type: ignore[misc]


class PassesContext(TakesContext):
    """What a model does with a context: it encodes it, and passes it on to its layers."""

    base_distribution: Distribution
    context_encoder: Any
    _flow_layers_: list[FlowLayer]
    _read_context: Callable[..., Data]

    @property
    def accepts_context(self) -> bool:
        """Whether a layer, or the base distribution, takes a context."""
        return self.base_distribution.accepts_context or any(
            layer.accepts_context for layer in self._flow_layers_
        )

    def _prepare_context(self, inputs: Tensor, context: Tensor | None) -> Tensor | None:
        if is_frame(context):
            context = self._read_context(context)
        context = super()._prepare_context(inputs, context)
        if context is None:
            return None
        if self.context_encoder is None:
            check_floating(context, self.name, "The context", _CAST_ADVICE)
        if not self.accepts_context:
            raise ValueError(
                f"Model '{self.name}' has no layers, nor a base distribution, that take a context. "
                f"Received: context.shape={tuple(context.shape)}"
            )
        return context

    def encode(self, context: Tensor | None, training: bool | None = None) -> Tensor | None:
        """Runs the context encoder.

        Args:
            context: A context, or `None`.
            training: Whether the model is being trained.

        Returns:
            What layers and base distribution are given as a context.
        """
        encoder = self.context_encoder
        if context is None or encoder is None:
            return context
        codes = encoder(context, training=training)
        return codes if getattr(encoder, "takes_missing", False) else mark_rows(codes, context)

    def _with_context(
        self, context: Tensor | None, training: bool | None = None
    ) -> list[tuple[keras.Layer, dict[str, Tensor]]]:
        """Returns all layers, each with its arguments besides the inputs."""
        # Keras looks through all arguments, unless the inputs are the only one.
        arguments = {} if training is None else {"training": training}
        if context is None:
            return list(zip(self._flow_layers_, itertools.repeat(arguments)))
        with_context = {**arguments, "context": self.encode(context, training)}
        return [
            (layer, with_context if layer.accepts_context else arguments)
            for layer in self._flow_layers_
        ]


def _batch_size(inputs: Tensor) -> int | None:
    first = keras.tree.flatten(inputs)[0]
    return first.shape[0] if hasattr(first, "shape") else len(inputs)


@keras.saving.register_keras_serializable(package="gyoza")
class ConditionalFlowLayer(TakesContext, FlowLayer):
    r"""Base class of flow layers that can take a context, :math:`y = f(x; c)`.

    A context is a tensor `[batch, context size]`, of class labels, say, or of measurements, that
    the layer's parameters are to depend on. If there are positions that are transformed on their
    own, such as the pixels of an image, it can also have one vector for each of them: then it has
    the axes of the inputs that are not transformed, and its size along the last one.

    Whether a layer has a context is decided by its first call. Subclasses implement `call(inputs,
    context=None)` and `invert(outputs, context=None)`, and use `context_size` to build what depends
    on it.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the context is missing, is given although there was none at first, or does
            not have the shape or batch size that it should have.
        TypeError: If the context does not hold floating-point numbers.
    """

    @property
    def context_size(self) -> int | None:
        """The length of a context along its last axis, or `None` if there is no context."""
        return None if self.context_shape is None else self.context_shape[-1]

    def _prepare_context(self, inputs: Tensor, context: Tensor | None) -> Tensor | None:
        context = super()._prepare_context(inputs, context)
        if context is not None:
            check_floating(context, self.name, "The context", _CAST_ADVICE)
        return context

    def _prepare_inversion(self, outputs: Tensor, context: Tensor | None = None) -> None:
        if context is not None or self.context_shape is not None or not self.built:
            self._prepare_context(outputs, context)
            super()._prepare_inversion(outputs)

    def join_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Appends a context to vectors.

        Args:
            x: Vectors, `[batch, ..., size]`.
            context: The context, `[batch, context size]` or `[batch, ..., context size]`, or
                `None`.

        Returns:
            The vectors `[batch, ..., size + context size]`, or `x` if there is no context.
        """
        if context is None:
            return x
        context = align_context(ops.cast(context, x.dtype), x)
        context = ops.broadcast_to(context, (*ops.shape(x)[:-1], context.shape[-1]))
        return ops.concatenate([x, context], axis=-1)

    def vector_shape(self, input_shape: Shape, size: int) -> tuple[int | None, ...]:
        """Returns the shape of vectors with a context, from which networks are built.

        Args:
            input_shape: Shape of the inputs, `[batch, ...]`.
            size: The length of the vectors without context.

        Returns:
            The shape `[batch, ..., size + context size]`, with an unknown batch size.
        """
        rest = [length for axis, length in enumerate(input_shape) if axis not in self._axes_]
        return (None, *rest[1:], size + (self.context_size or 0))
