"""What all distributions have in common."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import check_shape_and_axes
from gyoza.modelling.distributions.tools import (
    check_natural,
    make_constant,
)
from gyoza.modelling.dtypes import at_least_float32

__all__ = ["Distribution"]


@keras.saving.register_keras_serializable(package="gyoza")
class Distribution(keras.Layer):
    """Base class of distributions: Keras layers that know their log-density and can be sampled.

    Calling a distribution on events gives their log-densities, as :meth:`log_prob` does. Its
    parameters are weights, so that a distribution is trained, saved and loaded as any other layer.

    Subclasses say what happens to vectors, which are events with all axes merged in row-major
    order. They implement

    - `compute_log_prob(x)`, which maps vectors `[batch, dimension_count]` to log-densities
      `[batch]`,
    - `draw(sample_count, seed)`, which gives vectors `[sample_count, dimension_count]`,
    - `create_weights()`, if they have weights, which can rely on `event_shape`,
    - `get_config()`, if their constructors have further arguments,

    compute in `log_prob_dtype`, and are registered with
    `keras.saving.register_keras_serializable`. Weights are made with `add_weight(...,
    autocast=False)`, so that mixed precision does not round them.

    Args:
        shape: Shape of an event, without the batch axis. If it is omitted it is read from the first
            input. If it is given, the weights exist right after construction.
        **kwargs: Arguments of `keras.Layer`, such as `name`, `dtype` and `trainable`.

    Raises:
        TypeError: If `shape` does not hold integers.
        ValueError: If `shape` is empty or not positive, or inputs have another shape.

    Attributes:
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
    """

    def __init__(self, shape: Iterable[int] | None = None, **kwargs: Any) -> None:
        # Inputs are cast to `log_prob_dtype` below, which may be wider than the compute dtype.
        super().__init__(autocast=False, **kwargs)
        shape, _ = check_shape_and_axes(shape, None)
        self._event_shape = None if shape is None else tuple(shape)
        self._has_weights = False
        self.seed_generator = keras.random.SeedGenerator()
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
        """The number of entries of an event: the product of `event_shape`."""
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

    def create_weights(self) -> None:
        """Creates the weights. It is called once, as soon as `event_shape` is known."""
        return  # AutoGraph cannot convert a function without a statement

    def _create_weights_once(self) -> None:
        """Creates the weights if the shape is known; the last line of a weighty constructor."""
        if self._event_shape is not None and not self._has_weights:
            self.create_weights()
            self._has_weights = True

    def build(self, input_shape: Sequence[int | None]) -> None:
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

    def compute_log_prob(self, x: Any) -> Any:
        """Computes the log-densities of vectors.

        Args:
            x: Vectors in `log_prob_dtype`, `[batch, dimension_count]`.

        Returns:
            Their log-densities, `[batch]`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `compute_log_prob(x)`.")

    def draw(self, sample_count: Any, seed: Any) -> Any:
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

    def call(self, x: Any) -> Any:
        """See :meth:`log_prob`."""
        return self.compute_log_prob(self._to_vectors(x))

    def log_prob(self, x: Any) -> Any:
        """Computes log-densities.

        Args:
            x: Events, `[batch, *event_shape]`.

        Returns:
            The natural logarithms of their densities, `[batch]`, in float32 or, if that is the
            compute dtype, float64.
        """
        return self(self._to_tensor(x))

    def sample(self, sample_count: Any, seed: Any = None) -> Any:
        """Draws independent events.

        They are differentiable with respect to the parameters unless the class says otherwise.

        Args:
            sample_count: The number of events, an integer or, in compiled code, a scalar tensor.
            seed: Non-negative integer, which gives the same events every time, or a
                `keras.random.SeedGenerator`. If omitted, `seed_generator` is used, and every call
                gives other events, also in a compiled function. On JAX, a function that is compiled
                by `jax.jit` itself has to pass a seed or use `keras.StatelessScope`, because the
                state of the generator cannot be updated there.

        Returns:
            The events, `[sample_count, *event_shape]`, in `log_prob_dtype`.

        Raises:
            ValueError: If the shape of an event is not known yet, because `shape` was not given and
                the distribution has not been called or built either, or if `sample_count` or `seed`
                are not as described.
        """
        return self._to_events(self.draw(*self._check_draw(sample_count, seed)))

    def _check_draw(self, sample_count: Any, seed: Any) -> tuple[Any, Any]:
        """Gives number and seed as `draw` takes them, and has the weights created."""
        _ = self.dimension_count  # raises an error if it is not known
        self._create_weights_once()
        if not ops.is_tensor(sample_count):
            sample_count = check_natural("sample_count", sample_count)
        if seed is None:
            seed = self.seed_generator
        if not isinstance(seed, keras.random.SeedGenerator):
            seed = check_natural("seed", seed)
        return sample_count, seed

    def _to_tensor(self, x: Any) -> Any:
        # Keras would round arrays in float64 to float32 on some backends.
        if isinstance(x, np.ndarray | list | tuple):
            return ops.convert_to_tensor(np.asarray(x), dtype=self.log_prob_dtype)
        return x

    def _to_vectors(self, x: Any) -> Any:
        return ops.reshape(ops.cast(x, self.log_prob_dtype), (-1, self.dimension_count))

    def _to_events(self, vectors: Any) -> Any:
        return ops.reshape(vectors, (-1, *(self._event_shape or ())))

    def _add_parameter(self, name: str, lead: Sequence[int], initial: Any) -> Any:
        """Adds a weight with one entry per entry of an event.

        Args:
            name: Name of the weight.
            lead: Lengths of axes in front of those of the event.
            initial: Initial values that broadcast to the weight, or a Keras initializer.
        """
        shape = (*lead, *(self._event_shape or ()))
        if not callable(initial):
            initial = make_constant(name.removeprefix("log_"), initial, shape)
        return self.add_weight(shape=shape, initializer=initial, name=name, autocast=False)

    def _parameter(self, weight: Any, *lead: int) -> Any:
        """Gives a weight in `log_prob_dtype`, as vectors `[*lead, dimension_count]`."""
        return ops.reshape(
            ops.cast(weight, self.log_prob_dtype), (*lead, math.prod(self._event_shape or ()))
        )

    def compute_output_shape(self, input_shape: Sequence[int | None], *_: Any) -> tuple[int | None]:
        """Gives the shape of log-densities."""
        return (input_shape[0],)

    def compute_output_spec(self, x: Any, *_: Any, **__: Any) -> Any:
        """Describes what `call` returns for symbolic `x`."""
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.log_prob_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        shape = None if self._event_shape is None else list(self._event_shape)
        return {**super().get_config(), "shape": shape}
