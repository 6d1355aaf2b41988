"""Binary masks, which say what a coupling keeps (1) and what it changes (0)."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import (
    align,
    check_shape_and_axes,
    from_vectors,
    read_shape,
    to_vectors,
)
from gyoza.modelling.functions.tensors import PLAIN_TYPES, make_selector, to_tensor
from gyoza.typing import Array, Shape, Tensor

__all__ = ["Mask", "HeavisideMask", "CheckerBoardMask"]


@keras.saving.register_keras_serializable(package="gyoza")
class Mask(keras.Layer):
    """Lets some dimensions of a tensor pass and sets the others to zero.

    The mask applies to the `axes` of its inputs, merged in row-major order, and is the same at all
    positions of the remaining axes. Any axis can be masked, the first included.

    Args:
        axes: Ascending axes to which the mask applies. Negative ones count from the last axis, -1,
            until the first inputs tell which ones these are.
        shape: Lengths of the inputs along `axes`.
        mask: Vector of zeros and ones (or booleans) of length `product(shape)`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `axes` or `shape` are not integers.
        ValueError: If `axes` and `shape` differ in length, `axes` are not ascending, or `mask` is
            not binary, does not fit `shape`, or is missing.

    Attributes:
        _mask_: The mask as a tensor, `[product(shape)]`.
        _axes_: The list `axes`.
        _shape_: The list `shape`.

    Example:

        >>> mask = gyoza.modelling.masks.Mask(axes=[1], shape=[3], mask=[1, 0, 1])
        >>> x = np.array([[1.0, 2.0, 3.0]], "float32")
        >>> keras.ops.convert_to_numpy(mask(x))
        array([[1., 0., 3.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(mask(x, is_positive=False))
        array([[0., 2., 0.]], dtype=float32)
        >>> keras.ops.convert_to_numpy(mask.arrange(x))
        array([[2., 1., 3.]], dtype=float32)
    """

    def __init__(
        self,
        axes: Iterable[int] | None = None,
        shape: Iterable[int] | None = None,
        mask: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        # A mask has no precision of its own: it leaves the dtype of its inputs as it is.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        # Lists of integers, or None until the first inputs are known.
        self._shape_: Any
        self._axes_: Any
        self._shape_, self._axes_ = check_shape_and_axes(shape, axes, first_axis=0)
        self.pattern = mask
        if mask is None and type(self).make_pattern is Mask.make_pattern:
            raise ValueError("`mask` should be a vector of zeros and ones. Received: mask=None")
        self._set_pattern()

    def make_pattern(self) -> Tensor:
        """Returns the mask for the shape, as a vector or in that shape. Subclasses override it."""
        return self.pattern

    def _set_pattern(self) -> None:
        """Computes, once the shape is known, which dimensions are kept and which are changed."""
        if self._shape_ is None:
            return
        try:
            pattern = np.asarray(ops.convert_to_numpy(self.make_pattern()))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`mask` should be a vector of zeros and ones. Received: mask={self.pattern}"
            ) from error
        if pattern.size != math.prod(self._shape_) or not np.isin(pattern, (0, 1)).all():
            raise ValueError(
                f"`mask` should hold {math.prod(self._shape_)} zeros and ones, the product of "
                f"`shape`. Received: mask={pattern.tolist()}, shape={list(self._shape_)}"
            )
        self._pattern = pattern.astype(bool).reshape(-1)
        self.kept_indices = np.flatnonzero(self._pattern)
        self.changed_indices = np.flatnonzero(~self._pattern)
        # The part with the first dimension is put first, so that halves need no sorting.
        self._starts_with_kept = bool(self._pattern[0])
        parts = [self.kept_indices, self.changed_indices]
        order = np.concatenate(parts if self._starts_with_kept else parts[::-1])
        self._is_sorted = np.array_equal(order, np.arange(len(order)))
        self._halves = self._is_sorted and len(parts[0]) == len(parts[1])
        self._select_kept, self._select_changed = map(make_selector, parts)
        self._sort = make_selector(np.argsort(order))

    @property
    def _mask_(self) -> Tensor:
        return ops.convert_to_tensor(self._pattern, dtype=self.compute_dtype)

    def build(self, input_shape: Shape | None = None) -> None:
        """Reads `shape` and `axes` from `input_shape` where they were omitted.

        Args:
            input_shape: Shape of the inputs. It is not needed if `shape` and `axes` were given.
        """
        first_axis = 1 if self._axes_ is None else 0
        self.set_shape(*read_shape(input_shape, self._shape_, self._axes_, first_axis))

    def set_shape(self, shape: list[int], axes: list[int]) -> None:
        """Fixes shape and axes where they were omitted.

        Args:
            shape: Lengths of the inputs along `axes`.
            axes: Ascending axes to which the mask applies.

        Raises:
            ValueError: If the mask has another shape or other axes already.
        """
        own_axes = self._axes_
        if own_axes is not None and own_axes[0] < 0:  # counted from the last axis
            own_axes = [axis + axes[-1] - own_axes[-1] for axis in own_axes]
        for expected, received in ((axes, own_axes), (shape, self._shape_)):
            if received is not None and list(received) != list(expected):
                raise ValueError(
                    f"`mask` should have shape={list(shape)} and axes={list(axes)}. Received: a "
                    f"mask with shape={self._shape_} and axes={self._axes_}"
                )
        self._shape_, self._axes_ = list(shape), list(axes)
        self._set_pattern()
        # A coupling need not call its mask. Keras would trace a model with unbuilt layers again
        # whenever `fit` is called.
        self.built = True

    def _prepare(self, x: Tensor) -> Tensor:
        """Converts what is like a tensor, and reads from it what was omitted, or checks it."""
        x = x if type(x) in PLAIN_TYPES else to_tensor(x)
        if not self.built:
            self.build(tuple(x.shape))
        read_shape(x.shape, self._shape_, self._axes_, first_axis=0)
        return x

    def call(self, inputs: Tensor, is_positive: bool = True) -> Tensor:
        """Applies the mask.

        Dimensions that do not pass become exactly zero, also where they were infinite or NaN.

        Args:
            inputs: Tensor with `shape` along `axes`.
            is_positive: Whether ones let dimensions pass. If not, zeros do.

        Returns:
            The masked tensor, in the shape of `inputs`.
        """
        inputs = self._prepare(inputs)
        passes = self._pattern if is_positive else ~self._pattern
        passes = align(passes, self._axes_, self._shape_, len(inputs.shape))
        return ops.where(passes, inputs, ops.zeros((), inputs.dtype))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Separates the dimensions that are kept from those that are changed.

        Args:
            x: Tensor with `shape` along `axes`.

        Returns:
            The pair `(kept, changed)` of tensors `[rest of the shape..., number of dimensions]`.
        """
        is_vectors = (
            type(x) in PLAIN_TYPES
            and self.built
            and len(self._axes_) == 1
            and len(x.shape) == self._axes_[0] + 1
            and x.shape[-1] == self._shape_[0]
        )
        vectors = x if is_vectors else to_vectors(self._prepare(x), self._axes_, self._shape_)
        if self._halves:
            first, second = ops.split(vectors, 2, axis=-1)
            return (first, second) if self._starts_with_kept else (second, first)
        return self._select_kept(vectors), self._select_changed(vectors)

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        """The inverse of :meth:`split`.

        Args:
            kept: What the mask is 1 for, `[rest of the shape..., number of dimensions]`.
            changed: What the mask is 0 for, likewise.

        Returns:
            The tensor with `shape` along `axes`.
        """
        kept = kept if type(kept) in PLAIN_TYPES else to_tensor(kept)
        changed = changed if type(changed) in PLAIN_TYPES else to_tensor(changed)
        parts = [kept, changed] if self._starts_with_kept else [changed, kept]
        vectors = ops.concatenate(parts, axis=-1)
        if not self._is_sorted:
            vectors = self._sort(vectors)
        if len(self._axes_) == 1 and len(vectors.shape) == self._axes_[0] + 1:
            return vectors
        return from_vectors(vectors, self._axes_, self._shape_)

    def arrange(self, x: Tensor) -> Tensor:
        """Enumerates the dimensions where the mask is 0 first, and those where it is 1 last.

        Args:
            x: Tensor with `shape` along `axes`.

        Returns:
            The arranged tensor, with `axes` merged to one axis at the position of the first.
        """
        kept, changed = self.split(x)
        return ops.moveaxis(ops.concatenate([changed, kept], axis=-1), -1, self._axes_[0])

    def re_arrange(self, x_new: Tensor) -> Tensor:
        """The inverse of :meth:`arrange`.

        Args:
            x_new: An output of `arrange`.

        Returns:
            The tensor that `arrange` was given.
        """
        if self._shape_ is None or self._axes_[0] < 0:
            raise ValueError(
                f"Mask '{self.name}' should be given `shape`, and no negative `axes`, or be "
                "called, before `re_arrange`."
            )
        x_new = to_tensor(x_new)
        read_shape(x_new.shape, [math.prod(self._shape_)], self._axes_[:1], first_axis=0)
        vectors = ops.moveaxis(x_new, self._axes_[0], -1)
        changed_count = len(self.changed_indices)
        return self.join(vectors[..., changed_count:], vectors[..., :changed_count])

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, which is that of the inputs."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal mask."""
        config = super().get_config()
        config["axes"] = None if self._axes_ is None else list(self._axes_)
        config["shape"] = None if self._shape_ is None else list(self._shape_)
        if self.pattern is not None:
            config["mask"] = self._pattern.astype(int).tolist()
        return config


@keras.saving.register_keras_serializable(package="gyoza")
class HeavisideMask(Mask):
    """A :class:`Mask` of zeros followed by as many ones, or one more: 0, 0, 0, 1, 1, 1, 1.

    Args:
        axes: Ascending axes to which the mask applies. All but the first axis if omitted.
        shape: Lengths of the inputs along `axes`. Read from the first input if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> mask = gyoza.modelling.masks.HeavisideMask(axes=[1], shape=[5])
        >>> keras.ops.convert_to_numpy(mask._mask_)
        array([0., 0., 1., 1., 1.], dtype=float32)
    """

    def make_pattern(self) -> Array:
        """Returns zeros up to the middle and ones after it."""
        size = math.prod(self._shape_)
        return np.arange(size) >= size // 2


@keras.saving.register_keras_serializable(package="gyoza")
class CheckerBoardMask(Mask):
    """A :class:`Mask` of alternating zeros and ones along each axis, zero in the first corner.

    Args:
        axes: Ascending axes to which the mask applies. All but the first axis if omitted.
        shape: Lengths of the inputs along `axes`. Read from the first input if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> mask = gyoza.modelling.masks.CheckerBoardMask(axes=[1, 2], shape=[2, 3])
        >>> keras.ops.convert_to_numpy(mask._mask_)
        array([0., 1., 0., 1., 0., 1.], dtype=float32)
    """

    def make_pattern(self) -> Array:
        """Returns the parity of the sum of indices."""
        return np.indices(self._shape_).sum(axis=0) % 2
