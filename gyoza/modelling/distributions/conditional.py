"""Weights that a network changes, given a context."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.typing import Tensor

__all__ = ["Conditional"]


class Conditional:
    """The part of a distribution that knows its context network.

    It checks contexts, remembers their size, also in the saved model, and tells methods what the
    network makes of them by an argument `changes`: a dictionary of the names of weights, and for
    each of them what is added to it, `[batch, *weight.shape]`.
    """

    name: str
    built: bool
    compute_dtype: str
    context_network: Any
    # Names and shapes of the weights that the network changes, in the order of its outputs.
    _parameter_shapes: dict[str, tuple[int, ...]]
    # What `call` takes.
    _call_names: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._call_names = tuple(inspect.signature(cls.call).parameters)[1:]  # type: ignore[attr-defined]

    def _set_network(self, network: keras.Layer | None) -> None:
        """Sets the context network, or `None`, in the constructor."""
        self.context_size: int | None = None
        self._has_network = False
        if network is not None:
            check_instance("context_network", network, keras.Layer, "a Keras layer or model")
        for method in ("compute_log_prob", "draw") if network is not None else ():
            if "changes" not in inspect.signature(getattr(self, method)).parameters:
                raise ValueError(
                    f"`context_network` should be omitted: {type(self).__name__} has no weights "
                    f"that a context could change, or its `{method}` does not take `changes`. "
                    f"Received: context_network={network}"
                )
        self.context_network = network

    @property
    def accepts_context(self) -> bool:
        """Whether `log_prob` and `sample` are given a `context`."""
        return self.context_network is not None

    def _build_network_once(self) -> None:
        """Builds the context network, if there is one, as soon as the size of contexts is known."""
        network = self.context_network
        if network is None or self.context_size is None or self._has_network:
            return
        count = sum(map(math.prod, self._parameter_shapes.values()))
        if isinstance(network, Conditioner):
            network.set_output_size(count)
        outputs = network(keras.KerasTensor((None, self.context_size), self.compute_dtype))
        if tuple(outputs.shape) != (None, count):
            raise ValueError(
                f"`context_network` should have outputs of shape (batch, {count}), since the "
                f"weights of distribution '{self.name}' have {count} elements. "
                f"Received: outputs of shape {tuple(outputs.shape)}"
            )
        self._has_network = True

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shapes that the distribution was built for."""
        config = super().get_build_config()  # type: ignore[misc]
        if not config or self.context_size is None:
            return config
        return {**config, "context_size": self.context_size}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the distribution for the shapes that `get_build_config` returned."""
        config = dict(config)
        self.context_size = config.pop("context_size", None)
        super().build_from_config(config)  # type: ignore[misc]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs `call` as every Keras layer does, on a context exactly if there is a network."""
        if self.accepts_context or len(args) > 1 or "context" in kwargs:
            arguments = {**dict(zip(self._call_names, args, strict=False)), **kwargs}
            batch_size = None
            if self.context_network is not None and "x" in arguments:
                batch_size = np.shape(arguments["x"])[0]
            self._check_context(arguments.get("context"), (batch_size,))
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def _check_context(self, context: Tensor | None, counts: Sequence[int | Tensor]) -> None:
        """Checks a context, which has as many rows as one of `counts`, and remembers its size."""
        if self.context_network is None:
            if context is not None:
                raise ValueError(
                    f"`context` should be omitted, since distribution '{self.name}' has no "
                    f"`context_network`. Received: context.shape={tuple(np.shape(context))}"
                )
            return
        if context is None:
            raise ValueError(
                f"Distribution '{self.name}' should be given a `context`, since it has a "
                "`context_network`. Received: context=None"
            )
        shape = tuple(np.shape(context))
        fits = (
            len(shape) == 2 and shape[1] is not None and shape[1] == (self.context_size or shape[1])
        )
        if fits and all(isinstance(count, int) for count in (shape[0], *counts)):
            fits = shape[0] in counts
        if not fits:
            raise ValueError(
                f"`context` should have shape ({' or '.join(map(str, counts))}, "
                f"{self.context_size or 'context_size'}) for distribution '{self.name}'. "
                f"Received: context.shape={shape}"
            )
        self.context_size = int(shape[1])
        if self.built:
            self._build_network_once()

    def _change(self, context: Tensor | None, count: int | Tensor | None = None) -> dict[str, Any]:
        """Returns the argument `changes`, by name, or nothing without a context.

        Args:
            context: The context, `[batch, context_size]`, or `None`.
            count: The number of rows to which a context of one row is repeated.
        """
        if context is None:
            return {}
        outputs = mark_rows(self.context_network(context), context)
        outputs = ops.cast(outputs, self.log_prob_dtype)  # type: ignore[attr-defined]
        if count is not None:
            outputs = ops.broadcast_to(outputs, (count, outputs.shape[1]))
        changes, start = {}, 0
        for name, shape in self._parameter_shapes.items():
            stop = start + math.prod(shape)
            changes[name] = ops.reshape(outputs[:, start:stop], (-1, *shape))
            start = stop
        return {"changes": changes}
