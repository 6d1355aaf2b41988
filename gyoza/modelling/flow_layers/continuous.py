"""Flows in continuous time, which follow the solution of a differential equation."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_normal, draw_uniform
from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.conditioners.base import run_within
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.functions.adjoints import solve_with_adjoint, solve_with_recomputation
from gyoza.modelling.functions.arguments import make_parts
from gyoza.modelling.functions.checks import (
    check_instance,
    check_integer,
    check_number_not_negative,
    check_positive_number,
    check_time,
)
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.solvers import State, check_solver
from gyoza.modelling.functions.tensors import mean
from gyoza.modelling.functions.traces import compute_products, compute_quadratic_forms, make_units
from gyoza.modelling.seeds import SeedGenerator
from gyoza.typing import Shape, Tensor

__all__ = ["ContinuousFlow", "refine_steps"]

_PROBES = ("rademacher", "normal")
# By how much tensors of times may be outside of [0, 1], as in the last step of a solver.
_ROUNDING = 1e-5
# Whether, in this thread, equations are solved by shorter steps than those of the layers.
_IS_REFINED = contextvars.ContextVar("is_refined", default=False)


@contextlib.contextmanager
def refine_steps() -> Iterator[None]:
    """Lets continuous flows take twice as many steps, or have tolerances a tenth as large."""
    token = _IS_REFINED.set(True)
    try:
        yield
    finally:
        _IS_REFINED.reset(token)


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
    the same ones along a solution, and log-determinants are then random numbers, each time others;
    see :meth:`estimate_log_det`.

    Gradients need little memory, however deep the network and many the steps: with steps of equal
    length, some hundred points are kept at most, and steps are taken again, twice if there are more
    than 64. Gradients of `"dopri5"` solve the adjoint equation, keep the result alone, and have
    errors like the solution; JAX cannot differentiate them again.

    The velocity is the same function throughout a solution: dropout, for example, acts where
    :class:`FlowMatchingModel` trains it, and nowhere else. Training by likelihood needs its second
    derivatives, which `keras.layers.LayerNormalization` does not have right on TensorFlow.

    Args:
        velocity: The network :math:`v`: a Keras layer or model of the list `[x, time]`, or `[x,
            time, context]` with a context, whose outputs have the shape of `x`. The time has the
            shape `[batch, 1]`. A :class:`~gyoza.modelling.conditioners.VelocityMLP` is one.
        shape: See :class:`FlowLayer`.
        axes: All axes but the batch axis, in their order; see :class:`FlowLayer`.
        solver: `"euler"`, `"midpoint"` or `"rk4"`, with `step_count` steps of equal length, or
            `"dopri5"`, whose steps suit the tolerances.
        step_count: The number of steps. Not used by `"dopri5"`.
        rtol: The relative tolerance of `"dopri5"`.
        atol: The absolute tolerance of `"dopri5"`.
        max_step_count: The most steps that `"dopri5"` tries. Where they do not suffice, results of
            the batch are NaN.
        exact_limit: The largest number of dimensions for which traces are exact.
        probe: How random vectors are distributed: `"rademacher"` (-1 or 1) or `"normal"`.
        probe_count: The number of random vectors.
        kinetic: The weight, in the loss of training by likelihood, of the mean of
            :math:`\int \| v \|^2 \, d t`. It makes paths straight, so that few steps suffice.
        jacobian: Likewise of :math:`\int \| \partial v / \partial x \|_F^2 \, d t`.
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
        - Finlay, C., Jacobsen, J.-H., Nurbekyan, L. & Oberman, A. M. (2020). "How to train your
          neural ODE: the world of Jacobian and kinetic regularization." `arXiv:2002.02798
          <https://arxiv.org/abs/2002.02798>`_
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
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        check_instance("velocity", velocity, keras.Layer, "a Keras layer or model")
        if probe not in _PROBES:
            raise ValueError(f"`probe` should be one of {_PROBES}. Received: probe={probe!r}")
        self.velocity = velocity
        self.solver = check_solver(solver)
        self.step_count = check_integer("step_count", step_count, minimum=1)
        self.rtol = check_positive_number("rtol", rtol)
        self.atol = check_positive_number("atol", atol)
        self.max_step_count = check_integer("max_step_count", max_step_count, minimum=1)
        self.exact_limit = check_integer("exact_limit", exact_limit)
        self.probe = probe
        self.probe_count = check_integer("probe_count", probe_count, minimum=1)
        self.kinetic = check_number_not_negative("kinetic", kinetic)
        self.jacobian = check_number_not_negative("jacobian", jacobian)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the velocity; see :meth:`FlowLayer.build`."""
        super().build(input_shape)
        rank = 1 + len(self._axes_) if input_shape is None else len(input_shape)
        if self._axes_ != list(range(1, rank)):
            raise ValueError(
                "`axes` should be all axes but the batch axis of a continuous flow, whose velocity "
                f"sees whole instances. Received: axes={self._axes_}, input_shape={input_shape}"
            )
        lengths = dict(zip(self._axes_, self._shape_, strict=True))
        self.input_spec = keras.InputSpec(ndim=rank, axes=lengths)
        x = keras.KerasTensor((None, *self._shape_), self.compute_dtype)
        parts = [x, keras.KerasTensor((None, 1), self.compute_dtype)]
        if self.context_shape is not None:
            parts.append(keras.KerasTensor((None, *self.context_shape), self.compute_dtype))
        try:
            outputs = self.velocity(parts)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                "`velocity` should be a layer of the list [x, time], or [x, time, context]. "
                f"Received: velocity={self.velocity}, which raises: {error}"
            ) from error
        received = getattr(outputs, "shape", None)
        if received is None or tuple(received) != tuple(x.shape):
            raise ValueError(
                f"`velocity` should have outputs of the shape of its inputs, {tuple(x.shape)}. "
                f"Received: outputs of shape {received}"
            )

    def compute_velocity(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor | None = None,
        training: bool | None = False,
    ) -> Tensor:
        """Computes the velocity.

        Args:
            x: Points, `[batch, ...]`.
            time: The time in [0, 1], a scalar, or that of each point, `[batch, 1]`.
            context: Their context, `[batch, ...]`, if there is one.
            training: Whether the network is being trained, as by flow matching. Not so while the
                equation is solved, in which it has to be the same function at all times.

        Returns:
            The velocities, in the shape and dtype of `x`. They are NaN where a tensor of times is
            outside of [0, 1] by more than rounding.

        Raises:
            ValueError: If the time is a number outside of [0, 1], or an array of NumPy with one.
        """
        if not hasattr(time, "shape") or isinstance(time, np.ndarray | np.generic):
            check_time("time", time)
            return self._run_velocity(x, time, context, training)
        time = ops.cast(time, self.log_det_dtype)
        marks = ops.where(ops.abs(time - 0.5) <= 0.5 + _ROUNDING, 0.0, math.nan)
        marks = ops.broadcast_to(marks, (ops.shape(x)[0], 1))
        return mark_rows(self._run_velocity(x, time, context, training), marks)

    def _run_velocity(
        self, x: Tensor, time: Tensor, context: Tensor | None = None, training: bool | None = False
    ) -> Tensor:
        """Computes the velocity at a time that is known to be in [0, 1]."""
        time = ops.broadcast_to(ops.cast(time, self.compute_dtype), (ops.shape(x)[0], 1))
        parts = [ops.cast(x, self.compute_dtype), time]
        if context is not None:
            parts.append(ops.cast(context, self.compute_dtype))
        if type(self.velocity) is VelocityMLP:  # which does not depend on `training`
            return ops.cast(run_within(self, self.velocity, parts), x.dtype)
        return ops.cast(self.velocity(parts, training=training), x.dtype)

    @property
    def _unchecked_velocity(self) -> Callable[..., Tensor]:
        """What computes velocities without a check of times, unless a subclass has its own."""
        is_own = type(self).compute_velocity is ContinuousFlow.compute_velocity
        return self._run_velocity if is_own else self.compute_velocity

    def _follow(
        self,
        x: Tensor,
        start: float,
        stop: float,
        context: Tensor | None,
        has_log_det: bool,
        has_penalty: bool = False,
    ) -> tuple[Tensor, ...]:
        """Solves the equation, and integrates the trace and the penalty on the way."""
        context = None if context is None else ops.cast(context, self.compute_dtype)
        vectors = self._choose_vectors(x) if has_log_det else None
        combine = ops.sum if self._has_exact_trace else mean

        def move(time: Tensor, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            if vectors is None:
                return (self._unchecked_velocity(x, time, *others),)
            velocity, products = compute_products(
                lambda x, *others: self._unchecked_velocity(x, time, *others), x, vectors, others
            )
            trace = combine(compute_quadratic_forms(products, vectors), axis=0)
            if not has_penalty:
                return velocity, trace
            kinetic = compute_quadratic_forms(velocity[None], velocity[None])[0]
            of_matrix = combine(compute_quadratic_forms(products, products), axis=0)
            return velocity, trace, self.kinetic * kinetic + self.jacobian * of_matrix

        integrals = has_log_det + has_penalty
        zeros = ops.zeros(ops.shape(x)[:1], self.log_det_dtype)
        state = ops.cast(x, self.log_det_dtype), *(zeros for _ in range(integrals))
        others = [] if context is None else [context]
        state = self._solve(move, state, others, start, stop)
        if context is not None:
            state = tuple(mark_rows(part, context) for part in state)
        return ops.cast(state[0], x.dtype), *state[1:]

    def _solve(
        self,
        move: Callable[..., State],
        state: State,
        others: Sequence[Tensor],
        start: float,
        stop: float,
    ) -> State:
        """Solves an equation in which the velocity is that of the network with its weights."""
        trained = self.velocity.trainable_variables
        fixed = [(v, ops.convert_to_tensor(v)) for v in self.velocity.non_trainable_variables]

        def field(time: Tensor, values: Sequence[Tensor], state: State) -> State:
            weights = zip(trained, values[len(others) :], strict=True)
            with keras.StatelessScope(state_mapping=[*fixed, *weights]):
                return move(time, state[0], *values[: len(others)])

        values = [*others, *map(ops.convert_to_tensor, trained)]
        is_refined = _IS_REFINED.get()
        if self.solver == "dopri5":
            unit = 0.1 if is_refined else 1.0
            tolerances = unit * self.rtol, unit * self.atol, self.max_step_count
            return solve_with_adjoint(field, state, values, start, stop, *tolerances)
        step_count = 2 * self.step_count if is_refined else self.step_count
        return solve_with_recomputation(field, state, values, start, stop, self.solver, step_count)

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

    def call(
        self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Goes from data, at the time 1, to latents; see :meth:`FlowLayer.call`.

        In training, the penalties are added to the loss.
        """
        has_penalty = bool(training) and self.kinetic + self.jacobian > 0.0
        outputs, log_det, *penalty = self._follow(inputs, 1.0, 0.0, context, True, has_penalty)
        if has_penalty:
            self.add_loss(-mean(penalty[0]))  # negative, as time runs backward
        return outputs, log_det

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Goes from latents, at the time 0, to data; see :meth:`FlowLayer.invert`."""
        return self._follow(outputs, 0.0, 1.0, context, False)[0]

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.invert_and_log_det`; solves the equation once."""
        inputs, log_det = self._follow(outputs, 0.0, 1.0, context, True)
        return inputs, -log_det

    def transport(
        self, x: Tensor, start: float = 0.0, stop: float = 1.0, context: Tensor | None = None
    ) -> Tensor:
        """Moves points from one time to another, as for pictures of their paths.

        Args:
            x: The points at the time `start`, `[batch, ...]`.
            start: The time at which they are given, in [0, 1].
            stop: The time at which they are asked for, which may be earlier.
            context: Their context, if there is one.

        Returns:
            The points at the time `stop`, in the shape of `x`. Solvers of a fixed number of steps
            take all of them.

        Raises:
            ValueError: If a time is outside of [0, 1], points or contexts do not have the shape
                that the layer was built for, or it is not built.

        Example:

            >>> velocity = gyoza.modelling.conditioners.VelocityMLP([64])
            >>> layer = gyoza.modelling.flow_layers.ContinuousFlow(velocity)
            >>> z, _ = layer(np.ones([2, 3], "float32"))
            >>> layer.transport(z, stop=0.5).shape == (2, 3)
            True
        """
        check_time("start", start, is_one=True)
        check_time("stop", stop, is_one=True)
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' should be built before points are moved: call it once. "
                "Received: built=False"
            )
        x = ops.convert_to_tensor(x, self.compute_dtype)
        if len(x.shape) < 2 or tuple(x.shape[1:]) != tuple(self._shape_):
            raise ValueError(
                f"`x` should have shape (batch, {', '.join(map(str, self._shape_))}). "
                f"Received: x.shape={tuple(x.shape)}"
            )
        context = self._prepare_context(x, context)
        context = None if context is None else ops.convert_to_tensor(context, self.compute_dtype)
        return self._follow(x, start, stop, context, False)[0]

    def estimate_log_det(
        self, inputs: Tensor, context: Tensor | None = None, draw_count: int = 16
    ) -> tuple[Tensor, Tensor]:
        """Averages log-determinants over random vectors, with the standard error of their mean.

        Args:
            inputs: The data, `[batch, ...]`.
            context: Their context, if there is one.
            draw_count: How often `call` is executed, each time with new random vectors; at least 2.

        Returns:
            The pair of mean log-determinants and of their standard errors, the standard deviation
            over draws divided by the root of their number, `[batch]`. Errors are zero up to
            rounding where traces are exact.

        Raises:
            ValueError: If there are less than two draws.

        Example:

            >>> layer = gyoza.modelling.flow_layers.ContinuousFlow(
            ...     gyoza.modelling.conditioners.VelocityMLP([64]), exact_limit=0
            ... )
            >>> log_det, error = layer.estimate_log_det(np.ones([2, 3], "float32"), draw_count=4)
            >>> keras.ops.convert_to_numpy(error)  # a new velocity is zero
            array([0., 0.], dtype=float32)
        """
        check_integer("draw_count", draw_count, minimum=2)
        of_context = {} if context is None else {"context": context}
        draws = ops.stack([self(inputs, **of_context)[1] for _ in range(draw_count)])
        average = mean(draws, 0)
        variance = mean(ops.square(draws - average), 0) / (draw_count - 1)
        return average, ops.sqrt(variance)

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
            "kinetic": self.kinetic,
            "jacobian": self.jacobian,
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
        return cls(**make_parts(config, "velocity"))
