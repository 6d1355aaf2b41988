"""Conditioners of dense layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from gyoza.modelling.axes import check_integers
from gyoza.modelling.conditioners.base import Conditioner

__all__ = ["MLP"]


@keras.saving.register_keras_serializable(package="gyoza")
class MLP(Conditioner):
    """A :class:`Conditioner` of dense layers.

    The last layer starts at zero, such that a new coupling is the identity.

    Args:
        hidden_sizes: The number of units of each hidden layer.
        activation: The activation of hidden layers, by name or as a function.
        output_size: See :class:`Conditioner`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a hidden layer has less than one unit.

    Example:

        >>> conditioner = gyoza.modelling.conditioners.MLP([64, 64])
        >>> layer = gyoza.modelling.flow_layers.AdditiveCoupling(
        ...     compute_coupling_parameters=conditioner
        ... )
        >>> outputs, log_det = layer(np.ones([2, 6], "float32"))
        >>> conditioner.output_size
        3
    """

    def __init__(
        self,
        hidden_sizes: Iterable[int] = (128, 128),
        activation: Any = "relu",
        output_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size=output_size, **kwargs)
        self.hidden_sizes = check_integers("hidden_sizes", hidden_sizes)
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(
                "`hidden_sizes` should be positive integers. "
                f"Received: hidden_sizes={self.hidden_sizes}"
            )
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the dense layers."""
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        if self.output_size is None:
            raise ValueError(
                f"Conditioner '{self.name}' should be given `output_size` by its constructor or "
                "by a coupling before it is built. Received: output_size=None"
            )
        self.dense_layers = [
            keras.layers.Dense(size, activation=self.activation, dtype=self.dtype_policy)
            for size in self.hidden_sizes
        ]
        self.dense_layers.append(
            keras.layers.Dense(
                self.output_size, kernel_initializer="zeros", dtype=self.dtype_policy
            )
        )
        for layer in self.dense_layers:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        """Computes parameters.

        Args:
            inputs: The kept entries, `[batch, ..., kept entries]`.

        Returns:
            The parameters of the changed entries, `[batch, ..., output_size]`.
        """
        for layer in self.dense_layers:
            inputs = layer(inputs)
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": keras.activations.serialize(self.activation),
        }
