"""Convolutional networks of images and times, for flows in continuous time."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.conditioners.convolutions import Convolution
from gyoza.modelling.conditioners.velocity import check_parts, count_features, merge_features
from gyoza.modelling.functions.checks import check_integer, check_positive_integers, is_between
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.products import multiply
from gyoza.modelling.functions.tensors import mean
from gyoza.modelling.options import HasOptions
from gyoza.typing import DType, Shape, Tensor

__all__ = ["VelocityUNet"]

# What is added to variances, such that pixels whose channels are nearly equal stay so.
_EPSILON = 1e-3


@keras.saving.register_keras_serializable(package="gyoza")
class VelocityUNet(HasOptions, keras.Layer):
    r"""Residual blocks at several resolutions that compute the velocity of images at a time.

    A 3×3 convolution makes `widths[0]` channels. On the way down, squares of 2×2 pixels are mapped
    to one pixel with the next number of channels. On the way up, pixels are mapped to such squares,
    to which is added what the way down had there. Residual blocks stand before each of these steps
    and at the end, `block_count` of them:

    .. math::
        h \leftarrow h + W_2 \, \sigma \bigl( (1 + a) N(W_1 \, \sigma(N(h))) + b \bigr), \qquad
        (a, b) = A \, \sigma(E e),

    with 3×3 convolutions :math:`W_1` and :math:`W_2`, the activation :math:`\sigma`, and :math:`N`,
    which normalises the channels of each pixel, such that images do not influence each other. The
    vector :math:`e` holds the context, if there is one, and the features of the time that a
    :class:`VelocityMLP` has. The last layer is :math:`W_3 \, \sigma(N(h))` with a 3×3 convolution
    :math:`W_3` that starts at zero.

    Images are channels-last, of any size. Where it is odd, zeros are added at the border before
    squares are made, and the border is removed on the way up.

    Args:
        widths: The number of channels at each resolution, from the highest to the lowest.
        block_count: The number of blocks between two changes of the resolution.
        activation: The activation :math:`\sigma`, which should be smooth, by name or as a function.
        frequency_count: The number of frequencies of the time.
        dropout: The fraction of numbers that are dropped before :math:`W_2` in training by
            :class:`~gyoza.modelling.flow_layers.FlowMatchingModel`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a number is out of range, or the inputs are not images of known size.

    Example:

        >>> velocity = gyoza.modelling.conditioners.VelocityUNet(widths=[16, 32])
        >>> x, time = np.ones([5, 8, 8, 1], "float32"), np.zeros([5, 1], "float32")
        >>> labels = np.eye(5, 10, dtype="float32")
        >>> velocity([x, time, labels]).shape == (5, 8, 8, 1)
        True

    References:
        - Ronneberger, O., Fischer, P. & Brox, T. (2015). "U-Net: Convolutional networks for
          biomedical image segmentation." `arXiv:1505.04597 <https://arxiv.org/abs/1505.04597>`_
        - Perez, E., Strub, F., de Vries, H., Dumoulin, V. & Courville, A. (2018). "FiLM: Visual
          reasoning with a general conditioning layer." `arXiv:1709.07871
          <https://arxiv.org/abs/1709.07871>`_
        - Ho, J., Jain, A. & Abbeel, P. (2020). "Denoising diffusion probabilistic models."
          `arXiv:2006.11239 <https://arxiv.org/abs/2006.11239>`_
    """

    def __init__(
        self,
        widths: Iterable[int] = (32, 64),
        block_count: int = 2,
        activation: str | Callable[..., Tensor] = "silu",
        frequency_count: int = 4,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.widths = check_positive_integers("widths", widths, least_count=1)
        self.block_count = check_integer("block_count", block_count, minimum=1)
        self.activation = keras.activations.get(activation)
        self.frequency_count = check_integer("frequency_count", frequency_count)
        if dropout != 0.0 and not is_between(0.0, dropout, 1.0):
            raise ValueError(f"`dropout` should be in [0, 1). Received: dropout={dropout!r}")
        self.dropout = float(dropout)

    def build(self, input_shape: list[Shape]) -> None:
        """Creates the layers for images, times and contexts of these shapes."""
        check_parts(self.name, input_shape)
        images, *others = input_shape
        if len(images) != 4 or None in images[1:]:
            raise ValueError(
                f"Layer '{self.name}' should be given images, [batch, height, width, channels], of "
                f"known size. Received: images of shape {tuple(images)}"
            )
        widths, size, dtype = self.widths, 4 * self.widths[0], self.dtype_policy
        self.embedding = _Dense(size, self.activation, dtype=dtype)
        self.embedding.build((None, count_features(others, self.frequency_count)))
        self.first = _make_convolution(images[3], widths[0], 3, dtype)
        self.blocks = [
            _Block(width, size, self.activation, self.dropout, dtype=dtype)
            for width in [*widths, *reversed(widths[:-1])]
            for _ in range(self.block_count)
        ]
        pairs = list(itertools.pairwise(widths))
        self.down = [_make_convolution(4 * high, low, 1, dtype) for high, low in pairs]
        self.up = [_make_convolution(low, 4 * high, 1, dtype) for high, low in reversed(pairs)]
        self.last = _make_convolution(widths[0], images[3], 3, dtype, kernel_initializer="zeros")

    def call(self, inputs: list[Tensor]) -> Tensor:
        """Computes velocities.

        Args:
            inputs: The list of images, `[batch, height, width, channels]`, their times, `[batch,
                1]`, and contexts, `[batch, ...]`, if there are some.

        Returns:
            The velocities, in the shape of the images.
        """
        images, time, *context = inputs
        features = merge_features(context, time, self.frequency_count, self.compute_dtype)
        embedding = self.embedding(features)
        blocks = iter(self.blocks)

        def run_blocks(x: Tensor) -> Tensor:
            for block in itertools.islice(blocks, self.block_count):
                x = block(x, embedding)
            return x

        x = run_blocks(self.first(images))
        kept = []
        for convolution in self.down:
            kept.append(x)
            x = run_blocks(convolution(_merge_squares(x)))
        for convolution, high in zip(self.up, reversed(kept), strict=True):
            x = run_blocks(high + _split_squares(convolution(x), high.shape))
        return self.last(self.activation(_normalise(x)))

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Returns the shape of velocities, which is that of the images."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "widths": list(self.widths),
            "block_count": self.block_count,
            "activation": keras.activations.serialize(self.activation),
            "frequency_count": self.frequency_count,
            "dropout": self.dropout,
        }


class _Dense(keras.layers.Dense):
    """A `keras.layers.Dense` that keeps float64, which Keras's rounds to float32 on PyTorch."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.activation(multiply(inputs, self.kernel) + self.bias)


