"""Training of continuous flows without solving their equation."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.batches import split_context
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.continuous import ContinuousFlow
from gyoza.modelling.flow_layers.describing import Summarises
from gyoza.modelling.flow_layers.discrete import warn_if_discrete
from gyoza.modelling.flow_layers.elementwise import Standardize
from gyoza.modelling.flow_layers.interpolation import COUPLINGS, PATHS, couple_optimally
from gyoza.modelling.flow_layers.likelihood import check_rows, reject_targets
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.flow_layers.sampling import Sampling
from gyoza.modelling.flow_layers.unadapted import warn_of_scales
from gyoza.modelling.freezing import TrainsPart, leave_out, list_weights
from gyoza.modelling.functions.arguments import given, make_parts
from gyoza.modelling.functions.checks import check_choice, check_integer
from gyoza.modelling.functions.tensors import mean, to_rows
from gyoza.modelling.seeds import SeedGenerator, scramble
from gyoza.modelling.training import Training, average_losses
from gyoza.typing import Data, Seed, Shape, Tensor, Tensors

__all__ = ["FlowMatchingModel"]

# Arguments of the continuous flow that are about solutions of its equation.
_SOLVER_OPTIONS = ("rtol", "atol", "max_step_count", "exact_limit", "probe", "probe_count")


def _split_source(inputs: Data) -> tuple[Data, Tensor | None]:
    """Splits inputs that may be a dictionary with a source."""
    if not isinstance(inputs, dict):
        return inputs, None
    return {name: x for name, x in inputs.items() if name != "source"}, inputs.get("source")


@keras.saving.register_keras_serializable(package="gyoza")
class FlowMatchingModel(Sampling, Summarises, Training, TrainsPart, keras.Model):
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

    Source and data can be coupled by optimal transport: of the points and instances of a batch,
    those are joined whose distances are the shortest overall. That is another flow with the same
    distributions at both ends, whose paths are straighter: samples need fewer steps. The plan is
    computed in the step of training, at a cost that grows with the square of the batch size.

    The loss does not tell how well the flow fits, since most of it is the variance of velocities of
    paths through the same point. `log_prob` does.

    Args:
        velocity: The network; see :class:`ContinuousFlow`.
        flow_layers: Layers from data to what the velocity sees. A :class:`Standardize` if omitted,
            which `adapt` sets. They are not trained.
        base_distribution: The distribution of :math:`x_0`. A
            :class:`~gyoza.modelling.distributions.StandardNormal` if omitted. It only has to be
            sampled, as an :class:`~gyoza.modelling.distributions.Empirical` and a trained
            :class:`FlowModel` can be, and is not trained.
        paths: `"linear"` or `"variance_preserving"`, the two above.
        coupling: How points and instances are joined: `"independent"`, or `"optimal"` within each
            batch, by :func:`~gyoza.modelling.functions.compute_transport_plan`. With a context, it
            is optimal among instances of equal contexts, such as labels, since others must not be
            mixed; where all contexts differ, it is the same as `"independent"`.
        context_encoder: See :class:`FlowModel`.
        solver: How the equation is solved; see :class:`ContinuousFlow`.
        step_count: The number of steps; see :class:`ContinuousFlow`.
        seed: Seed of times and couplings.
        memory_efficient: See :class:`FlowModel`. It is `flow` that saves memory, where its
            densities are differentiated; steps of training run the network once anyway.
        **kwargs: `rtol`, `atol`, `max_step_count`, `exact_limit`, `probe` and `probe_count` of
            :class:`ContinuousFlow`, and arguments of `keras.Model`.

    Raises:
        TypeError: See :class:`ContinuousFlow` and :class:`FlowModel`.
        ValueError: If there are no such paths, coupling, or solver, or as for
            :class:`ContinuousFlow`.

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
        - Pooladian, A.-A. et al. (2023). "Multisample flow matching: Straightening flows with
          minibatch couplings." `arXiv:2304.14772 <https://arxiv.org/abs/2304.14772>`_
        - Tong, A. et al. (2023). "Improving and generalizing flow-based generative models with
          minibatch optimal transport." `arXiv:2302.00482 <https://arxiv.org/abs/2302.00482>`_
        - Albergo, M. S. & Vanden-Eijnden, E. (2023). "Building normalizing flows with stochastic
          interpolants." `arXiv:2209.15571 <https://arxiv.org/abs/2209.15571>`_
    """

    def __init__(
        self,
        velocity: keras.Layer,
        flow_layers: Iterable[FlowLayer] | None = None,
        base_distribution: Distribution | FlowModel | None = None,
        paths: str = "linear",
        coupling: str = "independent",
        context_encoder: keras.Layer | None = None,
        solver: str = "rk4",
        step_count: int = 16,
        seed: int | None = None,
        memory_efficient: bool = False,
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in _SOLVER_OPTIONS if name in kwargs}
        super().__init__(**kwargs)
        policy = self.dtype_policy
        if flow_layers is None:
            flow_layers = [Standardize(dtype=policy)]
        last = ContinuousFlow(
            velocity, solver=solver, step_count=step_count, dtype=policy, **options
        )
        self.paths = check_choice("paths", paths, PATHS)
        self.coupling = check_choice("coupling", coupling, COUPLINGS)
        self.seed = seed
        # Layers with the same seed would draw the same numbers as the model: an encoder would leave
        # contexts out at early times alone.
        other = None if seed is None else scramble(check_integer("seed", seed))
        self.seed_generator = SeedGenerator(other)
        self.flow = FlowModel(
            [*flow_layers, last],
            base_distribution,
            context_encoder,
            memory_efficient,
            name=f"{self.name}_flow",  # which warnings and errors show
            dtype=policy,
        )

    @property
    def _untrained(self) -> list[keras.Layer]:
        """The weights of what stands before the velocity, and of the base distribution."""
        others = [*self.flow._flow_layers_[:-1], self.flow.base_distribution]
        trained = [part for part in (self.continuous_flow, self.flow.context_encoder) if part]
        return leave_out(list_weights(others), list_weights(trained))

    def __call__(self, inputs: Tensors, context: Tensor | None = None, **kwargs: Any) -> Tensors:
        """Runs `call`, see there, as every Keras model does."""
        inputs, source = _split_source(inputs)
        inputs, context = split_context(inputs, context)
        self.flow.build_for(inputs, context)
        self.flow._prepare_context(inputs, context)
        return super().__call__(inputs, **given(context=context, source=source), **kwargs)

    def build(self, input_shape: Shape) -> None:
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
        self,
        inputs: Tensor,
        context: Tensor | None = None,
        source: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Draws a point of a path to each instance, and computes what it contributes to the loss.

        Args:
            inputs: The data, `[batch, ...]`, or a dictionary, as `fit` takes it.
            context: Their context, if the flow is conditional.
            source: The latents where their paths begin, `[batch, ...]`. Drawn if omitted.
            training: Whether the model is being trained.

        Returns:
            The mean squared differences between velocities, `[batch]`.

        Raises:
            ValueError: If `source` does not have the shape of latents.
        """
        if isinstance(inputs, dict):  # as in steps that JAX takes
            inputs, source = _split_source(inputs)
        x, context = split_context(inputs, context)
        for layer in self.flow._flow_layers_[:-1]:
            x = layer(x)[0]
        data = ops.stop_gradient(ops.cast(x, self.continuous_flow.log_det_dtype))
        codes = self.flow.encode(context, training)
        if source is None:
            source = self._draw_source(data, context, codes)
        elif tuple(source.shape[1:]) != tuple(data.shape[1:]):
            raise ValueError(
                "`source` should hold latents, of shape (batch, "
                f"{', '.join(map(str, data.shape[1:]))}). "
                f"Received: source.shape={tuple(source.shape)}"
            )
        source = ops.stop_gradient(ops.cast(source, data.dtype))
        count = ops.shape(data)[0]
        time = draw_uniform((count, 1), data.dtype, self.seed_generator)
        times = ops.reshape(time, (-1, *(1 for _ in data.shape[1:])))
        points, expected = PATHS[self.paths](source, data, times)
        velocity = self.continuous_flow._unchecked_velocity(points, time, codes, training)
        return mean(to_rows(ops.square(velocity - expected)), -1)

    def _draw_source(self, data: Tensor, context: Tensor | None, codes: Tensor | None) -> Tensor:
        """Draws a point of the base distribution for each instance, as they are coupled."""
        distribution = self.flow.base_distribution
        arguments = given(context=codes) if distribution.accepts_context else {}
        source = distribution.sample(ops.shape(data)[0], **arguments)
        source = ops.stop_gradient(ops.reshape(ops.cast(source, data.dtype), ops.shape(data)))
        if self.coupling == "optimal":
            source = couple_optimally(source, data, context, self.seed_generator)
        return source

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Describes what `call` returns for symbolic `inputs`."""
        return keras.KerasTensor(inputs.shape[:1], dtype=self.continuous_flow.log_det_dtype)

    def compile(
        self, optimizer: str | keras.Optimizer = "rmsprop", loss: Any = None, **kwargs: Any
    ) -> None:
        """Configures training; see `keras.Model.compile`.

        Args:
            optimizer: The optimiser.
            loss: `None`, since the model has a loss of its own.
            **kwargs: Other arguments of `keras.Model.compile`, but no metrics, which would be given
                losses instead of predictions or densities.

        Raises:
            ValueError: If there is a loss, or a metric.
        """
        if loss is not None:
            raise ValueError(
                f"Model '{self.name}' has a loss of its own, and should be compiled without one. "
                f"Received: loss={loss}"
            )
        for name in ("metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(
                    f"Model '{self.name}' should be compiled without metrics, as its steps compute "
                    "no densities. To have those of densities, compile `model.flow` with them, and "
                    f"call its `evaluate`. Received: {name}={kwargs[name]}"
                )
        super().compile(optimizer, **kwargs)
        # It is flows that know densities and draw samples, unless they are compiled themselves.
        if not self.flow.compiled:
            for flow in (self.flow, *self._flows.values()):
                flow.jit_compile = self.jit_compile

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self, x: Data = None, y: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the velocity; see `keras.Model.fit`.

        Averages of the weights over the last steps often do better than the last weights. Keras has
        them: with the optimizer `keras.optimizers.Adam(use_ema=True, ema_momentum=0.999)`, they are
        the weights of the model when `fit` returns.

        Args:
            x: The data: an array, a data frame, `{"inputs": …, "context": …}`, or a data set that
                yields such. A dictionary can also have a `"source"`: the latents where the paths to
                the instances begin, as the velocity sees them and `flow.invert` takes them. Then
                pairs are as they are given, whatever the coupling.
            y: `None`, since there are no targets.
            *args: Further arguments of `keras.Model.fit`.
            **kwargs: Likewise.

        Returns:
            The `keras.callbacks.History`.
        """
        return super().fit(x, y, *args, **kwargs)

    def reflow(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the velocity further, on latents and the samples that the flow maps them to.

        Paths of a flow do not cross, as those between independent pairs do, so that the velocity
        has less to average over, and the paths of the new flow are straighter: few steps suffice
        for samples. With many steps, they are no better than those that it was trained on. Layers
        before the velocity that add noise, such as a :class:`UniformDequantization`, add it anew.

        Args:
            sample_count: The number of pairs, at least 1.
            seed: See :meth:`sample`.
            context: See :meth:`sample`.
            steps: See :meth:`sample`.
            solver: See :meth:`sample`.
            guidance: See :meth:`sample`. The new flow has it built in.
            **kwargs: Arguments of `fit`, such as `epochs`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If the model is not compiled, or as for :meth:`sample`.

        References:
            - Liu, X., Gong, C. & Liu, Q. (2023). "Flow straight and fast: Learning to generate and
              transfer data with rectified flow." `arXiv:2209.03003
              <https://arxiv.org/abs/2209.03003>`_
        """
        check_integer("sample_count", sample_count, minimum=1)
        if not self.compiled:
            raise ValueError(
                f"Model '{self.name}' should be compiled before it is trained on its own pairs. "
                "Received: compiled=False"
            )
        with self._solve_with(solver, steps, guidance, context) as flow:
            context = flow._spread(context, sample_count)
            source, x = flow._sample(flow._pair, sample_count, seed, context)
        data = given(inputs=x, source=source, context=context)
        return self.fit({name: ops.convert_to_numpy(part) for name, part in data.items()}, **kwargs)

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the mean over the instances; see `keras.Model.compute_loss`."""
        self._check_targets(y)
        return average_losses(y_pred, sample_weight, self.losses)

    @property
    def _orders(self) -> Any:
        """The order of columns, which methods of the flow have to know, too."""
        return self.flow._orders

    @_orders.setter
    def _orders(self, orders: Any) -> None:
        self.flow._orders = orders

    @contextlib.contextmanager
    def _during_fit(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        warn_if_discrete(self.flow, arguments["x"])
        warn_of_scales(self.flow, arguments["x"])
        with super()._during_fit(arguments) as arguments:
            yield arguments
        self.flow._note_training()

    def _check_inputs(self, inputs: Data) -> None:
        inputs, source = _split_source(inputs)
        self.flow._check_inputs(inputs)
        if source is not None:
            check_rows(inputs["inputs"], "source", source)

    def _check_targets(
        self, y: Tensor | None, class_weight: dict[int, float] | None = None
    ) -> None:
        # Also where the base distribution takes labels, which paths do not.
        reject_targets(self.name, y, class_weight)

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Adapts what precedes the velocity to data; see :meth:`FlowModel.adapt`."""
        self.flow.adapt(_split_source(data)[0], batch_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        serialize = keras.saving.serialize_keras_object
        last = self.continuous_flow
        return {
            **super().get_config(),
            "velocity": serialize(last.velocity),
            "flow_layers": [serialize(layer) for layer in self.flow._flow_layers_[:-1]],
            "base_distribution": serialize(self.flow.base_distribution),
            "paths": self.paths,
            "coupling": self.coupling,
            "context_encoder": serialize(self.flow.context_encoder),
            "solver": last.solver,
            "step_count": last.step_count,
            **{name: getattr(last, name) for name in _SOLVER_OPTIONS},
            "seed": self.seed,
            "memory_efficient": self.flow.memory_efficient,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "FlowMatchingModel":
        """Makes a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: See `keras.Model.from_config`.

        Returns:
            A model with the same configuration and weights of its own.
        """
        names = "velocity", "flow_layers", "base_distribution", "context_encoder"
        return cls(**make_parts(config, *names, objects=custom_objects))
