"""What networks of dense layers have in common."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import add_product, list_interceptors
from gyoza.modelling.functions.checks import check_positive_integers
from gyoza.modelling.functions.products import multiply
from gyoza.modelling.options import HasOptions
from gyoza.typing import Tensor

__all__ = ["DenseNetwork"]


class DenseNetwork(HasOptions, keras.Layer):
    """Base class of networks of hidden dense layers and a last one, which is linear.

    Subclasses create `dense_layers` when they are built.

    Args:
        hidden_sizes: The number of units of each hidden layer.
        activation: The activation of hidden layers, by name or as a function.
        residual: Whether hidden layers after the first are added to their input if it has as many
            units.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a hidden layer has less than one unit.
    """

    dense_layers: list[keras.Layer]

    def __init__(
        self,
        hidden_sizes: Iterable[int],
        activation: str | Callable[..., Tensor],
        residual: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
        self.activation = keras.activations.get(activation)
        self.residual = residual

    def _build_dense_layers(self, size: int | None, output_size: int) -> None:
        """Creates layers of Keras for vectors of `size`, the last of which starts at zero."""
        self.dense_layers = [
            keras.layers.Dense(units, activation=self.activation, dtype=self.dtype_policy)
            for units in self.hidden_sizes
        ]
        self.dense_layers.append(
            keras.layers.Dense(output_size, kernel_initializer="zeros", dtype=self.dtype_policy)
        )
        for layer in self.dense_layers:
            layer.build((None, size))
            size = layer.units

    def _run_dense_layers(
        self, inputs: Tensor, *, layers: Sequence[keras.Layer] | None = None
    ) -> Tensor:
        """Runs the layers.

        Args:
            inputs: What the first layer is given, `[batch, ..., size]`.
            layers: Functions to run instead of `dense_layers`, for layers with further arguments.

        Returns:
            What the last layer returns, `[batch, ..., output size]`.
        """
        layers = self.dense_layers if layers is None else layers
        x, last = inputs, len(layers) - 1
        is_distributed = keras.distribution.distribution() is not None
        for k, layer in enumerate(layers):
            is_dense = type(layer) is keras.layers.Dense
            if is_dense and not (
                is_distributed or layer.quantization_mode or any(list_interceptors(layer))
            ):
                kernel, bias = map(ops.convert_to_tensor, (layer.kernel, layer.bias))
                if len(x.shape) == 2:
                    outputs = layer.activation(add_product(bias, x, kernel))
                else:
                    outputs = layer.activation(multiply(x, kernel) + bias)
            else:
                outputs = layer(x)
            is_added = self.residual and 0 < k < last and outputs.shape[-1] == x.shape[-1]
            x = x + outputs if is_added else outputs
        return x

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": keras.activations.serialize(self.activation),
        }
