"""What flow layers and flow models have in common: a way back and a log-determinant."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import forget_gradients
from gyoza.modelling.flow_layers.describing import Describes
from gyoza.modelling.freezing import freeze_after
from gyoza.modelling.functions.checks import check_choice, is_own
from gyoza.modelling.functions.dtypes import at_least_float32, check_floating, is_floating
from gyoza.modelling.functions.tensors import PLAIN_TYPES, fill, to_tensor
from gyoza.modelling.options import HasOptions
from gyoza.modelling.tables import is_frame
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["Invertible", "Inversion", "make_dense"]

# Names by which `invert` accepts its first argument, whatever a class calls it.
_NAMES_OF_OUTPUTS = ("outputs", "y_hat")
_WAYS = {"call", "invert", "transform", "inverse_transform"}  # there and back
_METHODS = ("invert", "invert_and_log_det", "compute_jacobian_determinant")  # those in files


def _bind(
    signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    """Returns the object whose method is called, its first argument, and all others."""
    (_, layer), (_, first), *others = signature.bind(*args, **kwargs).arguments.items()
    unnamed: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    for name, value in others:
        kind = signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_POSITIONAL:
            unnamed = value
        else:
            named.update(value if kind == inspect.Parameter.VAR_KEYWORD else {name: value})
    return layer, first, unnamed, named


def _run_like_call(invert: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `invert`, or another method of outputs, so that it is run through `Inversion`."""
    signature = inspect.signature(invert)
    name = list(signature.parameters)[1]

    @functools.wraps(invert)
    def wrapper(*args: Any, **kwargs: Any) -> Tensors:
        if len(args) == 2:
            (layer, outputs), args = args, ()
        else:
            if len(args) == 1 and name not in kwargs:
                kwargs = {name if key in _NAMES_OF_OUTPUTS else key: kwargs[key] for key in kwargs}
            layer, outputs, args, kwargs = _bind(signature, args, kwargs)
        if type(outputs) not in PLAIN_TYPES:
            outputs = to_tensor(outputs)
        layer._check_dtype(outputs)
        layer._prepare_inversion(outputs, *args, **kwargs)
        return layer._run_as_call(invert, outputs, *args, **kwargs)

    return wrapper


