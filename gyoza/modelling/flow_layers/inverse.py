"""A layer that inverts another one."""

from typing import Any

import keras

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.conditional import TakesContext
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_instance
from gyoza.typing import Shape, Tensor

__all__ = ["Inverse"]


@keras.saving.register_keras_serializable(package="gyoza")
class Inverse(TakesContext, FlowLayer):
    r"""Inverts a flow layer, or a whole model: what inverts it becomes the forward direction.

    With the layer's map :math:`f`,

    .. math::
        y = f^{-1}(x), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        -\log \left| \det \frac{\partial f(y)}{\partial y} \right|.

    The two directions also swap their costs. `Inverse(MaskedAffine())` is an inverse autoregressive
    flow (IAF), which samples in one pass and evaluates densities dimension by dimension.

    The layer is built for the inputs that are first seen here, unless it is built already. If it
    changes the shape, it must be possible to tell the shape of its inputs from that of its outputs.

    Args:
        layer: The flow layer or model, :math:`f`. Weights are shared with it.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `layer` is neither a flow layer nor a model.
        ValueError: If the shape of the layer's inputs is not known, or there is a context that it
            does not take.

    Attributes:
        layer: The layer that is inverted.

    Example:

        >>> from gyoza.modelling.flow_layers import Inverse, Softplus
        >>> layer = Inverse(Softplus())
        >>> outputs, log_det = layer(np.array([[0.5, 2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)  # log(exp(x) - 1)
        array([[-0.4328,  1.8546]], dtype=float32)

    References:
        - Kingma, D. P., Salimans, T., Jozefowicz, R., Chen, X., Sutskever, I. & Welling, M. (2016).
          "Improving variational inference with inverse autoregressive flow."
          `arXiv:1606.04934 <https://arxiv.org/abs/1606.04934>`_
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        check_instance("layer", layer, Invertible, "a `FlowLayer` or a `FlowModel`")
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.layer: keras.Layer = layer

    @property
    def accepts_context(self) -> bool:
        """Whether the inverted layer takes a context."""
        return self.layer.accepts_context

    @property
    def preserves_volume(self) -> bool:  # type: ignore[override]
        """Whether the inverted layer preserves volume."""
        return getattr(self.layer, "preserves_volume", False)

    @property
    def moves_any_dtype(self) -> bool:  # type: ignore[override]
        """Whether the inverted layer takes any dtype."""
        return self.layer.moves_any_dtype

    def _prepare_context(self, inputs: Tensor, context: Tensor | None) -> Tensor | None:
        context = super()._prepare_context(inputs, context)
        if context is not None and not self.accepts_context:
            raise ValueError(
                f"'{self.layer.name}', which '{self.name}' inverts, does not take a context. "
                f"Received: context.shape={tuple(context.shape)}"
            )
        return context

    @property
    def metrics(self) -> list[keras.Metric]:
        """None: the metrics of a compiled model are those of its own training."""
        return []

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the layer for outputs of `input_shape`; see :meth:`FlowLayer.build`."""
        if not self.layer.built:
            if input_shape is None:
                self.layer.build(None)
            else:
                self._build_layer((None, *input_shape[1:]))
        self.input_spec = self.layer.output_spec

    def _build_layer(self, shape: tuple[int | None, ...]) -> None:
        if isinstance(self.layer, TakesContext):
            outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
            self.layer._prepare_context(outputs, self._describe_context())
        try:
            received = self._call_symbolically(self.layer.compute_input_shape(shape))
        except ValueError:
            # Models ask all of their layers for a shape, also those that keep that of their inputs.
            if not isinstance(self.layer, keras.Model):
                raise
            received = self._call_symbolically(shape)
        if received != shape:
            raise ValueError(
                f"'{self.layer.name}' should be built before it is inverted, as its inputs and "
                f"outputs differ in shape. Received: outputs of shape {received} for inputs of "
                f"shape {shape}"
            )

    def _call_symbolically(self, shape: Shape) -> tuple[int | None, ...]:
        """Calls the layer, which builds it, and returns the shape of its outputs."""
        inputs = keras.KerasTensor((None, *shape[1:]), dtype=self.compute_dtype)
        outputs, _ = self.layer(inputs, **given(context=self._describe_context()))
        return (shape[0], *outputs.shape[1:])

    def _prepare_inversion(self, outputs: Tensor, context: Tensor | None = None) -> None:
        self._prepare_context(outputs, context)
        if not self.built:
            self.build(self.compute_input_shape(tuple(outputs.shape)))

    @property
    def output_spec(self) -> keras.InputSpec | None:
        """What `invert` demands of its argument: what the layer demands of its inputs."""
        return self.layer.input_spec

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inverts the layer.

        Args:
            inputs: Outputs of the layer, `[batch, ...]`.
            context: The context of the layer, if it takes one.

        Returns:
            The pair of inputs of the layer and log-determinants, `[batch]`.
        """
        outputs, log_det = self.layer.invert_and_log_det(inputs, **given(context=context))
        return outputs, -log_det

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Calls the layer.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        return self.layer(outputs, **given(context=context))[0]

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Calls the layer; see :meth:`FlowLayer.invert_and_log_det`."""
        inputs, log_det = self.layer(outputs, **given(context=context))
        return inputs, -log_det

    def compute_output_shape(
        self, input_shape: Shape
    ) -> tuple[tuple[int | None, ...], tuple[int | None]]:
        """Returns the shapes of the outputs and log-determinants."""
        return self.layer.compute_input_shape(input_shape), (input_shape[0],)

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the inputs that have outputs of `output_shape`.

        Args:
            output_shape: Shape of outputs, `[batch, ...]`.
        """
        return self._call_symbolically(output_shape)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        del config["shape"], config["axes"]
        serialize = keras.saving.serialize_keras_object
        # Only the second configuration tells that a layer is shared; see `Coupling`.
        serialize(self.layer)
        return {**config, "layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Inverse":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)
