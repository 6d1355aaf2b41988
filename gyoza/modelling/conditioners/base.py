"""What all conditioners have in common."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import cos_and_sin, flatten_layers, list_interceptors
from gyoza.modelling.functions.checks import check_positive_number, is_own
from gyoza.modelling.options import HasOptions
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["Conditioner", "run_within"]


@keras.saving.register_keras_serializable(package="gyoza")
class Conditioner(HasOptions, keras.Layer):
    r"""Base class of networks that are given only what a coupling keeps, for what it changes.

    Any Keras layer or model can compute coupling parameters. A plain one sees tensors in their full
    shape, with zeros where the coupling changes them, and also returns tensors in full shape. A
    `Conditioner` sees the kept dimensions alone, `[batch, ..., kept dimensions]`, and returns the
    parameters of the changed dimensions alone, `[batch, ..., output_size]`, so nothing is computed
    and thrown away. The coupling sets `output_size` before it builds the conditioner.

    Kept dimensions with a period :math:`T`, such as angles, are replaced by :math:`\cos (2 \pi x /
    T)` and :math:`\sin (2 \pi x / T)`, before `call`: cosines come first, then sines, then the
    other dimensions. So what is computed is the same for all coordinates of a point on the circle.

    Args:
        output_size: The number of outputs per position, or `None` to let the coupling set it.
        periods: The period of each kept dimension, in their order, or `None` for one that is not
            periodic, as those after the end of the list are not. If it is omitted, a
            :class:`~gyoza.modelling.flow_layers.FlowModel` sets it: dimensions that a
            :class:`~gyoza.modelling.flow_layers.CircularSplineCoupling` changes are periodic, and
            those that another coupling changes are not.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a period is not positive.
    """

    def __init__(
        self,
        output_size: int | None = None,
        periods: Iterable[float | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_size = output_size
        self.periods = None if periods is None else list(periods)
        for period in self.periods or []:
            if period is not None:
                check_positive_number("periods", period)

    def set_output_size(self, output_size: int) -> None:
        """Fixes the number of outputs; called by the coupling before it builds the conditioner.

        Args:
            output_size: The number of outputs per position.

        Raises:
            ValueError: If the conditioner has another number of outputs already, as it has when it
                is shared by couplings of different size.
        """
        if self.output_size not in (None, output_size):
            raise ValueError(
                f"Conditioner '{self.name}' should have {output_size} outputs for this coupling. "
                f"Received: output_size={self.output_size}"
            )
        self.output_size = output_size

    def set_periods(self, periods: Iterable[float | None]) -> None:
        """Fixes the periods of kept dimensions, unless they are known; called before it is built.

        Args:
            periods: The period of each kept dimension, or `None`.
        """
        if self.periods is None:
            self.periods = list(periods)

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Runs `call`, see there, on cosines and sines of what is periodic, and on the rest."""
        return super().__call__(self._replace_periodic(inputs), *args, **kwargs)

    def _replace_periodic(self, inputs: Tensor) -> Tensor:
        periodic = {k: period for k, period in enumerate(self.periods or []) if period is not None}
        if not periodic:
            return inputs
        angles = ops.stack([inputs[..., k] * (2 * math.pi / t) for k, t in periodic.items()], -1)
        others = [k for k in range(inputs.shape[-1]) if k not in periodic]
        parts: list[Tensor] = [*cos_and_sin(angles)]
        if others:
            parts.append(ops.take(inputs, others, axis=-1))
        return ops.concatenate(parts, axis=-1)

    def sees_kept_entries(self, axes: Sequence[int]) -> bool:
        """Returns whether the conditioner is given only the dimensions that a coupling keeps.

        If it is not, because it needs to know where dimensions are, it is given the inputs in full
        shape, with zeros where the coupling changes them, and returns parameters in full
        shape, also of dimensions that are kept: `output_size` is then the number of parameters of
        all dimensions of the last axis.

        Args:
            axes: The axes that the coupling transforms.
        """
        return True

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shape that the conditioner was built for, and which of its parts are frozen.

        Parts are made when it is built, so that its configuration does not tell.
        """
        config = super().get_build_config()
        frozen = [k for k, part in enumerate(self._list_parts()) if not part.trainable]
        return {**config, "frozen": frozen} if config and frozen else config

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the conditioner from what `get_build_config` returned."""
        config = dict(config)
        frozen = config.pop("frozen", [])
        super().build_from_config(config)
        parts = self._list_parts()
        for k in frozen:
            parts[k].trainable = False

    def _list_parts(self) -> list[keras.Layer]:
        return flatten_layers(self, include_self=False)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the outputs: that of the inputs, but for the last axis."""
        return (*input_shape[:-1], self.output_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "output_size": self.output_size,
            "periods": None if self.periods is None else list(self.periods),
        }


def run_within(layer: keras.Layer, network: keras.Layer, x: Tensors) -> Tensor:
    """Runs a network within a method of a layer.

    Where Keras would add nothing, `call` alone is run, which takes half the time on PyTorch.

    Args:
        layer: The layer.
        network: The network, which does not depend on whether it is trained.
        x: The tensor, or list of tensors, that `call` takes, in the layer's compute dtype.

    Returns:
        What the network returns.
    """
    is_plain = (
        is_own(type(network))
        and network.built
        and network.dtype_policy == layer.dtype_policy
        and network.compute_dtype == network.variable_dtype  # Keras casts within its calls alone
        and network.activity_regularizer is None
        and keras.distribution.distribution() is None
        and not any(list_interceptors(network))
    )
    if not is_plain:
        return network(x)
    return network.call(network._replace_periodic(x) if getattr(network, "periods", None) else x)
