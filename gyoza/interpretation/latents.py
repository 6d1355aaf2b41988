"""What latent vectors and their factors are to all that edits them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers import FlowModel

__all__ = [
    "check_parts",
    "get_flow_shape",
    "check_sizes",
    "slice_factors",
    "join_factors",
    "find_mean",
    "go_on_arc",
    "to_array",
    "to_tensor",
]

_MEAN_SAMPLE_COUNT = 10_000


def check_parts(flow: FlowModel, **others: keras.Layer) -> None:
    """Checks that a flow and other parts of a network are what they should be, and built.

    Args:
        flow: The flow.
        **others: The other parts by name.

    Raises:
        TypeError: If the flow is no `FlowModel`, or another part no Keras layer.
        ValueError: If one of them is not built.
    """
    if not isinstance(flow, FlowModel):
        raise TypeError(
            f"`flow` should be a `FlowModel`. Received: flow={flow} (of type {type(flow)})"
        )
    for name, part in {"flow": flow, **others}.items():
        if not isinstance(part, keras.Layer):
            raise TypeError(
                f"`{name}` should be a Keras model or layer. "
                f"Received: {name}={part} (of type {type(part)})"
            )
        if not part.built:
            raise ValueError(
                f"`{name}` should be built: call it on data first. Received: {name}={part}"
            )


def get_flow_shape(flow: FlowModel) -> tuple[int | None, ...]:
    """Returns the shape of the inputs of a flow that is built, `(None, ...)`."""
    return (None, *flow.get_build_config()["input_shape"][1:])  # type: ignore[index]


def check_sizes(flow: FlowModel, sizes: Mapping[str, int]) -> None:
    """Checks that a flow has latent vectors, of as many entries as the factors together.

    Args:
        flow: The flow, built.
        sizes: The number of latent entries of each factor by name.

    Raises:
        ValueError: If it has not.
    """
    shape, _ = flow.compute_output_shape(get_flow_shape(flow))
    if len(shape) != 2:
        raise ValueError(
            "`flow` should have latent vectors, [batch, dimensions]: begin or end it with a "
            f"`Flatten` layer. Received: latents of shape {shape}"
        )
    if min(sizes.values(), default=-1) < 0 or sum(sizes.values()) != shape[1]:
        raise ValueError(
            f"`dimensions_per_factor` should sum to the number of latent entries, {shape[1]}. "
            f"Received: dimensions_per_factor={dict(sizes)}"
        )


def slice_factors(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Returns where the entries of each factor stand in a latent vector."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: slice(int(end) - size, int(end))
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def join_factors(factors: Mapping[str, Any], sizes: Mapping[str, int]) -> np.ndarray:
    """Joins factors by name into latent vectors.

    Args:
        factors: The latent entries of each factor, `[instances, size]`.
        sizes: Their number by name, in their order.

    Returns:
        The latent vectors, `[instances, n]`.

    Raises:
        ValueError: If a factor is missing, unknown, or does not have the right shape.
    """
    if set(factors) != set(sizes):
        raise ValueError(
            f"`factors` should hold the factors {list(sizes)}. Received: {list(factors)}"
        )
    blocks = {name: to_array(factors[name]) for name in sizes}
    shapes = {name: block.shape for name, block in blocks.items()}
    count = next(iter(shapes.values()))[:1]
    if any(shape != (*count, sizes[name]) for name, shape in shapes.items()):
        raise ValueError(
            f"`factors` should have as many entries as the sizes of factors, {dict(sizes)}, and "
            f"the same number of instances. Received: factors of shapes {shapes}"
        )
    return np.concatenate(list(blocks.values()), axis=1)


def find_mean(distribution: Distribution) -> np.ndarray:
    """Returns the mean of a distribution of vectors, that of many draws unless it is known.

    Args:
        distribution: The distribution.

    Returns:
        The mean, `[n]`.
    """
    if isinstance(distribution, StandardNormal):
        return np.zeros(distribution.dimension_count, "float32")
    return to_array(distribution.sample(_MEAN_SAMPLE_COUNT, seed=0)).mean(axis=0)


def go_on_arc(a: np.ndarray, b: np.ndarray, place: float) -> np.ndarray:
    """Goes from vectors `a` to vectors `b` on an arc, or on a line where they are opposite."""
    length_a, length_b = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.sum(a * b, axis=1, keepdims=True) / (length_a * length_b)
        angle = np.arccos(np.clip(cosine, -1.0, 1.0))
        direction = (
            np.sin((1.0 - place) * angle) * a / length_a + np.sin(place * angle) * b / length_b
        ) / np.sin(angle)
        arc = ((1.0 - place) * length_a + place * length_b) * direction
    return np.where(np.sin(angle) > 1e-4, arc, (1.0 - place) * a + place * b)


def to_array(x: Any) -> np.ndarray:
    """Returns a tensor as an array."""
    return np.asarray(ops.convert_to_numpy(x))


def to_tensor(x: Any) -> Any:
    """Returns an array as a tensor, in single precision if it is in double precision."""
    if ops.is_tensor(x):
        return x
    x = np.asarray(x)
    return ops.convert_to_tensor(x, dtype="float32" if x.dtype == "float64" else None)
