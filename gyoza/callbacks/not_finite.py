"""A callback that finds out where a training stopped being finite."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.batches import iterate_batches, split_context
from gyoza.typing import Data, Tensor

__all__ = ["TerminateOnNonFinite"]


class TerminateOnNonFinite(keras.callbacks.Callback):
    """Stops training when the loss is not finite, and reports where that began.

    The model gets back the weights that it had at the start of the epoch, and is run on the data
    layer by layer. A warning names the first layer whose outputs or log-determinants are not
    finite, or the instances that are not finite themselves, or have such a `sample_weight` in an
    array for `fit`. Without this callback, `fit` warns once at the end of an epoch whose loss is
    not finite, and goes on. It also warns where the loss of `validation_data` alone is not finite.

    Args:
        data: The training data, or a sample of it: an array, a pair of arrays, or `{"inputs": …,
            "context": …}`, or an iterable of batches.
        batch_size: Number of instances processed at a time.

    Attributes:
        layer: The first layer that is not finite, or `None`.
        message: What was found, or `None`.
        sample_weight: The weights of instances that `fit` was given as an array, or `None`.

    Example:

        >>> from gyoza.modelling import flow_layers
        >>> x = np.random.default_rng(0).normal(size=[64, 2]).astype("float32")
        >>> x[5, 1] = np.nan
        >>> model = flow_layers.FlowModel([flow_layers.ActivationNormalization()])
        >>> model.compile("adam")
        >>> callback = gyoza.callbacks.TerminateOnNonFinite(x)
        >>> history = model.fit(x, callbacks=[callback], verbose=0)
        >>> callback.message
        'The data are not finite in 1 of 64 instances, the first of which has index 5.'
    """

    # It explains a loss that is not finite: `fit` gives it the `sample_weight`, and no hint itself.
    _explains_loss = True

    def __init__(self, data: Data, batch_size: int = 4096) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.layer: keras.Layer | None = None
        self.message: str | None = None
        self.sample_weight: Tensor | None = None

    def on_epoch_begin(self, epoch: int, logs: Tensor | None = None) -> None:
        """Stores the weights."""
        if not self.model.built:
            self.model.build_for(*split_context(next(iterate_batches(self.data, self.batch_size))))
        self._weights = self.model.get_weights()

    def on_train_batch_end(self, batch: int, logs: Tensor | None = None) -> None:
        """Checks the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            self.model.stop_training = True
            self.model.set_weights(self._weights)
            self.message = self._find()
            warnings.warn(f"The loss is not finite. {self.message}", stacklevel=2)

    def _find(self) -> str:
        """Runs the data through the model, layer by layer, and reports what is not finite first."""
        if self.sample_weight is not None and (found := _count(self.sample_weight, 0)):
            return f"The `sample_weight` of `fit` is not finite in {found}."
        start = 0
        flow: Any = getattr(self.model, "flow", self.model)  # which a flow-matching model trains
        for batch in iterate_batches(self.data, self.batch_size):
            x, context = split_context(batch)
            for what, values in (("data are", x), ("context is", context)):
                if values is not None and (found := _count(values, start)):
                    return f"The {what} not finite in {found}."
            # Layers may raise errors for values of arrays, but not of tensors.
            x = ops.convert_to_tensor(x, dtype=self.model.compute_dtype)
            for layer, outputs, log_det in flow.run_layers(x, context):
                for what, values in (("outputs", outputs), ("log-determinants", log_det)):
                    if found := _count(values, start):
                        self.layer = layer
                        return (
                            f"The {what} of layer '{layer.name}' are the first that are not "
                            f"finite, in {found}."
                        )
            start += len(x)
        return (
            "With the weights from the start of the epoch, all layers are finite on the data: "
            "training diverged. A lower learning rate, or `clipnorm`, may help."
        )


def _count(values: Tensor, start: int) -> str:
    """Returns in how many instances values are not finite, in words, or "" if there are none.

    Args:
        values: The values, `[batch, ...]`.
        start: The index of the first instance.
    """
    values = ops.convert_to_numpy(ops.cast(values, "float32"))
    is_finite = np.all(np.isfinite(values), axis=tuple(range(1, values.ndim)))
    bad = np.flatnonzero(~is_finite)
    if not len(bad):
        return ""
    first = start + bad[0]
    return f"{len(bad)} of {len(values)} instances, the first of which has index {first}"
