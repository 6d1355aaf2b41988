"""Convolutions that are quick where XLA's own are slow."""

from typing import Any

import keras
from keras import ops

from gyoza.backend import has_slow_convolutions
from gyoza.modelling.functions.products import multiply
from gyoza.typing import Tensor

__all__ = ["Convolution"]


class Convolution(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` of channels-last images that stay as large as they are.

    Where convolutions are slow, those of few channels to many, and of many to few, are computed as
    one product of matrices: of the pixels around each pixel and the kernel, or of all pixels and
    the kernel, whose results are shifted and added up.
    """

    def __init__(self, filters: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(
            filters, kernel_size, padding="same", data_format="channels_last", **kwargs
        )

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Computes what `call` adds a bias to."""
        size, _, channels, filters = kernel.shape
        few, many = sorted((channels, filters))
        if size**2 * few > 2 * many or not has_slow_convolutions():
            return super().convolution_op(inputs, _lay_out(kernel))
        offsets = range(-(size // 2), size // 2 + 1)
        if channels <= filters:
            for axis in (2, 1):
                inputs = ops.concatenate([_shift(inputs, axis, k) for k in offsets], axis=-1)
            return multiply(inputs, ops.reshape(kernel, (-1, filters)))
        kernel = ops.reshape(ops.transpose(kernel, (2, 0, 1, 3)), (channels, -1))
        outputs = multiply(inputs, kernel)
        for axis in (1, 2):
            parts = ops.split(outputs, size, axis=-1)
            outputs = sum(_shift(part, axis, k) for part, k in zip(parts, offsets, strict=True))
        return outputs


def _lay_out(kernel: Tensor) -> Tensor:
    """Returns the kernel, laid out in memory as PyTorch needs it for second derivatives."""
    is_double = keras.backend.standardize_dtype(kernel.dtype) == "float64"
    if not is_double or keras.backend.backend() != "torch":
        return kernel
    kernel = ops.transpose(kernel, (3, 2, 0, 1))
    kernel = ops.reshape(ops.reshape(kernel, (-1,)), kernel.shape)
    return ops.transpose(kernel, (2, 3, 1, 0))


def _shift(images: Tensor, axis: int, offset: int) -> Tensor:
    """Shifts images: each pixel gets the value `offset` pixels further along an axis, or zero."""
    width = abs(offset)
    padded = ops.pad(images, [(width, width) if k == axis else (0, 0) for k in range(4)])
    part = slice(width + offset, offset - width or None)
    return padded[:, part] if axis == 1 else padded[:, :, part]
