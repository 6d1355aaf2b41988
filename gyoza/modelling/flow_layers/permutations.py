"""Volume-preserving reorderings of the dimensions."""

import random
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import is_traced
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.functions.arguments import take_first
from gyoza.modelling.functions.checks import is_integer
from gyoza.modelling.functions.initializers import given_values
from gyoza.typing import Tensor

__all__ = [
    "Permutation",
    "ShufflePermutation",
    "HeavisidePermutation",
    "CheckerBoardPermutation",
]


def _has_index_0(values: Any) -> bool:
    return isinstance(values, list | tuple | np.ndarray) and 0 in values


@keras.saving.register_keras_serializable(package="gyoza")
class Permutation(FlowLayer):
    r"""Reorders the dimensions of its inputs.

    .. math::
        y_i = x_{\pi(i)}, \qquad \log \left| \det \frac{\partial y}{\partial x} \right| = 0,

    where :math:`\pi` is the `permutation`. Several `axes` are merged first, in row-major order, and
    restored afterwards. Inputs can be of any dtype.

    Args:
        shape: See :class:`FlowLayer`. It is `[len(permutation)]` if both it and `axes` are omitted.
            The permutation can be passed first instead, as `Permutation([2, 0, 1])`: it has an
            index 0, which a shape has not.
        axes: See :class:`FlowLayer`.
        permutation: The vector :math:`\pi`: every index from 0 to `dimension_count - 1` once.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `permutation` is not a permutation, or does not fit `shape`.

    Attributes:
        _forward_permutation_: The weight that holds :math:`\pi`, int32, `[dimension_count]`. To
            change it, assign it before functions that use the layer are compiled.
        _inverse_permutation_: The weight that holds :math:`\pi^{-1}`, int32, `[dimension_count]`.
            If one of the two is assigned, assign the other to match.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Permutation([2, 0, 1])
        >>> outputs, log_det = layer(np.array([[1.0, 2.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[3., 1., 2.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs))
        array([[1., 2., 3.]], dtype=float32)
    """

    preserves_volume = True
    moves_any_dtype = True

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        permutation: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if type(self) is Permutation:
            shape, permutation = take_first(shape, permutation, _has_index_0)
        makes_its_own = type(self).make_permutation is not Permutation.make_permutation
        if (permutation is None) != makes_its_own:
            expected = "not be given, since the layer has its own" if makes_its_own else "be given"
            raise ValueError(
                f"`permutation` should {expected}. Received: permutation={permutation}"
            )
        if permutation is not None:
            permutation = _check_permutation(permutation)
            if shape is None and axes is None:
                shape = [len(permutation)]
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.permutation = permutation
        self._create_weights_once()

    def make_permutation(self) -> Iterable[int] | None:
        """Returns the permutation of `dimension_count` indices. Subclasses override it."""
        return self.permutation

    def create_weights(self) -> None:
        """Stores the permutation and its inverse as weights that are not trained."""
        forward = _check_permutation(self.make_permutation())
        if len(forward) != self.dimension_count:
            raise ValueError(
                "`permutation` should have one index for each dimension of the inputs along "
                f"`axes`. Received: permutation={forward}, shape={self._shape_}"
            )
        self._forward_permutation_ = self._add_indices("forward_permutation", forward)
        self._inverse_permutation_ = self._add_indices("inverse_permutation", np.argsort(forward))

    def _add_indices(self, name: str, indices: Sequence[int] | np.ndarray) -> keras.Variable:
        with keras.name_scope(self.name, caller=self):
            return _Indices(np.array(indices, "int32"), name)

    def transform(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Reorders vectors; see :meth:`FlowLayer.transform`."""
        return _reorder(inputs, self._forward_permutation_), None

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Restores the order of vectors; see :meth:`FlowLayer.inverse_transform`."""
        return _reorder(outputs, self._inverse_permutation_)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        if self.permutation is not None:
            config["permutation"] = list(self.permutation)
        return config


@keras.saving.register_keras_serializable(package="gyoza")
class ShufflePermutation(Permutation):
    """A :class:`Permutation` that is drawn at random once, and then kept.

    `seed` and the number of dimensions determine the permutation, on every machine. It is saved
    with the weights, and the seed with the configuration, so that neither loading nor `from_config`
    draws another one.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        seed: Integer from 0 to 2³² - 1. If omitted, it is drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.ShufflePermutation(shape=[5], axes=[1], seed=3)
        >>> keras.ops.convert_to_numpy(layer._forward_permutation_)
        array([3, 4, 1, 0, 2], dtype=int32)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if seed is not None and not (is_integer(seed) and 0 <= seed < 2**32):
            raise ValueError(
                f"`seed` should be an integer from 0 to 2**32 - 1. Received: seed={seed}"
            )
        self.seed = random.randrange(2**32) if seed is None else int(seed)
        super().__init__(shape=shape, axes=axes, **kwargs)

    def make_permutation(self) -> Sequence[int]:
        """Draws the permutation; NumPy never changes the stream of `RandomState`."""
        return np.random.RandomState(self.seed).permutation(self.dimension_count).tolist()

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="gyoza")
class HeavisidePermutation(Permutation):
    """A :class:`Permutation` that swaps the two halves of its inputs.

    It suits :class:`~gyoza.modelling.masks.HeavisideMask`. With an odd number of dimensions, the
    first half excludes the middle: `[0, 1, 2, 3, 4]` becomes `[2, 3, 4, 0, 1]`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.HeavisidePermutation()
        >>> outputs, log_det = layer(np.array([[1.0, 2.0, 3.0, 4.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[3., 4., 1., 2.]], dtype=float32)
    """

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)

    def make_permutation(self) -> Sequence[int]:
        """Returns the indices of the second half, then those of the first."""
        half = self.dimension_count // 2
        return [*range(half, self.dimension_count), *range(half)]


@keras.saving.register_keras_serializable(package="gyoza")
class CheckerBoardPermutation(Permutation):
    """A :class:`Permutation` that swaps neighbours, as on a checkerboard.

    It suits :class:`~gyoza.modelling.masks.CheckerBoardMask`: dimensions are paired along a rope
    that is laid through the tensor (see :meth:`generate_rope_indices`), so that the two of a pair
    are neighbours, of different colours, and are swapped. If their number is odd, the last one
    stays where it is. There may be any number of axes.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.CheckerBoardPermutation(shape=[2, 3], axes=[1, 2])
        >>> keras.ops.convert_to_numpy(layer._forward_permutation_)
        array([1, 0, 5, 4, 3, 2], dtype=int32)
    """

    def __init__(
        self, shape: Iterable[int] | None = None, axes: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)

    def make_permutation(self) -> Sequence[int]:
        """Swaps the 1st and 2nd index along the rope, the 3rd and 4th, and so on."""
        cells = np.array(list(self.generate_rope_indices(self._shape_)))
        rope = np.atleast_1d(np.ravel_multi_index(tuple(cells.T), tuple(self._shape_)))
        pairs = rope[: len(rope) // 2 * 2].reshape(-1, 2)
        permutation = np.arange(len(rope))
        permutation[pairs] = pairs[:, ::-1]
        return permutation.tolist()

    @staticmethod
    def generate_rope_indices(shape: Sequence[int]) -> Generator[list[int], None, None]:
        """Visits all cells of a tensor without a jump, later axes first.

        Args:
            shape: Shape of the tensor.

        Yields:
            The indices of the current cell, one per axis. Each cell is a neighbour of the last.

        Example:

            >>> permutation = gyoza.modelling.flow_layers.CheckerBoardPermutation
            >>> list(permutation.generate_rope_indices([2, 2]))
            [[0, 0], [0, 1], [1, 1], [1, 0]]
        """
        indices = [0] * len(shape)
        directions = [1] * len(shape)
        while True:
            yield list(indices)
            axis = len(shape) - 1
            while CheckerBoardPermutation.is_end_of_axis(
                indices[axis], shape[axis], directions[axis]
            ):
                directions[axis] = -directions[axis]
                axis -= 1
                if axis < 0:
                    return
            indices[axis] += directions[axis]

    @staticmethod
    def is_end_of_axis(index: int, limit: int, direction: int) -> bool:
        """Returns whether `index` is the last one along an axis.

        Args:
            index: The current index.
            limit: The length of the axis.
            direction: 1 for ascending indices, -1 for descending ones.

        Returns:
            Whether `index` is the last one in that direction.
        """
        return index == (limit - 1 if direction == 1 else 0)


class _Indices(keras.Variable):
    """Indices that know whether they rotate a vector.

    Args:
        indices: The indices.
        name: The name of the variable.
    """

    def __init__(self, indices: np.ndarray, name: str) -> None:
        self.rotation = _find_rotation(indices)
        # While Keras trains on JAX and PyTorch, values can only be created later.
        initializer = given_values(indices)
        super().__init__(initializer, indices.shape, "int32", trainable=False, name=name)

    def assign(self, value: Tensor) -> Tensor:
        """Assigns indices, including those read from a file."""
        assigned = super().assign(value)
        # Values are not known while a function is being compiled.
        is_known = not is_traced([ops.convert_to_tensor(self)])
        self.rotation = _find_rotation(ops.convert_to_numpy(self)) if is_known else None
        return assigned


def _find_rotation(indices: np.ndarray) -> int | None:
    """Returns how many dimensions indices move from the start to the end, if they only rotate."""
    rotated = np.roll(np.arange(len(indices)), -indices[0])
    return int(indices[0]) if np.array_equal(indices, rotated) else None


def _reorder(x: Tensor, indices: Tensor) -> Tensor:
    """Reorders the last axis: by slices, which are cheaper, if it is only rotated."""
    rotation = getattr(indices, "rotation", None)
    if rotation is None:
        return ops.take(x, indices, axis=-1)
    return ops.concatenate([x[..., rotation:], x[..., :rotation]], axis=-1)


def _check_permutation(permutation: Tensor) -> list[int]:
    indices = np.asarray(permutation)
    if (
        indices.ndim != 1
        or indices.dtype.kind not in "iu"
        or not np.array_equal(np.sort(indices), np.arange(len(indices)))
    ):
        raise ValueError(
            "`permutation` should hold every index from 0 to its length minus 1 exactly once. "
            f"Received: permutation={permutation}"
        )
    return indices.tolist()
