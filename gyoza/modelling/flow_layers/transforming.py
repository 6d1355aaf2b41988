"""How couplings and autoregressive layers apply a transform, or the hooks of a subclass."""

import inspect
from typing import Any

import keras

from gyoza.modelling.functions.arguments import make_parts
from gyoza.modelling.functions.checks import check_instance, is_own
from gyoza.modelling.transforms import Transform
from gyoza.typing import Tensor

__all__ = ["AppliesTransform", "check_transformer", "option"]

_HOOKS = (
    "_couple_",
    "_decouple_",
    "compute_log_stretch",
    "_couple_and_stretch_",
    "_decouple_and_stretch_",
)


class AppliesTransform:
    """The hooks through which layers apply their `transformer`, unless subclasses override them.

    A layer calls `_couple_and_stretch_`, `_decouple_` and `_decouple_and_stretch_`. A subclass
    without a transformer implements `_couple_`, `_decouple_` and `compute_log_stretch`.
    """

    # The `Transform`, or `None` where a subclass has hooks of its own.
    transformer: Any = None
    # Whether a configuration holds the options of the transform, instead of the transform.
    _is_configured_by_options = False
    # Whether the hooks are given parameters without a last axis, which transforms always have.
    _lacks_axis = False
    # The hooks that a user's class has instead of gyoza's.
    _replaced: frozenset[str] = frozenset()
    _volume_hooks: tuple[str, ...] = ("compute_log_stretch", "_couple_and_stretch_")
    preserves_volume: Any
    call: Any
    _own_call: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = next(base for base in cls.__mro__ if is_own(base))
        cls._replaced = frozenset(
            hook for hook in _HOOKS if getattr(cls, hook) is not getattr(own, hook)
        )

    def _set_transformer(self, transformer: Transform | None) -> None:
        """Checks and keeps the transform that a constructor was given."""
        if transformer is None:
            if not self._replaced and type(self).call is self._own_call:
                self._transformer_for("_couple_")  # raises an error
            return
        self.transformer = check_transformer(transformer)
        if not self._is_configured_by_options:
            self.preserves_volume = self.preserves_volume and transformer.preserves_volume

    @property
    def parameter_count(self) -> int:
        """The number of parameters of each dimension."""
        return 1 if self.transformer is None else self.transformer.parameter_count

    def _couple_(self, inputs: Tensor, coupling_parameters: Tensor) -> Tensor:
        """Applies the transform.

        Args:
            inputs: Inputs, `[batch, ..., dimensions]`.
            coupling_parameters: Their parameters.

        Returns:
            The outputs, in the shape of `inputs`.
        """
        transformer = self._transformer_for("_couple_")
        return transformer.forward(inputs, self._expand(coupling_parameters))[0]

    def _decouple_(self, outputs: Tensor, coupling_parameters: Tensor) -> Tensor:
        """Inverts the transform.

        Args:
            outputs: Outputs, `[batch, ..., dimensions]`.
            coupling_parameters: Their parameters.

        Returns:
            The inputs, in the shape of `outputs`.
        """
        transformer = self._transformer_for("_decouple_")
        return transformer.inverse(outputs, self._expand(coupling_parameters))

    def compute_log_stretch(self, inputs: Tensor, coupling_parameters: Tensor) -> Tensor | None:
        """Computes the log-derivatives, the contributions to the log-determinant.

        Args:
            inputs: Inputs, `[batch, ..., dimensions]`.
            coupling_parameters: Their parameters.

        Returns:
            A tensor of the shape of `inputs`, one number that holds for all dimensions, or `None`
            if volume is preserved.
        """
        if self.transformer is None:
            return None
        return self.transformer.forward(inputs, self._expand(coupling_parameters))[1]

    def _couple_and_stretch_(
        self, inputs: Tensor, coupling_parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Applies the transform and computes the log-derivatives.

        Args:
            inputs: Inputs, `[batch, ..., dimensions]`.
            coupling_parameters: Their parameters.

        Returns:
            What `_couple_` and `compute_log_stretch` return.
        """
        if self.transformer is None or self._replaced & {"_couple_", "compute_log_stretch"}:
            log_derivative = self.compute_log_stretch(inputs, coupling_parameters)
            return self._couple_(inputs, coupling_parameters), log_derivative
        if self._lacks_axis:
            coupling_parameters = coupling_parameters[..., None]
        return self.transformer.forward(inputs, coupling_parameters)

    def _decouple_and_stretch_(
        self, outputs: Tensor, coupling_parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Inverts the transform and computes the log-derivatives of `call`.

        Args:
            outputs: Outputs, `[batch, ..., dimensions]`.
            coupling_parameters: Their parameters.

        Returns:
            What `_decouple_` returns, and what `compute_log_stretch` returns for it.
        """
        if self.transformer is None or self._replaced:
            inputs = self._decouple_(outputs, coupling_parameters)
            return inputs, self._couple_and_stretch_(inputs, coupling_parameters)[1]
        return self.transformer.inverse_and_log_derivative(
            outputs, self._expand(coupling_parameters)
        )

    def _expand(self, coupling_parameters: Tensor) -> Tensor:
        return coupling_parameters[..., None] if self._lacks_axis else coupling_parameters

    def _transformer_for(self, hook: str) -> Transform:
        if self.transformer is None:
            raise NotImplementedError(
                f"{type(self).__name__} should implement `{hook}`, or be given a `transformer`."
            )
        return self.transformer

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()  # type: ignore[misc]
        if self._is_configured_by_options:
            return {**config, **self.transformer.get_config()}
        takes_transformer = "transformer" in inspect.signature(type(self).__init__).parameters
        if self.transformer is None and not takes_transformer:
            return config
        return {**config, "transformer": keras.saving.serialize_keras_object(self.transformer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        return super().from_config(make_parts(config, "transformer"))  # type: ignore[misc]


def check_transformer(transformer: Any) -> Transform:
    """Raises a `TypeError` for what is not a transform, and returns what is."""
    check_instance("transformer", transformer, Transform, "a `Transform`")
    return transformer


def option(name: str) -> property:
    """Returns a property of layers that reads an option of their transform, or checks and sets it.

    An option on which the number of parameters depends can only be given to the constructor.
    """

    def read(self: Any) -> Any:
        return getattr(self.transformer, name)

    def change(self: Any, value: Any) -> None:
        transformer = self.transformer
        checked = transformer.from_config({**transformer.get_config(), name: value})
        if checked.parameter_count != transformer.parameter_count:
            raise ValueError(
                f"`{name}` should be given to the constructor of the layer, as the number of its "
                f"parameters depends on it. Received: {name}={value!r}"
            )
        setattr(transformer, name, getattr(checked, name))

    return property(read, change)
