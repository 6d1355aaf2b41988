"""Models that learn from pairs which factors their latent vectors consist of."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.batches import split_context
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["DisentanglingFlowModel"]


def _run_on_pairs(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a `call` of one batch, so that it can be given a pair of batches."""

    @functools.wraps(call)
    def wrapper(self: FlowModel, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        pair, context = split_context(inputs) if isinstance(inputs, dict) else (inputs, None)
        if not isinstance(pair, list | tuple):
            return call(self, inputs, *args, **kwargs)
        _check_pair([tuple(x.shape) for x in pair])
        context = kwargs.pop("context", context)
        if context is not None:
            kwargs["context"] = ops.concatenate([context, context], axis=0)
        z, log_det = call(self, ops.concatenate(pair, axis=0), *args, **kwargs)
        _check_latent(z.shape)
        z_a, z_b = ops.split(ops.cast(z, log_det.dtype), 2, axis=0)
        j_a, j_b = ops.split(log_det[:, None], 2, axis=0)
        return ops.concatenate([z_a, z_b, j_a, j_b], axis=-1)

    return wrapper


@keras.saving.register_keras_serializable(package="gyoza")
class DisentanglingFlowModel(FlowModel):
    r"""A :class:`FlowModel` that learns from pairs which factors its latent vectors consist of.

    It is compiled with a :class:`~gyoza.modelling.losses.SupervisedFactorLoss` and fitted to pairs
    of instances, whose similarity in each factor is known:

    .. code-block:: python

        model.compile("adam", loss=SupervisedFactorLoss(dimensions_per_factor))
        model.fit((a, b), y)

    Called on one batch, `call(x)`, it returns outputs and log-determinants like any `FlowModel`.
    Called on a pair of batches, `call((a, b))`, it returns what the loss needs, the concatenation
    :math:`[T(a), T(b), j_a, j_b]` of latent vectors and log-determinants along the last axis,
    `[batch, 2 * dimension count + 2]`. So `fit`, `evaluate`, `predict`, validation data, sample
    weights and metrics work on pairs as Keras makes them work on any inputs.

    Latent vectors of a pair must have the shape `[batch, dimension count]`.

    Args:
        flow_layers: See :class:`FlowModel`.
        base_distribution: See :class:`FlowModel`. The factor loss assumes a standard normal,
            whatever this is.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        ValueError: If the two batches of a pair differ in shape, or outputs have several axes.

    Example:

        >>> from gyoza.modelling import flow_layers, losses
        >>> model = flow_layers.DisentanglingFlowModel([
        ...     flow_layers.ActivationNormalization(), flow_layers.Reflection(reflection_count=2)
        ... ])
        >>> model.compile("adam", loss=losses.SupervisedFactorLoss([1, 1]))
        >>> random = np.random.default_rng(0)
        >>> a, b = random.normal(size=[2, 64, 2]).astype("float32")
        >>> history = model.fit((a, b), np.tile([0.0, 0.9], [64, 1]), verbose=0)
        >>> z, log_det = model(a)
        >>> z.shape == (64, 2)
        True

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """

    def build(self, input_shape: Any) -> None:
        """Builds all layers; see :meth:`FlowModel.build`.

        Args:
            input_shape: Shape of one batch, or a pair of shapes.
        """
        if isinstance(input_shape[0], int | None):
            super().build(input_shape)
        else:
            first, second = (tuple(shape) for shape in input_shape)
            _check_pair([first, second])
            super().build(first)

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shape of one batch that the model was built for."""
        config = super().get_build_config()
        if not config or isinstance(config["input_shape"][0], int | None):
            return config
        return {**config, "input_shape": config["input_shape"][0]}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            cls.call = _run_on_pairs(vars(cls)["call"])  # type: ignore[method-assign]

    @_run_on_pairs
    def call(
        self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None
    ) -> Tensors:
        """Executes all layers on one batch or on a pair of batches.

        A subclass that overrides it is given one batch, `[batch, ...]`: of a pair, the instances of
        both batches, one after the other.

        Args:
            inputs: Floating-point tensor, `[batch, ...]`, or a pair (tuple or list) of such. Or
                `{"inputs": …, "context": …}`.
            context: The context, one for both instances of a pair, if the model is conditional.
            training: See :meth:`FlowModel.call`.

        Returns:
            For one batch, the pair of outputs and log-determinants. For a pair, the tensor
            `[batch, 2 * dimension count + 2]` that the loss is given as `y_pred`.
        """
        return super().call(inputs, context, training)

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what `call` returns for symbolic `inputs`."""
        if not isinstance(inputs, list | tuple):
            return super().compute_output_spec(inputs, *args, **kwargs)
        _check_pair([tuple(x.shape) for x in inputs])
        shape, _ = self.compute_output_shape(inputs[0].shape)
        _check_latent(shape)
        return keras.KerasTensor((shape[0], 2 * (shape[1] or 0) + 2), dtype=self.log_det_dtype)

    def compute_loss(
        self,
        x: Tensors | None = None,
        y: Tensor | None = None,
        y_pred: Tensors = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the compiled loss of a batch of pairs; see `keras.Model.compute_loss`."""
        if self.loss is not None and isinstance(y_pred, tuple | list):
            raise ValueError(
                f"Model '{self.name}' should be fitted to pairs `(a, b)`. Received: a single array"
            )
        if not isinstance(y_pred, tuple | list):
            self._check_loss()
        sizes = getattr(self.loss, "dimensions_per_factor", None)
        if sizes is not None and y_pred.shape[-1] != 2 * sum(sizes) + 2:
            raise ValueError(
                "`dimensions_per_factor` of the loss should sum to the number of latent "
                f"dimensions, {y_pred.shape[-1] // 2 - 1}. Received: dimensions_per_factor={sizes}"
            )
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _check_loss(self) -> None:
        if self.loss is None:
            raise ValueError(
                f"Model '{self.name}' should be compiled with a loss before it is fitted to pairs. "
                "Received: loss=None"
            )

    def _no_such_loss(self, loss: Any) -> ValueError:
        return ValueError(
            f"Model '{self.name}' returns the latents and log-determinants of both instances of a "
            "pair, and should be compiled with a loss of these, such as "
            f"`gyoza.modelling.losses.SupervisedFactorLoss`. Received: loss={loss!r}"
        )

    def _check_inputs(self, inputs: Tensor) -> None:
        inputs, _ = split_context(inputs)
        for part in inputs if isinstance(inputs, list | tuple) else [inputs]:
            super()._check_inputs(part)

    def _check_targets(
        self, y: Tensor | None, class_weight: dict[int, float] | None = None
    ) -> None:
        """Checks correlations that are given as one array, before compiled code meets them."""
        check = getattr(self.loss, "check_correlations", None)
        if check is not None and hasattr(y, "shape"):
            check(ops.convert_to_numpy(y))
        if y is not None and not self.base_distribution.accepts_labels:
            self._check_loss()
        super()._check_targets(y, class_weight)


def _check_pair(shapes: Sequence[tuple[int | None, ...]]) -> None:
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            "A pair should consist of two batches of the same shape. "
            f"Received: {len(shapes)} batches of shapes {list(shapes)}"
        )


def _check_latent(shape: Shape) -> None:
    if len(shape) != 2:
        raise ValueError(
            "The outputs of a model for pairs should have shape [batch, dimension count]: flatten "
            f"its inputs. Received: outputs of shape {tuple(shape)}"
        )
