"""A network with a flow inside, by which its factors are read and edited."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients, jit_batches
from gyoza.interpretation.counterfactuals import differentiate_margin
from gyoza.interpretation.edits import Edits
from gyoza.interpretation.factor_sizes import name_factors
from gyoza.interpretation.latents import (
    check_parts,
    check_sizes,
    get_flow_shape,
    join_factors,
    to_tensor,
)
from gyoza.interpretation.parts import check_input_shape, count_instances, to_inputs
from gyoza.interpretation.splitting import split_network
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.training import SavesFiles
from gyoza.typing import Tensor, Tensors

__all__ = ["Interpreter"]


@keras.saving.register_keras_serializable(package="gyoza")
class Interpreter(Edits, SavesFiles):
    r"""Reads and edits the factors of a hidden representation of a network.

    The network is :math:`g \circ h`: its head :math:`h` computes the hidden representation, and its
    tail :math:`g` the outputs from there. An encoder and its decoder are an example, and
    :func:`split_network` splits any network in two. A trained flow :math:`T` maps the hidden
    representation to factors and back,

    .. math::
        h(x) \overset{T}{\longrightarrow} (z_0, z_1, \dots, z_K)
        \overset{T^{-1}}{\longrightarrow} h(x) \overset{g}{\longrightarrow} y,

    so that a change of one factor can be followed to the outputs. Called on `x`, the interpreter
    returns what the network returns, up to rounding.

    Methods take and return NumPy arrays with any number of instances, which are processed in
    batches.

    Args:
        head: The Keras model :math:`h`, from inputs to hidden representations, `[batch, ...]`. If
            these have several axes, they are flattened for a flow of vectors.
        flow: The flow :math:`T`, built, as it is after training, with latent vectors `[batch, n]`.
        tail: The Keras model :math:`g`, from hidden representations to outputs.
        dimensions_per_factor: The number of latent dimensions of each factor, in their order, the
            residual factor first, as for :class:`~gyoza.modelling.losses.SupervisedFactorLoss`: a
            dictionary by name, as :func:`estimate_factor_sizes` returns it, or a sequence, whose
            factors are called "residual", "factor_1" and so on.
        batch_size: The number of instances that are processed at a time.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If the head or the tail is not a Keras layer, the flow is not a `FlowModel`, or
            sizes are not integers.
        ValueError: If head, flow or tail are not built, if the flow does not output vectors, or if
            the sizes do not sum to their length.

    Attributes:
        dimensions_per_factor: The sizes of the factors by name.
        report: What :func:`fit_interpreter` found, or `None`. It is not saved.

    Example:

        >>> from gyoza import applications, interpretation
        >>> network = keras.Sequential([
        ...     keras.Input([4]), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(3)
        ... ])
        >>> x = np.random.default_rng(0).normal(size=[32, 4]).astype("float32")
        >>> head, tail = interpretation.split_network(network, "hidden")
        >>> flow = applications.InterpretationNetwork(block_count=1, hidden_sizes=[8])
        >>> flow.adapt(head.predict(x, verbose=0))
        >>> interpreter = interpretation.Interpreter(head, flow, tail, {"residual": 4, "shape": 2})
        >>> outputs = network.predict(x, verbose=0)
        >>> bool(np.allclose(interpreter.decode(interpreter.encode(x)), outputs, atol=1e-4))
        True
        >>> interpreter.swap(x[:5], x[5:10], factors=["shape"]).shape
        (5, 3)

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    def __init__(
        self,
        head: keras.Layer,
        flow: FlowModel,
        tail: keras.Layer,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        batch_size: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_parts(flow, head=head, tail=tail)
        self.head, self.flow, self.tail = head, flow, tail
        self.dimensions_per_factor = name_factors(dimensions_per_factor)
        self.batch_size = batch_size
        self.report: Any = None
        check_sizes(flow, self.dimensions_per_factor)
        self._hidden_shape = self._find_hidden_shape()
        self.built = True

    @classmethod
    def from_network(
        cls,
        network: keras.Model,
        layer: str | int | keras.Layer,
        flow: FlowModel,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        **kwargs: Any,
    ) -> "Interpreter":
        """Creates an interpreter from a network and a flow at one of its layers.

        Args:
            network: See :func:`split_network`.
            layer: See :func:`split_network`.
            flow: See :class:`Interpreter`.
            dimensions_per_factor: See :class:`Interpreter`.
            **kwargs: Further arguments of :class:`Interpreter`.

        Returns:
            The interpreter.
        """
        head, tail = split_network(network, layer)
        return cls(head, flow, tail, dimensions_per_factor, **kwargs)

    @property
    def _flow_shape(self) -> tuple[int | None, ...]:
        return get_flow_shape(self.flow)

    def _find_hidden_shape(self) -> tuple[int | None, ...]:
        """Returns the shape of a hidden representation, without the batch axis."""
        if hasattr(self.head, "output_shape"):  # sequential and functional models
            shape = self.head.output_shape[1:]
        else:
            shape = self.head.compute_output_shape(self.head.get_build_config()["input_shape"])[1:]
        fits = len(shape) == len(self._flow_shape) - 1 and all(
            length in (None, expected)
            for length, expected in zip(shape, self._flow_shape[1:], strict=True)
        )
        if fits:
            return self._flow_shape[1:]
        if len(self._flow_shape) != 2 or None in shape or math.prod(shape) != self._flow_shape[1]:
            raise ValueError(
                "`head` should return what `flow` takes, inputs of shape "
                f"{self._flow_shape}, if need be after flattening. "
                f"Received: hidden representations of shape {(None, *shape)}"
            )
        return tuple(shape)

    def call(self, inputs: Tensors, training: bool | None = None) -> Tensors:
        """Returns the outputs of the network, computed through the flow and its inverse.

        Args:
            inputs: Inputs of the head.
            training: Whether the network is being trained.

        Returns:
            The outputs of the tail.
        """
        z = self._to_latent(self.head(inputs, training=training))
        return self.tail(self._to_hidden(z), training=training)

    def _to_latent(self, hidden: Tensor) -> Tensor:
        return self.flow(ops.reshape(hidden, (-1, *self._flow_shape[1:])))[0]

    def _to_hidden(self, z: Tensor) -> Tensor:
        return ops.reshape(self.flow.invert(z), (-1, *self._hidden_shape))

    def encode(self, x: Tensors) -> dict[str, np.ndarray]:
        """Returns the factors of inputs.

        Args:
            x: Inputs of the head, `[instances, ...]`: an array, or a dictionary or tuple of arrays
                for a head with several inputs. The same holds for the other methods.

        Returns:
            The latent vectors of each factor by name, `[instances, size of the factor]`.

        Raises:
            ValueError: If inputs do not have the shape of those of the head, or several inputs do
                not have the same number of instances.
        """
        x = to_inputs(x)
        count_instances(x)
        structure = keras.tree.map_structure(lambda _: 0, x)
        key = str(structure)
        if key not in self._encoders:
            self._encoders[key] = self._compile_encoder(structure)
        try:
            z = self._run_in_batches(self._encoders[key], *keras.tree.flatten(x))
        except Exception as error:
            check_input_shape(self.head, x, error)
            raise
        return {name: z[:, block] for name, block in self._slices.items()}

    def decode(self, factors: Mapping[str, Tensor]) -> Tensors:
        """Returns the outputs of the network for given factors.

        Args:
            factors: The latent vectors of each factor by name, as :meth:`encode` returns them.

        Returns:
            The outputs of the tail.

        Raises:
            ValueError: If a factor is missing, unknown, or does not have the right shape.
        """
        return self._run("decode", join_factors(factors, self.dimensions_per_factor))

    def to_hidden(self, factors: Mapping[str, Tensor]) -> np.ndarray:
        """Returns the hidden representations with given factors.

        Args:
            factors: See :meth:`decode`.

        Returns:
            Hidden representations, `[instances, ...]`.

        Raises:
            ValueError: See :meth:`decode`.
        """
        return self._run("to_hidden", join_factors(factors, self.dimensions_per_factor))

    @functools.cached_property
    def _encoders(self) -> dict[str, Callable[..., Any]]:
        """Functions that encode inputs, by the structure of these."""
        return {}

    def _compile_encoder(self, structure: Tensors) -> Callable[..., Any]:
        def encode(*arrays: Tensor) -> list[Tensor]:
            return self._to_latent(self.head(keras.tree.pack_sequence_as(structure, arrays)))

        return jit_batches(encode, xla=False)

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[..., Any]]:
        methods = {
            "decode": lambda z: self.tail(self._to_hidden(z)),
            "to_hidden": self._to_hidden,
        }
        # The network may have layers that XLA cannot compile.
        return {name: jit_batches(f, xla=False) for name, f in methods.items()}

    def _compile_margin(self, margin: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles the gradient, by latent vectors, of a margin, which is a function of outputs."""

        def differentiate(z: Tensor, *others: Tensor) -> Tensor:
            return differentiate_margin(lambda z: margin(self.tail(self._to_hidden(z)), *others), z)

        return functools.partial(self._run_in_batches, jit_batches(differentiate, xla=False))

    def _run(self, name: str, x: Tensors) -> Tensors:
        return self._run_in_batches(self._compiled[name], x)

    def _run_in_batches(self, function: Callable[..., Any], *arrays: Tensor) -> Tensors:
        """Runs a compiled part of the network on any number of instances."""
        parts = []
        with forget_gradients():
            for start in range(0, max(len(arrays[0]), 1), self.batch_size):
                batch = [to_tensor(array[start : start + self.batch_size]) for array in arrays]
                outputs = function(self, *batch)
                parts.append(keras.tree.map_structure(ops.convert_to_numpy, outputs))
        return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` creates an equal model."""
        parts = {"head": self.head, "flow": self.flow, "tail": self.tail}
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(part) for name, part in parts.items()},
            "dimensions_per_factor": dict(self.dimensions_per_factor),
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "Interpreter":
        """Creates a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            A model with the same configuration and weights of its own.
        """
        config = dict(config)
        for name in ("head", "flow", "tail"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)
