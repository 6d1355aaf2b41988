"""Names of types.

Tensors of TensorFlow, JAX and PyTorch and Keras's symbolic ones have no type in common that could
be checked, but a name says what is meant.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

__all__ = ["Tensor", "Array", "Shape"]

Tensor: TypeAlias = Any
"""A tensor of the backend, or a symbolic one, or whatever `keras.ops` takes for one."""

Array: TypeAlias = npt.NDArray[Any]
"""A NumPy array."""

Shape: TypeAlias = Sequence[int | None]
"""Lengths along all axes, `None` where a length is unknown."""
