"""Chains of flow layers, which are densities of data."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from gyoza.backend import enter_scope, track_last
from gyoza.modelling.batches import split_context
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.adapting import AdaptsLayers
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.circular import set_periods
from gyoza.modelling.flow_layers.conditional import PassesContext
from gyoza.modelling.flow_layers.density import Density
from gyoza.modelling.flow_layers.describing import Summarises
from gyoza.modelling.flow_layers.flow_distribution import to_distribution
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.flow_layers.likelihood import LikelihoodTraining
from gyoza.modelling.flow_layers.recomputation import run_and_recompute
from gyoza.modelling.flow_layers.step_checks import ChecksSteps
from gyoza.modelling.functions.arguments import make_parts
from gyoza.modelling.functions.checks import check_instance
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["FlowModel"]


# A chain has its parts from these: a context for its layers (`PassesContext`), `log_prob` and
# `sample` (`Density`), `adapt` (`AdaptsLayers`), what layers have, too (`Invertible`),
# `check_steps` (`ChecksSteps`), `summary` (`Summarises`), `fit`, `evaluate` (`LikelihoodTraining`).
@keras.saving.register_keras_serializable(package="gyoza")
class FlowModel(
    PassesContext, Density, AdaptsLayers, Invertible, ChecksSteps, Summarises, LikelihoodTraining
):
    r"""A chain of flow layers, executed one after the other.

    .. math::
        z = f_K(\cdots f_2(f_1(x))), \qquad
        \log \left| \det \frac{\partial z}{\partial x} \right| =
        \sum_k \log \left| \det \frac{\partial f_k}{\partial f_{k-1}} \right|.

    With a base distribution :math:`p_Z` of the latent :math:`z`, it is a density of the data,

    .. math::
        \log p(x) = \log p_Z(z) + \log \left| \det \frac{\partial z}{\partial x} \right|.

    Where an instance or its context is not finite, neither is its log-density, and no other row
    changes. (Its log-determinant alone may be: without XLA, TensorFlow's ReLU turns NaN into 0.)

    It is a Keras model: `compile`, `fit`, `predict`, `save` and callbacks work as usual. Compiled
    without a loss, `fit(x)` maximises the likelihood; the loss shown is the mean of
    :math:`-\log p(x)`, in nats.

    A conditional flow, :math:`p(x | c)`, has a `context`: a tensor, one row per instance, that
    reaches every layer that takes one, such as couplings, and the base distribution if it has a
    context network. It is passed as `model(x, context=c)`, to `log_prob`, `sample` and `invert`
    likewise, and to `fit`, `evaluate` and `adapt` as `{"inputs": x, "context": c}`. Either all
    calls have a context, or none has.

    Where the base distribution takes labels, such as a
    :class:`~gyoza.modelling.distributions.GaussianMixture` with classes, `fit(x, labels)` maximises
    the likelihood given the labels. Some can be unknown: -1.

    Args:
        flow_layers: The layers, in the order of execution. Models count as layers, too.
        base_distribution: The distribution of the latent: a
            :class:`~gyoza.modelling.distributions.Distribution`, or another flow, of which a
            :class:`FlowDistribution` is made. A
            :class:`~gyoza.modelling.distributions.StandardNormal` if omitted. If it has weights,
            they are trained with the flow.
        context_encoder: A Keras layer or model that is given the context, and whose outputs are the
            context of layers and base distribution. It is trained with the flow.
        memory_efficient: Whether training keeps no activations. The backward pass then goes back
            from the outputs of each layer to its inputs and computes there what it needs, so that
            memory does not grow with the number of layers. Gradients are the same, up to rounding
            that grows with the depth. Layers whose attribute `recomputable` is `False` because
            their inverse is costly or inexact, and those with random numbers or moving statistics,
            are stored.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Raises:
        TypeError: If one of `flow_layers` is not a flow layer, `base_distribution` is not a
            distribution, or `context_encoder` is not a Keras layer.
        ValueError: If a context is missing or should not be there, does not have the right shape or
            batch size, or no layer takes it.

    Attributes:
        _flow_layers_: The list of layers.

    Example:

        >>> from gyoza.modelling import flow_layers
        >>> model = flow_layers.FlowModel([
        ...     flow_layers.ActivationNormalization(), flow_layers.Reflection(reflection_count=2)
        ... ])
        >>> x = np.random.default_rng(0).normal(size=[8, 2]).astype("float32")
        >>> model.adapt(x)
        >>> z, log_det = model(x)
        >>> bool(np.allclose(keras.ops.convert_to_numpy(model.invert(z)), x, atol=1e-5))
        True
        >>> model.compile("adam")
        >>> history = model.fit(x, epochs=2, verbose=0)
        >>> model.log_prob(x).shape == (8,) and model.sample(3, seed=0).shape == (3, 2)
        True
    """

    def __init__(
        self,
        flow_layers: Iterable[FlowLayer] = (),
        base_distribution: "Distribution | FlowModel | None" = None,
        context_encoder: keras.Layer | None = None,
        memory_efficient: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.memory_efficient = memory_efficient
        if context_encoder is not None:
            what = "a Keras layer or model"
            check_instance("context_encoder", context_encoder, keras.Layer, what)
        self.base_distribution = to_distribution(base_distribution, self.dtype_policy)
        self.context_encoder = context_encoder
        check_instance("flow_layers", flow_layers, Iterable, "a list of flow layers")
        self._flow_layers_: list[FlowLayer] = []
        for layer in flow_layers:
            self.add(layer)

    def add(self, flow_layer: FlowLayer) -> None:
        """Appends a layer. This is possible until the model is built.

        Args:
            flow_layer: The layer, or model.

        Raises:
            TypeError: If it is not a flow layer.
            ValueError: If the model is built already.
        """
        check_instance("flow_layer", flow_layer, Invertible, "a `FlowLayer` or a `FlowModel`")
        if flow_layer is self:
            raise ValueError(f"A model should not be a layer of itself. Received: {flow_layer}")
        if self.built:
            raise ValueError(
                f"Layers should be added before model '{self.name}' is built. "
                f"Received: flow_layer={flow_layer}"
            )
        self._flow_layers_.append(flow_layer)
        track_last(self, [self.context_encoder, self.base_distribution])

    def build(self, input_shape: Shape) -> None:
        """Builds all layers, under the strategy of TensorFlow that the model was made under.

        Args:
            input_shape: Shape of the inputs, `[batch, ...]`, where the batch size may be `None`.

        Raises:
            ValueError: If there are no layers, or the inputs of a layer do not suit it.
        """
        if not self._flow_layers_:
            raise ValueError(
                f"Model '{self.name}' should have at least one flow layer before it is built. "
                "Received: flow_layers=[]"
            )
        set_periods(self._flow_layers_, input_shape)
        x = keras.KerasTensor((None, *input_shape[1:]), dtype=self.compute_dtype)
        with enter_scope(self):
            context = self._describe_context()
            for _, outputs, _ in self.run_layers(x, context):
                x = outputs
            self.base_distribution(x, **self._base_context(context))
        self._least_rank = getattr(self._flow_layers_[0].input_spec, "min_ndim", None) or 2

    def __call__(self, inputs: Tensor, context: Tensor | None = None, **kwargs: Any) -> Tensors:
        """Runs `call`, see there, as every Keras model does."""
        is_array = hasattr(inputs, "shape") and not hasattr(inputs, "to_numpy")  # not a data frame
        if not is_array or len(inputs.shape) < self._least_rank:
            inputs, context = split_context(inputs, context)
            inputs = self._to_arrays(inputs)
            self._check_inputs(inputs)
        if context is not None:
            kwargs["context"] = context
        return super().__call__(inputs, **kwargs)

    def call(
        self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Executes all layers.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`, or `{"inputs": …, "context": …}`.
            context: The context of each instance, `[batch, ...]`, if the model is conditional.
            training: Whether the model is being trained, which some layers want to know.

        Returns:
            The pair of outputs and log-determinants, `[batch]`.
        """
        if isinstance(inputs, dict):
            inputs, context = split_context(inputs, context)
        if self.memory_efficient:
            return run_and_recompute(
                self._flow_layers_, inputs, self.encode(context, training), training
            )
        log_dets = []
        for layer, arguments in self._with_context(context, training):
            inputs, log_det = layer(inputs, **arguments)
            log_dets.append(log_det)
        return inputs, sum(log_dets[1:], log_dets[0])

    def run_layers(
        self, x: Tensor, context: Tensor | None = None, training: bool | None = None
    ) -> Iterator[tuple[FlowLayer, Tensor, Tensor]]:
        """Executes one layer after the other.

        Args:
            x: Floating-point tensor, `[batch, ...]`.
            context: See :meth:`call`.
            training: See :meth:`call`.

        Yields:
            A layer, and its outputs and log-determinants.
        """
        for layer, arguments in self._with_context(context, training):
            x, log_det = layer(x, **arguments)
            yield layer, x, log_det

    def compute_output_shape(
        self, input_shape: Shape
    ) -> tuple[tuple[int | None, ...], tuple[int | None]]:
        """Returns the shapes of outputs and log-determinants."""
        shape = tuple(input_shape)
        for layer in self._flow_layers_:
            shape, _ = layer.compute_output_shape(shape)
        return shape, (shape[0],)

    def _prepare_inversion(self, outputs: Tensor, context: Tensor | None = None) -> None:
        self._check_rank(outputs, 2)
        self._prepare_context(outputs, context)
        if not self.built:
            self.compute_input_shape(tuple(outputs.shape))

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of inputs that have outputs of `output_shape`, and builds layers."""
        for layer, arguments in reversed(self._with_context(self._describe_context())):
            outputs = keras.KerasTensor(output_shape, dtype=self.compute_dtype)
            layer._prepare_inversion(outputs, **arguments)
            output_shape = layer.compute_input_shape(output_shape)
        return tuple(output_shape)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Inverts all layers, from the last to the first.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        for layer, arguments in reversed(self._with_context(context)):
            outputs = layer.invert(outputs, **arguments)
        return outputs

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inverts all layers, and sums their log-determinants.

        See :meth:`FlowLayer.invert_and_log_det` and :meth:`invert`.
        """
        log_det: Tensor = 0.0
        for layer, arguments in reversed(self._with_context(context)):
            outputs, of_layer = layer.invert_and_log_det(outputs, **arguments)
            log_det = log_det + of_layer
        return outputs, log_det

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self._flow_layers_]
        return {
            **super().get_config(),
            "flow_layers": layers,
            "base_distribution": keras.saving.serialize_keras_object(self.base_distribution),
            "memory_efficient": self.memory_efficient,
            "context_encoder": keras.saving.serialize_keras_object(self.context_encoder),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "FlowModel":
        """Makes a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            A model with the same configuration and weights of its own.
        """
        names = "flow_layers", "base_distribution", "context_encoder"
        return cls(**make_parts(config, *names, objects=custom_objects))
