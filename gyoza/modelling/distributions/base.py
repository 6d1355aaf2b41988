"""What all distributions have in common."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import check_shape_and_axes
from gyoza.modelling.distributions.conditional import Conditional
from gyoza.modelling.distributions.tools import (
    make_constant,
)
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.options import HasOptions
from gyoza.modelling.seeds import SeedGenerator, to_seed
from gyoza.typing import Array, Seed, Shape, Tensor, Tensors

__all__ = ["Distribution"]


@keras.saving.register_keras_serializable(package="gyoza")
class Distribution(HasOptions, Conditional, keras.Layer):
    """Base class of distributions: Keras layers that know their log-density and can be sampled.

    Calling a distribution on events returns their log-densities, as :meth:`log_prob` does. Its
    parameters are weights, so that a distribution is trained, saved and loaded as any other layer.

    With a context network :math:`g` it is conditional: for an event seen in the context :math:`c`,
    the weights :math:`w` are replaced by :math:`w + g(c)`. Where a weight is not the parameter
    itself but, say, its logarithm, it is the logarithm that is changed, so that the network is free
    to give any number.

    Subclasses say what happens to vectors, which are events with all axes merged in row-major
    order. They implement

    - `compute_log_prob(x)`, which maps vectors `[batch, dimension_count]` to log-densities
      `[batch]`,
    - `draw(sample_count, seed)`, which returns vectors `[sample_count, dimension_count]`,
    - `create_weights()`, if they have weights, which can rely on `event_shape`,
    - `get_config()`, if their constructors have further arguments,

    compute in `log_prob_dtype`, and are registered with
    `keras.saving.register_keras_serializable`. Weights are made with `add_weight(...,
    autocast=False)`, so that mixed precision does not round them. To be conditional, a subclass
    gives `compute_log_prob` and `draw` a further argument, `changes=None`. This is a dictionary of
    the names of its weights, and for each of them the change of every event, `[batch,
    *weight.shape]`.

    Args:
        shape: Shape of an event, without the batch axis. If it is omitted it is read from the first
            input. If it is given, the weights exist right after construction.
        context_network: The network :math:`g`, a Keras layer or model that maps contexts `[batch,
            context_size]` to one number for each element of the weights, `[batch, outputs]`, in the
            order of the weights. A :class:`~gyoza.modelling.conditioners.Conditioner` gets their
            number; a :class:`~gyoza.modelling.conditioners.MLP` starts at zero, where the context
            does not matter yet. Without one, the distribution takes no context.
        **kwargs: Arguments of `keras.Layer`, such as `name`, `dtype` and `trainable`.

    Raises:
        TypeError: If `shape` does not hold integers, or `context_network` is not a Keras layer.
        ValueError: If `shape` is empty or not positive, or inputs have another shape. If there is
            a `context_network` but no weight that it could change, or its outputs do not have the
            right shape, or if a context is missing, superfluous or of another shape.

    Attributes:
        context_network: The network :math:`g`, or `None`.
        context_size: The size of a context, or `None` as long as it is not known.
        seed_generator: The `keras.random.SeedGenerator` that :meth:`sample` takes its seeds from
            when it is given none.

    Example:

        >>> @keras.saving.register_keras_serializable(package="example")
        ... class Exponential(gyoza.modelling.distributions.Distribution):
        ...     def compute_log_prob(self, x):
        ...         return keras.ops.sum(keras.ops.where(x >= 0.0, -x, -np.inf), axis=-1)
        ...
        ...     def draw(self, sample_count, seed):
        ...         uniform = keras.random.uniform((sample_count, self.dimension_count), seed=seed)
        ...         return -keras.ops.log1p(-uniform)
        >>> distribution = Exponential(shape=[2])
        >>> keras.ops.convert_to_numpy(distribution.log_prob([[1.0, 0.5], [1.0, -0.5]]))
        array([-1.5, -inf], dtype=float32)
        >>> tuple(distribution.sample(5, seed=0).shape)
        (5, 2)

        >>> conditional = gyoza.modelling.distributions.DiagonalNormal(
        ...     shape=[2], context_network=gyoza.modelling.conditioners.MLP([16])
        ... )
        >>> tuple(conditional.log_prob(np.zeros([5, 2]), context=np.zeros([5, 3])).shape)
        (5,)
        >>> tuple(conditional.sample(4, context=[1.0, 0.0, 0.0]).shape)
        (4, 2)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        context_network: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        # Inputs are cast to `log_prob_dtype` below, which may be wider than the compute dtype.
        super().__init__(autocast=False, **kwargs)
        if np.asarray(shape).dtype.kind == "f":
            raise TypeError(
                "`shape` should be a list of integers, such as [4] for vectors of 4 dimensions. "
                f"Pass parameters by name, such as `location`. Received: shape={shape}"
            )
        shape, _ = check_shape_and_axes(shape, None)
        self._event_shape = None if shape is None else tuple(shape)
        self._has_weights = False
        self._parameter_shapes: dict[str, tuple[int, ...]] = {}
        self._set_network(context_network)
        self.seed_generator = SeedGenerator()
        self._set_input_spec()

    def _set_input_spec(self) -> None:
        if self._event_shape is not None:
            self.input_spec = keras.InputSpec(shape=(None, *self._event_shape))

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """The shape of an event, without the batch axis; `None` as long as it is not known."""
        return self._event_shape

    @property
    def dimension_count(self) -> int:
        """The number of dimensions of an event: the product of `event_shape`."""
        if self._event_shape is None:
            raise ValueError(
                f"The event shape of distribution '{self.name}' should be known: pass `shape` to "
                "its constructor, or call or build it first. Received: shape=None"
            )
        return math.prod(self._event_shape)

    @property
    def log_prob_dtype(self) -> str:
        """The dtype of log-densities and samples: that of the computation, but float32 at least."""
        return at_least_float32(self.compute_dtype)

    @property
    def accepts_labels(self) -> bool:
        """Whether `log_prob` and `sample` can be given `labels`."""
        return False

    def create_weights(self) -> None:
        """Creates the weights. It is called once, as soon as `event_shape` is known."""
        return  # AutoGraph cannot convert a function without a statement

    def _create_weights_once(self) -> None:
        """Creates the weights if the shape is known.

        Call it last in constructors of distributions with weights.
        """
        if self._event_shape is not None and not self._has_weights:
            others = {id(weight) for weight in self.weights}
            self.create_weights()
            self._parameter_shapes = {
                weight.name: tuple(weight.shape)
                for weight in self.weights
                if id(weight) not in others
            }
            self._has_weights = True

    def build(self, input_shape: Shape) -> None:
        """Reads the shape of an event if it is not known yet, and creates the weights.

        Args:
            input_shape: Shape of the inputs, `[batch, *event_shape]`, where the batch size may be
                `None`.
        """
        shape = tuple(input_shape[1:])
        if self._event_shape is None:
            if not shape or None in shape:
                raise ValueError(
                    "The input should have a batch axis and further axes of known length. "
                    f"Received: input_shape={tuple(input_shape)}"
                )
            self._event_shape = tuple(int(length) for length in shape if length is not None)
        fits = len(shape) == len(self._event_shape) and all(
            length in (None, expected)
            for length, expected in zip(shape, self._event_shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The input should have shape (batch, *{self._event_shape}). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self._set_input_spec()
        self._create_weights_once()
        self._build_network_once()

    def compute_log_prob(self, x: Tensor) -> Tensor:
        """Computes the log-densities of vectors.

        Args:
            x: Vectors in `log_prob_dtype`, `[batch, dimension_count]`.

        Returns:
            Their log-densities, `[batch]`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `compute_log_prob(x)`.")

    def draw(self, sample_count: int | Tensor, seed: Seed) -> Tensor:
        """Draws vectors.

        Args:
            sample_count: Their number, an integer or, in compiled code, a scalar tensor.
            seed: An integer or a `keras.random.SeedGenerator`, as `keras.random` takes them.

        Returns:
            Independent vectors in `log_prob_dtype`, `[sample_count, dimension_count]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `draw(sample_count, seed)`."
        )

    def compute_log_odds(self, x: Tensor) -> Tensor:
        """Computes how likely the dimensions of vectors are to be smaller; see :meth:`log_odds`.

        Distributions whose dimensions are independent implement it, where it can be computed, and
        `compute_quantiles`.

        Args:
            x: Vectors in `log_prob_dtype`, `[batch, dimension_count]`.

        Returns:
            A tensor of the same shape.
        """
        raise self._lacks_quantiles()

    def compute_quantiles(self, log_odds: Tensor) -> Tensor:
        """Inverts `compute_log_odds`."""
        raise self._lacks_quantiles()

    def _lacks_quantiles(self) -> Exception:
        return NotImplementedError(
            f"A {type(self).__name__} is not known to have independent dimensions with known "
            "distribution functions, as `StandardNormal`, `DiagonalNormal`, `Logistic`, "
            "`StudentT`, `Uniform`, a `GaussianMixture` of one dimension and products of these "
            "have. Draw samples, and sort them, or implement `compute_log_odds` and "
            "`compute_quantiles`. "
            f"Received: {self.name}, of {self.dimension_count} dimensions"
        )

    def call(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`log_prob`."""
        return self.compute_log_prob(self._to_vectors(x), **self._change(context))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes log-densities.

        Args:
            x: Events, `[batch, *event_shape]`.
            context: Their contexts, `[batch, context_size]`, if there is a `context_network`.

        Returns:
            The natural logarithms of their densities, `[batch]`, in float32 or, if that is the
            compute dtype, float64.
        """
        x = self._to_tensor(x)
        return self(x) if context is None else self(x, context=self._to_tensor(context))

    def log_odds(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Computes how likely each dimension is to be smaller, on the scale of log-odds.

        .. math::
            l_i = \ln \frac{F_i(x_i)}{1 - F_i(x_i)},

        with the distribution functions :math:`F_i` of independent dimensions. They are the sigmoid
        of the log-odds, which are exact in both tails.

        Args:
            x: Events, `[batch, *event_shape]`.
            context: See :meth:`log_prob`.

        Returns:
            The log-odds, `[batch, dimension_count]`.

        Raises:
            NotImplementedError: If dimensions are not independent, or their distribution functions
                are not known.
        """
        context = self._to_tensor(context)
        return self.compute_log_odds(self._to_vectors(self._to_tensor(x)), **self._change(context))

    def quantiles(self, log_odds: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the events that have certain :meth:`log_odds`.

        Args:
            log_odds: The log-odds, `[batch, dimension_count]`.
            context: See :meth:`log_prob`.

        Returns:
            The events, `[batch, *event_shape]`.

        Raises:
            NotImplementedError: See :meth:`log_odds`.
        """
        log_odds = ops.cast(self._to_tensor(log_odds), self.log_prob_dtype)
        changes = self._change(self._to_tensor(context))
        return self._to_events(self.compute_quantiles(log_odds, **changes))

    def sample(
        self, sample_count: int | Tensor, seed: Seed = None, context: Tensor | None = None
    ) -> Tensor:
        """Draws independent events.

        They are differentiable with respect to the parameters unless the class says otherwise.

        Args:
            sample_count: The number of events, an integer or, in compiled code, a scalar tensor.
            seed: Non-negative integer, which draws the same events every time, or a
                `keras.random.SeedGenerator`. If omitted, `seed_generator` is used, and every call
                draws other events, also in a compiled function. On JAX, a function that is compiled
                by `jax.jit` itself has to pass a seed or use `keras.StatelessScope`, because the
                state of the generator cannot be updated there.
            context: The context of each event, `[sample_count, context_size]`, or one for all,
                `[context_size]` or `[1, context_size]`, if there is a `context_network`.

        Returns:
            The events, `[sample_count, *event_shape]`, in `log_prob_dtype`.

        Raises:
            ValueError: If the shape of an event is not known yet, because `shape` was not given and
                the distribution has not been called or built either, or if `sample_count` or `seed`
                are not as described.
        """
        sample_count, seed, changes = self._prepare_draw(sample_count, seed, context)
        return self._to_events(self.draw(sample_count, seed, **changes))

    def _prepare_draw(
        self, sample_count: int | Tensor, seed: Seed, context: Tensor | None
    ) -> tuple[int | Tensor, Seed, dict[str, Any]]:
        """Returns the arguments of `draw`, the last ones by name, and has all weights created."""
        _ = self.dimension_count  # raises an error if it is not known
        if not ops.is_tensor(sample_count):
            sample_count = check_integer("sample_count", sample_count)
        if seed is None:
            seed = self.seed_generator
        if not isinstance(seed, keras.random.SeedGenerator):
            seed = to_seed(seed)
        context = self._to_tensor(context)
        if context is not None and len(context.shape) == 1:
            context = context[None]
        self._check_context(context, (1, sample_count))
        if not self.built:
            self.build((None, *(self._event_shape or ())))
        return sample_count, seed, self._change(context, sample_count)

    def _to_tensor(self, x: Tensor | None) -> Tensor | None:
        # Keras would round arrays in float64 to float32 on some backends.
        if isinstance(x, np.ndarray | list | tuple):
            return ops.convert_to_tensor(np.asarray(x), dtype=self.log_prob_dtype)
        return x

    def _to_vectors(self, x: Tensor) -> Tensor:
        return ops.reshape(ops.cast(x, self.log_prob_dtype), (-1, self.dimension_count))

    def _to_events(self, vectors: Tensor) -> Tensor:
        return ops.reshape(vectors, (-1, *(self._event_shape or ())))

    def _add_parameter(
        self, name: str, lead: Sequence[int], initial: Array | Callable[..., Tensor]
    ) -> keras.Variable:
        """Adds a weight with one number for each dimension of an event.

        Args:
            name: Name of the weight.
            lead: Lengths of axes in front of those of the event.
            initial: Initial values that broadcast to the weight, or a Keras initializer.
        """
        shape = (*lead, *(self._event_shape or ()))
        if not callable(initial):
            initial = make_constant(name.removeprefix("log_"), initial, shape)
        return self.add_weight(shape=shape, initializer=initial, name=name, autocast=False)

    def _parameter(
        self,
        weight: Tensor,
        changes: dict[str, Tensor] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Returns a weight in `log_prob_dtype`, changed by the context.

        Args:
            weight: The weight.
            changes: See :class:`Distribution`.
            shape: The shape to give it, `[dimension_count]` if omitted.

        Returns:
            A tensor of that shape or, if there are changes, `[batch, *shape]`.
        """
        shape = (self.dimension_count,) if shape is None else shape
        values = ops.reshape(ops.cast(weight, self.log_prob_dtype), shape)
        if changes is None:
            return values
        return values + ops.reshape(changes[weight.name], (-1, *shape))

    def compute_output_shape(self, input_shape: Shape, *_: Any) -> tuple[int | None]:
        """Returns the shape of log-densities."""
        return (input_shape[0],)

    def compute_output_spec(self, x: Tensor, *_: Any, **__: Any) -> Tensors:
        """Describes what `call` returns for symbolic `x`."""
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.log_prob_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        shape = None if self._event_shape is None else list(self._event_shape)
        network = self.context_network
        return {
            **super().get_config(),
            "shape": shape,
            "context_network": None
            if network is None
            else keras.saving.serialize_keras_object(network),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distribution":
        """Makes a distribution from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A distribution with the same configuration and weights of its own.
        """
        config = dict(config)
        if config.get("context_network") is None:
            config.pop("context_network", None)  # which overridden constructors may not have
        else:
            network = keras.saving.deserialize_keras_object(config["context_network"])
            config["context_network"] = network
        return cls(**config)
