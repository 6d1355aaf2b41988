"""Training by an unnormalised target density."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.training import PreparesCallbacks, SavesFiles, average_losses
from gyoza.typing import Tensor

__all__ = ["VariationalModel"]


@keras.saving.register_keras_serializable(package="gyoza")
class VariationalModel(PreparesCallbacks, SavesFiles):
    r"""Trains a flow to follow a density that can be evaluated, up to a factor, but not sampled.

    For the density :math:`q` of the flow and an unnormalised target :math:`\tilde p = Z p`, the
    loss is the reverse Kullback-Leibler divergence, up to a constant,

    .. math::
        E_{x \sim q} \left[ \ln q(x) - \ln \tilde p(x) \right] =
        \operatorname{KL}(q \parallel p) - \ln Z,

    estimated from fresh samples in every step. Its negative is a lower bound of :math:`\ln Z`.
    There are no data: `fit` and `evaluate` take the number of samples to draw.

    Samples are what the flow inverts, so the inverse of its layers should be fast. Wrap those whose
    inverse is slow in :class:`Inverse`. Reverse divergences favour a flow that covers one
    mode of the target well over one that covers all modes.

    Args:
        flow: The :class:`FlowModel` to be trained. It must be built, and have no context.
        target_log_prob: A function of a batch `[batch, ...]` that returns logarithms of the
            unnormalised target density, `[batch]`, by `keras.ops`. To save the model, it must be
            registered by `keras.saving.register_keras_serializable`, or an object of a class that
            is.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If `flow` is not a flow model or `target_log_prob` cannot be called.
        ValueError: If `flow` is not built or is conditional, `target_log_prob` returns another
            shape, or the model is saved although `target_log_prob` is not registered.

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

    References:
        - Rezende, D. J. & Mohamed, S. (2015). "Variational inference with normalizing flows."
          `arXiv:1505.05770 <https://arxiv.org/abs/1505.05770>`_
    """

    def __init__(
        self, flow: FlowModel, target_log_prob: Callable[[Any], Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_instance("flow", flow, FlowModel, "a `FlowModel`")
        if not callable(target_log_prob):
            raise TypeError(
                "`target_log_prob` should be a function. "
                f"Received: target_log_prob={target_log_prob}"
            )
        if not flow.built or flow.context_shape is not None:
            raise ValueError(
                "`flow` should be built, for example by `flow.build((None, 2))`, and have no "
                f"context. Received: flow.built={flow.built}, "
                f"flow.context_shape={flow.context_shape}"
            )
        self.flow = flow
        self.target_log_prob = target_log_prob
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Draws samples and computes what they contribute to the loss.

        Args:
            inputs: Any tensor `[batch, ...]`. Only its batch size is used.

        Returns:
            The differences of log-densities, `[batch]`.
        """
        distribution = self.flow.base_distribution
        z = distribution.sample(ops.shape(inputs)[0])
        x, log_det = self.flow.invert_and_log_det(z)
        target = self.target_log_prob(x)
        if len(target.shape) != 1:
            raise ValueError(
                "`target_log_prob` should return log-densities of shape [batch]. "
                f"Received: a tensor of shape {tuple(target.shape)}"
            )
        return distribution.log_prob(z) + log_det - target

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
        steps_per_epoch: int = 100,
        epochs: int = 1,
        **kwargs: Any,
    ) -> Any:
        """Trains the flow.

        Args:
            batch_size: The number of samples in each step.
            steps_per_epoch: The number of steps in each epoch.
            epochs: The number of epochs.
            **kwargs: Other arguments of `keras.Model.fit`, such as `callbacks` and `verbose`.

        Returns:
            The `keras.callbacks.History`.
        """
        counts = np.zeros([batch_size * steps_per_epoch, 1], "float32")
        return super().fit(counts, batch_size=batch_size, epochs=epochs, **kwargs)

    def evaluate(self, batch_size: int = 256, steps: int = 10, **kwargs: Any) -> Any:
        """Estimates the loss.

        Args:
            batch_size: The number of samples in each step.
            steps: The number of steps.
            **kwargs: Other arguments of `keras.Model.evaluate`.

        Returns:
            The loss, in nats.
        """
        counts = np.zeros([batch_size * steps, 1], "float32")
        return super().evaluate(counts, batch_size=batch_size, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        target = self.target_log_prob
        registered = target if hasattr(target, "__name__") else type(target)
        name = keras.saving.get_registered_name(registered)
        if keras.saving.get_registered_object(name) is not registered:
            raise ValueError(
                "To save the model, `target_log_prob` should be registered by "
                "`keras.saving.register_keras_serializable`; or save `flow` alone. "
                f"Received: target_log_prob={target}"
            )
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
            "target_log_prob": keras.saving.serialize_keras_object(target),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "VariationalModel":
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
