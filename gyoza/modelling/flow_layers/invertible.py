"""What flow layers and flow models have in common: a way back and a log-determinant."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gyoza.backend import forget_gradients
from gyoza.modelling.dtypes import at_least_float32

__all__ = ["Invertible", "Inversion", "check_floating"]


def _run_like_call(invert: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an `invert` method, so that it is run through `Inversion`."""
    signature = inspect.signature(invert)

    @functools.wraps(invert)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _, *arguments = signature.bind(*args, **kwargs).arguments.items()
        layer = args[0]
        (_, outputs), *others = arguments
        if not hasattr(outputs, "shape"):
            outputs = ops.convert_to_tensor(outputs)
        check_floating(outputs, layer.name)
        layer._prepare_inversion(outputs, **dict(others))
        return Inversion(layer, invert)(outputs, **dict(others))

    return wrapper


def check_floating(x: Any, name: str, what: str = "The inputs") -> None:
    """Raises a `TypeError` if `what` layer `name` is given are not floating-point numbers."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and not keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(dtype)
    ):
        raise TypeError(
            f"{what} of '{name}' should be floating-point numbers. "
            f"Received: dtype={keras.backend.standardize_dtype(dtype)}"
        )


@keras.saving.register_keras_serializable(package="gyoza")
class Inversion(keras.Layer):
    """Runs the `invert` of a flow layer or model as the `call` of a Keras layer.

    Keras then converts and casts as it does for `call`, and a functional model that goes through
    `invert` knows the weights that it uses.

    Args:
        layer: The flow layer or model.
        invert: Its method, where that is not the one of its class but that of a base class.
        **kwargs: Arguments of `keras.Layer`.
    """

    def __init__(self, layer: Any, invert: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.layer = layer
        self.method = invert or type(layer).invert.__wrapped__
        self.input_spec = layer.output_spec

    def build(self, output_shape: Any) -> None:
        """Builds nothing: the layer has its weights."""
        return  # AutoGraph cannot convert a function without a statement

    def call(self, outputs: Any, **kwargs: Any) -> Any:
        """Inverts the layer."""
        return self.method(self.layer, outputs, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Inversion":
        """Makes an equal layer from what `get_config` returned."""
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


class Invertible:
    """What `FlowLayer` and `FlowModel` have in common: a way back and a log-determinant.

    It sees to it that `invert` is run as Keras runs `call`: arrays are converted, floating-point
    inputs and weights are cast to the compute dtype, and symbolic tensors are traced.
    """

    name: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("invert", "invert_and_log_det"):
            if name in vars(cls):
                setattr(cls, name, _run_like_call(vars(cls)[name]))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs `call` as every Keras layer does, on floating-point inputs only."""
        keras.tree.map_structure(lambda x: check_floating(x, self.name), inputs)
        return super().__call__(inputs, *args, **kwargs)  # type: ignore[misc]

    @property
    def accepts_context(self) -> bool:
        """Whether `call` and `invert` have an argument `context`."""
        return "context" in inspect.signature(self.call).parameters  # type: ignore[attr-defined]

    @property
    def recomputable(self) -> bool:
        """Whether a memory-efficient model gets inputs back from outputs in its backward pass.

        Layers whose inverse is inexact, or takes much longer than `call`, say no.
        """
        return True

    def invert(self, outputs: Any) -> Any:
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

    def invert_and_log_det(self, outputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
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
        self, outputs: Any, shift: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
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

    def _prepare_inversion(self, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Builds what `invert` needs, or raises a `ValueError` if that is not possible."""
        return  # AutoGraph cannot convert a function without a statement

    def compute_input_shape(self, output_shape: Any) -> tuple[int | None, ...]:
        """Gives the shape of the inputs that have outputs of `output_shape`: the same here.

        Args:
            output_shape: Shape of outputs, `[batch, ...]`.
        """
        return tuple(output_shape)

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Describes what `call` returns for symbolic `inputs`."""
        output_shape, log_det_shape = self.compute_output_shape(inputs.shape)  # type: ignore[attr-defined]
        dtype = self.compute_dtype  # type: ignore[attr-defined]
        return (
            keras.KerasTensor(output_shape, dtype=dtype),
            keras.KerasTensor(log_det_shape, dtype=self.log_det_dtype),
        )

    def compute_jacobian_determinant(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the log-determinant alone.

        Args:
            x: The inputs of `call`, `[batch, ...]`.
            *args: Further arguments of `call`.
            **kwargs: Further arguments of `call`, such as `context`.

        Returns:
            `log |det d outputs / d inputs|` of every instance, `[batch]`, in float32 or, if that
            is the compute dtype, float64.
        """
        return self(x, *args, **kwargs)[1]

    @property
    def output_spec(self) -> keras.InputSpec | None:
        """What `invert` demands of its argument; like `input_spec` unless the shape changes."""
        return self.input_spec  # type: ignore[attr-defined]

    @property
    def log_det_dtype(self) -> str:
        """The dtype of log-determinants: that of the computation, but float32 at least."""
        return at_least_float32(self.compute_dtype)  # type: ignore[attr-defined]
