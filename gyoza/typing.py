"""Names of types.

Tensors of TensorFlow, JAX and PyTorch and Keras's symbolic ones have no type in common that could
be checked, but a name says what is meant.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

__all__ = ["Tensor", "Tensors", "Array", "Shape", "Data", "Frame", "Seed", "DType"]

Tensor: TypeAlias = Any
"""A tensor of the backend, or a symbolic one, or whatever `keras.ops` takes for one."""

Tensors: TypeAlias = Any
"""A tensor, or several in a tuple, list or dictionary, as inputs and outputs of networks can be."""

Array: TypeAlias = npt.NDArray[Any]
"""A NumPy array."""

Shape: TypeAlias = Sequence[int | None]
"""Lengths along all axes, `None` where a length is unknown."""

Data: TypeAlias = Any
"""An array, tensor or data frame, `{"inputs": …, "context": …}`, or a data set that yields such."""

Frame: TypeAlias = Any
"""A data frame, of pandas or of a library whose data frames are like its."""

Seed: TypeAlias = Any
"""An integer or a `keras.random.SeedGenerator`, or `None` where no seed is given."""

DType: TypeAlias = Any
"""The name of a dtype, or a dtype of NumPy or of the backend, or a policy of Keras."""
