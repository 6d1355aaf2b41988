"""What all transforms have in common."""

from typing import Any

import keras

from gyoza.typing import Tensor

__all__ = ["Transform"]


@keras.saving.register_keras_serializable(package="gyoza")
class Transform:
    r"""Base class of invertible functions of one number :math:`x`, with parameters :math:`p`.

    .. math::
        y = f(x; p), \qquad \ln \left| \frac{\partial f(x; p)}{\partial x} \right|

    A subclass implements `forward` and `inverse`, sets `parameter_count` if it is not 1, and is
    registered with `keras.saving.register_keras_serializable`. Arguments of its constructor go into
    `get_config`. Conditioners start by returning zeros: a transform that is then the identity, or
    nearly so, makes deep flows easier to train.

    Attributes:
        parameter_count: The number of parameters of each dimension.
        preserves_volume: Whether all log-determinants are 0. `False` by default.
        couples_dimensions: Whether what happens to one dimension depends on parameters of others.
            Autoregressive layers cannot take such a transform. `False` by default.
        recomputable: Whether `inverse` is as exact, and about as fast, as `forward`. Otherwise,
            memory-efficient models store the activations of the layer. `True` by default.

    Example:

        >>> @keras.saving.register_keras_serializable(package="example")
        ... class Arsinh(gyoza.modelling.transforms.Transform):
        ...     def forward(self, x, parameters):
        ...         y = keras.ops.arcsinh(x) + parameters[..., 0]
        ...         return y, -0.5 * keras.ops.log(1.0 + x**2)
        ...
        ...     def inverse(self, y, parameters):
        ...         return keras.ops.sinh(y - parameters[..., 0])
        >>> layer = gyoza.modelling.flow_layers.MaskedAutoregressive(transformer=Arsinh())
        >>> outputs, log_det = layer(np.array([[0.0, 1.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs).round(4)
        array([[0.    , 0.8814]], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs)).round(4)
        array([[0., 1.]], dtype=float32)
    """

    parameter_count = 1
    preserves_volume = False
    couples_dimensions = False
    recomputable = True

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Applies the transform.

        Args:
            x: Tensor of floating-point numbers, `[..., dimensions]`. NumPy arrays are converted by
                `keras.ops.convert_to_tensor`, or by layers.
            parameters: Their parameters, `[..., dimensions, parameter_count]`.

        Returns:
            The pair of results, in the shape and dtype of `x`, and logarithms of the absolute
            derivatives: in that shape, one number that holds for all, or `None` if volume is
            preserved.

        Raises:
            TypeError: If `x` are not floating-point numbers, as gyoza's transforms do.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `forward`.")

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Inverts the transform.

        Args:
            y: Results of `forward`, `[..., dimensions]`.
            parameters: Their parameters, `[..., dimensions, parameter_count]`.

        Returns:
            The numbers that `forward` maps to `y`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `inverse`.")

    def inverse_and_log_derivative(
        self, y: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Inverts the transform, and computes the log-derivatives that `forward` has there.

        Override it where one computation gives both.

        Args:
            y: Results of `forward`, `[..., dimensions]`.
            parameters: Their parameters, `[..., dimensions, parameter_count]`.

        Returns:
            The pair of what `inverse` returns, and of log-derivatives as `forward` returns them.
        """
        x = self.inverse(y, parameters)
        return x, self.forward(x, parameters)[1]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, from which `from_config` makes a copy."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Transform":
        """Makes a transform from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            An equal transform.
        """
        return cls(**config)
