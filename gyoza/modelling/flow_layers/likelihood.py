"""Training by the likelihood of data."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import has_metrics
from gyoza.modelling.batches import split_context
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.discrete import warn_if_discrete
from gyoza.modelling.flow_layers.exporting import ExportsEndpoints
from gyoza.modelling.training import Training, average_losses, describe
from gyoza.typing import Tensor

__all__ = ["LikelihoodTraining", "not_one_array", "check_rows", "refuse_targets"]


def not_one_array(name: str, inputs: Sequence[Any]) -> ValueError:
    """Returns the error for several arrays where a model is to be given one."""
    return ValueError(
        f"The inputs of '{name}' should be one array. With a context, pass "
        f'`{{"inputs": …, "context": …}}`. Received: a {type(inputs).__name__} of '
        f"{len(inputs)} elements"
    )


def check_rows(inputs: Tensor, name: str, values: Tensor) -> None:
    """Raises a `ValueError` unless an array has as many rows as the inputs."""
    shapes = tuple(np.shape(inputs)), tuple(np.shape(values))
    if shapes[0][:1] != shapes[1][:1]:
        raise ValueError(
            f"`{name}` should have one row for each instance of `inputs`. "
            f"Received: {name}.shape={shapes[1]}, inputs.shape={shapes[0]}"
        )


def refuse_targets(name: str, y: Tensor, class_weight: Any = None) -> None:
    """Raises a `ValueError` if model `name` is given targets or weights of their classes."""
    if y is not None and y.shape[-1] != 0:
        raise ValueError(
            f"Model '{name}' is trained on its inputs alone, and should be given "
            'no targets `y`. For the density of `y` given `x`, pass `{"inputs": y, '
            f'"context": x}}`. Received: y of shape {tuple(y.shape)}'
        )
    if class_weight is not None:
        raise ValueError(
            "`class_weight` should be given only where there are labels; pass a "
            f"`sample_weight` instead. Received: class_weight={class_weight}"
        )


class LikelihoodTraining(ExportsEndpoints, Training):
    """The part of a flow model that checks data, and compares them with their densities.

    A class that derives from it is a :class:`~gyoza.modelling.flow_layers.density.Density`, too,
    and has a list of flow layers.
    """

    base_distribution: Distribution
    _flow_layers_: list[Any]
    # How many axes inputs have at least, which the first layer says when it is built.
    _least_rank = 2
    _add_up: Callable[..., Any]

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the compiled loss, or without one, the mean negative log-likelihood in nats.

        See `keras.Model.compute_loss`.
        """
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        log_prob = self._compute_log_prob(x, y, y_pred, training)
        if has_metrics(self):
            self._computed["log_prob"] = y_pred, ops.stop_gradient(log_prob)
        return average_losses(-log_prob, sample_weight, self.losses)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Any:
        """Updates the metrics; see `keras.Model.compute_metrics`.

        Without a compiled loss, metrics are given the inputs and their log-densities, as those in
        :mod:`gyoza.modelling.metrics` take them.
        """
        if self.loss is None and has_metrics(self):
            outputs, log_prob = self._computed.pop("log_prob", (None, None))
            if outputs is not y_pred:  # as on JAX, where the loss is part of what is differentiated
                log_prob = self._compute_log_prob(x, y, y_pred)
            y, y_pred = split_context(x)[0], log_prob
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @functools.cached_property
    def _computed(self) -> dict[str, Any]:
        # What the loss of a step has computed, for its metrics. Keras would track an attribute.
        return {}

    def _compute_log_prob(
        self, x: Tensor, y: Tensor, y_pred: Tensor, training: bool = False
    ) -> Any:
        """Computes log-densities from what training steps hold."""
        labels = {}
        if y is not None and y.shape[-1] != 0:
            self._check_targets(y)
            labels = {"labels": y}
        context = x.get("context") if isinstance(x, dict) else None
        z, log_det = y_pred
        return self._add_up(z, log_det, context, training, **labels)

    def _during_fit(self, arguments: dict[str, Any]) -> Any:
        if self.loss is None:
            warn_if_discrete(self, arguments["x"])
        return super()._during_fit(arguments)

    def _check_inputs(self, inputs: Tensor) -> None:
        inputs, context = split_context(inputs)
        if isinstance(inputs, tuple | list):
            raise not_one_array(self.name, inputs)
        if inputs is None:
            raise ValueError(f"The inputs of '{self.name}' should be given. Received: None")
        self._check_rank(inputs, self._least_rank)
        if context is not None:
            check_rows(inputs, "context", context)

    def _check_rank(self, x: Tensor, least: int) -> None:
        """Raises a `ValueError` for a single instance where there should be a batch."""
        shape = getattr(x, "shape", None)
        if shape is not None and len(shape) < least:
            raise ValueError(
                f"'{self.name}' should be given batches of instances, with at least {least} "
                "axes: `x[None]` is a batch of one instance `x`. "
                f"Received: an array of shape {tuple(shape)}"
            )

    def _check_shapes(self, x: Tensor) -> None:
        x, context = split_context(x)
        for values in keras.tree.flatten(x) if self.built and context is None else ():
            if hasattr(values, "shape") and hasattr(values, "dtype"):
                self._flow_layers_[0](describe(values))

    def _check_targets(self, y: Tensor, class_weight: Any = None) -> None:
        takes_labels = self.base_distribution.accepts_labels
        if takes_labels and isinstance(y, np.ndarray):
            self.base_distribution.check_labels(y)
        if takes_labels or self.loss is not None:
            return
        refuse_targets(self.name, y, class_weight)
