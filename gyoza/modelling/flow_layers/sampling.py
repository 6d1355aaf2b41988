"""Samples of a continuous flow by any solver, and with guidance."""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from gyoza.backend import CHANGES
from gyoza.modelling.flow_layers.continuous import ContinuousFlow
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_integer, is_between
from gyoza.modelling.functions.solvers import check_solver
from gyoza.typing import Seed, Shape, Tensor

__all__ = ["Sampling"]

# Held while samples are drawn with a guidance, so that other threads do not change it.
_LOCK = threading.RLock()


class _GuidedVelocity(keras.Layer):
    r"""The velocity :math:`v(x, t) + w (v(x, t; c) - v(x, t))` of samples with guidance :math:`w`.

    Args:
        velocity: The network :math:`v`; see :class:`ContinuousFlow`.
        leave_out: The function of encoded contexts that returns what missing ones are encoded as.
        **kwargs: Arguments of `keras.Layer`.

    Attributes:
        guidance: The variable :math:`w`, so that other values need no other compiled code.
    """

    def __init__(
        self, velocity: keras.Layer, leave_out: Callable[[Tensor], Tensor], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.velocity = velocity
        self.leave_out = leave_out
        self.guidance = self.add_weight(shape=(), trainable=False, name="guidance")

    def build(self, input_shape: list[Shape]) -> None:
        """Builds nothing: the velocity has its weights."""
        return  # AutoGraph cannot convert a function without a statement

    def call(self, inputs: list[Tensor]) -> Tensor:
        """Computes the velocities of points, given their times and encoded contexts."""
        x, time, context = inputs
        without = self.velocity([x, time, self.leave_out(context)])
        return without + self.guidance * (self.velocity(inputs) - without)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Returns the shape of velocities, which is that of the points."""
        return tuple(input_shape[0])


class Sampling:
    """The part of a flow-matching model that knows densities and draws samples.

    A class that derives from it is a `keras.Model`, and has a flow that ends with a
    :class:`ContinuousFlow`.
    """

    flow: FlowModel
    dtype_policy: keras.DTypePolicy

    @property
    def continuous_flow(self) -> Any:
        """The last layer of `flow`, a :class:`ContinuousFlow`, which moves points in time.

        Its `transport` moves them part of the way, and its `estimate_log_det` tells how uncertain
        log-determinants are beyond `exact_limit`.
        """
        return self.flow._flow_layers_[-1]

    def log_prob(self, x: Tensor, context: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Computes the logarithm of the density of data; see :meth:`FlowModel.log_prob`."""
        return self.flow.log_prob(x, context, **kwargs)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps latents to data; see :meth:`FlowModel.invert`."""
        return self.flow.invert(outputs, context)

    def check_steps(
        self, x: Tensor, context: Tensor | None = None, tolerance: float | None = None
    ) -> float:
        """Compares densities with those by shorter steps; see :meth:`FlowModel.check_steps`."""
        return self.flow.check_steps(x, context, tolerance)

    def probability_integral_transform(
        self, x: Tensor, context: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Computes how likely each dimension is to be smaller, given those before it.

        See :meth:`FlowModel.probability_integral_transform`. It is as exact as the steps of the
        solver. A velocity of more dimensions than one makes flows that are not triangular, as a
        rule.
        """
        return self.flow.probability_integral_transform(x, context, **kwargs)

    def cdf(self, x: Tensor, context: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Computes the distribution function of one dimension; see :meth:`FlowModel.cdf`."""
        return self.flow.cdf(x, context, **kwargs)

    def quantile(self, levels: Tensor, context: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Computes quantiles of one dimension; see :meth:`FlowModel.quantile`."""
        return self.flow.quantile(levels, context, **kwargs)

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Writes the flow to a file that is run without gyoza; see :meth:`FlowModel.export`."""
        return self.flow.export(filepath, *args, **kwargs)

    def sample(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Draws new data.

        Args:
            sample_count: The number of instances.
            seed: See :meth:`FlowModel.sample`.
            context: See :meth:`FlowModel.sample`.
            steps: The number of steps, where it is not that of the constructor. Not for `"dopri5"`.
            solver: The solver, where it is not that of the constructor.
            guidance: How far velocities are led from those without a context to those with it: 1
                for all the way, as without guidance, and more for samples that are more typical of
                their context. The `context_encoder` has to be an
                :class:`~gyoza.modelling.conditioners.OptionalContext`; see there.
            **kwargs: Other arguments of :meth:`FlowModel.sample`.

        Returns:
            The samples, `[sample_count, ...]`.

        Raises:
            ValueError: If there is no such solver, `steps` is not a positive integer, or is given
                for `"dopri5"`, guidance is not finite, or given without a context or without that
                encoder. Or as for :meth:`FlowModel.sample`.
        """
        with self._solve_with(solver, steps, guidance, context) as flow:
            return flow.sample(sample_count, seed, context, **kwargs)

    def sample_and_log_prob(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Draws new data with their log-densities.

        They are those of the flow that is guided, too, if there is guidance, and as exact as the
        steps of the solver.

        Args:
            sample_count: See :meth:`sample`.
            seed: See :meth:`sample`.
            context: See :meth:`sample`.
            steps: See :meth:`sample`.
            solver: See :meth:`sample`.
            guidance: See :meth:`sample`.
            **kwargs: See :meth:`sample`.

        Returns:
            The samples, `[sample_count, ...]`, and their log-densities, `[sample_count]`.

        Raises:
            ValueError: See :meth:`sample`.
        """
        with self._solve_with(solver, steps, guidance, context) as flow:
            return flow.sample_and_log_prob(sample_count, seed, context, **kwargs)

    @contextlib.contextmanager
    def _solve_with(
        self, solver: str | None, steps: int | None, guidance: float | None, context: Tensor | None
    ) -> Iterator[FlowModel]:
        """Yields the flow, or one with the same weights that is solved in another way."""
        if steps is not None:
            steps = check_integer("steps", steps, minimum=1)
        if solver is not None:
            check_solver(solver)
        if steps is not None and (solver or self.continuous_flow.solver) == "dopri5":
            raise ValueError(
                "`steps` should be omitted for solver 'dopri5', whose steps suit its tolerances. "
                f"Received: steps={steps}"
            )
        encoder = self.flow.context_encoder
        if guidance is not None and (context is None or not hasattr(encoder, "leave_out")):
            raise ValueError(
                "`guidance` should be given with a `context`, to a model whose `context_encoder` "
                f"is an `OptionalContext`. Received: guidance={guidance}, context={context}, "
                f"context_encoder={encoder}"
            )
        if guidance is not None and not is_between(-math.inf, guidance, math.inf):
            raise ValueError(
                f"`guidance` should be a finite number. Received: guidance={guidance!r}"
            )
        way = solver, steps, guidance is not None
        if not self.flow.built or way == (None, None, False):
            yield self.flow
            return
        key = *way, CHANGES.count
        with _LOCK:
            if key not in self._flows:
                for old in [old for old in self._flows if old[-1] != CHANGES.count]:
                    del self._flows[old]
                self._flows[key] = self._make_flow(*way)
            flow = self._flows[key]
            flow._orders = self.flow._orders
            if guidance is not None:
                flow._flow_layers_[-1].velocity.guidance.assign(guidance)
                yield flow
                return
        yield flow

    def _make_flow(self, solver: str | None, step_count: int | None, is_guided: bool) -> FlowModel:
        """Makes a flow of the same layers, but for the last, which has the same velocity."""
        policy, encoder = self.dtype_policy, self.flow.context_encoder
        config = self.continuous_flow.get_config() | given(solver=solver, step_count=step_count)
        velocity = self.continuous_flow.velocity
        if is_guided:
            velocity = _GuidedVelocity(velocity, encoder.leave_out, dtype=policy)
        layers = [
            *self.flow._flow_layers_[:-1],
            ContinuousFlow(**{**config, "velocity": velocity}),
        ]
        flow = FlowModel(layers, self.flow.base_distribution, encoder, dtype=policy)
        flow.build_from_config(self.flow.get_build_config() or {})
        flow.jit_compile = self.flow.jit_compile
        return flow

    @functools.cached_property
    def _flows(self) -> dict[Any, FlowModel]:
        # Keras would track, and save, what is assigned to an attribute.
        return {}