def _run_unless_within_call(compute_log_det: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `compute_jacobian_determinant`, so that it takes whatever `call` can be given.

    It is run through `Inversion`, too, except on a tensor as `call` itself is given it.
    """
    signature = inspect.signature(compute_log_det)
    name = list(signature.parameters)[1]

    @functools.wraps(compute_log_det)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        x: Tensor = args[0] if args else kwargs.get(name)
        dtype = keras.backend.standardize_dtype(x.dtype) if type(x) in PLAIN_TYPES else None
        if self.built and dtype == self.compute_dtype:
            return self._as_batch(compute_log_det(self, *args, **kwargs), x)
        _, x, unnamed, named = _bind(signature, (self, *args), kwargs)
        x = to_tensor(x)
        self._check_dtype(x)
        if not self.built:
            described = keras.tree.map_structure(_describe, [x, *unnamed])
            self(*described, **keras.tree.map_structure(_describe, named))
        return self._as_batch(self._run_as_call(compute_log_det, x, *unnamed, **named), x)

    return wrapper


def _call_fully(call: Callable[..., Any], is_checked: bool) -> Callable[..., Any]:
    """Wraps `call`, so that it can be called itself, and then builds, converts and traces, too.

    Args:
        call: The method.
        is_checked: Whether it is known to return log-determinants `[batch]`.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Tensors:
        if self.built and args and type(args[0]) in PLAIN_TYPES:
            results = call(self, *args, **kwargs)
            return results if is_checked else self._check_results(results)
        _, inputs, unnamed, named = _bind(signature, (self, *args), kwargs)
        is_symbolic = isinstance(inputs, keras.KerasTensor)
        if self.built and not is_symbolic and to_tensor(inputs) is inputs:
            return self._check_results(call(self, *args, **kwargs))
        return self(inputs, *unnamed, **named)

    return wrapper


def _describe(x: Tensor) -> Tensor:
    """Returns a symbolic tensor for a batch, and anything else as it is."""
    has_shape = hasattr(x, "shape")
    return keras.KerasTensor((None, *x.shape[1:]), dtype=_dtype_of(x)) if has_shape else x


def _dtype_of(x: Tensor) -> str:
    return keras.backend.standardize_dtype(x.dtype)


@keras.saving.register_keras_serializable(package="gyoza")
class Inversion(keras.Layer):
    """Runs the `invert` of a flow layer or model, or another method, as the `call` of a layer.

    Keras then converts and casts as it does for `call`, and a functional model that goes through
    `invert` knows the weights that it uses.

    `keras.models.clone_model` makes a copy of each layer by itself, so that a layer and its
    inversion no longer share weights in the clone of a functional model. Saving and loading keeps
    them shared.

    Args:
        layer: The flow layer or model.
        invert: Its method, where that is not the `invert` of its class.
        **kwargs: Arguments of `keras.Layer`.
    """

    def __init__(
        self, layer: keras.Layer, invert: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.layer = layer
        self.method = invert or type(layer).invert.__wrapped__
        self._gives_log_det = self.method.__name__ == "compute_jacobian_determinant"
        self.input_spec = self._find_spec()

    def _find_spec(self) -> Any:
        return self.layer.input_spec if self._gives_log_det else self.layer.output_spec

    def suits(self, layer: keras.Layer) -> bool:
        """Returns whether a new one for the layer would be the same."""
        return (
            self.layer is layer
            and self.dtype_policy is layer.dtype_policy
            and self.input_spec is self._find_spec()
        )

    def build(self, output_shape: Shape) -> None:
        """Builds nothing: the layer has its weights."""
        return  # AutoGraph cannot convert a function without a statement

    def call(self, outputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Runs the method."""
        return self.method(self.layer, outputs, *args, **kwargs)

    def compute_output_spec(self, outputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what the method returns for symbolic tensors."""
        if self._gives_log_det:
            return keras.KerasTensor((outputs.shape[0],), dtype=self.layer.log_det_dtype)
        return super().compute_output_spec(make_dense(outputs), *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the method by its name."""
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "method": self.method.__name__}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Inversion":
        """Makes an equal layer from what `get_config` returned."""
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        name = check_choice("method", config.pop("method", "invert"), _METHODS)
        method = getattr(type(layer), name)
        return cls(layer, getattr(method, "__wrapped__", method), **config)


def make_dense(x: Tensor) -> Tensor:
    """Returns a symbolic tensor that is not sparse.

    Keras 3.15 counts products with a number as sparse, and cannot trace what is sliced of them.
    """
    return keras.KerasTensor(x.shape, dtype=x.dtype) if getattr(x, "sparse", False) else x


def _read(x: Tensor) -> Tensor:
    """Returns what a variable or data frame holds, and all else as it is, for Keras to convert."""
    return to_tensor(x) if ops.is_tensor(x) or hasattr(x, "assign") or is_frame(x) else x


class Invertible(HasOptions, Describes):
    """What `FlowLayer` and `FlowModel` have in common: a way back and a log-determinant.

    It ensures that `invert` and `compute_jacobian_determinant` are run as Keras runs `call`:
    arrays and variables are converted, floating-point inputs and weights are cast to the compute
    dtype, and symbolic tensors are traced. That also holds for a `call` that is called by itself.
    """

    name: str
    built: bool
    # Whether the values of inputs are only moved, so that they can be of any dtype.
    moves_any_dtype = False
    # Whether `adapt` takes pairs that share factors, instead of inputs.
    adapts_to_pairs: Any = False
    # The nearest `call` that is gyoza's own. Users can override it by one that relies on what it
    # computes.
    _own_call: Any = None
    _call_takes_context = False
    # The shape of a context without its batch axis; `None` without one.
    context_shape: tuple[int | None, ...] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, wrap in (
            ("call", functools.partial(_call_fully, is_checked=is_own(cls))),
            ("invert", _run_like_call),
            ("invert_and_log_det", _run_like_call),
            ("compute_jacobian_determinant", _run_unless_within_call),
        ):
            if name in vars(cls):
                setattr(cls, name, wrap(vars(cls)[name]))
        if is_own(cls) and "call" in vars(cls):
            cls._own_call = staticmethod(vars(cls)["call"])
        if not is_own(cls) and vars(cls).keys() & _WAYS:
            # Those of gyoza's do what gyoza's `call` and `invert` do, in one computation.
            for name in {"invert_and_log_det", "recompute"} - vars(cls).keys():
                setattr(cls, name, getattr(Invertible, name))
        cls._call_takes_context = "context" in inspect.signature(cls.call).parameters  # type: ignore[attr-defined]
        if "build" in vars(cls):
            cls.build = freeze_after(cls.build)  # type: ignore[attr-defined]

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Runs `call` as every Keras layer does, on floating-point inputs and a suitable context.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`.
            *args: Further arguments of `call`.
            **kwargs: Further arguments of `call`, such as `context`.

        Returns:
            What `call` returns.

        Raises:
            TypeError: If the inputs are not floating-point numbers.
            ValueError: If there is a context where there was none at first, or the other way
                round, or its shape differs, or its batch size is not that of the inputs.
        """
        if type(inputs) not in PLAIN_TYPES:
            inputs = to_tensor(inputs) if isinstance(inputs, list) else inputs
            inputs = keras.tree.map_structure(_read, inputs)
            keras.tree.map_structure(self._check_dtype, inputs)
        elif not is_floating(inputs.dtype):
            self._check_dtype(inputs)
        if args or "context" in kwargs or self.context_shape is not None or not self.built:
            args, kwargs = self._prepare_call(inputs, *args, **kwargs)
        return super().__call__(inputs, *args, **kwargs)  # type: ignore[misc]

    def _prepare_call(
        self, inputs: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the further arguments of `call`, after checking a context."""
        return args, kwargs

    def _run_as_call(
        self, method: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensors:
        """Runs a method through an `Inversion`, which is made once, or for a functional model."""
        if args or kwargs:
            args, kwargs = keras.tree.map_structure(_read, (args, kwargs))
        name = f"{self.name}_{method.__name__}"  # which errors show
        if isinstance(x, keras.KerasTensor):
            number = keras.backend.get_uid(name)  # names differ within a functional model
            name = name if number == 1 else f"{name}_{number}"
            return Inversion(self, method, name=name)(x, *args, **kwargs)
        # Neither tracked nor saved by Keras, because of the underscores.
        inversions = vars(self).setdefault("__inversions", {})
        inversion = inversions.get(method)
        if inversion is None or not inversion.suits(self):
            inversion = inversions[method] = Inversion(self, method, name=name)
        return inversion(x, *args, **kwargs)

    def _check_dtype(self, x: Tensor) -> None:
        if not self.moves_any_dtype:
            check_floating(x, self.name)

    def _check_results(self, results: Tensors) -> Tensors:
        """Checks what `call` returned, and ensures a log-determinant for each example.

        Models leave this to their layers.
        """
        return results

    def _as_batch(self, log_det: Tensor | None, inputs: Tensor) -> Tensor:
        """Returns one log-determinant for each example, also if there is one for all of them."""
        shape = tuple(getattr(log_det, "shape", ()))
        if len(shape) == 1:
            return log_det
        if shape:
            raise ValueError(
                f"The log-determinants of layer '{self.name}' should have shape [batch]: sum "
                "the contributions of all axes but the first, as `sum_log_det` does. Received: "
                f"log-determinants of shape {shape}"
            )
        return fill(log_det, inputs, self.log_det_dtype)

    @property
    def accepts_context(self) -> bool:
        """Whether `call` and `invert` have an argument `context`."""
        return self._call_takes_context

    @property
    def recomputable(self) -> bool:
        """Whether a memory-efficient model gets inputs back from outputs in its backward pass.

        Layers whose inverse is inexact, or takes much longer than `call`, return `False`.
        """
        return True

    def invert(self, outputs: Tensor) -> Tensor:
        """Maps outputs of `call` back to its inputs.

        Args:
            outputs: Floating-point tensor of the shape that `call` returns, `[batch, ...]`.

        Returns:
            The reconstructed inputs, `[batch, ...]`.

        Raises:
            ValueError: If the shape of the inputs is not known yet, because `shape` was not given
                and `call` or `build` have not been called either.
            TypeError: If `outputs` are not floating-point numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `invert(outputs)`.")

    def invert_and_log_det(
        self, outputs: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Maps outputs of `call` back, and computes the log-determinants that `call` has there.

        Layers for which one computation gives both override it. By default they take two.

        Args:
            outputs: See :meth:`invert`.
            *args: Further arguments of `invert` and `call`.
            **kwargs: Further arguments of `invert` and `call`, such as `context`.

        Returns:
            The pair of inputs, `[batch, ...]`, and `log |det d outputs / d inputs|`, `[batch]`.

        Raises:
            ValueError: See :meth:`invert`.
            TypeError: See :meth:`invert`.
        """
        inputs = self.invert(outputs, *args, **kwargs)
        return inputs, self(inputs, *args, **kwargs)[1]

    def recompute(
        self, outputs: Tensor, shift: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps outputs of `call` back, and forward again, for gradients of memory-efficient models.

        Layers for which both ways have work in common override it. It is run as `call` is, with
        inputs converted and weights cast.

        Args:
            outputs: See :meth:`invert`.
            shift: Zeros in the shape of the inputs, to be added to them: derivatives with respect
                to these zeros are those with respect to inputs.
            *args: Further arguments of `invert` and `call`.
            **kwargs: Further arguments of `invert` and `call`, such as `context`.

        Returns:
            The inputs, which nothing is differentiated by, and what `call` returns for them.
        """
        with forget_gradients():
            inputs = ops.stop_gradient(self.invert(outputs, *args, **kwargs))
        return inputs, *self(inputs + shift, *args, **kwargs)

    def _prepare_inversion(self, outputs: Tensor, *args: Any, **kwargs: Any) -> None:
        """Builds what `invert` needs, or raises a `ValueError` if that is not possible."""
        return  # AutoGraph cannot convert a function without a statement

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the inputs that have outputs of `output_shape`: the same here.

        Args:
            output_shape: Shape of outputs, `[batch, ...]`.
        """
        return tuple(output_shape)

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what `call` returns for symbolic `inputs`."""
        output_shape, log_det_shape = self.compute_output_shape(inputs.shape)  # type: ignore[attr-defined]
        dtype = self.compute_dtype  # type: ignore[attr-defined]
        if self.moves_any_dtype and not keras.backend.is_float_dtype(inputs.dtype):
            dtype = inputs.dtype
        return (
            keras.KerasTensor(output_shape, dtype=dtype),
            keras.KerasTensor(log_det_shape, dtype=self.log_det_dtype),
        )

    def compute_jacobian_determinant(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the logarithm of the absolute Jacobian determinant, as :meth:`log_det` does.

        It does not depend on a `call` that overrides one of gyoza's, which can therefore use it.

        Args:
            x: The inputs of `call`, `[batch, ...]`.
            *args: Further arguments of `call`.
            **kwargs: Further arguments of `call`, such as `context`.

        Returns:
            `log |det d outputs / d inputs|` of each example, `[batch]`, in float32 or, if that is
            the compute dtype, float64.
        """
        if self._own_call in (None, type(self).call):  # type: ignore[attr-defined]
            return self(x, *args, **kwargs)[1]
        return self._own_call(self, to_tensor(x), *args, **kwargs)[1]

    def log_det(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes log-determinants; see :meth:`compute_jacobian_determinant`."""
        return self.compute_jacobian_determinant(x, *args, **kwargs)

    @property
    def output_spec(self) -> keras.InputSpec | None:
        """What `invert` demands of its argument; like `input_spec` unless the shape changes."""
        return self.input_spec  # type: ignore[attr-defined]

    @property
    def log_det_dtype(self) -> str:
        """The dtype of log-determinants: that of the computation, but float32 at least."""
        return at_least_float32(self.compute_dtype)  # type: ignore[attr-defined]
