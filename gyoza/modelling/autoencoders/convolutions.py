"""Convolutional networks from pictures to latent vectors and back."""

import keras
from keras import layers

from gyoza.typing import DType

__all__ = ["make_encoder", "make_decoder"]

_FILTERS = (16, 32, 64, 64)
"""Numbers of filters of the convolutions, each of which halves the picture."""


def _get_filters(feature_size: int) -> list[int]:
    """Returns the filters of the convolutions, as many as halve the picture exactly, down to 4."""
    halvings = 0
    while feature_size % 2 ** (halvings + 1) == 0 and feature_size >= 4 * 2 ** (halvings + 1):
        halvings += 1
    return list(_FILTERS[:halvings])


def make_encoder(image_shape: tuple[int, ...], size: int, dtype: DType) -> keras.Model:
    """Creates an encoder of pictures: convolutions of stride 2, and a dense layer.

    Args:
        image_shape: The shape of a picture, `[side, side, channels]`.
        size: The number of latent dimensions.
        dtype: See `keras.Layer`.

    Returns:
        A model with two outputs, means and logarithms of variances, `[batch, size]`.
    """
    hidden = inputs = keras.Input(image_shape)
    for filters in _get_filters(image_shape[0]):
        convolution = layers.Conv2D(filters, 4, 2, "same", activation="relu", dtype=dtype)
        hidden = convolution(hidden)
    hidden = layers.Flatten(dtype=dtype)(hidden)
    hidden = layers.Dense(256, activation="relu", dtype=dtype)(hidden)
    return keras.Model(inputs, [layers.Dense(size, dtype=dtype)(hidden) for _ in range(2)])


def make_decoder(image_shape: tuple[int, ...], dtype: DType) -> keras.Model:
    """Creates the reverse of the encoder of :func:`make_encoder`.

    Args:
        image_shape: The shape of a picture, `[side, side, channels]`.
        dtype: See `keras.Layer`.

    Returns:
        A model whose outputs are logits or means, `[batch, side, side, channels]`.
    """
    filters = _get_filters(image_shape[0])
    side = image_shape[0] // 2 ** len(filters)
    channels = [image_shape[-1], *filters]  # from the picture inwards
    parts = [
        layers.Dense(256, activation="relu", dtype=dtype),
        layers.Dense(side * side * channels[-1], "relu" if filters else None, dtype=dtype),
        layers.Reshape([side, side, channels[-1]], dtype=dtype),
    ]
    for i, count in reversed(list(enumerate(channels[:-1]))):
        activation = "relu" if i else None
        parts.append(
            layers.Conv2DTranspose(count, 4, 2, "same", activation=activation, dtype=dtype)
        )
    return keras.Sequential(parts)
