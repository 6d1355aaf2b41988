"""Multi-scale architectures: part of the dimensions skips the layers that follow."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.batches import iterate_batches
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.flow_layers.images import Flatten
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_instance, check_integer
from gyoza.modelling.pairs import to_pairs
from gyoza.typing import Data, Shape, Tensor

__all__ = ["FactorOut"]


@keras.saving.register_keras_serializable(package="gyoza")
class FactorOut(ConditionalFlowLayer, Flatten):
    r"""A :class:`Flatten` that runs part of the channels through a flow first.

    The first channels :math:`x_1` go on to the flow :math:`f`, the others, :math:`x_2`, are done:

    .. math::
        y = [\operatorname{vec}(x_2), \operatorname{vec}(f(x_1))], \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \log \left| \det \frac{\partial f(x_1)}{\partial x_1} \right|

    Channels are the dimensions along the last axis. Flows for images have several scales this way:
    each halves height and width by a :class:`Squeeze`, and factors out half of the channels.

    .. code-block:: python

        model = FlowModel([
            Squeeze(), *steps,
            FactorOut(FlowModel([
                Squeeze(), *more_steps,
                FactorOut(FlowModel([Squeeze(), *most_steps])),
            ])),
        ])

    The latent is one vector, in which the finest scale comes first and the coarsest last. So
    factor losses, base distributions and `invert` work as they do for any flow of vectors.

    Behind a :class:`HaarDownsampling`, with `kept_count` the number of channels in front of it,
    the flow is given the image in half the resolution, and the details are factored out.

    Args:
        flow: The flow :math:`f`: a flow layer or, for several layers, a
            :class:`~gyoza.modelling.flow_layers.FlowModel`, of whose base distribution no use is
            made. Where it takes a context, so does this layer, and passes it on.
        kept_count: The number of channels that go on to the flow, at least 1. Half of them, rounded
            up, if omitted.
        shape: Shape of an input, without the batch axis, read from the first inputs if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `flow` is neither a flow layer nor a model.
        ValueError: If no channels are left to be factored out.

    Example:

        >>> from gyoza.modelling import conditioners, flow_layers
        >>> def step():
        ...     return flow_layers.AffineCoupling(
        ...         axes=[3], conditioner=conditioners.ResNet(16, block_count=0)
        ...     )
        >>> coarse = flow_layers.FlowModel([flow_layers.Squeeze(), step()])
        >>> model = flow_layers.FlowModel(
        ...     [flow_layers.Squeeze(), step(), flow_layers.FactorOut(coarse)]
        ... )
        >>> outputs, log_det = model(np.ones([2, 8, 8, 1], "float32"))
        >>> tuple(outputs.shape)  # 4·4·2 fine dimensions, then 2·2·8 coarse ones
        (2, 64)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    preserves_volume = False
    moves_any_dtype = False

    def __init__(
        self,
        flow: keras.Model,
        kept_count: int | None = None,
        shape: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> None:
        check_instance("flow", flow, Invertible, "a `FlowLayer` or a `FlowModel`")
        if kept_count is not None:
            kept_count = check_integer("kept_count", kept_count, minimum=1)
        self.kept_count = kept_count
        super().__init__(shape=shape, **kwargs)
        self.flow: keras.Model = flow

    @property
    def accepts_context(self) -> bool:
        """Whether the flow takes a context."""
        return self.flow.accepts_context

    @property
    def adapts_to_pairs(self) -> bool:
        """Whether the `adapt` of the flow takes pairs that share factors."""
        return self.flow.adapts_to_pairs and self.flow.trainable

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        self._count_kept(shape)
        return super()._change_shape(shape)

    def _count_kept(self, shape: Sequence[int]) -> int:
        """Returns the number of channels that go on, or raises an error if these are all."""
        count = (shape[-1] + 1) // 2 if self.kept_count is None else self.kept_count
        if count >= shape[-1]:
            raise ValueError(
                f"The inputs of '{self.name}' should have more than {count} channels along their "
                f"last axis, since {count} go on to the flow. Received: inputs of shape "
                f"{list(shape)}"
            )
        return count

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the flow for the channels that go on."""
        super().build(input_shape)
        *positions, channel_count = self._shape_
        kept_count = self._count_kept(self._shape_)
        kept = keras.KerasTensor((None, *positions, kept_count), self.compute_dtype)
        arguments = {}
        if self.context_shape is not None:
            shape = (None, *self.context_shape)
            arguments["context"] = keras.KerasTensor(shape, self.compute_dtype)
        flow_outputs, _ = self.flow(kept, **arguments)
        self._factored_shape = [*positions, channel_count - kept_count]
        self._flow_output_shape = list(flow_outputs.shape[1:])

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the channels that go on and the others."""
        kept_count = self._count_kept(x.shape if self._shape_ is None else self._shape_)
        return x[..., :kept_count], x[..., kept_count:]

    def _unflatten(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the channels that were factored out and the outputs of the flow."""
        size = math.prod(self._factored_shape)
        return (
            ops.reshape(outputs[:, :size], (-1, *self._factored_shape)),
            ops.reshape(outputs[:, size:], (-1, *self._flow_output_shape)),
        )

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the flow on part of the channels, and flattens all.

        Args:
            inputs: Floating-point tensor `[batch, ..., channels]`.
            context: The context that the flow is given, if it takes one.

        Returns:
            The pair of outputs, `[batch, dimension count]`, and log-determinants, `[batch]`.
        """
        kept, factored = self._split(inputs)
        latent, log_det = self.flow(kept, **given(context=context))
        parts = [ops.reshape(factored, (-1, math.prod(self._factored_shape)))]
        parts.append(ops.reshape(latent, (-1, math.prod(self._flow_output_shape))))
        outputs = ops.concatenate([ops.cast(part, self.compute_dtype) for part in parts], axis=-1)
        return outputs, self.sum_log_det(inputs, log_det)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps outputs of `call` back to its inputs.

        Args:
            outputs: See :meth:`FlowLayer.invert`.
            context: The context that `call` was given.

        Returns:
            The reconstructed inputs, `[batch, ..., channels]`.
        """
        factored, latent = self._unflatten(outputs)
        return self._join(self.flow.invert(latent, **given(context=context)), factored)

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.invert_and_log_det`."""
        factored, latent = self._unflatten(outputs)
        kept, log_det = self.flow.invert_and_log_det(latent, **given(context=context))
        return self._join(kept, factored), self.sum_log_det(outputs, log_det)

    def _join(self, kept: Tensor, factored: Tensor) -> Tensor:
        return ops.concatenate([ops.cast(kept, factored.dtype), factored], axis=-1)

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Returns the layers of the flow that have an `adapt` method their data-dependent start.

        Args:
            data: The inputs, or pairs of them; see :meth:`FlowModel.adapt`.
            batch_size: Number of examples that are processed at a time.
        """
        if not hasattr(self.flow, "adapt"):
            return
        if self.adapts_to_pairs:
            pairs = to_pairs(data)
            self.flow.adapt(pairs.of_instances(self._split(pairs.x)[0]), batch_size)
            return
        batches = [
            {**batch, "inputs": self._split(batch["inputs"])[0]}
            if isinstance(batch, dict)
            else self._split(batch)[0]
            for batch in iterate_batches(data, batch_size)
        ]
        self.flow.adapt(batches, batch_size)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
            "kept_count": self.kept_count,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FactorOut":
        """Makes an equal layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        flow = keras.saving.deserialize_keras_object(config["flow"])
        return cls(**{**config, "flow": flow})
