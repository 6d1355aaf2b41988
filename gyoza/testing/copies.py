"""Copies of layers, with other dtypes and other weights."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.flow_layers import FlowLayer
from gyoza.typing import Tensor

__all__ = ["copy_layer", "make_symbolic", "move_weights", "to_lists"]

# Width of a matrix above which noise is made smaller.
_NARROW = 8


def copy_layer(layer: FlowLayer, policy: str, like: Sequence[np.ndarray] = ()) -> FlowLayer:
    """Copies a layer, with all its parts under another dtype policy.

    With inputs and context `like` which its weights are built for, the weights are copied, too.
    """

    def replace(config: Any) -> Any:
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return {**config, "config": {"name": policy}}
            return {key: replace(value) for key, value in config.items()}
        if isinstance(config, list | tuple):
            return [replace(value) for value in config]
        return config

    copy = type(layer).from_config(replace(layer.get_config()))
    if like:
        copy(*make_symbolic(*like))
        copy.set_weights([to_numpy(weight) for weight in layer.weights])
    return copy


def move_weights(layer: FlowLayer, random: np.random.Generator) -> None:
    """Adds normal noise to all trainable weights, and keeps to their constraints.

    Noise of wide matrices is smaller, so that what they return is not larger than elsewhere.
    """
    for weight in layer.trainable_weights:
        width = math.prod(weight.shape[:-1])
        scale = 0.3 / math.sqrt(max(1.0, width / _NARROW))
        value = to_numpy(weight) + scale * random.normal(size=weight.shape)
        if weight.constraint is not None:
            value = weight.constraint(ops.convert_to_tensor(value, dtype=weight.dtype))
        weight.assign(value)


def make_symbolic(*arrays: np.ndarray) -> list[Tensor]:
    """Returns symbolic tensors like these arrays, for any batch size."""
    return [keras.Input(array.shape[1:]) for array in arrays]


def to_lists(config: Any) -> Any:
    """Turns tuples in a configuration into lists, as saving does."""
    if isinstance(config, dict):
        return {key: to_lists(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_lists(value) for value in config]
    return config
