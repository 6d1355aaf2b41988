"""A network with a flow in its inside, by which factors are read and edited."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients, jit_batches
from gyoza.interpretation.factor_sizes import name_factors
from gyoza.interpretation.latents import (
    check_sizes,
    find_mean,
    get_flow_shape,
    go_on_arc,
    join_factors,
    slice_factors,
    to_array,
    to_tensor,
)
from gyoza.interpretation.splitting import split_network
from gyoza.modelling.flow_layers import FlowModel

__all__ = ["Interpreter"]


@keras.saving.register_keras_serializable(package="gyoza")
class Interpreter(keras.Model):
    r"""Reads and edits the factors of a hidden representation of a network.

    The network is :math:`g \circ h`: its head :math:`h` gives the hidden representation, and its
    tail :math:`g` goes on from there. An encoder and its decoder are an example, and
    :func:`split_network` makes two parts of any network. A trained flow :math:`T` maps the hidden
    representation to factors and back,

    .. math::
        h(x) \overset{T}{\longrightarrow} (z_0, z_1, \dots, z_K)
        \overset{T^{-1}}{\longrightarrow} h(x) \overset{g}{\longrightarrow} y,

    so that a change of one factor can be followed to the outputs. Called on `x`, the interpreter
    gives what the network gives, up to rounding.

    Methods take and give NumPy arrays, whatever their number of instances, which are worked
    through in batches.

    Args:
        head: The Keras model :math:`h`, from inputs to hidden representations, `[batch, ...]`. If
            these have several axes, they are flattened for a flow of vectors.
        flow: The flow :math:`T`, built, as it is after training, with latent vectors `[batch, n]`.
        tail: The Keras model :math:`g`, from hidden representations to outputs.
        dimensions_per_factor: The number of latent entries of each factor, in their order, the
            residual factor first, as for :class:`~gyoza.modelling.losses.SupervisedFactorLoss`: a
            dictionary by name, as :func:`estimate_factor_sizes` gives it, or a sequence, whose
            factors are called "residual", "factor_1" and so on.
        batch_size: The number of instances that are worked through at a time.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If head or tail are no Keras layers, the flow is no `FlowModel`, or sizes are
            not integers.
        ValueError: If head, flow or tail are not built, if the flow does not give latent vectors,
            or the sizes do not sum to their length.

    Attributes:
        dimensions_per_factor: The sizes of factors by name.

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
        if not isinstance(flow, FlowModel):
            raise TypeError(
                f"`flow` should be a `FlowModel`. Received: flow={flow} (of type {type(flow)})"
            )
        for name, part in (("head", head), ("flow", flow), ("tail", tail)):
            if not isinstance(part, keras.Layer):
                raise TypeError(
                    f"`{name}` should be a Keras model or layer. "
                    f"Received: {name}={part} (of type {type(part)})"
                )
            if not part.built:
                raise ValueError(
                    f"`{name}` should be built: call it on data first. Received: {name}={part}"
                )
        self.head, self.flow, self.tail = head, flow, tail
        self.dimensions_per_factor = name_factors(dimensions_per_factor)
        self.batch_size = batch_size
        check_sizes(flow, self.dimensions_per_factor)
        self._hidden_shape = self._find_hidden_shape()
        self.built = True

    @classmethod
    def from_network(
        cls,
        network: keras.Model,
        layer_name: str,
        flow: FlowModel,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        **kwargs: Any,
    ) -> "Interpreter":
        """Makes an interpreter of a network and a flow at one of its layers.

        Args:
            network: See :func:`split_network`.
            layer_name: See :func:`split_network`.
            flow: See :class:`Interpreter`.
            dimensions_per_factor: See :class:`Interpreter`.
            **kwargs: Further arguments of :class:`Interpreter`.

        Returns:
            The interpreter.
        """
        head, tail = split_network(network, layer_name)
        return cls(head, flow, tail, dimensions_per_factor, **kwargs)

    @property
    def _flow_shape(self) -> tuple[int | None, ...]:
        return get_flow_shape(self.flow)

    @property
    def _slices(self) -> dict[str, slice]:
        return slice_factors(self.dimensions_per_factor)

    def _find_hidden_shape(self) -> tuple[int | None, ...]:
        """The shape of a hidden representation, without the batch axis."""
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
                "`head` should give what `flow` takes, or flattens to it: inputs of shape "
                f"{self._flow_shape}. Received: hidden representations of shape {(None, *shape)}"
            )
        return tuple(shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Gives the outputs of the network, by way of the flow and back.

        Args:
            inputs: Inputs of the head.
            training: Whether the network is being trained.

        Returns:
            The outputs of the tail.
        """
        z = self._to_latent(self.head(inputs, training=training))
        return self.tail(self._to_hidden(z), training=training)

    def _to_latent(self, hidden: Any) -> Any:
        return self.flow(ops.reshape(hidden, (-1, *self._flow_shape[1:])))[0]

    def _to_hidden(self, z: Any) -> Any:
        return ops.reshape(self.flow.invert(z), (-1, *self._hidden_shape))

    def encode(self, x: Any) -> dict[str, np.ndarray]:
        """Gives the factors of inputs.

        Args:
            x: Inputs of the head, `[instances, ...]`.

        Returns:
            The latent entries of each factor by name, `[instances, size of the factor]`.
        """
        z = self._run("encode", x)
        return {name: z[:, block] for name, block in self._slices.items()}

    def decode(self, factors: Mapping[str, Any]) -> Any:
        """Gives the outputs that the network has for certain factors.

        Args:
            factors: The latent entries of each factor by name, as :meth:`encode` gives them.

        Returns:
            The outputs of the tail.

        Raises:
            ValueError: If a factor is missing, unknown, or does not have the right shape.
        """
        return self._run("decode", join_factors(factors, self.dimensions_per_factor))

    def to_hidden(self, factors: Mapping[str, Any]) -> np.ndarray:
        """Gives the hidden representation that has certain factors.

        Args:
            factors: See :meth:`decode`.

        Returns:
            Hidden representations, `[instances, ...]`.

        Raises:
            ValueError: See :meth:`decode`.
        """
        return self._run("to_hidden", join_factors(factors, self.dimensions_per_factor))

    def edit(self, x: Any, factor: str, value: Any) -> Any:
        """Sets a factor.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factor: The name of the factor.
            value: Its latent entries, in a shape that broadcasts to `[instances, size]`.

        Returns:
            What the network makes of it, as outputs of the tail.

        Raises:
            ValueError: If there is no such factor, or `value` does not have the right shape.
        """
        factors = self.encode(x)
        (factor,) = self._check_names(factor)
        value = to_array(value)
        try:
            factors[factor] = np.broadcast_to(value, factors[factor].shape)
        except ValueError:
            raise ValueError(
                f"`value` should have a shape that broadcasts to {factors[factor].shape}, the "
                f"number of instances and the size of factor '{factor}'. "
                f"Received: value.shape={value.shape}"
            ) from None
        return self.decode(factors)

    def swap(self, a: Any, b: Any, factors: str | Iterable[str]) -> Any:
        """Gives instances some factors of others.

        Args:
            a: Inputs of the head, `[instances, ...]`.
            b: As many others.
            factors: The name of the factor that `a` gets from `b`, or names of several.

        Returns:
            What the network makes of `a` with these factors of `b`, as outputs of the tail.

        Raises:
            ValueError: If there is no such factor, or not as many instances in `b` as in `a`.
        """
        names = self._check_names(factors)
        factors_a, factors_b = self._encode_both(a, b)
        return self.decode({**factors_a, **{name: factors_b[name] for name in names}})

    def traverse(self, x: Any, factor: str, steps: Any = 7, direction: Any = 0) -> Any:
        """Moves a factor along a straight line, while the others stay.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factor: The name of the factor.
            steps: The places on the line, in standard deviations of the standard normal
                distribution, or their number, from -2 to 2.
            direction: The direction of the line: a vector `[size of the factor]`, or the index of
                an entry. What the factor holds at right angles to it stays.

        Returns:
            What the network makes of each place, as outputs of the tail, `[steps, instances, ...]`.

        Raises:
            ValueError: If there is no such factor, or `direction` does not fit it.
        """
        factors = self.encode(x)
        (factor,) = self._check_names(factor)
        if np.ndim(steps) == 0:
            steps = np.linspace(-2.0, 2.0, int(steps))
        size = self.dimensions_per_factor[factor]
        if np.ndim(direction) == 0 and -size <= direction < size:
            direction = np.eye(size)[direction]
        direction = to_array(direction)
        length = np.sqrt(np.sum(direction**2))
        if direction.shape != (size,) or not length > 0.0:
            raise ValueError(
                f"`direction` should be an index or a vector of the {size} entries of factor "
                f"'{factor}', and not zero. Received: direction={direction}"
            )
        direction = direction / length
        block = factors[factor] - (factors[factor] @ direction)[:, None] * direction
        blocks = [block + place * direction for place in np.asarray(steps)]
        return self._decode_steps(factors, {factor: blocks})

    def interpolate(
        self, a: Any, b: Any, steps: Any = 7, factors: str | Iterable[str] | None = None
    ) -> Any:
        """Moves factors from those of one instance to those of another.

        The way is an arc around the origin, on which distances to it change evenly: a straight line
        between two draws from a normal distribution of several dimensions would pass through its
        middle, where there are no data.

        Args:
            a: Inputs of the head, `[instances, ...]`.
            b: As many others.
            steps: The places on the way, from 0 at `a` to 1 at `b`, or their number.
            factors: The name of the factor that moves, or names of several; all of them if omitted.

        Returns:
            What the network makes of each place, as outputs of the tail, `[steps, instances, ...]`.

        Raises:
            ValueError: If there is no such factor, or not as many instances in `b` as in `a`.
        """
        names = list(self.dimensions_per_factor) if factors is None else self._check_names(factors)
        factors_a, factors_b = self._encode_both(a, b)
        places = np.linspace(0.0, 1.0, int(steps)) if np.ndim(steps) == 0 else np.asarray(steps)
        moved = {
            name: [go_on_arc(factors_a[name], factors_b[name], place) for place in places]
            for name in names
        }
        return self._decode_steps(factors_a, moved)

    def resample(
        self, x: Any, factors: str | Iterable[str], sample_count: int = 1, seed: Any = None
    ) -> Any:
        """Draws factors anew from the base distribution of the flow, while the others stay.

        The base distribution should have independent factors, as a standard normal one has.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factors: The name of the factor, or names of several.
            sample_count: The number of draws for each instance.
            seed: Integer for the same draws every time. Other ones at each call if omitted.

        Returns:
            What the network makes of them, as outputs of the tail, `[sample_count, instances,
            ...]`.

        Raises:
            ValueError: If there is no such factor.
        """
        names = self._check_names(factors)
        encoded = self.encode(x)
        count = len(next(iter(encoded.values())))
        z = self.flow.base_distribution.sample(sample_count * count, seed=seed)
        z = to_array(z).reshape(sample_count, count, -1)
        return self._decode_steps(encoded, {name: z[..., self._slices[name]] for name in names})

    def erase(
        self,
        x: Any,
        factors: str | Iterable[str],
        how: str = "mean",
        seed: Any = None,
        hidden: bool = False,
    ) -> Any:
        """Takes factors away from instances, while the others stay.

        What an instance holds in them is replaced by what says nothing of it. Whether anything is
        still to be read from the rest is what probes tell, before and after.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factors: The name of the factor, or names of several.
            how: `"mean"` for the mean of the base distribution of the flow, which is 0 where that
                is standard normal. `"resample"` for a draw from it, so that the result has the
                variety of data, too.
            seed: See :meth:`resample`.
            hidden: Whether to return the hidden representation without the factors, in place of
                what the network makes of it.

        Returns:
            What the network makes of it, as outputs of the tail. Or the hidden representations,
            `[instances, ...]`.

        Raises:
            ValueError: If there is no such factor, or `how` is something else.

        Example:
            From a hidden layer that mixes two numbers, either can be read, until it is erased:

            >>> from gyoza import interpretation
            >>> from gyoza.modelling import flow_layers, metrics
            >>> flow = flow_layers.FlowModel([flow_layers.LULinear([2], seed=1)])
            >>> flow.build((None, 2))
            >>> numbers = np.random.default_rng(0).normal(size=[500, 2]).astype("float32")
            >>> x = keras.ops.convert_to_numpy(flow.invert(numbers))
            >>> part = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
            >>> interpreter = interpretation.Interpreter(part, flow, part, {"size": 1, "hue": 1})
            >>> metrics.leakage(x, numbers, [2]).round(1)
            array([[1., 1.]])
            >>> metrics.leakage(interpreter.erase(x, "hue", hidden=True), numbers, [2]).round(1)
            array([[1., 0.]])
        """
        names = self._check_names(factors)
        if how not in ("mean", "resample"):
            raise ValueError(f"`how` should be 'mean' or 'resample'. Received: how={how!r}")
        erased = self.encode(x)
        count = len(next(iter(erased.values())))
        base = self.flow.base_distribution
        if how == "mean":
            z = np.broadcast_to(find_mean(base), (count, base.dimension_count))
        else:
            z = to_array(base.sample(count, seed=seed))
        erased.update({name: z[:, self._slices[name]] for name in names})
        return self.to_hidden(erased) if hidden else self.decode(erased)

    def _check_names(self, factors: str | Iterable[str]) -> list[str]:
        names = [factors] if isinstance(factors, str) else list(factors)
        unknown = [name for name in names if name not in self.dimensions_per_factor]
        if unknown or not names:
            raise ValueError(
                f"Factors should be some of {list(self.dimensions_per_factor)}. "
                f"Received: {factors!r}"
            )
        return names

    def _encode_both(self, a: Any, b: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        counts = [len(keras.tree.flatten(x)[0]) for x in (a, b)]
        if counts[0] != counts[1]:
            raise ValueError(
                "`a` and `b` should hold the same number of instances. "
                f"Received: {counts[0]} and {counts[1]}"
            )
        return self.encode(a), self.encode(b)

    def _decode_steps(self, factors: dict[str, np.ndarray], changed: dict[str, Any]) -> Any:
        """Decodes factors, of which some change, `[steps, instances, size]`, in one go."""
        step_count = len(next(iter(changed.values())))
        repeated = {
            name: np.concatenate(list(changed.get(name, [block] * step_count)))
            for name, block in factors.items()
        }
        outputs = self.decode(repeated)
        return keras.tree.map_structure(lambda y: y.reshape(step_count, -1, *y.shape[1:]), outputs)

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[..., Any]]:
        methods = {
            "encode": lambda x: self._to_latent(self.head(x)),
            "decode": lambda z: self.tail(self._to_hidden(z)),
            "to_hidden": self._to_hidden,
        }
        # The network may have layers that XLA does not know.
        return {name: jit_batches(f, xla=False) for name, f in methods.items()}

    def _run(self, name: str, x: Any) -> Any:
        """Runs a part of the network on any number of instances, compiled and in batches."""
        parts = []
        with forget_gradients():
            for start in range(0, max(len(x), 1), self.batch_size):
                batch = to_tensor(x[start : start + self.batch_size])
                outputs = self._compiled[name](self, batch)
                parts.append(keras.tree.map_structure(ops.convert_to_numpy, outputs))
        return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        parts = {"head": self.head, "flow": self.flow, "tail": self.tail}
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(part) for name, part in parts.items()},
            "dimensions_per_factor": dict(self.dimensions_per_factor),
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Interpreter":
        """Makes a model from what `get_config` returned.

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
