"""Layers that are run within others, without what Keras does around each call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from gyoza.backend import list_interceptors
from gyoza.modelling.functions.checks import is_own
from gyoza.modelling.functions.dtypes import is_floating

__all__ = ["run_within"]


def run_within(
    whole: keras.Layer, part: keras.Layer, x: Any, name: str = "call", **kwargs: Any
) -> Any:
    """Runs a method of a layer, or network, within a method of another one.

    Where Keras would add nothing, the method alone is run, which takes half the time on PyTorch.

    Args:
        whole: The layer that is running, which Keras or another layer gave suitable inputs.
        part: The layer to be run.
        x: The tensor, or list of tensors, that the method takes.
        name: The name of the method.
        **kwargs: Further arguments, as Keras takes them.

    Returns:
        What the method returns.
    """
    is_plain = (
        is_own(type(part))
        and part.built
        and part.dtype_policy == whole.dtype_policy
        and part.compute_dtype == part.variable_dtype  # Keras casts within its own calls alone
        and part.activity_regularizer is None
        and keras.distribution.distribution() is None
        and not isinstance(x, keras.KerasTensor)
        and (isinstance(x, list) or is_floating(x.dtype))
        and ("context" not in kwargs or kwargs["context"].dtype == x.dtype)
        and not any(list_interceptors(part))
        and name not in vars(part)
    )
    if not is_plain:
        return part(x, **kwargs) if name == "call" else getattr(part, name)(x, **kwargs)
    method = getattr(type(part), name)
    if "training" in kwargs and not _takes_training(method):
        kwargs.pop("training")
    if getattr(part, "periods", None):
        x = part._replace_periodic(x)
    return getattr(method, "__wrapped__", method)(part, x, **kwargs)


@functools.cache
def _takes_training(method: Callable[..., Any]) -> bool:
    return "training" in inspect.signature(method).parameters
