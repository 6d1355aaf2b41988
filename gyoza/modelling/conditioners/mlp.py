"""Conditioners of dense layers."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.conditioners.dense import DenseNetwork
from gyoza.typing import Shape, Tensor

__all__ = ["MLP"]


@keras.saving.register_keras_serializable(package="gyoza")
class MLP(DenseNetwork, Conditioner):
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
        >>> layer = gyoza.modelling.flow_layers.AdditiveCoupling(conditioner=conditioner)
        >>> outputs, log_det = layer(np.ones([2, 6], "float32"))
        >>> conditioner.output_size
        3
    """

    def __init__(
        self,
        hidden_sizes: Iterable[int] = (128, 128),
        activation: str | Callable[..., Tensor] = "relu",
        output_size: int | None = None,
        residual: bool = False,
        periods: Iterable[float | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            hidden_sizes, activation, residual, output_size=output_size, periods=periods, **kwargs
        )

    def build(self, input_shape: Shape) -> None:
        """Creates the dense layers."""
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        if self.output_size is None:
            raise ValueError(
                f"Conditioner '{self.name}' should be given `output_size` by its constructor or "
                "by a coupling before it is built. Received: output_size=None"
            )
        self._build_dense_layers(input_shape[-1], self.output_size)

    call = DenseNetwork._run_dense_layers

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {**super().get_config(), "residual": self.residual}
