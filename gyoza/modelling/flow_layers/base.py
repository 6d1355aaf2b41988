"""The contract that every flow layer fulfils, and the work that layers share."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import (
    check_shape_and_axes,
    from_vectors,
    read_shape,
    resolve_axes,
    to_vectors,
)
from gyoza.modelling.flow_layers.invertible import Invertible, make_dense
from gyoza.modelling.functions.checks import is_own
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.tensors import TRACING_ERRORS, fill, is_number
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["FlowLayer"]


def _check_pair(name: str, results: Tensors) -> None:
    """Raises a `TypeError` if the `transform` of a layer has not returned a pair."""
    if not isinstance(results, tuple | list) or len(results) != 2:
        raise TypeError(
            f"`transform` of '{name}' should return a pair of outputs and log-determinants. "
            f"Received: {results} (of type {type(results)})"
        )


def _complete(build: Callable[..., None], own_build: Callable[..., None]) -> Callable[..., None]:
    """Wraps the `build` of a user, who may have forgotten to call the one that it overrides.

    Args:
        build: The method.
        own_build: The `build` of gyoza's that it overrides.

    Returns:
        A method that does the same, and then what it has left out, if gyoza's `call` relies on it.
    """

    @functools.wraps(build)
    def wrapper(layer: keras.Layer, *args: Any, **kwargs: Any) -> None:
        build(layer, *args, **kwargs)
        if not layer._has_read_shape and type(layer).call is layer._own_call:
            own_build(layer, *args, **kwargs)

    return wrapper


@keras.saving.register_keras_serializable(package="gyoza")
class FlowLayer(Invertible, keras.Layer):
    r"""Base class of all flow layers: an invertible map with a tractable Jacobian determinant.

    Calling a layer returns the outputs and, for each example of the batch, the logarithm of the
    factor by which the volume around it is stretched:

    .. math::
        y = f(x), \qquad \log \left| \det \frac{\partial f(x)}{\partial x} \right|.

    `invert` is the way back, :math:`x = f^{-1}(y)`.

    A layer transforms the `axes` of its inputs, merged to one vector of `dimension_count`
    dimensions, and does so at every position of the remaining axes. For images `[batch, height,
    width, channels]`, a layer with `axes=[3]` transforms the channels of every pixel, and one with
    `axes=[1, 2, 3]` transforms whole images.

    Subclasses say what happens to a vector. They implement

    - `transform(inputs)`, which maps vectors `[batch, ..., dimension_count]` to outputs of the same
      shape and their log-determinants `[batch, ...]`, one number if they are equal, or `None` where
      the volume is preserved,
    - `inverse_transform(outputs)`, which maps vectors back,
    - `create_weights()`, if they have weights, which can rely on `dimension_count`,
    - `get_config()`, if their constructors have further arguments,

    and are registered with `keras.saving.register_keras_serializable`. A layer that does not fit
    this form can override `call(inputs)` and `invert(outputs)` instead, as well as `build`, which
    begins with `super().build(input_shape)`, and `compute_output_shape` if its `call` cannot be
    traced.
    :func:`gyoza.testing.check_flow_layer` checks the result.

    Args:
        shape: Lengths of the inputs along `axes`. If it is omitted it is read from the first
            inputs. If it is given, the weights of gyoza's layers exist right after construction,
            and so do those of a layer whose constructor ends with `self._create_weights_once()`.
        axes: Ascending axes to be transformed, counted from the batch axis 0, which is not allowed
            here, or negative ones, counted from the last axis, -1, until the first inputs tell
            which ones these are. They need not be contiguous. All axes but the batch axis if
            omitted.
        **kwargs: Arguments of `keras.Layer`, such as `name`, `dtype` and `trainable`.

    Raises:
        TypeError: If `shape` or `axes` are not integers, if inputs are not floating-point, or if
            the `transform` of a subclass does not return a pair.
        ValueError: If `shape` and `axes` differ in length, `axes` are not ascending, or include the
            batch axis, or the inputs do not have `shape` along `axes`.

    Attributes:
        preserves_volume: Whether all log-determinants are 0. It is an attribute of the class, and
            `False` in one that overrides `transform` and does not say otherwise.
        moves_any_dtype: Whether the layer only moves values, so that inputs can be of any dtype. An
            attribute of the class, `False` by default.
        adapts_to_pairs: Whether `adapt` takes pairs that share factors, instead of inputs. An
            attribute of the class, `False` by default.

    Example:

        >>> @keras.saving.register_keras_serializable(package="example")
        ... class Double(gyoza.modelling.flow_layers.FlowLayer):
        ...     def transform(self, inputs):
        ...         log_det = self.dimension_count * np.log(2.0)
        ...         return 2.0 * inputs, keras.ops.full(keras.ops.shape(inputs)[:-1], log_det)
        ...
        ...     def inverse_transform(self, outputs):
        ...         return outputs / 2.0
        >>> layer = Double()
        >>> outputs, log_det = layer(np.ones([1, 3], "float32"))
        >>> keras.ops.convert_to_numpy(log_det).round(4)
        array([2.0794], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs))
        array([[1., 1., 1.]], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    preserves_volume = False
    # What decides whether volume is preserved: a class that overrides one of these has to say so.
    _volume_hooks: tuple[str, ...] = ("transform",)
    _is_traced = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "preserves_volume" not in vars(cls) and not set(cls._volume_hooks).isdisjoint(vars(cls)):
            cls.preserves_volume = False
        cls._is_traced = (
            cls._own_call is FlowLayer.call
            and cls.call is not FlowLayer.call
            and cls.compute_output_shape is FlowLayer.compute_output_shape
        )
        if not is_own(cls) and "build" in vars(cls):
            builds = (vars(c)["build"] for c in cls.__mro__ if is_own(c) and "build" in vars(c))
            cls.build = _complete(cls.build, next(builds))  # type: ignore[method-assign]

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        # Lists of integers, or None until the first inputs are known.
        self._shape_: Any
        self._axes_: Any
        self._shape_, self._axes_ = check_shape_and_axes(shape, axes)
        self._has_weights = self._has_read_shape = False
        self._set_input_spec()

    def _set_input_spec(self) -> None:
        if self._axes_ is not None:
            lengths = dict(zip(self._axes_, self._shape_, strict=True)) if self._shape_ else {}
            first, last = self._axes_[0], self._axes_[-1]
            # There is a batch axis before those that are counted from the last one.
            least = 1 - first if first < 0 else 1 + last
            self.input_spec = keras.InputSpec(min_ndim=least, axes=lengths)

    @property
    def output_spec(self) -> keras.InputSpec | None:
        """What `invert` demands of its argument: what `call` does, unless the shape may change."""
        return None if self._is_traced else self.input_spec

    @property
    def dimension_count(self) -> int:
        """The number of dimensions of the vectors that are transformed: the product of `shape`."""
        if self._shape_ is None:
            raise ValueError(
                f"The shape of layer '{self.name}' is not known yet: pass `shape` to its "
                "constructor, or call or build the layer first. A `build` of your own should begin "
                "with `super().build(input_shape)`."
            )
        return math.prod(self._shape_)

    def create_weights(self) -> None:
        """Creates the weights. It is called once, as soon as `dimension_count` is known."""
        return  # AutoGraph cannot convert a function without a statement

    def _create_weights_once(self) -> None:
        """Creates the weights if the shape is known.

        Call it last in constructors of layers with weights.
        """
        if self._shape_ is not None and not self._has_weights:
            self.create_weights()
            self._has_weights = True

    def build(self, input_shape: Shape | None = None) -> None:
        """Reads what `shape` and `axes` left open from `input_shape`, and creates the weights.

        Args:
            input_shape: Shape of the inputs, `[batch, ...]`, where the batch size may be `None`. It
                is not needed if `shape` was given, and no negative `axes`.
        """
        self._shape_, self._axes_ = read_shape(input_shape, self._shape_, self._axes_)
        self._has_read_shape = True
        self._set_input_spec()
        self._create_weights_once()

    def _prepare_inversion(self, outputs: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.built:
            if self._shape_ is None:
                raise ValueError(
                    f"Layer '{self.name}' should be built before `invert` is called: pass `shape` "
                    "to its constructor, or call it on inputs first. "
                    f"Received: outputs.shape={tuple(outputs.shape)}"
                )
            self.build(tuple(outputs.shape))

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Maps vectors forward.

        Args:
            inputs: Vectors, `[batch, ..., dimension_count]`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, one per vector
            (`[batch, ...]`), one number that holds for all of them, or `None` if the volume is
            preserved.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `transform` and `inverse_transform`, or "
            "`call` and `invert`."
        )

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Maps vectors back.

        Args:
            outputs: Vectors, `[batch, ..., dimension_count]`.

        Returns:
            The vectors that `transform` maps to `outputs`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `transform` and `inverse_transform`, or "
            "`call` and `invert`."
        )

    def _check_results(self, results: Tensors) -> tuple[Tensor, Tensor]:
        if isinstance(results, tuple | list) and len(results) == 2:
            outputs, log_det = results
            if len(getattr(log_det, "shape", ())) != 1:
                return outputs, self._as_batch(log_det, outputs)
        return results

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms a batch.

        Args:
            inputs: Floating-point tensor `[batch, ...]` with `shape` along `axes`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        vectors = to_vectors(inputs, self._axes_, self._shape_)
        results = self.transform(vectors)
        if type(results) is not tuple or len(results) != 2:
            _check_pair(self.name, results)
        outputs, log_det = results
        if is_number(log_det):  # of each vector
            log_det = ops.broadcast_to(log_det, ops.shape(vectors)[:-1])
        return from_vectors(outputs, self._axes_, self._shape_), self.sum_log_det(inputs, log_det)

    def invert(self, outputs: Tensor) -> Tensor:  # noqa: D102 - documented by `Invertible`
        inputs = self.inverse_transform(to_vectors(outputs, self._axes_, self._shape_))
        return from_vectors(inputs, self._axes_, self._shape_)

    invert.__doc__ = Invertible.invert.__doc__

    def sum_log_det(
        self, inputs: Tensor, log_det: Tensor | None, of_each: Tensor | None = None
    ) -> Tensor:
        """Sums contributions to the log-determinant over all axes but the batch axis.

        Args:
            inputs: The inputs of `call`, `[batch, ...]`.
            log_det: Contributions, `[batch, ...]`, one number, or `None` for a volume-preserving
                map.
            of_each: A tensor each element of which contributes as much, if it is one number. That
                is the sum itself if omitted.

        Returns:
            The sums, `[batch]`, computed in `log_det_dtype`.
        """
        dtype = at_least_float32(self.compute_dtype)
        if log_det is None:
            return fill(None, inputs, dtype)
        log_det = ops.cast(log_det, dtype)
        rank = len(log_det.shape)
        if rank == 0:
            if of_each is None:
                return fill(log_det, inputs, dtype)
            log_det = ops.broadcast_to(log_det, ops.shape(of_each))
            rank = len(log_det.shape)
        return log_det if rank == 1 else ops.sum(log_det, axis=tuple(range(1, rank)))

    def compute_jacobian_determinant(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: D102
        if self.preserves_volume:
            return self.sum_log_det(x, None)
        if self._own_call is FlowLayer.call and type(self).transform is FlowLayer.transform:
            return self(x, *args, **kwargs)[1]  # there is nothing but this `call`
        return super().compute_jacobian_determinant(x, *args, **kwargs)

    compute_jacobian_determinant.__doc__ = Invertible.compute_jacobian_determinant.__doc__

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what `call` returns for symbolic `inputs`.

        If users have overridden `call`, and not `compute_output_shape`, it is traced.
        """
        if not self._is_traced:
            return super().compute_output_spec(inputs, *args, **kwargs)
        try:
            return keras.Operation.compute_output_spec(self, make_dense(inputs), *args, **kwargs)
        except TRACING_ERRORS as error:
            raise ValueError(
                f"Layer '{self.name}' should implement `compute_output_shape(input_shape)`, which "
                "returns the shapes of outputs and log-determinants, as its `call` cannot be "
                f"traced. Received: {type(error).__name__}: {error}"
            ) from error

    def compute_output_shape(
        self, input_shape: Shape
    ) -> tuple[tuple[int | None, ...], tuple[int | None]]:
        """Returns the shapes of the outputs, here that of the inputs, and log-determinants."""
        axes = resolve_axes(self._axes_ or (), len(input_shape))
        given = dict(zip(axes, self._shape_ or (), strict=False))
        shape = tuple(
            given.get(axis) if length is None else length for axis, length in enumerate(input_shape)
        )
        if self._is_traced:
            shape = self._trace(self, shape)
        return shape, (input_shape[0],)

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the inputs that have outputs of a shape, here the same.

        Args:
            output_shape: Shape of outputs, `[batch, ...]`.
        """
        if self._is_traced:
            return self._trace(self.invert, output_shape)
        return tuple(output_shape)

    def _trace(self, method: Callable[..., Any], shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the first result of a method for a tensor of a shape."""
        x = keras.KerasTensor((None, *shape[1:]), dtype=self.compute_dtype)
        result, *_ = keras.tree.flatten(method(x, **self._describe_arguments()))
        return (shape[0], *result.shape[1:])

    def _describe_arguments(self) -> dict[str, Any]:
        """Returns symbolic arguments of `call` and `invert` besides the first."""
        return {}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        config = super().get_config()
        config["shape"] = None if self._shape_ is None else list(self._shape_)
        config["axes"] = None if self._axes_ is None else list(self._axes_)
        return config
