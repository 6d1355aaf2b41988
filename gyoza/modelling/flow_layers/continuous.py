"""Flows in continuous time, which follow the solution of a differential equation."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.backend import draw_normal, draw_uniform
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.functions.checks import check_integer, check_positive
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.solvers import check_solver, solve, solve_adaptively
from gyoza.modelling.functions.traces import compute_quadratic_forms, make_units
from gyoza.modelling.seeds import SeedGenerator
from gyoza.typing import Shape, Tensor

__all__ = ["ContinuousFlow"]

_PROBES = ("rademacher", "normal")


@keras.saving.register_keras_serializable(package="gyoza")
class ContinuousFlow(ConditionalFlowLayer):
    r"""Moves points along the solution of a differential equation whose velocity is a network.

    Latents are the points at the time 0, and data those at the time 1. With a velocity :math:`v`,
    outputs :math:`z` of inputs :math:`x` are :math:`x(0)`, where

    .. math::
        \frac{d x(t)}{d t} = v(x(t), t), \qquad x(1) = x, \qquad
        \log \left| \det \frac{\partial z}{\partial x} \right| =
        - \int_0^1 \operatorname{tr} \frac{\partial v}{\partial x}(x(t), t) \, d t.

    The inverse solves the same equation from 0 to 1. Any network can be the velocity, as solutions
    do not cross; the smoother it is, the fewer steps suffice. Inverses are exact up to the error of
    the solver, and not up to rounding as in other layers.

    Up to `exact_limit` dimensions, the trace is exact: the network is differentiated along each
    dimension. Beyond, it is estimated without bias from random vectors (Hutchinson's estimator),
    the same ones along a solution, and log-determinants are then random numbers, each time others.

    Args:
        velocity: The network :math:`v`: a Keras layer or model of the list `[x, time]`, or `[x,
            time, context]` with a context, whose outputs have the shape of `x`. The time has the
            shape `[batch, 1]`. A :class:`~gyoza.modelling.conditioners.VelocityMLP` is one.
        shape: See :class:`FlowLayer`.
        axes: All axes but the batch axis, in their order; see :class:`FlowLayer`.
        solver: `"euler"`, `"midpoint"` or `"rk4"`, with `step_count` steps of equal length, or
            `"dopri5"`, whose steps suit the tolerances. On JAX, the last one cannot be
            differentiated: train with another, or by :class:`FlowMatchingModel`.
        step_count: The number of steps. Not used by `"dopri5"`.
        rtol: The relative tolerance of `"dopri5"`.
        atol: The absolute tolerance of `"dopri5"`.
        max_step_count: The most steps that `"dopri5"` tries. Where they do not suffice, results are
            NaN.
        exact_limit: The largest number of dimensions for which traces are exact.
        probe: How random vectors are distributed: `"rademacher"` (-1 or 1) or `"normal"`.
        probe_count: The number of random vectors.
        seed: Seed of random vectors.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `velocity` is not a Keras layer.
        ValueError: If there is no such solver or probe, a tolerance or number is not positive, or
            the velocity does not have the shape of the inputs.

    Example:

        >>> velocity = gyoza.modelling.conditioners.VelocityMLP([64, 64])
        >>> layer = gyoza.modelling.flow_layers.ContinuousFlow(velocity)
        >>> outputs, log_det = layer(np.array([[1.0, 2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)  # a new velocity is zero
        array([[1., 2.]], dtype=float32)

    References:
        - Chen, R. T. Q., Rubanova, Y., Bettencourt, J. & Duvenaud, D. (2018). "Neural ordinary
          differential equations." `arXiv:1806.07366 <https://arxiv.org/abs/1806.07366>`_
        - Grathwohl, W. et al. (2019). "FFJORD: Free-form continuous dynamics for scalable
          reversible generative models." `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
    """

    recomputable = False

    def __init__(
        self,
        velocity: keras.Layer,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        solver: str = "rk4",
        step_count: int = 16,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_step_count: int = 1000,
        exact_limit: int = 32,
        probe: str = "rademacher",
        probe_count: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        if not isinstance(velocity, keras.Layer):
            raise TypeError(
                "`velocity` should be a Keras layer or model. "
                f"Received: velocity={velocity} (of type {type(velocity)})"
            )
        if probe not in _PROBES:
            raise ValueError(f"`probe` should be one of {_PROBES}. Received: probe={probe!r}")
        self.velocity = velocity
        self.solver = check_solver(solver)
        self.step_count = check_integer("step_count", step_count, minimum=1)
        self.rtol = float(check_positive("rtol", rtol))
        self.atol = float(check_positive("atol", atol))
        self.max_step_count = check_integer("max_step_count", max_step_count, minimum=1)
        self.exact_limit = check_integer("exact_limit", exact_limit)
        self.probe = probe
        self.probe_count = check_integer("probe_count", probe_count, minimum=1)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the velocity; see :meth:`FlowLayer.build`."""
        super().build(input_shape)
        if self._axes_ != list(range(1, 1 + len(self._axes_))):
            raise ValueError(
                "`axes` should be all axes but the batch axis of a continuous flow, whose velocity "
                f"sees whole instances. Received: axes={self._axes_}"
            )
        x = keras.KerasTensor((None, *self._shape_), self.compute_dtype)
        parts = [x, keras.KerasTensor((None, 1), self.compute_dtype)]
        if self.context_shape is not None:
            parts.append(keras.KerasTensor((None, *self.context_shape), self.compute_dtype))
        outputs = self.velocity(parts)
        received = getattr(outputs, "shape", None)
        if received is None or tuple(received)[1:] != tuple(self._shape_):
            raise ValueError(
                f"`velocity` should have outputs of the shape of its inputs, {tuple(x.shape)}. "
                f"Received: outputs of shape {received}"
            )

    def compute_velocity(self, x: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the velocity.

        Args:
            x: Points, `[batch, ...]`.
            time: The time, a scalar, or that of each point, `[batch, 1]`.
            context: Their context, `[batch, ...]`, if there is one.

        Returns:
            The velocities, in the shape and dtype of `x`.
        """
        count = ops.shape(x)[0]
        time = ops.broadcast_to(ops.cast(time, self.compute_dtype), (count, 1))
        parts = [ops.cast(x, self.compute_dtype), time]
        if context is not None:
            parts.append(ops.cast(context, self.compute_dtype))
        return ops.cast(self.velocity(parts), x.dtype)

    def _follow(
        self, x: Tensor, start: float, stop: float, context: Tensor | None, has_log_det: bool
    ) -> tuple[Tensor, Tensor]:
        """Solves the equation, and integrates the trace on the way."""
        context = None if context is None else ops.cast(context, self.compute_dtype)
        vectors = self._choose_vectors(x) if has_log_det else None

        def move(time: Tensor, x: Tensor, *log_det: Tensor) -> tuple[Tensor, ...]:
            if vectors is None:
                return (self.compute_velocity(x, time, context),)
            copies = context
            if context is not None:
                lengths = (vectors.shape[0], *(1 for _ in context.shape[1:]))
                copies = ops.tile(context, lengths)
            velocity, forms = compute_quadratic_forms(
                lambda x: self.compute_velocity(x, time, copies), x, vectors
            )
            trace = ops.sum(forms, axis=0)
            return velocity, trace if self._has_exact_trace else trace / self.probe_count

        state: tuple[Tensor, ...] = (ops.cast(x, self.log_det_dtype),)
        if has_log_det:
            state = *state, ops.zeros(ops.shape(x)[:1], self.log_det_dtype)
        if self.solver == "dopri5":
            state, _ = solve_adaptively(
                move, state, start, stop, self.rtol, self.atol, self.max_step_count
            )
        else:
            state = solve(move, state, start, stop, self.solver, self.step_count)
        if context is not None:
            state = tuple(mark_rows(part, context) for part in state)
        return ops.cast(state[0], x.dtype), state[-1]

    @property
    def _has_exact_trace(self) -> bool:
        return self.dimension_count <= self.exact_limit

    def _choose_vectors(self, x: Tensor) -> Tensor:
        """Returns the vectors by which the trace is computed, `[vectors, batch, ...]`."""
        x = ops.cast(x, self.log_det_dtype)
        if self._has_exact_trace:
            return make_units(x)
        shape = (self.probe_count, *ops.shape(x))
        if self.probe == "normal":
            return draw_normal(shape, x.dtype, self.seed_generator)
        draw = draw_uniform(shape, x.dtype, self.seed_generator)
        return ops.where(draw < 0.5, -ops.ones_like(draw), ops.ones_like(draw))

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Goes from data, at the time 1, to latents; see :meth:`FlowLayer.call`."""
        return self._follow(inputs, 1.0, 0.0, context, has_log_det=True)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Goes from latents, at the time 0, to data; see :meth:`FlowLayer.invert`."""
        return self._follow(outputs, 0.0, 1.0, context, has_log_det=False)[0]

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.invert_and_log_det`; solves the equation once."""
        inputs, log_det = self._follow(outputs, 0.0, 1.0, context, has_log_det=True)
        return inputs, -log_det

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "velocity": keras.saving.serialize_keras_object(self.velocity),
            "solver": self.solver,
            "step_count": self.step_count,
            "rtol": self.rtol,
            "atol": self.atol,
            "max_step_count": self.max_step_count,
            "exact_limit": self.exact_limit,
            "probe": self.probe,
            "probe_count": self.probe_count,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ContinuousFlow":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        config = dict(config)
        config["velocity"] = keras.saving.deserialize_keras_object(config["velocity"])
        return cls(**config)
