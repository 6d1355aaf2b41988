"""Layers that are run within others, without what Keras does around each call."""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import keras

from gyoza.backend import list_interceptors
from gyoza.modelling.functions.checks import is_own

__all__ = ["run_within"]

_SHAPE = operator.attrgetter("shape")


def run_within(
    whole: keras.Layer, part: keras.Layer, x: Any, name: str = "call", **kwargs: Any
) -> Any:
    """Runs a method of a layer, or network, within a method of another one.

    Keras checks and builds what it has not run with such shapes yet. After that, and where it would
    add nothing else, the method alone is run, which takes half the time on PyTorch.

    Args:
        whole: The layer that is running, which Keras or another layer gave suitable inputs.
        part: The layer to be run.
        x: The tensor, or list of tensors, that the method takes.
        name: The name of the method.
        **kwargs: Further arguments, as Keras takes them.

    Returns:
        What the method returns.
    """
    context = kwargs.get("context")
    signature = (
        name,
        tuple(map(_SHAPE, x)) if isinstance(x, list) else (tuple(x.shape[1:]), x.dtype),
        None if context is None else (tuple(context.shape[1:]), context.dtype),
    )
    checked = vars(part).setdefault("__checked", set())
    is_plain = (
        signature in checked
        and is_own(type(part))
        and part.dtype_policy == whole.dtype_policy
        and part.compute_dtype == part.variable_dtype  # Keras casts within its own calls alone
        and part.activity_regularizer is None
        and keras.distribution.distribution() is None
        and not any(list_interceptors(part))
        and name not in vars(part)
    )
    if not is_plain:
        results = part(x, **kwargs) if name == "call" else getattr(part, name)(x, **kwargs)
        if part.built and _needs_no_cast(part, x, context):
            checked.add(signature)
        return results
    method = getattr(type(part), name)
    if "training" in kwargs and not _takes_training(method):
        kwargs.pop("training")
    if getattr(part, "periods", None):
        x = part._replace_periodic(x)
    return getattr(method, "__wrapped__", method)(part, x, **kwargs)


def _needs_no_cast(part: keras.Layer, *inputs: Any) -> bool:
    """Returns whether all tensors have the dtype in which a layer computes, and values."""
    tensors = [tensor for tensor in keras.tree.flatten(inputs) if tensor is not None]
    return not any(isinstance(tensor, keras.KerasTensor) for tensor in tensors) and all(
        keras.backend.standardize_dtype(tensor.dtype) == part.compute_dtype for tensor in tensors
    )


@functools.cache
def _takes_training(method: Callable[..., Any]) -> bool:
    return "training" in inspect.signature(method).parameters
