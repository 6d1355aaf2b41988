"""Data that a flow should have been adapted to, and contexts that it cannot adapt to."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from gyoza.backend import flatten_layers
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.tables import describe_columns
from gyoza.typing import Data, Tensor

__all__ = ["warn_of_scales", "warn_if_unscaled"]

_MOST_ROWS = 256
# The root mean square from which data count as far from standardised. The normal distribution's
# -log p of one such number is 200 nats.
_LARGEST = 20.0
# Likewise, of contexts, which no layer scales.
_LARGEST_CONTEXT = 10.0


def warn_of_scales(model: keras.Model, x: Data) -> None:
    """Warns, once per model, of data that it is not adapted to, and of contexts likewise.

    Args:
        model: The flow model that is to be fitted to the data.
        x: The data, as `fit` takes them. At most 256 instances are looked at: of arrays, tensors,
            and the first batch of a `keras.utils.PyDataset`. The first batch of other data sets
            cannot be had without a change to the order in which those of training are shuffled.
    """
    if getattr(model, "_is_known_to_be_unadapted", False):
        return
    if isinstance(x, keras.utils.PyDataset) and x.num_batches != 0:
        batch = x[0]  # which Keras looks at, too
        x = batch[0] if isinstance(batch, tuple | list) else batch
    x, context = (x.get("inputs"), x.get("context")) if isinstance(x, dict) else (x, None)
    x = x[0] if isinstance(x, tuple | list) and len(x) == 2 else x
    if _is_array(context):
        warn_if_unscaled(model, context)
    layer = next((layer for layer in model._flow_layers_ if _normalises(layer)), None)
    if layer is not None and _is_array(x):
        _warn_if_unadapted(model, layer, x, context)


def _is_array(x: Data) -> bool:
    return isinstance(x, np.ndarray) or ops.is_tensor(x)


def _warn_if_unadapted(
    model: keras.Model, layer: keras.Layer, x: Tensor, context: Tensor | None
) -> None:
    """Warns where a normalisation does not bring data to the scale of the latent.

    A new normalisation is the identity until it is adapted, loaded or set. Where data have about
    the scale of the base distribution, that does no harm. Where they do not, training begins with
    losses of thousands of nats.
    """
    x, context = (None if part is None else _thin_out(part) for part in (x, context))
    if not _measure(x).max(initial=0.0) > _LARGEST:
        return
    sizes = _measure(_run(model, layer, x, context))
    if not sizes.max(initial=0.0) > _LARGEST:
        return
    model._is_known_to_be_unadapted = True
    warn(
        f"Model '{model.name}' should be adapted to the data, by `adapt(x)`, before it is fitted "
        f"to them: its layer '{layer.name}' does not normalise them. Received: outputs of a root "
        f"mean square of {sizes.max():.3g} in dimension {sizes.argmax()}"
    )


def warn_if_unscaled(
    model: keras.Model, context: Tensor, names: Sequence[str] | None = None
) -> None:
    """Warns, once per model, of contexts far from standardised that reach layers as they are.

    Args:
        model: The flow model that is given the contexts. One with a context encoder is not warned
            of.
        context: The contexts, `[instances, ...]`. At most 256 instances are looked at.
        names: The names of the contexts' columns, if they have some.
    """
    if getattr(model, "_is_known_to_be_unscaled", False):
        return
    is_encoded = model.context_encoder is not None
    sizes = np.zeros(0) if is_encoded else _measure(_thin_out(context))
    is_unscaled = sizes.max(initial=0.0) > _LARGEST_CONTEXT
    if is_encoded or is_unscaled:
        for layer in flatten_layers(model):
            layer._is_known_to_be_unscaled = True  # models within the model are not warned of
    if not is_unscaled:
        return
    worst = int(sizes.argmax())
    warn(
        f"Model '{model.name}' is given contexts that are far from standardised. `adapt` does not "
        "scale them, and networks learn badly from such numbers. Standardise them, or make the "
        "model with `context_encoder=encoder`, after `encoder = keras.layers.Normalization()` and "
        "`encoder.adapt(context)`. Received: contexts of a root mean square of "
        f"{sizes[worst]:.3g} in dimension {describe_columns([worst], names)}"
    )


def _normalises(layer: keras.Layer) -> bool:
    # A model among the layers does if one of its layers does.
    parts = getattr(layer, "_flow_layers_", None)
    if parts is not None:
        return any(map(_normalises, parts))
    return hasattr(layer, "adapt") and not layer.preserves_volume


def _thin_out(x: Tensor) -> Tensor:
    return x[:: -(-len(x) // _MOST_ROWS) or 1]


def _measure(x: Tensor) -> np.ndarray:
    """Returns the root mean square of each dimension, in row-major order."""
    x = np.asarray(ops.convert_to_numpy(x), "float64")
    return np.sqrt(np.mean(np.square(x.reshape(len(x), -1)), axis=0)) if len(x) else np.zeros(0)


def _run(model: keras.Model, last: keras.Layer, x: Tensor, context: Tensor | None) -> Tensor:
    """Returns the outputs of a layer of a model, and leaves states of random numbers as they are.

    Args:
        model: The model.
        last: The layer.
        x: The inputs of the model.
        context: Its context, or `None`.
    """
    x, context = (None if part is None else ops.convert_to_tensor(part) for part in (x, context))
    model.build_for(x, context)
    states = [state for state in model.non_trainable_variables if "int" in str(state.dtype)]
    values = [ops.convert_to_numpy(state) for state in states]
    try:
        for layer, outputs, _ in model.run_layers(x, context):
            if layer is last:
                return outputs
    finally:
        for state, value in zip(states, values, strict=True):
            state.assign(value)
    return x
