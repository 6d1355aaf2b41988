"""The precision in which sums and small matrices are computed."""

from typing import Any

import keras

__all__ = ["at_least_float32"]


def at_least_float32(dtype: Any) -> str:
    """Gives float64 for float64 and float32 for any other floating-point dtype.

    `keras.backend.result_type(dtype, "float32")` would give float32 for float64 on some backends.
    """
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"
