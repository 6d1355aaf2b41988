"""Chains of flow layers, which are densities of data."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import track_last
from gyoza.modelling.adaptation import is_left_alone
from gyoza.modelling.batches import iterate_batches
from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.circular import set_periods
from gyoza.modelling.flow_layers.conditional import TakesContext
from gyoza.modelling.flow_layers.density import Density, split_context
from gyoza.modelling.flow_layers.invertible import Invertible, check_floating
from gyoza.modelling.flow_layers.recomputation import can_be_recomputed, run_and_forget
from gyoza.modelling.pairs import to_pairs
from gyoza.modelling.training import Training, average_losses, describe, to_arrays

__all__ = ["FlowModel"]


@keras.saving.register_keras_serializable(package="gyoza")
class FlowModel(TakesContext, Density, Invertible, Training):
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
            :class:`~gyoza.modelling.distributions.Distribution`. A
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
        TypeError: If one of `flow_layers` is no flow layer, `base_distribution` no distribution, or
            `context_encoder` no Keras layer.
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
        base_distribution: Distribution | None = None,
        context_encoder: keras.Layer | None = None,
        memory_efficient: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.memory_efficient = memory_efficient
        if base_distribution is None:
            base_distribution = StandardNormal(dtype=self.dtype_policy)
        if not isinstance(base_distribution, Distribution):
            raise TypeError(
                "`base_distribution` should be a `Distribution`. "
                f"Received: base_distribution={base_distribution} (of type "
                f"{type(base_distribution)})"
            )
        if context_encoder is not None and not isinstance(context_encoder, keras.Layer):
            raise TypeError(
                "`context_encoder` should be a Keras layer or model. "
                f"Received: context_encoder={context_encoder} (of type {type(context_encoder)})"
            )
        self.base_distribution = base_distribution
        self.context_encoder = context_encoder
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
        if not isinstance(flow_layer, Invertible):
            raise TypeError(
                "`flow_layer` should be a `FlowLayer` or a `FlowModel`. "
                f"Received: flow_layer={flow_layer} (of type {type(flow_layer)})"
            )
        if flow_layer is self:
            raise ValueError(f"A model should not be a layer of itself. Received: {flow_layer}")
        if self.built:
            raise ValueError(
                f"Layers should be added before model '{self.name}' is built. "
                f"Received: flow_layer={flow_layer}"
            )
        self._flow_layers_.append(flow_layer)
        others = [self.context_encoder, self.base_distribution]
        track_last(self, [part for part in others if part is not None])

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds all layers.

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
        context = self._describe_context()
        for _, outputs, _ in self.run_layers(x, context):
            x = outputs
        self.base_distribution(x, **self._base_context(context))

    def __call__(self, inputs: Any, context: Any = None, **kwargs: Any) -> Any:
        """Runs `call`, see there, as every Keras model does."""
        inputs, context = split_context(inputs, context)
        inputs = to_arrays(inputs)
        self._check_inputs(inputs)
        return super().__call__(inputs, context, **kwargs)

    def call(self, inputs: Any, context: Any = None, training: bool | None = None) -> Any:
        """Executes all layers.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`, or `{"inputs": …, "context": …}`.
            context: The context of each instance, `[batch, ...]`, if the model is conditional.
            training: Whether the model is being trained, which some layers want to know.

        Returns:
            The pair of outputs and log-determinants, `[batch]`.
        """
        inputs, context = split_context(inputs, context)
        if self.memory_efficient:
            return self._run_and_forget(inputs, context, training)
        results = list(self.run_layers(inputs, context, training))
        return results[-1][1], sum(log_det for _, _, log_det in results)

    def _run_and_forget(self, x: Any, context: Any, training: bool | None) -> tuple[Any, Any]:
        """Executes all layers, and stores inputs of those only that cannot be recomputed."""
        context = self.encode(context, training)

        log_det: Any = 0.0
        for recomputed, group in itertools.groupby(self._flow_layers_, can_be_recomputed):
            layers = list(group)
            if recomputed:
                x, of_group = run_and_forget(layers, x, context, _pass_on, training)
                log_det = log_det + of_group
                continue
            for layer in layers:
                x, of_layer = layer(x, **_pass_on(context, layer), training=training)
                log_det = log_det + of_layer
        return x, log_det

    def run_layers(
        self, x: Any, context: Any = None, training: bool | None = None
    ) -> Iterator[tuple[FlowLayer, Any, Any]]:
        """Executes one layer after the other.

        Args:
            x: Floating-point tensor, `[batch, ...]`.
            context: See :meth:`call`.
            training: See :meth:`call`.

        Yields:
            A layer, and its outputs and log-determinants.
        """
        context = self.encode(context, training)
        for layer in self._flow_layers_:
            x, log_det = layer(x, **_pass_on(context, layer), training=training)
            yield layer, x, log_det

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> tuple[tuple[int | None, ...], tuple[int | None]]:
        """Gives the shapes of outputs and log-determinants."""
        shape = tuple(input_shape)
        for layer in self._flow_layers_:
            shape, _ = layer.compute_output_shape(shape)
        return shape, (shape[0],)

    def _prepare_context(self, inputs: Any, context: Any) -> Any:
        context = super()._prepare_context(inputs, context)
        if context is None:
            return None
        if self.context_encoder is None:
            check_floating(context, self.name, "The context")
        if not self.accepts_context:
            raise ValueError(
                f"Model '{self.name}' has no layers, nor a base distribution, that take a context. "
                f"Received: context.shape={tuple(context.shape)}"
            )
        return context

    @property
    def accepts_context(self) -> bool:
        """Whether a layer, or the base distribution, takes a context."""
        return self.base_distribution.accepts_context or any(
            layer.accepts_context for layer in self._flow_layers_
        )

    def _prepare_inversion(self, outputs: Any, context: Any = None) -> None:
        self._check_rank(outputs, 2)
        self._prepare_context(outputs, context)
        if not self.built:
            self.compute_input_shape(tuple(outputs.shape))

    def compute_input_shape(self, output_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Gives the shape of the inputs that have outputs of `output_shape`, and builds layers."""
        context = self.encode(self._describe_context())
        for layer in reversed(self._flow_layers_):
            outputs = keras.KerasTensor(output_shape, dtype=self.compute_dtype)
            layer._prepare_inversion(outputs, **_pass_on(context, layer))
            output_shape = layer.compute_input_shape(output_shape)
        return tuple(output_shape)

    def invert(self, outputs: Any, context: Any = None) -> Any:
        """Inverts all layers, from the last to the first.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        context = self.encode(context)
        for layer in reversed(self._flow_layers_):
            outputs = layer.invert(outputs, **_pass_on(context, layer))
        return outputs

    def invert_and_log_det(self, outputs: Any, context: Any = None) -> tuple[Any, Any]:
        """Inverts all layers, and computes the log-determinants that `call` has there.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The pair of inputs and log-determinants of `call`, `[batch]`.
        """
        context = self.encode(context)
        log_det: Any = 0.0
        for layer in reversed(self._flow_layers_):
            outputs, layer_log_det = layer.invert_and_log_det(outputs, **_pass_on(context, layer))
            log_det = log_det + layer_log_det
        return outputs, log_det

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Computes the compiled loss, or without one, the mean negative log-likelihood in nats.

        See `keras.Model.compute_loss`.
        """
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        losses = -self._compute_log_prob(x, y, y_pred, training)
        return average_losses(losses, sample_weight, self.losses)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Updates the metrics; see `keras.Model.compute_metrics`.

        Without a compiled loss, metrics are given the inputs and their log-densities, as those in
        :mod:`gyoza.modelling.metrics` take them.
        """
        if self._compile_loss is None and self._compile_metrics is not None:
            y, y_pred = split_context(x)[0], self._compute_log_prob(x, y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _compute_log_prob(self, x: Any, y: Any, y_pred: Any, training: bool = False) -> Any:
        """Computes log-densities from what training steps hold."""
        labels = {}
        if y is not None and y.shape[-1] != 0:
            self._check_targets(y)
            labels = {"labels": y}
        return self._add_up(tuple(y_pred), split_context(x)[1], training, **labels)

    def _check_inputs(self, inputs: Any) -> None:
        inputs, _ = split_context(inputs)
        if isinstance(inputs, tuple | list):
            raise ValueError(
                f"The inputs of '{self.name}' should be one array. With a context, pass "
                f'`{{"inputs": …, "context": …}}`. Received: a {type(inputs).__name__} of '
                f"{len(inputs)} elements"
            )
        first = self._flow_layers_[0] if self.built else None
        self._check_rank(inputs, getattr(getattr(first, "input_spec", None), "min_ndim", None) or 2)

    def _check_rank(self, x: Any, least: int) -> None:
        """Raises a `ValueError` for a single instance where there should be a batch."""
        shape = getattr(x, "shape", None)
        if shape is not None and len(shape) < least:
            raise ValueError(
                f"'{self.name}' should be given batches of instances, with at least {least} "
                "axes: `x[None]` is a batch of one instance `x`. "
                f"Received: an array of shape {tuple(shape)}"
            )

    def _check_targets(self, y: Any, class_weight: Any = None) -> None:
        takes_labels = self.base_distribution.accepts_labels
        if takes_labels and isinstance(y, np.ndarray):
            self.base_distribution.check_labels(y)
        if takes_labels or self._compile_loss is not None:
            return
        if y is not None and y.shape[-1] != 0:
            raise ValueError(
                f"Model '{self.name}' is trained by the likelihood of its inputs alone, and should "
                'be given no targets `y`. For the density of `y` given `x`, pass `{"inputs": y, '
                f'"context": x}}`. Received: y of shape {tuple(y.shape)}'
            )
        if class_weight is not None:
            raise ValueError(
                "`class_weight` should be given only where there are labels; pass a "
                f"`sample_weight` instead. Received: class_weight={class_weight}"
            )

    def _check_shapes(self, x: Any) -> None:
        x, context = split_context(x)
        for values in keras.tree.flatten(x) if self.built and context is None else ():
            if hasattr(values, "shape") and hasattr(values, "dtype"):
                self._flow_layers_[0](describe(values))

    @property
    def adapts_to_pairs(self) -> bool:
        """Whether there is a layer whose `adapt` takes pairs that share factors."""
        return any(layer.adapts_to_pairs and layer.trainable for layer in self._flow_layers_)

    def adapt(self, data: Any, batch_size: int = 4096) -> None:
        """Gives all layers that have an `adapt` method their data-dependent start.

        Each layer is adapted to what the layers before it, already adapted, make of `data`. All
        outputs of one layer are held in memory at a time: some thousand instances suffice. Frozen
        layers are left as they are, with a warning.

        Args:
            data: The inputs: an array, a pair of arrays, a dictionary with a context, or an
                iterable of batches, as `fit` takes them. Only inputs are used, not targets. Where
                a layer adapts to pairs, as :class:`PairAxes` does, what that takes; other layers
                are then adapted to all instances of the pairs.
            batch_size: Number of instances that are worked through at a time.

        Raises:
            ValueError: If `data` holds no instances, or no pairs where a layer adapts to pairs.
        """
        pairs = to_pairs(data) if self.adapts_to_pairs else None
        data = to_arrays(data) if pairs is None else pairs.x
        if isinstance(data, tuple) and len({np.shape(part)[1:] for part in data}) > 1:
            FlowModel._check_inputs(self, data)
        batches = [split_context(batch) for batch in iterate_batches(data, batch_size)]
        if not batches:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        x = np.concatenate([batch for batch, _ in batches])
        self._check_inputs(x)
        contexts = [context for _, context in batches]
        context = None if contexts[0] is None else np.concatenate(contexts)
        self.build_for(x, context)
        if context is not None:
            context = ops.convert_to_numpy(self.encode(ops.convert_to_tensor(context)))
        adapted = [
            i
            for i, layer in enumerate(self._flow_layers_)
            if hasattr(layer, "adapt") and not is_left_alone(layer)
        ]
        for i, layer in enumerate(self._flow_layers_[: max(adapted, default=-1) + 1]):
            inputs = {"inputs": x, **_pass_on(context, layer)}
            if i in adapted and layer.adapts_to_pairs and pairs is not None:
                layer.adapt(pairs.of_instances(x), batch_size)
            elif i in adapted:
                layer.adapt(inputs if len(inputs) > 1 else x, batch_size)
            outputs = [layer(**batch)[0] for batch in iterate_batches(inputs, batch_size)]
            x = np.concatenate([ops.convert_to_numpy(batch) for batch in outputs])

    def export(self, filepath: Any, *args: Any, input_signature: Any = None, **kwargs: Any) -> Any:
        """Writes `call` to a file for inference; see `keras.Model.export`.

        A conditional model is exported as a function of `{"inputs": …, "context": …}`. To export
        `log_prob`, `invert` or `sample`, use `keras.export.ExportArchive`.
        """
        shape = (self.get_build_config() or {}).get("input_shape") or ()
        if input_signature is None and shape and isinstance(shape[-1], int | None):
            inputs: Any = keras.InputSpec(shape=(None, *shape[1:]), dtype=self.input_dtype)
            if self.context_shape is not None:
                shape, dtype = (None, *self.context_shape), self.context_dtype
                inputs = {"inputs": inputs, "context": keras.InputSpec(shape=shape, dtype=dtype)}
            input_signature = [inputs]
        return super().export(filepath, *args, input_signature=input_signature, **kwargs)

    @property
    def _default_save_signature(self) -> Any:
        # What TensorFlow saves besides: a function of inputs alone, which it could not trace here.
        if self.context_shape is not None:
            return None
        return getattr(super(), "_default_save_signature", None)

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
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "FlowModel":
        """Makes a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            A model with the same configuration and weights of its own.
        """
        config = dict(config)
        deserialize = functools.partial(
            keras.saving.deserialize_keras_object, custom_objects=custom_objects
        )
        layers = [deserialize(layer) for layer in config.pop("flow_layers")]
        for name in ("base_distribution", "context_encoder"):
            config[name] = deserialize(config[name])
        return cls(flow_layers=layers, **config)


def _pass_on(context: Any, layer: Any) -> dict[str, Any]:
    """Gives the arguments by which a layer is told of the context."""
    return {"context": context} if context is not None and layer.accepts_context else {}
