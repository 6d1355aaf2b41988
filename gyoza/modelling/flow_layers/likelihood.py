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
from gyoza.modelling.flow_layers.conditional import check_context_rank
from gyoza.modelling.flow_layers.discrete import warn_if_discrete
from gyoza.modelling.flow_layers.exporting import ExportsEndpoints
from gyoza.modelling.flow_layers.unadapted import warn_of_scales
from gyoza.modelling.functions.checks import check_numbers
from gyoza.modelling.training import (
    ChecksCompilation,
    Training,
    average_losses,
    describe,
    find_foreign,
    get_rank,
    list_metrics,
)
from gyoza.typing import Tensor

__all__ = ["LikelihoodTraining", "not_one_array", "check_rows", "reject_targets"]


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


def reject_targets(
    name: str, y: Tensor | None, class_weight: dict[int, float] | None = None
) -> None:
    """Raises a `ValueError` if model `name` is given targets or weights of their classes."""
    shape = () if y is None else tuple(getattr(y, "shape", None) or np.shape(y))
    if y is not None and shape[-1:] != (0,):
        inputs = "y[:, None]" if len(shape) == 1 else "y"
        raise ValueError(
            f"Model '{name}' is trained on its inputs alone, and should be given "
            f'no targets `y`. For the density of `y` given `x`, pass `{{"inputs": {inputs}, '
            f'"context": x}}`. Received: y of shape {shape}'
        )
    if class_weight is not None:
        raise ValueError(
            "`class_weight` should be given only where there are labels; pass a "
            f"`sample_weight` instead. Received: class_weight={class_weight}"
        )


_BATCH_ADVICE = "`x[None]` is a batch of one instance `x`, `x[:, None]` one of numbers"


class LikelihoodTraining(ChecksCompilation, ExportsEndpoints, Training):
    """The part of a flow model that checks data, and compares them with their densities.

    A class that derives from it is a :class:`~gyoza.modelling.flow_layers.density.Density`, too,
    and has a list of flow layers.
    """

    base_distribution: Distribution
    _flow_layers_: list[Any]
    # How many axes inputs have at least, which the first layer says when it is built.
    _least_rank = 2
    _add_up: Callable[..., Tensor]

    def compile(
        self,
        optimizer: str | keras.Optimizer = "rmsprop",
        loss: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Configures training; see `keras.Model.compile`.

        Args:
            optimizer: The optimiser.
            loss: `None` to maximise the likelihood of the data.
            *args: Further arguments of `keras.Model.compile`.
            **kwargs: Likewise. Without a loss, `metrics` are given the data and their
                log-densities, as those in :mod:`gyoza.modelling.metrics` take them.

        Raises:
            ValueError: If the loss, or without one, a metric, is one of Keras that compares labels
                with predictions, such as "mse". A list of losses, such as `["mse", None]`, has one
                for outputs and one for log-determinants, which `fit` is given targets for.
        """
        is_one = not isinstance(loss, list | tuple | dict)
        is_own = self._is_overridden("call", "compute_loss", "train_step")
        if is_one and not is_own and find_foreign(loss):
            raise self._no_such_loss(loss)
        given = list_metrics(self, optimizer, loss, *args, **kwargs)
        is_told = loss is not None or self._is_overridden("compute_metrics", "train_step")
        foreign = [] if is_told else find_foreign(given)
        if foreign:
            raise ValueError(
                f"Without a loss, metrics of model '{self.name}' are given data and their "
                "log-densities, and should be such as `gyoza.modelling.metrics."
                "NegativeLogLikelihood()` or `BitsPerDimension()`. There are no predictions to be "
                "compared with targets; those of a conditional flow are samples, "
                f"`sample(context=x)`. Received: metrics={foreign}"
            )
        super().compile(optimizer, loss, *args, **kwargs)

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
            try:
                return super().compute_loss(x, y, y_pred, sample_weight, training)
            except (KeyError, ValueError) as error:
                if isinstance(y_pred, tuple | list) and not keras.tree.is_nested(y):
                    raise self._no_such_loss(self.loss) from error
                raise
        log_prob = self._compute_log_prob(x, y, y_pred, training)
        if has_metrics(self):
            self._computed["log_prob"] = y_pred, ops.stop_gradient(log_prob)
        return average_losses(-log_prob, sample_weight, self.losses)

    def _no_such_loss(self, loss: Any) -> ValueError:
        """Returns the error for a loss that would have to compare two outputs with one target."""
        return ValueError(
            f"Model '{self.name}' returns latents and log-determinants, not predictions of targets "
            "`y`. It should be compiled without a loss, which maximises the likelihood of the "
            'inputs; for the density of `y` given `x`, call `fit({"inputs": y, "context": x})`, '
            "with `y[:, None]` for one target per row. "
            f'`loss=["mse", None]` compares latents with targets. Received: loss={loss!r}'
        )

    def compute_metrics(
        self, x: Tensor, y: Tensor | None, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
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
        self, x: Tensor, y: Tensor | None, y_pred: Tensor, training: bool = False
    ) -> Tensor:
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
        warn_of_scales(self, arguments["x"])
        return super()._during_fit(arguments)

    def _check_inputs(self, inputs: Tensor) -> None:
        if hasattr(inputs, "element_spec"):  # a `tf.data.Dataset`
            x, _, _ = keras.utils.unpack_x_y_sample_weight(inputs.element_spec)
            for part in keras.tree.flatten(x.get("inputs") if isinstance(x, dict) else x):
                self._check_rank(part, self._least_rank, "`.batch(32)` makes them of a data set")
            return
        inputs, context = split_context(inputs)
        if isinstance(inputs, tuple | list):
            raise not_one_array(self.name, inputs)
        check_numbers("x", inputs)
        check_numbers("context", context)
        if inputs is None:
            raise ValueError(f"The inputs of '{self.name}' should be given. Received: None")
        self._check_rank(inputs, self._least_rank)
        if context is not None:
            check_rows(inputs, "context", context)
            check_context_rank(context)

    def _check_rank(self, x: Tensor, least: int, advice: str = _BATCH_ADVICE) -> None:
        """Raises a `ValueError` for a single instance where there should be a batch."""
        rank = get_rank(x)
        if rank is not None and rank < least:
            raise ValueError(
                f"'{self.name}' should be given batches of instances, with at least {least} "
                f"axes: {advice}. Received: an array of shape {tuple(x.shape)}"
            )

    def _check_shapes(self, x: Tensor) -> None:
        x, context = split_context(x)
        for values in keras.tree.flatten(x) if self.built and context is None else ():
            if hasattr(values, "shape") and hasattr(values, "dtype"):
                self._flow_layers_[0](describe(values))

    def _check_targets(
        self, y: Tensor | None, class_weight: dict[int, float] | None = None
    ) -> None:
        takes_labels = self.base_distribution.accepts_labels
        if takes_labels and isinstance(y, np.ndarray):
            self.base_distribution.check_labels(y)
        if takes_labels or self.loss is not None:
            return
        reject_targets(self.name, y, class_weight)
