"""Networks of points and times, for flows in continuous time."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import cos_and_sin
from gyoza.modelling.conditioners.dense import DenseNetwork
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_rows
from gyoza.typing import Shape, Tensor

__all__ = ["VelocityMLP", "check_parts", "count_features", "merge_features"]


@keras.saving.register_keras_serializable(package="gyoza")
class VelocityMLP(DenseNetwork):
    r"""Dense layers that compute the velocity of points at a time.

    They are given the point, its context if there is one, and Fourier features of the time,
    :math:`t, \cos(\pi k t), \sin(\pi k t)` for :math:`k = 1, \dots, K`. Those of each dimension of
    the point, :math:`\cos(2^{j - 2} \pi x_i), \sin(2^{j - 2} \pi x_i)` for
    :math:`j = 0, \dots, J - 1`, are an option: with them, edges and fine structure of a density
    are learnt in far fewer steps, if points have a size of about one.

    All axes of a point are merged. Hidden layers after the first are added to their input if it has
    as many units. The last layer is linear and starts at zero.

    Args:
        hidden_sizes: The number of units of each hidden layer.
        activation: The activation of hidden layers, which should be smooth, by name or as a
            function.
        frequency_count: The number of frequencies of the time, :math:`K`.
        point_frequency_count: The number of frequencies of each dimension of points, :math:`J`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a hidden layer has less than one unit, or the inputs are not a list.

    Example:

        >>> velocity = gyoza.modelling.conditioners.VelocityMLP([64, 64])
        >>> x, time = np.ones([5, 3], "float32"), np.zeros([5, 1], "float32")
        >>> velocity([x, time]).shape == (5, 3)
        True

    References:
        - Grathwohl, W. et al. (2019). "FFJORD: Free-form continuous dynamics for scalable
          reversible generative models." `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
        - Tancik, M. et al. (2020). "Fourier features let networks learn high frequency functions
          in low dimensional domains." `arXiv:2006.10739 <https://arxiv.org/abs/2006.10739>`_
    """

    def __init__(
        self,
        hidden_sizes: Iterable[int] = (128, 128, 128),
        activation: str | Callable[..., Tensor] = "silu",
        frequency_count: int = 4,
        point_frequency_count: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_sizes, activation, residual=True, **kwargs)
        self.frequency_count = check_integer("frequency_count", frequency_count)
        self.point_frequency_count = check_integer("point_frequency_count", point_frequency_count)

    def build(self, input_shape: list[Shape]) -> None:
        """Creates the dense layers for points, times and contexts of these shapes."""
        check_parts(self.name, input_shape)
        output_size = count_features(input_shape[:1], 0)
        size = count_features(input_shape, self.frequency_count)
        size += 2 * self.point_frequency_count * output_size
        self._build_dense_layers(size, output_size)

    def call(self, inputs: list[Tensor]) -> Tensor:
        """Computes velocities.

        Args:
            inputs: The list of points, `[batch, ...]`, their times, `[batch, 1]`, and contexts,
                `[batch, ...]`, if there are some.

        Returns:
            The velocities, in the shape of the points.
        """
        x, time, *context = inputs
        parts = [x, *context]
        if self.point_frequency_count:
            frequencies = 0.25 * math.pi * 2.0 ** np.arange(self.point_frequency_count)
            frequencies = ops.convert_to_tensor(frequencies, dtype=self.compute_dtype)
            angles = ops.expand_dims(ops.cast(x, self.compute_dtype), axis=-1) * frequencies
            parts += cos_and_sin(angles)
        features = merge_features(parts, time, self.frequency_count, self.compute_dtype)
        velocity = self._run_dense_layers(features)
        return ops.reshape(velocity, ops.shape(x))

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Returns the shape of velocities, which is that of the points."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "frequency_count": self.frequency_count,
            "point_frequency_count": self.point_frequency_count,
        }


def check_parts(name: str, shapes: Sequence[Shape]) -> None:
    """Raises a `ValueError` unless `shapes` are those of points, times, and maybe of contexts."""
    if len(shapes) not in (2, 3) or not all(isinstance(shape, tuple | list) for shape in shapes):
        raise ValueError(
            f"Layer '{name}' should be given the list [x, time], or [x, time, context]. "
            f"Received: inputs of shape {shapes}"
        )


def merge_features(parts: list[Tensor], time: Tensor, frequency_count: int, dtype: str) -> Tensor:
    """Merges tensors and the Fourier features of their times, `[batch, 1]`, into vectors."""
    frequencies = math.pi * np.arange(1, frequency_count + 1)
    angles = time * ops.convert_to_tensor(frequencies, dtype=dtype)
    parts = [*parts, time, *cos_and_sin(angles)]
    return ops.concatenate([ops.cast(to_rows(part), dtype) for part in parts], axis=-1)


def count_features(shapes: Iterable[Shape], frequency_count: int) -> int:
    """Returns how many numbers `merge_features` makes of tensors, and times, of these shapes."""
    sizes = [math.prod(length or 1 for length in shape[1:]) for shape in shapes]
    return sum(sizes) + 2 * frequency_count