class _Block(keras.Layer):
    """A residual block: two convolutions, scaled and shifted in between by an embedding."""

    def __init__(
        self,
        width: int,
        embedding_size: int,
        activation: Callable[..., Tensor],
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.activation = activation
        self.convolutions = [_make_convolution(width, width, 3, dtype) for _ in range(2)]
        self.modulation = _Dense(2 * width, dtype=dtype)
        self.modulation.build((None, embedding_size))
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.built = True

    def call(self, inputs: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = ops.split(self.modulation(embedding)[:, None, None], 2, axis=-1)
        x = self.convolutions[0](self.activation(_normalise(inputs)))
        x = (1.0 + scale) * _normalise(x) + shift
        return inputs + self.convolutions[1](self.dropout(self.activation(x)))

    def compute_output_shape(self, input_shape: Shape, *_: Shape) -> Shape:
        return input_shape


def _make_convolution(
    channels: int | None, filters: Any, size: int, dtype: DType, **options: Any
) -> keras.Layer:
    convolution = Convolution(filters, size, dtype=dtype, **options)
    convolution.build((None, None, None, channels))
    return convolution


def _normalise(x: Tensor) -> Tensor:
    """Standardises the channels of each pixel, in at least float32."""
    # Layers of Keras have wrong second derivatives on TensorFlow, whose moments hide from the
    # variance that the mean depends on `x`.
    centred = ops.cast(x, at_least_float32(x.dtype))
    centred = centred - mean(centred, -1, keepdims=True)
    variance = mean(ops.square(centred), -1, keepdims=True)
    return ops.cast(centred * ops.rsqrt(variance + _EPSILON), x.dtype)


def _merge_squares(x: Tensor) -> Tensor:
    """Moves squares of 2×2 pixels to the channels, after zeros at the border of odd sizes."""
    _, height, width, channels = x.shape
    x = ops.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
    height, width = -(-height // 2), -(-width // 2)
    x = ops.reshape(x, (-1, height, 2, width, 2, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, width, 4 * channels))


def _split_squares(x: Tensor, shape: Shape) -> Tensor:
    """Moves channels to squares of 2×2 pixels, and removes what exceeds the height and width."""
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
    x = ops.reshape(
        ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 2 * height, 2 * width, channels // 4)
    )
    return x[:, : shape[1], : shape[2]]
