"""Paths from latents to data, and which latent and which instance of the data each joins."""

import math
from collections.abc import Callable

from keras import ops

from gyoza.backend import cos_and_sin
from gyoza.modelling.functions.tensors import to_rows
from gyoza.modelling.functions.transport_plans import compute_transport_plan, draw_sources
from gyoza.typing import Seed, Tensor

__all__ = ["PATHS", "COUPLINGS", "couple_optimally"]

COUPLINGS = ("independent", "optimal")


def _go_straight(source: Tensor, data: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Returns points between source and data, and their velocities, on straight lines."""
    return source + time * (data - source), data - source


def _preserve_variance(source: Tensor, data: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Returns points between source and data, and their velocities, on quarters of circles."""
    angle = ops.multiply(0.5 * math.pi, time)
    cosine, sine = cos_and_sin(angle)
    return cosine * source + sine * data, 0.5 * math.pi * (cosine * data - sine * source)


PATHS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "linear": _go_straight,
    "variance_preserving": _preserve_variance,
}


def couple_optimally(source: Tensor, data: Tensor, context: Tensor | None, seed: Seed) -> Tensor:
    """Chooses a source for each instance, by the plan of optimal transport between the two.

    Args:
        source: Latents, `[batch, ...]`.
        data: What they are to be joined with, `[batch, ...]`.
        context: The context of each row of both, `[batch, ...]`, or `None`. Rows are joined only if
            their contexts are equal, as other contexts have other distributions.
        seed: An integer or a `keras.random.SeedGenerator`.

    Returns:
        Rows of `source`, `[batch, ...]`.
    """
    is_allowed = None
    if context is not None:
        count = ops.shape(context)[0]
        rows = to_rows(context)
        is_equal = ops.all(ops.equal(rows[:, None], rows[None]), axis=-1)
        is_allowed = ops.logical_or(is_equal, ops.eye(count, dtype="bool"))  # NaN is not equal
    plan = compute_transport_plan(source, data, is_allowed)
    return ops.take(source, draw_sources(plan, seed), axis=0)
