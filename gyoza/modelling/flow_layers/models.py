"""Chains of flow layers."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.batches import iterate_batches
from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.invertible import Invertible

__all__ = ["FlowModel", "DisentanglingFlowModel"]


@keras.saving.register_keras_serializable(package="gyoza")
class FlowModel(Invertible, keras.Model):
    r"""A chain of flow layers, executed one after the other.

    .. math::
        z = f_K(\cdots f_2(f_1(x))), \qquad
        \log \left| \det \frac{\partial z}{\partial x} \right| =
        \sum_k \log \left| \det \frac{\partial f_k}{\partial f_{k-1}} \right|.

    With a base distribution :math:`p_Z` of the latent :math:`z`, it is a density of the data,

    .. math::
        \log p(x) = \log p_Z(z) + \log \left| \det \frac{\partial z}{\partial x} \right|.

    It is a Keras model: `compile`, `fit`, `predict`, `save` and callbacks work as usual. Compiled
    without a loss, `fit(x)` maximises the likelihood; the loss shown is the mean of
    :math:`-\log p(x)`, in nats.

    Args:
        flow_layers: The layers, in the order of execution. Models count as layers, too.
        base_distribution: The distribution of the latent: a
            :class:`~gyoza.modelling.distributions.Distribution`. A
            :class:`~gyoza.modelling.distributions.StandardNormal` if omitted. If it has weights,
            they are trained with the flow.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Raises:
        TypeError: If one of `flow_layers` is no flow layer, or `base_distribution` no distribution.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if base_distribution is None:
            base_distribution = StandardNormal()
        if not isinstance(base_distribution, Distribution):
            raise TypeError(
                "`base_distribution` should be a `Distribution`. "
                f"Received: base_distribution={base_distribution} (of type "
                f"{type(base_distribution)})"
            )
        self.base_distribution = base_distribution
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
        x = keras.KerasTensor((None, *input_shape[1:]), dtype=self.compute_dtype)
        for layer in self._flow_layers_:
            x, _ = layer(x)
        if not self.base_distribution.built:
            self.base_distribution.build(x.shape)

    def call(self, inputs: Any) -> Any:
        """Executes all layers.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`.

        Returns:
            The pair of outputs and log-determinants, `[batch]`.
        """
        return self._run(inputs, self._flow_layers_)

    def _run(self, x: Any, layers: Sequence[FlowLayer]) -> tuple[Any, Any]:
        x, log_det = layers[0](x)
        for layer in layers[1:]:
            x, layer_log_det = layer(x)
            log_det = log_det + layer_log_det
        return x, log_det

    def _prepare_inversion(self, outputs: Any) -> None:
        if not self.built:
            self.compute_input_shape(tuple(outputs.shape))

    def compute_input_shape(self, output_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Gives the shape of the inputs that have outputs of `output_shape`, and builds layers."""
        for layer in reversed(self._flow_layers_):
            layer._prepare_inversion(keras.KerasTensor(output_shape, dtype=self.compute_dtype))
            output_shape = layer.compute_input_shape(output_shape)
        return tuple(output_shape)

    def invert(self, outputs: Any) -> Any:
        """Inverts all layers, from the last to the first.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        for layer in reversed(self._flow_layers_):
            outputs = layer.invert(outputs)
        return outputs

    def log_prob(self, x: Any) -> Any:
        """Computes the logarithm of the density of data.

        Args:
            x: Floating-point tensor, `[batch, ...]`.

        Returns:
            The log-densities in nats, `[batch]`. They are differentiable.
        """
        return self._add_up(*self(x))

    def _add_up(self, z: Any, log_det: Any) -> Any:
        return self.base_distribution.log_prob(z) + log_det

    def sample(self, sample_count: int, seed: Any = None) -> Any:
        """Draws new data: latents from the base distribution, mapped back.

        Args:
            sample_count: The number of instances.
            seed: Integer for the same samples every time. Other ones at each call if omitted.

        Returns:
            The samples, `[sample_count, ...]`.

        Raises:
            ValueError: If the model is not built, so that the shape of the latent is not known.
        """
        if not self.built:
            raise ValueError(
                f"Model '{self.name}' should be built before `sample`: call or fit it on data, or "
                "call `build` with their shape."
            )
        return self.invert(self.base_distribution.sample(sample_count, seed=seed))

    def sample_and_log_prob(self, sample_count: int, seed: Any = None) -> tuple[Any, Any]:
        """Draws new data, together with the logarithm of their density.

        Args:
            sample_count: The number of instances.
            seed: See :meth:`sample`.

        Returns:
            The samples, `[sample_count, ...]`, and their log-densities, `[sample_count]`.
        """
        x = self.sample(sample_count, seed=seed)
        return x, self.log_prob(x)

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
        if not isinstance(y_pred, tuple | list):
            raise ValueError(
                f"Model '{self.name}' should be compiled with a loss before it is fitted to pairs. "
                "Received: loss=None"
            )
        losses = -self._add_up(*y_pred)
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, losses.dtype)
        return ops.mean(losses) + sum(self.losses)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the model; see `keras.Model.fit`.

        Args:
            x: The inputs, or a data set that yields them.
            y: What the compiled loss compares outputs with; `None` to maximise the likelihood.
            *args: Further arguments of `keras.Model.fit`.
            **kwargs: Likewise.

        Returns:
            The `keras.callbacks.History`.
        """
        return super().fit(x, _stand_in(x, y, kwargs), *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes loss and metrics; see `keras.Model.evaluate` and :meth:`fit`."""
        return super().evaluate(x, _stand_in(x, y, kwargs), *args, **kwargs)

    def adapt(self, data: Any, batch_size: int = 4096) -> None:
        """Gives all layers that have an `adapt` method their data-dependent start.

        Each layer is adapted to what the layers before it, already adapted, make of `data`. All
        outputs of one layer are held in memory at a time: some thousand instances suffice.

        Args:
            data: The inputs: an array, a pair of arrays, or an iterable of batches, as `fit` takes
                them. Only the inputs are used, not the targets.
            batch_size: Number of instances that are worked through at a time.
        """
        batches = list(iterate_batches(data, batch_size))
        if not batches:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        x = np.concatenate(batches)
        if not self.built:
            self.build((None, *x.shape[1:]))
        last = max(
            (i for i, layer in enumerate(self._flow_layers_) if hasattr(layer, "adapt")), default=-1
        )
        for layer in self._flow_layers_[: last + 1]:
            if hasattr(layer, "adapt"):
                layer.adapt(x, batch_size)
            outputs = [layer(batch)[0] for batch in iterate_batches(x, batch_size)]
            x = np.concatenate([ops.convert_to_numpy(batch) for batch in outputs])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self._flow_layers_]
        distribution = keras.saving.serialize_keras_object(self.base_distribution)
        return {**super().get_config(), "flow_layers": layers, "base_distribution": distribution}

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
        distribution = deserialize(config.pop("base_distribution"))
        return cls(flow_layers=layers, base_distribution=distribution, **config)


