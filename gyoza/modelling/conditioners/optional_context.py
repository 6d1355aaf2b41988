"""Contexts that may be missing."""

from typing import Any

import keras
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.functions.dtypes import is_floating
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.tensors import to_rows
from gyoza.modelling.options import HasOptions
from gyoza.modelling.seeds import SeedGenerator
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["OptionalContext"]


@keras.saving.register_keras_serializable(package="gyoza")
class OptionalContext(HasOptions, keras.Layer):
    r"""A context encoder for contexts that may be missing, some of which it also leaves out itself.

    A context is missing if a part of it is: if integers, such as labels, are negative, or
    floating-point numbers are NaN. It is then encoded as zeros, followed by a further dimension
    that is 1, and 0 where there is a context. In training, a random part of the contexts is left
    out, too. So one velocity :math:`v` is trained for both, :math:`p(x \mid c)` and :math:`p(x)`,
    and samples can be drawn by guidance without a classifier (see :meth:`FlowMatchingModel.sample
    <gyoza.modelling.flow_layers.FlowMatchingModel.sample>`): their velocity is

    .. math::
        v(x, t) + w \left( v(x, t; c) - v(x, t) \right).

    With :math:`w = 1` it is that of the flow; with more, samples are more typical of their context,
    and less diverse.

    Args:
        encoder: A Keras layer or model of contexts `[batch, ...]`, such as an `Embedding` of labels
            and a `Flatten`. It sees 0 where a context is missing. Without one, contexts are encoded
            as they are, cast to the compute dtype. Keras likewise casts what a `Sequential` is
            given, so that bfloat16 rounds labels of more than 256, unless it begins with
            `keras.Input([1], dtype="int32")`.
        rate: The probability to leave a context out in training.
        seed: Seed of what is left out.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `encoder` is not a Keras layer.
        ValueError: If `rate` is not from 0 to 1.

    Example:

        >>> from gyoza.modelling.conditioners import OptionalContext, VelocityMLP
        >>> labels = np.random.default_rng(0).integers(3, size=[512, 1])
        >>> x = np.random.default_rng(1).normal(size=[512, 2]).astype("float32") + 4.0 * labels
        >>> encoder = keras.Sequential([keras.layers.Embedding(3, 8), keras.layers.Flatten()])
        >>> model = gyoza.modelling.flow_layers.FlowMatchingModel(
        ...     VelocityMLP([64, 64]), context_encoder=OptionalContext(encoder)
        ... )
        >>> data = {"inputs": x.astype("float32"), "context": labels}
        >>> model.adapt(data)
        >>> model.compile("adam")
        >>> history = model.fit(data, verbose=0)
        >>> samples = model.sample(5, context=[2], guidance=2.0)
        >>> log_prob = model.log_prob(x.astype("float32"), context=[-1])  # for any label

    References:
        - Ho, J. & Salimans, T. (2022). "Classifier-free diffusion guidance." `arXiv:2207.12598
          <https://arxiv.org/abs/2207.12598>`_
    """

    # What is not finite can be missing: a model need not mark it.
    takes_missing = True

    def __init__(
        self,
        encoder: keras.Layer | None = None,
        rate: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Integers stay integers, and contexts have the precision that they are given in.
        super().__init__(autocast=False, **kwargs)
        if encoder is not None:
            check_instance("encoder", encoder, keras.Layer, "a Keras layer or model")
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"`rate` should be from 0 to 1. Received: rate={rate}")
        self.encoder = encoder
        self.rate = float(rate)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def build(self, input_shape: Shape) -> None:
        """Builds nothing: the encoder is built where it is called, when the dtype is known."""
        return  # AutoGraph cannot convert a function without a statement

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Encodes contexts.

        Args:
            inputs: The contexts, `[batch, ...]`.
            training: Whether the model is being trained.

        Returns:
            What they are encoded as, `[batch, ..., size + 1]`.
        """
        context = ops.convert_to_tensor(inputs)
        unknown = ops.isnan(context) if is_floating(context.dtype) else context < 0
        context = ops.where(unknown, ops.zeros_like(context), context)
        is_missing = ops.any(to_rows(unknown), axis=-1)
        codes = context if self.encoder is None else self.encoder(context, training=training)
        codes = mark_rows(ops.cast(codes, self.compute_dtype), context)
        if training and self.rate > 0.0:
            draw = draw_uniform(ops.shape(is_missing), "float32", self.seed_generator)
            is_missing = ops.logical_or(is_missing, draw < self.rate)
        is_missing = ops.reshape(is_missing, (-1, *(1 for _ in codes.shape[1:])))
        codes = ops.where(is_missing, ops.zeros_like(codes), codes)
        mark = ops.broadcast_to(is_missing, (*ops.shape(codes)[:-1], 1))
        return ops.concatenate([codes, ops.cast(mark, codes.dtype)], axis=-1)

    def leave_out(self, codes: Tensor) -> Tensor:
        """Returns what missing contexts are encoded as.

        Args:
            codes: Encoded contexts, `[batch, ..., size + 1]`.

        Returns:
            As many of them, which are missing.
        """
        zeros = ops.zeros_like(codes)
        return ops.concatenate([zeros[..., :-1], ops.ones_like(codes[..., -1:])], axis=-1)

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what `call` returns for symbolic contexts, and builds the encoder for them."""
        codes = inputs if self.encoder is None else self.encoder(inputs)
        return keras.KerasTensor((*codes.shape[:-1], codes.shape[-1] + 1), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "rate": self.rate,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OptionalContext":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)
