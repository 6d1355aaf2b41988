"""Formulas, random numbers and checks that several distributions need."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.functions.checks import check_finite, check_positive
from gyoza.modelling.functions.tensors import clip, larger, smaller
from gyoza.typing import Seed, Shape, Tensor

__all__ = [
    "log_gamma_step",
    "log1p_square",
    "draw_open_uniform",
    "split_seed",
    "select_rows",
    "to_classes",
    "class_penalty",
    "make_constant",
    "check_classes",
    "check_values",
    "check_finite",
    "check_positive",
    "check_covariance",
]


def log_gamma_step(x: Tensor) -> Tensor:
    r"""Computes :math:`\ln \Gamma(x + \frac{1}{2}) - \ln \Gamma(x)` for :math:`x > 0`.

    The difference of two values of the log-gamma function, which `keras.ops` does not offer, would
    lose all digits for large :math:`x`. Instead, the recurrence :math:`\Gamma(x + 1) = x \Gamma(x)`
    raises :math:`x` by 10, where the difference of two Stirling series is evaluated.

    Args:
        x: Positive floating-point tensor.

    Returns:
        A tensor of the shape of `x`, as exact as its dtype.
    """
    shift = 10
    raised = x[..., None] + ops.arange(shift, dtype=x.dtype)
    recurrence = ops.sum(ops.log1p(0.5 / raised), axis=-1)
    x = x + shift
    inverse_square = ops.square(1.0 / x)
    series = 0.0
    # B_{2m} (2^{1-2m} - 2) / (2m (2m - 1)) with Bernoulli numbers B, for m = 6, ..., 1.
    for coefficient in (691 / 180224, -31 / 18432, 17 / 14336, -1 / 640, 1 / 192, -1 / 8):
        series = series * inverse_square + coefficient
    return 0.5 * ops.log(x) + series / x - recurrence


def log1p_square(x: Tensor) -> Tensor:
    """Computes ln(1 + x²) without overflow."""
    x = ops.abs(x)
    large, small = larger(x, 1.0), smaller(1.0, x)
    return 2.0 * ops.log(large) + ops.log1p(ops.square(small / large))


def draw_open_uniform(shape: Shape, dtype: str, seed: Seed) -> Tensor:
    """Draws from the interval between 0 and 1, neither of which can be drawn."""
    margin = float(np.finfo(dtype).epsneg)
    return clip(draw_uniform(shape, dtype, seed), margin, 1.0 - margin)


def split_seed(seed: Seed, count: int) -> list[Seed]:
    """Makes `count` independent seeds out of one. A generator gives another at every use."""
    if isinstance(seed, keras.random.SeedGenerator):
        return [seed] * count
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count)]


def select_rows(values: Tensor, indices: Tensor, has_batch: bool) -> Tensor:
    """Selects one of several rows for each example.

    Args:
        values: The rows, `[count, ...]`, or those of each example, `[batch, count, ...]`.
        indices: Integers, `[batch]`.
        has_batch: Whether `values` has the axis `batch`.

    Returns:
        The selected rows, `[batch, ...]`.
    """
    if not has_batch:
        return ops.take(values, indices, axis=0)
    indices = ops.reshape(indices, (-1, *[1] * (len(values.shape) - 1)))
    return ops.squeeze(ops.take_along_axis(values, indices, axis=1), axis=1)


def to_classes(labels: Tensor) -> Tensor:
    """Turns a tensor of labels into integers: -1 for NaN, too, which some backends make 0."""
    return ops.cast(ops.where(ops.isnan(labels), -1.0, labels), "int32")


def class_penalty(classes: Tensor, class_counts: Tensor, dtype: str) -> Tensor:
    """Returns NaN for classes out of range, and 0 for others and for -1."""
    valid = ops.logical_and(classes >= -1, ops.less(classes, class_counts))
    return ops.where(
        valid, *(ops.full_like(classes, fill, dtype=dtype) for fill in (0.0, math.nan))
    )


def make_constant(name: str, values: np.ndarray, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    """Makes an initializer of values that broadcast to `shape`."""
    try:
        values = np.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(
            f"`{name}` should broadcast to shape {tuple(shape)}. "
            f"Received: {name}.shape={np.shape(values)}"
        ) from error
    return lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype)


def check_classes(name: str, values: np.ndarray, class_count: int) -> None:
    """Raises a `ValueError` if labels are neither classes nor unknown, which are -1 or NaN."""
    is_class = (values == np.floor(values)) & (values >= -1) & (values < class_count)
    valid = is_class | np.isnan(values)
    if not np.all(valid):
        raise ValueError(
            f"`{name}` should be integers from 0 to {class_count - 1}, or -1 where they are "
            f"unknown. Received: {name}={values[~valid].tolist()}"
        )


def check_values(name: str, values: np.ndarray) -> None:
    """Raises a `ValueError` if labels are infinite. NaN is unknown."""
    if np.any(np.isinf(values)):
        raise ValueError(
            f"`{name}` should be finite, or NaN where they are unknown. "
            f"Received: {name}={values[np.isinf(values)].tolist()}"
        )


def check_covariance(covariance: Tensor) -> np.ndarray:
    """Raises a `ValueError` if not given a symmetric and positive definite matrix."""
    array = check_finite("covariance", covariance)
    square = array.ndim == 2 and array.shape[0] == array.shape[1]
    if not (square and np.allclose(array, array.T) and np.all(np.linalg.eigvalsh(array) > 0.0)):
        raise ValueError(
            "`covariance` should be a symmetric and positive definite matrix. "
            f"Received: covariance={covariance}"
        )
    return array
