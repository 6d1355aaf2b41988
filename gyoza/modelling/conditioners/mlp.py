"""Conditioners of dense layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import add_product, list_interceptors
from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.functions.checks import check_integers
from gyoza.modelling.functions.products import multiply
from gyoza.typing import Shape, Tensor

__all__ = ["MLP", "check_hidden_sizes", "run_dense_layers"]


@keras.saving.register_keras_serializable(package="gyoza")
class MLP(Conditioner):
    r"""A :class:`Conditioner` of dense layers.

    With the activation :math:`\sigma`, the hidden layers compute

    .. math::
        h_{k+1} = \sigma(h_k W_k + b_k), \qquad \text{or} \qquad
        h_{k+1} = h_k + \sigma(h_k W_k + b_k)

    where the network is `residual` and the two layers have the same number of units. The last layer
    is linear and starts at zero, such that a new coupling is the identity.

    Args:
        hidden_sizes: The number of units of each hidden layer.
        activation: The activation of hidden layers, by name or as a function.
        output_size: See :class:`Conditioner`.
        residual: Whether hidden layers after the first are added to their input if it has as many
            units. This makes deep networks easier to train.
        periods: See :class:`Conditioner`.
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
        residual: bool = False,
        periods: Iterable[float | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size=output_size, periods=periods, **kwargs)
        self.hidden_sizes = check_hidden_sizes(hidden_sizes)
        self.residual = residual
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Shape) -> None:
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

    def call(self, inputs: Tensor) -> Tensor:
        """Computes parameters.

        Args:
            inputs: The kept dimensions, `[batch, ..., kept dimensions]`.

        Returns:
            The parameters of the changed dimensions, `[batch, ..., output_size]`.
        """
        return run_dense_layers(self.dense_layers, inputs, self.residual)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": keras.activations.serialize(self.activation),
            "residual": self.residual,
        }


def check_hidden_sizes(hidden_sizes: Iterable[int]) -> list[int]:
    """Checks the numbers of units of hidden layers, and turns them into a list."""
    sizes = check_integers("hidden_sizes", hidden_sizes)
    if any(size < 1 for size in sizes):
        raise ValueError(
            f"`hidden_sizes` should be positive integers. Received: hidden_sizes={sizes}"
        )
    return sizes


def run_dense_layers(layers: Sequence[Any], inputs: Tensor, residual: bool) -> Tensor:
    """Runs hidden layers and a last one.

    Args:
        layers: The hidden layers, with their activations, and the last layer.
        inputs: What the first layer is given, `[batch, ..., size]`.
        residual: Whether hidden layers after the first are added to their input if it has as many
            units.

    Returns:
        What the last layer returns.
    """
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
        is_added = residual and 0 < k < last and outputs.shape[-1] == x.shape[-1]
        x = x + outputs if is_added else outputs
    return x
