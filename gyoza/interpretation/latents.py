"""Latent vectors and the factors that they consist of."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Tensor

__all__ = [
    "check_parts",
    "get_flow_shape",
    "check_sizes",
    "slice_factors",
    "join_factors",
    "find_mean",
    "move_on_arc",
    "to_tensor",
]

_MEAN_SAMPLE_COUNT = 10_000


def check_parts(flow: FlowModel, **others: keras.Layer) -> None:
    """Checks that a flow and other parts of a network are what they should be, and built.

    Args:
        flow: The flow.
        **others: The other parts by name.

    Raises:
        TypeError: If the flow is not a `FlowModel`, or another part is not a Keras layer.
        ValueError: If one of them is not built.
    """
    check_instance("flow", flow, FlowModel, "a `FlowModel`")
    for name, part in {"flow": flow, **others}.items():
        check_instance(name, part, keras.Layer, "a Keras model or layer")
        if not part.built:
            raise ValueError(
                f"`{name}` should be built: call it on data first. Received: {name}={part}"
            )


def get_flow_shape(flow: FlowModel) -> tuple[int | None, ...]:
    """Returns the shape of the inputs of a flow that is built, `(None, ...)`."""
    return (None, *flow.get_build_config()["input_shape"][1:])  # type: ignore[index]


def check_sizes(flow: FlowModel, sizes: Mapping[str, int]) -> None:
    """Checks that the sizes of factors sum to the length of the latent vectors of a flow.

    Args:
        flow: The flow, built.
        sizes: The number of latent dimensions of each factor by name.

    Raises:
        ValueError: If they do not, or if the flow does not output vectors.
    """
    shape, _ = flow.compute_output_shape(get_flow_shape(flow))
    if len(shape) != 2:
        raise ValueError(
            "`flow` should have latent vectors, [batch, dimensions]: begin or end it with a "
            f"`Flatten` layer. Received: outputs of shape {shape}"
        )
    if min(sizes.values(), default=-1) < 0 or sum(sizes.values()) != shape[1]:
        raise ValueError(
            f"`dimensions_per_factor` should sum to the number of latent dimensions, {shape[1]}. "
            f"Received: dimensions_per_factor={dict(sizes)}"
        )


def slice_factors(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Returns where the dimensions of each factor are in a latent vector."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: slice(int(end) - size, int(end))
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def join_factors(factors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> np.ndarray:
    """Joins factors by name into latent vectors.

    Args:
        factors: The latent vectors of each factor, `[instances, size]`.
        sizes: The number of latent dimensions of each factor by name, in their order.

    Returns:
        The latent vectors, `[instances, n]`.

    Raises:
        ValueError: If a factor is missing, unknown, or does not have the right shape.
    """
    if set(factors) != set(sizes):
        raise ValueError(
            f"`factors` should hold the factors {list(sizes)}. Received: {list(factors)}"
        )
    blocks = {name: to_numpy(factors[name]) for name in sizes}
    shapes = {name: block.shape for name, block in blocks.items()}
    count = next(iter(shapes.values()))[:1]
    if any(shape != (*count, sizes[name]) for name, shape in shapes.items()):
        raise ValueError(
            f"`factors` should have as many dimensions as the sizes of factors, {dict(sizes)}, and "
            f"the same number of instances. Received: factors of shapes {shapes}"
        )
    return np.concatenate(list(blocks.values()), axis=1)


def find_mean(distribution: Distribution) -> np.ndarray:
    """Returns the mean of a distribution of vectors, estimated from draws unless it is known.

    Args:
        distribution: The distribution.

    Returns:
        The mean, `[n]`.
    """
    if isinstance(distribution, StandardNormal):
        return np.zeros(distribution.dimension_count, "float32")
    return to_numpy(distribution.sample(_MEAN_SAMPLE_COUNT, seed=0)).mean(axis=0)


def move_on_arc(a: np.ndarray, b: np.ndarray, place: float) -> np.ndarray:
    """Moves vectors `a` towards vectors `b` along an arc, or a line where they are (anti)parallel.

    Args:
        a: The vectors at place 0, `[N, n]`.
        b: The vectors at place 1, `[N, n]`.
        place: The place on the arc.

    Returns:
        The vectors at this place, `[N, n]`.
    """
    length_a, length_b = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.sum(a * b, axis=1, keepdims=True) / (length_a * length_b)
        angle = np.arccos(np.clip(cosine, -1.0, 1.0))
        direction = (
            np.sin((1.0 - place) * angle) * a / length_a + np.sin(place * angle) * b / length_b
        ) / np.sin(angle)
        arc = ((1.0 - place) * length_a + place * length_b) * direction
    return np.where(np.sin(angle) > 1e-4, arc, (1.0 - place) * a + place * b)


def to_tensor(x: Tensor) -> Tensor:
    """Converts an array to a tensor, and double precision to single precision."""
    if ops.is_tensor(x):
        return x
    x = np.asarray(x)
    return ops.convert_to_tensor(x, dtype="float32" if x.dtype == "float64" else None)