@keras.saving.register_keras_serializable(package="gyoza")
class DisentanglingFlowModel(FlowModel):
    r"""A :class:`FlowModel` that learns from pairs which factors its latent vectors consist of.

    It is compiled with a :class:`~gyoza.modelling.losses.SupervisedFactorLoss` and fitted to pairs
    of instances, whose similarity in each factor is known:

    .. code-block:: python

        model.compile("adam", loss=SupervisedFactorLoss(dimensions_per_factor))
        model.fit((a, b), y)

    Called on one batch, `call(x)`, it gives outputs and log-determinants like any `FlowModel`.
    Called on a pair of batches, `call((a, b))`, it gives what the loss needs, the concatenation
    :math:`[T(a), T(b), j_a, j_b]` of latent vectors and log-determinants along the last axis,
    `[batch, 2 * dimension count + 2]`. So `fit`, `evaluate`, `predict`, validation data, sample
    weights and metrics work on pairs as Keras makes them work on any inputs.

    Latent vectors of a pair must have the shape `[batch, dimension count]`.

    Args:
        flow_layers: See :class:`FlowModel`.
        base_distribution: See :class:`FlowModel`. The factor loss takes a standard normal for
            granted, whatever this is.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        ValueError: If the two batches of a pair differ in shape, or outputs have several axes.

    Example:

        >>> from gyoza.modelling import flow_layers, losses
        >>> model = flow_layers.DisentanglingFlowModel([
        ...     flow_layers.ActivationNormalization(), flow_layers.Reflection(reflection_count=2)
        ... ])
        >>> model.compile("adam", loss=losses.SupervisedFactorLoss([1, 1]))
        >>> random = np.random.default_rng(0)
        >>> a, b = random.normal(size=[2, 64, 2]).astype("float32")
        >>> history = model.fit((a, b), np.tile([0.0, 0.9], [64, 1]), verbose=0)
        >>> z, log_det = model(a)
        >>> z.shape == (64, 2)
        True

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    def build(self, input_shape: Any) -> None:
        """Builds all layers; see :meth:`FlowModel.build`.

        Args:
            input_shape: Shape of one batch, or a pair of shapes.
        """
        if isinstance(input_shape[0], int | None):
            super().build(input_shape)
        else:
            first, second = (tuple(shape) for shape in input_shape)
            _check_pair([first, second])
            super().build(first)

    def call(self, inputs: Any) -> Any:
        """Executes all layers on one batch or on a pair of batches.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`, or a pair (tuple or list) of such.

        Returns:
            For one batch, the pair of outputs and log-determinants. For a pair, the tensor
            `[batch, 2 * dimension count + 2]` that the loss is given as `y_pred`.
        """
        if not isinstance(inputs, list | tuple):
            return super().call(inputs)
        _check_pair([tuple(x.shape) for x in inputs])
        z, log_det = super().call(ops.concatenate(inputs, axis=0))
        if len(z.shape) != 2:
            raise ValueError(
                "The outputs of a model for pairs should have shape [batch, dimension count]: "
                f"flatten its inputs. Received: outputs of shape {tuple(z.shape)}"
            )
        z_a, z_b = ops.split(ops.cast(z, log_det.dtype), 2, axis=0)
        j_a, j_b = ops.split(log_det[:, None], 2, axis=0)
        return ops.concatenate([z_a, z_b, j_a, j_b], axis=-1)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Computes the compiled loss of a batch of pairs; see `keras.Model.compute_loss`."""
        if self._compile_loss is not None and isinstance(y_pred, tuple | list):
            raise ValueError(
                f"Model '{self.name}' should be fitted to pairs `(a, b)`. Received: a single array"
            )
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _check_targets(self, y: Any) -> None:
        """Checks correlations that are given as one array, before compiled code meets them."""
        check = getattr(self.loss, "check_correlations", None)
        if check is not None and hasattr(y, "shape"):
            check(ops.convert_to_numpy(y))

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the model; see `keras.Model.fit`.

        Args:
            x: A pair `(a, b)` of arrays, or a data set that yields `((a, b), y)`, such as those of
                :mod:`gyoza.data`.
            y: Correlations per pair and factor, `[instances, factor count]`, if `x` is a pair.
            *args: Further arguments of `keras.Model.fit`.
            **kwargs: Likewise.

        Returns:
            The `keras.callbacks.History`.
        """
        self._check_targets(y)
        validation_data = kwargs.get("validation_data")
        if isinstance(validation_data, tuple | list) and len(validation_data) > 1:
            self._check_targets(validation_data[1])
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes loss and metrics; see `keras.Model.evaluate`, and :meth:`fit` for the data."""
        self._check_targets(y)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch; see `keras.Model.train_on_batch`."""
        self._check_targets(y)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch; see `keras.Model.test_on_batch`."""
        self._check_targets(y)
        return super().test_on_batch(x, y, *args, **kwargs)


def _stand_in(x: Any, y: Any, arguments: dict[str, Any]) -> Any:
    """Gives targets that nobody uses to weighted arrays: without any, Keras drops the weights."""
    if y is None and arguments.get("sample_weight") is not None and hasattr(x, "shape"):
        return np.zeros([x.shape[0], 1], "float32")
    return y


def _check_pair(shapes: Sequence[tuple[int | None, ...]]) -> None:
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            "A pair should consist of two batches of the same shape. "
            f"Received: {len(shapes)} batches of shapes {list(shapes)}"
        )
