"""Convolutional conditioners."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.conditioners.convolutions import Convolution
from gyoza.modelling.functions.checks import check_integer
from gyoza.typing import Shape, Tensor

__all__ = ["ResNet"]


@keras.saving.register_keras_serializable(package="gyoza")
class ResNet(Conditioner):
    r"""A :class:`Conditioner` of convolutions, for couplings of images.

    Given images :math:`h`, it computes

    .. math::
        h_0 = W_0 h, \qquad
        h_b = h_{b-1} + W_b' \, \sigma(W_b \, \sigma(h_{b-1})), \qquad
        g(h) = U \, \sigma(V \, \sigma(h_B)),

    with :math:`B` residual blocks, the activation :math:`\sigma`, 1×1 convolutions :math:`V` and
    otherwise convolutions :math:`W_b`, :math:`W_b'` and :math:`U` that look at `kernel_size` pixels
    in both directions; all of them have biases, and pad images with zeros. Without blocks, it is
    the network of Glow: three convolutions, of 3×3, 1×1 and 3×3 pixels.

    :math:`U` starts at zero, such that a new coupling is the identity. There is no batch
    normalisation: examples do not influence each other.

    Images are channels-last, `[batch, height, width, channels]`, of any height and width. From a
    coupling with `axes=[3]`, it is given the channels that the mask keeps. From any other, which
    splits pixels, as with a :class:`~gyoza.modelling.masks.CheckerBoardMask`, it is given whole
    images, with zeros where the coupling changes them, and returns parameters of all dimensions.

    Args:
        width: The number of channels of all convolutions but the last.
        block_count: The number of residual blocks, :math:`B`, 0 for the network of Glow.
        kernel_size: The height and width of kernels, an odd number. A parameter depends on the
            pixels that are at most :math:`(B + 1) (` `kernel_size` :math:`- 1)` away.
        activation: The activation :math:`\sigma`, by name or as a function.
        output_size: See :class:`Conditioner`.
        periods: See :class:`Conditioner`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a number is out of range, or the inputs are not images.

    Example:

        >>> conditioner = gyoza.modelling.conditioners.ResNet(width=16, block_count=1)
        >>> layer = gyoza.modelling.flow_layers.AffineCoupling(axes=[3], conditioner=conditioner)
        >>> outputs, log_det = layer(np.ones([2, 8, 8, 4], "float32"))
        >>> conditioner.output_size  # log-scales and shifts of two channels
        4

    References:
        - He, K., Zhang, X., Ren, S. & Sun, J. (2016). "Identity mappings in deep residual
          networks." `arXiv:1603.05027 <https://arxiv.org/abs/1603.05027>`_
        - Kingma, D. P. & Dhariwal, P. (2018). "Glow: Generative flow with invertible 1x1
          convolutions." `arXiv:1807.03039 <https://arxiv.org/abs/1807.03039>`_
    """

    def __init__(
        self,
        width: int = 64,
        block_count: int = 2,
        kernel_size: int = 3,
        activation: str | Callable[..., Tensor] = "relu",
        output_size: int | None = None,
        periods: Iterable[float | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size=output_size, periods=periods, **kwargs)
        self.width = check_integer("width", width, minimum=1)
        self.block_count = check_integer("block_count", block_count)
        self.kernel_size = check_integer("kernel_size", kernel_size, minimum=1)
        if kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` should be odd. Received: kernel_size={kernel_size}")
        self.activation = keras.activations.get(activation)

    def sees_kept_entries(self, axes: Sequence[int]) -> bool:
        """Returns whether what is kept forms an image: if channels are split, not pixels."""
        return list(axes) == [3]

    def build(self, input_shape: Shape) -> None:
        """Creates the convolutions."""
        if len(input_shape) != 4:
            raise ValueError(
                f"Conditioner '{self.name}' should be given images, [batch, height, width, "
                "channels]. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if self.output_size is None:
            raise ValueError(
                f"Conditioner '{self.name}' should be given `output_size` by its constructor or "
                "by a coupling before it is built. Received: output_size=None"
            )
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        self.first = self._add_convolution(input_shape[-1])
        self.blocks = [
            [self._add_convolution(self.width) for _ in range(2)] for _ in range(self.block_count)
        ]
        # Before version 3.15, Keras saves no layers in lists of lists.
        self.convolutions = [layer for block in self.blocks for layer in block]
        self.mix = self._add_convolution(self.width, kernel_size=1)
        self.last = self._add_convolution(
            self.width, filters=self.output_size, kernel_initializer="zeros"
        )

    def _add_convolution(self, channels: int | None, **options: Any) -> keras.Layer:
        options = {"filters": self.width, "kernel_size": self.kernel_size, **options}
        convolution = Convolution(dtype=self.dtype_policy, **options)
        convolution.build((None, None, None, channels))
        return convolution

    def call(self, inputs: Tensor) -> Tensor:
        """Computes parameters.

        Args:
            inputs: Images, `[batch, height, width, channels]`.

        Returns:
            The parameters for each pixel, `[batch, height, width, output_size]`.
        """
        x = self.first(inputs)
        for first, second in self.blocks:
            x = x + second(self.activation(first(self.activation(x))))
        return self.last(self.activation(self.mix(self.activation(x))))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "width": self.width,
            "block_count": self.block_count,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
        }
