"""Training of continuous flows without solving their equation."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.batches import split_context
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.continuous import ContinuousFlow
from gyoza.modelling.flow_layers.elementwise import Standardize
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.seeds import SeedGenerator
from gyoza.modelling.training import Training, average_losses
from gyoza.typing import Tensor

__all__ = ["FlowMatchingModel"]


def _go_straight(source: Tensor, data: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Returns points between source and data, and their velocities, on straight lines."""
    return source + time * (data - source), data - source


def _preserve_variance(source: Tensor, data: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Returns points between source and data, and their velocities, on quarters of circles."""
    angle = ops.multiply(0.5 * math.pi, time)
    sine, cosine = ops.sin(angle), ops.cos(angle)
    return cosine * source + sine * data, 0.5 * math.pi * (cosine * data - sine * source)


_PATHS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "linear": _go_straight,
    "variance_preserving": _preserve_variance,
}


@keras.saving.register_keras_serializable(package="gyoza")
class FlowMatchingModel(Training, keras.Model):
    r"""A flow in continuous time whose velocity is regressed on that of paths to the data.

    A point :math:`x_0` of the base distribution and an instance :math:`x_1` of the data are joined
    by a path :math:`x_t`, and the velocity is trained to be that of the path, on average over all
    paths through a point:

    .. math::
        \mathbb{E}_{t, x_0, x_1} \left[ \frac{1}{n} \left\| v(x_t, t) - \dot{x}_t \right\|^2
        \right], \qquad
        x_t = (1 - t) x_0 + t x_1 \quad \text{or} \quad
        x_t = \cos \left( \tfrac{\pi}{2} t \right) x_0 + \sin \left( \tfrac{\pi}{2} t \right) x_1,

    with :math:`t` uniform in [0, 1] and :math:`n` dimensions. A step of training runs the network
    once; the equation is solved for samples and densities alone. Those are exact ones of the
    flow, as in every :class:`FlowModel`, which stands in the attribute `flow`.

    The loss does not tell how well the flow fits, since most of it is the variance of velocities of
    paths through the same point. `log_prob` does.

    Args:
        velocity: The network; see :class:`ContinuousFlow`.
        flow_layers: Layers from data to what the velocity sees. A :class:`Standardize` if omitted,
            which `adapt` sets. They are not trained.
        base_distribution: The distribution of :math:`x_0`. A
            :class:`~gyoza.modelling.distributions.StandardNormal` if omitted.
        paths: `"linear"` or `"variance_preserving"`, the two above.
        context_encoder: See :class:`FlowModel`.
        solver: How the equation is solved; see :class:`ContinuousFlow`.
        step_count: The number of steps; see :class:`ContinuousFlow`.
        seed: Seed of the times.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: See :class:`ContinuousFlow` and :class:`FlowModel`.
        ValueError: If there are no such paths, or solver.

    Attributes:
        flow: The flow, a :class:`FlowModel` that ends with a :class:`ContinuousFlow`.

    Example:

        >>> model = gyoza.modelling.flow_layers.FlowMatchingModel(
        ...     gyoza.modelling.conditioners.VelocityMLP([64, 64])
        ... )
        >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=[512, 2]).astype("float32")
        >>> model.adapt(x)
        >>> model.compile("adam")
        >>> history = model.fit(x, epochs=2, verbose=0)
        >>> model.sample(3, steps=4).shape == (3, 2)
        True
        >>> model.log_prob(x).shape == (512,)
        True

    References:
        - Lipman, Y., Chen, R. T. Q., Ben-Hamu, H., Nickel, M. & Le, M. (2023). "Flow matching for
          generative modeling." `arXiv:2210.02747 <https://arxiv.org/abs/2210.02747>`_
        - Liu, X., Gong, C. & Liu, Q. (2023). "Flow straight and fast: Learning to generate and
          transfer data with rectified flow." `arXiv:2209.03003
          <https://arxiv.org/abs/2209.03003>`_
        - Albergo, M. S. & Vanden-Eijnden, E. (2023). "Building normalizing flows with stochastic
          interpolants." `arXiv:2209.15571 <https://arxiv.org/abs/2209.15571>`_
    """

    def __init__(
        self,
        velocity: keras.Layer,
        flow_layers: Iterable[FlowLayer] | None = None,
        base_distribution: Distribution | None = None,
        paths: str = "linear",
        context_encoder: keras.Layer | None = None,
        solver: str = "rk4",
        step_count: int = 16,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if paths not in _PATHS:
            raise ValueError(f"`paths` should be one of {list(_PATHS)}. Received: paths={paths!r}")
        policy = self.dtype_policy
        if flow_layers is None:
            flow_layers = [Standardize(dtype=policy)]
        last = ContinuousFlow(velocity, solver=solver, step_count=step_count, dtype=policy)
        self.paths = paths
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self.flow = FlowModel(
            [*flow_layers, last], base_distribution, context_encoder, dtype=policy
        )

    @property
    def _continuous(self) -> Any:
        return self.flow._flow_layers_[-1]

    def __call__(self, inputs: Any, context: Tensor | None = None, **kwargs: Any) -> Any:
        """Runs `call`, see there, as every Keras model does."""
        inputs, context = split_context(inputs, context)
        self.flow.build_for(inputs, context)
        if context is not None:
            kwargs["context"] = context
        return super().__call__(inputs, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Builds the flow for data without a context.

        Args:
            input_shape: The shape of data, `[batch, ...]`.
        """
        if not self.flow.built:
            self.flow.build(input_shape)

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shapes that the flow was built for."""
        return self.flow.get_build_config()

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the flow for the shapes that `get_build_config` returned."""
        self.flow.build_from_config(config)
        self.built = True

    def call(
        self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Draws a point of a path to each instance, and computes what it contributes to the loss.

        Args:
            inputs: The data, `[batch, ...]`.
            context: Their context, if the flow is conditional.
            training: Whether the model is being trained.

        Returns:
            The mean squared differences between velocities, `[batch]`.
        """
        x, context = split_context(inputs, context)
        for layer in self.flow._flow_layers_[:-1]:
            x = layer(x)[0]
        data = ops.stop_gradient(ops.cast(x, self._continuous.log_det_dtype))
        shape = ops.shape(data)
        source = self.flow.base_distribution.sample(shape[0], **self.flow._base_context(context))
        source = ops.stop_gradient(ops.reshape(ops.cast(source, data.dtype), shape))
        time = draw_uniform((shape[0], 1), data.dtype, self.seed_generator)
        times = ops.reshape(time, (-1, *(1 for _ in data.shape[1:])))
        points, expected = _PATHS[self.paths](source, data, times)
        context = self.flow.encode(context, training)
        velocity = self._continuous.compute_velocity(points, time, context)
        errors = ops.reshape(ops.square(velocity - expected), (shape[0], -1))
        return ops.mean(errors, axis=-1)

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Describes what `call` returns for symbolic `inputs`."""
        return keras.KerasTensor(inputs.shape[:1], dtype=self._continuous.log_det_dtype)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """Configures training; see `keras.Model.compile`.

        Args:
            optimizer: The optimiser.
            loss: `None`, since the model has a loss of its own.
            **kwargs: Other arguments of `keras.Model.compile`.

        Raises:
            ValueError: If there is a loss.
        """
        if loss is not None:
            raise ValueError(
                f"Model '{self.name}' has a loss of its own, and should be compiled without one. "
                f"Received: loss={loss}"
            )
        super().compile(optimizer, **kwargs)

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the mean over the instances; see `keras.Model.compute_loss`."""
        return average_losses(y_pred, sample_weight, self.losses)

    def _check_inputs(self, inputs: Any) -> None:
        self.flow._check_inputs(inputs)

    def _check_targets(self, y: Any, class_weight: Any = None) -> None:
        self.flow._check_targets(y, class_weight)

    def adapt(self, data: Any, batch_size: int = 4096) -> None:
        """Adapts what precedes the velocity to data; see :meth:`FlowModel.adapt`."""
        self.flow.adapt(data, batch_size)

    def log_prob(self, x: Any, context: Any = None, **kwargs: Any) -> Tensor:
        """Computes the logarithm of the density of data; see :meth:`FlowModel.log_prob`."""
        return self.flow.log_prob(x, context, **kwargs)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps latents to data; see :meth:`FlowModel.invert`."""
        return self.flow.invert(outputs, context)

    def sample(
        self,
        sample_count: int,
        seed: Any = None,
        context: Any = None,
        steps: int | None = None,
        solver: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Draws new data.

        Args:
            sample_count: The number of instances.
            seed: See :meth:`FlowModel.sample`.
            context: See :meth:`FlowModel.sample`.
            steps: The number of steps, where it is not that of the constructor.
            solver: The solver, where it is not that of the constructor.
            **kwargs: Other arguments of :meth:`FlowModel.sample`.

        Returns:
            The samples, `[sample_count, ...]`.

        Raises:
            ValueError: If there is no such solver, or as for :meth:`FlowModel.sample`.
        """
        return self._solved_by(solver, steps).sample(sample_count, seed, context, **kwargs)

    def sample_and_log_prob(
        self, sample_count: int, seed: Any = None, context: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Draws new data with their log-densities; see :meth:`FlowModel.sample_and_log_prob`."""
        return self.flow.sample_and_log_prob(sample_count, seed, context, **kwargs)

    def _solved_by(self, solver: str | None, step_count: int | None) -> FlowModel:
        """Returns the flow, or one with the same layers and another solver."""
        if (solver is None and step_count is None) or not self.flow.built:
            return self.flow
        key = solver, step_count
        if key not in self._flows:
            last = self._continuous
            layers = [
                *self.flow._flow_layers_[:-1],
                ContinuousFlow(
                    last.velocity,
                    solver=last.solver if solver is None else solver,
                    step_count=last.step_count if step_count is None else step_count,
                    dtype=self.dtype_policy,
                ),
            ]
            flow = FlowModel(
                layers,
                self.flow.base_distribution,
                self.flow.context_encoder,
                dtype=self.dtype_policy,
            )
            flow.build_from_config(self.flow.get_build_config() or {})
            self._flows[key] = flow
        return self._flows[key]

    @functools.cached_property
    def _flows(self) -> dict[Any, FlowModel]:
        # Keras would track, and save, what is assigned to an attribute.
        return {}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        serialize = keras.saving.serialize_keras_object
        last = self._continuous
        return {
            **super().get_config(),
            "velocity": serialize(last.velocity),
            "flow_layers": [serialize(layer) for layer in self.flow._flow_layers_[:-1]],
            "base_distribution": serialize(self.flow.base_distribution),
            "paths": self.paths,
            "context_encoder": serialize(self.flow.context_encoder),
            "solver": last.solver,
            "step_count": last.step_count,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "FlowMatchingModel":
        """Makes a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: See `keras.Model.from_config`.

        Returns:
            A model with the same configuration and weights of its own.
        """
        config = dict(config)
        for name in ("velocity", "base_distribution", "context_encoder"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        config["flow_layers"] = [
            keras.saving.deserialize_keras_object(layer, custom_objects)
            for layer in config["flow_layers"]
        ]
        return cls(**config)
