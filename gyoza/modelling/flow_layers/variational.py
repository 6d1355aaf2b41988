"""Training by an unnormalised target density."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients, keep_values
from gyoza.modelling.flow_layers.describing import Summarises
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.flow_layers.targets import evaluate_target, not_differentiable, reject_data
from gyoza.modelling.functions import importance
from gyoza.modelling.functions.checks import check_instance, check_integer
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.training import (
    ChecksCompilation,
    PreparesCallbacks,
    SavesFiles,
    average_losses,
    bind_compile,
    find_foreign,
    list_metrics,
)
from gyoza.typing import Data, Seed, Tensor

__all__ = ["VariationalModel"]


@keras.saving.register_keras_serializable(package="gyoza")
class VariationalModel(ChecksCompilation, PreparesCallbacks, Summarises, SavesFiles):
    r"""Trains a flow to follow a density that can be evaluated, up to a factor, but not sampled.

    For the density :math:`q` of the flow and an unnormalised target :math:`\tilde p = Z p`, the
    loss is the reverse Kullback-Leibler divergence, up to a constant,

    .. math::
        E_{x \sim q} \left[ \ln q(x) - \ln \tilde p(x) \right] =
        \operatorname{KL}(q \parallel p) - \ln Z,

    estimated from fresh samples in every step. Its negative is a lower bound of :math:`\ln Z`.
    There are no data: `fit` and `evaluate` take the number of samples to draw.

    With a conditional flow, :math:`q(x | c)`, one model serves all contexts (amortised inference):
    the target is a function of sample and context, :math:`\tilde p(x; c) = Z(c)\, p(x | c)`, such
    as a joint density of parameters and observations. `fit` and `evaluate` are given contexts, and
    average over them, with one sample for each.

    Importance weights of samples show how well the flow fits, the ratios
    :math:`\tilde p(x) / q(x)`: see :meth:`effective_sample_size` and :meth:`log_evidence`.

    Samples are what the flow inverts, so the inverse of its layers should be fast. Wrap those whose
    inverse is slow in :class:`Inverse`. Reverse divergences favour a flow that covers one
    mode of the target well over one that covers all modes.

    Args:
        flow: The :class:`FlowModel` to be trained. It must be built, with or without a context.
        target_log_prob: A function of a batch `[batch, ...]`, and of its context if the flow has
            one, that returns logarithms of the unnormalised target density, `[batch]`, by
            `keras.ops`. To save the model, it must be registered by
            `keras.saving.register_keras_serializable`, or a layer or an object of a class that is.
            The weights of a layer are saved with the model, and trained unless its `trainable` is
            `False`.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If `flow` is not a flow model, `target_log_prob` cannot be called, or computes
            with NumPy.
        ValueError: If `flow` is not built, a context is missing or should not be there,
            `target_log_prob` returns another shape, or the model is saved although
            `target_log_prob` is not registered.

    Example:

        >>> from gyoza.modelling import flow_layers
        >>> flow = flow_layers.FlowModel([flow_layers.ActivationNormalization([2])])
        >>> flow.build((None, 2))
        >>> trainer = flow_layers.VariationalModel(
        ...     flow, lambda x: -0.5 * keras.ops.sum((x - 3.0) ** 2, axis=-1)
        ... )
        >>> trainer.compile(keras.optimizers.Adam(0.1))
        >>> history = trainer.fit(batch_size=64, steps_per_epoch=100, verbose=0)
        >>> round(-trainer.evaluate(batch_size=1000, steps=1, verbose=0), 1)  # ln(2 pi) = 1.8
        1.8
        >>> evidence, standard_error = trainer.log_evidence(1000, seed=0)
        >>> round(float(evidence), 1), float(standard_error) < 0.05
        (1.8, True)
        >>> bool(trainer.effective_sample_size(1000, seed=0) > 900)
        True

    References:
        - Rezende, D. J. & Mohamed, S. (2015). "Variational inference with normalizing flows."
          `arXiv:1505.05770 <https://arxiv.org/abs/1505.05770>`_
    """

    def __init__(
        self, flow: FlowModel, target_log_prob: Callable[..., Tensor], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_instance("flow", flow, FlowModel, "a `FlowModel`")
        if not callable(target_log_prob):
            raise TypeError(
                "`target_log_prob` should be a function. "
                f"Received: target_log_prob={target_log_prob}"
            )
        if not flow.built:
            raise ValueError(
                "`flow` should be built: for example by `flow.build((None, 2))`, or with a "
                f"context, by `flow.build_for(x, context)`. Received: flow.built={flow.built}"
            )
        self.flow = flow
        self.target_log_prob = target_log_prob
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Draws samples and computes what they contribute to the loss.

        Args:
            inputs: The contexts, `[batch, ...]`. Without a context, any tensor of that batch size.

        Returns:
            The differences of log-densities, `[batch]`.
        """
        context = None if self.flow.context_shape is None else inputs
        z = self.flow._draw_latents(inputs, context)
        x, log_prob = self.flow._invert_and_log_prob(z, context)
        target = evaluate_target(self.target_log_prob, x, context)
        if isinstance(target, np.ndarray):
            raise not_differentiable("a NumPy array, which has no gradients")
        return log_prob - target

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
            loss: `None`, since the model has a loss of its own.
            *args: Further arguments of `keras.Model.compile`.
            **kwargs: Likewise. `metrics` that you write are given `None` and the contributions of
                samples to the loss.

        Raises:
            ValueError: If there is a loss, or a metric that compares data or labels with
                predictions, such as "mse".
        """
        if loss is not None and not self._is_overridden("compute_loss", "train_step"):
            raise ValueError(
                f"Model '{self.name}' has a loss of its own, the divergence from "
                f"`target_log_prob`, and should be compiled without one. Received: loss={loss!r}"
            )
        given = list_metrics(self, optimizer, loss, *args, **kwargs)
        foreign = find_foreign(given, ("keras", "gyoza"))
        if foreign and not self._is_overridden("compute_metrics", "train_step"):
            raise ValueError(
                f"Model '{self.name}' should be compiled without metrics that compare data or "
                "labels with predictions, as there are none. After training, "
                "`effective_sample_size()` and `log_evidence()` tell how well the flow fits. "
                f"Received: metrics={foreign}"
            )
        super().compile(optimizer, loss, *args, **kwargs)
        arguments = bind_compile(self, optimizer, loss, *args, **kwargs)
        if arguments.get("jit_compile", "auto") != "auto":
            self.flow.jit_compile = self.jit_compile  # of densities and samples

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the mean over the samples; see `keras.Model.compute_loss`."""
        return average_losses(y_pred, sample_weight, self.losses)

    def fit(
        self,
        batch_size: int = 256,
        steps_per_epoch: int | None = None,
        epochs: int = 1,
        context: Data = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the flow.

        Args:
            batch_size: The number of samples in each step.
            steps_per_epoch: The number of steps in each epoch. Without a context, 100 if omitted;
                with contexts, as many as there are batches of them.
            epochs: The number of epochs.
            context: The contexts to train for, if the flow is conditional: an array
                `[contexts, ...]`, or a data set that yields batches of them.
            **kwargs: Other arguments of `keras.Model.fit`, such as `callbacks`, `verbose`, and
                contexts for `validation_data`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If data are given.
        """
        for name, value in {"batch_size": batch_size, "x": kwargs.get("x")}.items():
            reject_data(name, value)
        if context is None:
            x = self._count_samples(batch_size, steps_per_epoch or 100)
        else:
            x = self._take_contexts(context)
            kwargs["steps_per_epoch"] = steps_per_epoch
        with keep_values(self.variables):
            history = super().fit(x, batch_size=batch_size, epochs=epochs, **kwargs)
        if not np.all(np.isfinite(history.history["loss"])):
            warn(
                f"The loss of model '{self.name}' is not finite: `target_log_prob` is not finite "
                "for some samples, such as those out of bounds, or training has diverged. The "
                "first layer of the flow can keep bounds: `Inverse(Softplus())` those of positive "
                "numbers, `Logit()` those of numbers from 0 to 1."
            )
        return history

    def evaluate(
        self, batch_size: int = 256, steps: int | None = None, context: Data = None, **kwargs: Any
    ) -> Any:
        """Estimates the loss.

        Args:
            batch_size: The number of samples in each step.
            steps: The number of steps. Without a context, 10 if omitted; with contexts, as many as
                there are batches of them.
            context: The contexts to average over, if the flow is conditional; see :meth:`fit`.
            **kwargs: Other arguments of `keras.Model.evaluate`.

        Returns:
            The loss, in nats.

        Raises:
            ValueError: If data are given.
        """
        reject_data("batch_size", batch_size)
        if "x" in kwargs:  # Keras evaluates the `validation_data` of `fit`
            return super().evaluate(batch_size=batch_size, steps=steps, **kwargs)
        if context is None:
            counts = self._count_samples(batch_size, steps or 10)
            return super().evaluate(counts, batch_size=batch_size, **kwargs)
        context = self._take_contexts(context)
        return super().evaluate(context, batch_size=batch_size, steps=steps, **kwargs)

    def _count_samples(self, batch_size: int, steps: int) -> np.ndarray:
        """Returns inputs of a number of steps without a context."""
        check_integer("batch_size", batch_size, minimum=1)
        counts = np.zeros([batch_size * check_integer("steps", steps, minimum=1), 1], "float32")
        self.flow._prepare_context(counts, None)
        return counts

    def _take_contexts(self, context: Data) -> Data:
        """Checks contexts, and returns them as Keras takes them."""
        context = self.flow._read_context(context)
        if hasattr(context, "shape") or self.flow.context_shape is None:
            self.flow._prepare_context(context, context)
        return context

    def sample_and_log_weights(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        batch_size: int = 4096,
        verbose: int = 0,
    ) -> tuple[Tensor, Tensor]:
        r"""Draws samples of the flow, and computes the logarithms of their importance weights.

        The weights :math:`w = \tilde p(x) / q(x)` turn means over samples of the flow into those
        over the target: :math:`E_p [f(x)] \approx \sum_i w_i f(x_i) / \sum_i w_i`. They have no
        gradients.

        Args:
            sample_count: The number of samples, for each context if there are several.
            seed: Integer for the same samples every time. Other ones at each call if omitted.
            context: One context, without a batch axis, or several, `[contexts, ...]`, if the flow
                is conditional.
            batch_size: The number of samples that are processed at a time.
            verbose: Whether to show a progress bar while sampling, 0 or 1.

        Returns:
            The samples, `[sample_count, ...]`, and the logarithms of their weights,
            `[sample_count]`. For several contexts, `[sample_count, contexts, ...]` and
            `[sample_count, contexts]`, in the order of :meth:`FlowModel.sample_each`.

        Raises:
            ValueError: If `sample_count` is not a positive integer, or see
                :meth:`FlowModel.sample`.

        Example:

            >>> from gyoza.modelling import flow_layers
            >>> flow = flow_layers.FlowModel([flow_layers.ActivationNormalization([2])])
            >>> flow.build((None, 2))
            >>> trainer = flow_layers.VariationalModel(
            ...     flow, lambda x: -0.5 * keras.ops.sum((x - 0.5) ** 2, axis=-1)
            ... )
            >>> x, log_weights = trainer.sample_and_log_weights(10_000, seed=0)
            >>> weights = keras.ops.softmax(log_weights)  # their sum is 1
            >>> mean = keras.ops.sum(weights[:, None] * x, axis=0)
            >>> [round(float(m), 1) for m in mean]
            [0.5, 0.5]
        """
        total, axes = check_integer("sample_count", sample_count, minimum=1), [sample_count]
        shape = self.flow.context_shape
        if context is not None:
            context = self.flow._to_tensor(self.flow._read_context(context))
            if shape is not None and len(context.shape) > len(shape):
                axes = [sample_count, context.shape[0]]
                total = math.prod(axes)
                context = ops.repeat(context[None], sample_count, axis=0)
                context = ops.reshape(context, (total, *context.shape[2:]))
            else:
                context = self.flow._spread(context, total)
        with forget_gradients():
            x, log_prob = self.flow.sample_and_log_prob(total, seed, context, batch_size, verbose)
            starts = range(0, total, batch_size)
            targets = [
                evaluate_target(
                    self.target_log_prob,
                    *(None if t is None else t[start : start + batch_size] for t in (x, context)),
                )
                for start in starts
            ]
            log_weights = ops.concatenate(targets) - log_prob
        return ops.reshape(x, (*axes, *x.shape[1:])), ops.reshape(log_weights, axes)

    def effective_sample_size(
        self,
        sample_count: int = 1000,
        seed: Seed = None,
        context: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        r"""Estimates how many samples of the target a number of samples of the flow are worth.

        From their importance weights :math:`w_i`, Kish's effective sample size

        .. math::
            \frac{\left( \sum_i w_i \right)^2}{\sum_i w_i^2},

        a number of samples from 1 to `sample_count`. For many samples, its ratio to `sample_count`
        tends to :math:`1 / (1 + \chi^2(p \parallel q))`, which is 1 for a flow that equals the
        target. Samples that never reach a mode of the target do not show that it is missing.

        Args:
            sample_count: See :meth:`sample_and_log_weights`.
            seed: See :meth:`sample_and_log_weights`. With the same one, the weights are those of
                :meth:`log_evidence`.
            context: See :meth:`sample_and_log_weights`.
            **kwargs: See :meth:`sample_and_log_weights`.

        Returns:
            The number of samples, a scalar, or one for each of several contexts, `[contexts]`.

        Raises:
            ValueError: See :meth:`sample_and_log_weights`.

        References:
            - Kong, A. (1992). "A note on importance sampling using standardized weights."
              University of Chicago, Department of Statistics, Technical Report 348.
        """
        _, log_weights = self.sample_and_log_weights(sample_count, seed, context, **kwargs)
        return importance.effective_sample_size(log_weights)

    def log_evidence(
        self,
        sample_count: int = 1000,
        seed: Seed = None,
        context: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        r"""Estimates :math:`\ln Z`, the logarithm of the factor of the target, by importance.

        See :func:`~gyoza.modelling.functions.log_evidence` for the formulas. Where the target is a
        joint density of parameters and observations, :math:`Z` is the evidence of these. The
        estimate is at most :math:`\ln Z` on average, and closer than the bound of `evaluate`. Its
        standard error can be trusted where it is small and the effective sample size large.

        Args:
            sample_count: See :meth:`sample_and_log_weights`; at least 2.
            seed: See :meth:`effective_sample_size`.
            context: See :meth:`sample_and_log_weights`.
            **kwargs: See :meth:`sample_and_log_weights`.

        Returns:
            The pair of the estimate in nats and its standard error, which are scalars, or one for
            each of several contexts, `[contexts]`.

        Raises:
            ValueError: If `sample_count` is less than 2; or see :meth:`sample_and_log_weights`.

        References:
            - Burda, Y., Grosse, R. & Salakhutdinov, R. (2016). "Importance weighted autoencoders."
              `arXiv:1509.00519 <https://arxiv.org/abs/1509.00519>`_
        """
        check_integer("sample_count", sample_count, minimum=2)
        _, log_weights = self.sample_and_log_weights(sample_count, seed, context, **kwargs)
        return importance.log_evidence(log_weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        target = self.target_log_prob
        registered = target if hasattr(target, "__name__") else type(target)
        name = keras.saving.get_registered_name(registered)
        is_of_keras = isinstance(target, keras.Layer) and type(target).__module__.startswith(
            "keras."
        )
        if not is_of_keras and keras.saving.get_registered_object(name) is not registered:
            raise ValueError(
                "To save the model, `target_log_prob` should be registered by "
                "`keras.saving.register_keras_serializable`, or be a layer of a class that is. Or "
                "save `flow` alone, and pass it to `VariationalModel` with the function when it is "
                f"loaded. Received: target_log_prob={target}"
            )
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
            "target_log_prob": keras.saving.serialize_keras_object(target),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "VariationalModel":
        """Makes a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: See `keras.Model.from_config`.

        Returns:
            An equal model, without the weights.
        """
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("flow", "target_log_prob")
        }
        return cls(**{**config, **parts})
