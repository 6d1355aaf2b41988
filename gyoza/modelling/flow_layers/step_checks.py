"""Whether the steps of continuous flows are short enough for their densities."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import flatten_layers, is_traced, list_seeds
from gyoza.modelling.batches import split_context
from gyoza.modelling.flow_layers.continuous import ContinuousFlow, refine_steps
from gyoza.modelling.functions.checks import check_positive
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.training import to_arrays
from gyoza.typing import Data, Tensor, Tensors

__all__ = ["ChecksSteps"]

# In nats. Flow matching of toy densities by default steps is off by 0.0002 to 0.006.
_TOLERANCE, _TOLERANCE_BY_DIMENSION = 0.02, 0.002
# What one check after training looks at; more would need other compiled code.
_ROW_COUNT = 32
_BATCH_SIZE = 1024


class ChecksSteps:
    """The part of a flow model that tells how far errors of solvers change its densities.

    A class that derives from it is a :class:`~gyoza.modelling.flow_layers.density.Density`, and is
    trained by :class:`~gyoza.modelling.flow_layers.likelihood.LikelihoodTraining`.
    """

    name: str
    _fit: Any
    _log_prob: Callable[..., Tensor]
    _in_batches: Callable[..., Tensors]
    _check_inputs: Callable[..., None]
    _spread: Callable[..., Tensor | None]
    # Whether it has been trained since its steps were checked.
    _has_new_densities = False

    def check_steps(
        self, x: Tensor, context: Tensor | None = None, tolerance: float | None = None
    ) -> float:
        """Compares the densities of a flow in continuous time with those by shorter steps.

        Densities are as exact as the solver. With too few steps, they may not integrate to one, and
        training by likelihood finds velocities for which they are too high. After `fit`, the first
        call of `log_prob` or `evaluate` with arrays makes this comparison, on 32 of the instances,
        and warns as well, if a solver has a fixed number of steps.

        Args:
            x: The data, `[instances, ...]`, which should not be those of training.
            context: Their context, as for :meth:`log_prob`.
            tolerance: The difference, in nats, above which to warn: if omitted, 0.02, or 0.002 for
                each dimension if that is more.

        Returns:
            The mean absolute difference, in nats, of log-densities from those by twice as many
            steps, or, where the solver is `"dopri5"`, by tolerances a tenth as large. Random
            numbers are the same in both.

        Raises:
            ValueError: If there is no :class:`ContinuousFlow` among the layers, `tolerance` is not
                positive, or as for :meth:`log_prob`.

        Example:

            >>> model = gyoza.applications.FFJORD(hidden_sizes=[16])
            >>> x = np.random.default_rng(0).normal(size=[64, 2]).astype("float32")
            >>> model.adapt(x)
            >>> model.check_steps(x)  # a new velocity is zero
            0.0
        """
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        layers = self._list_continuous()
        if not layers:
            raise ValueError(
                f"Model '{self.name}' should have a `ContinuousFlow` among its layers, whose steps "
                "could be checked. Received: a model without one"
            )
        x, context = split_context(x, context)
        x = to_arrays(x)
        self._check_inputs(x)
        draws = self._in_batches(self._log_prob_by_steps, x, context, _BATCH_SIZE)
        coarse, fine = (ops.convert_to_numpy(values).astype("float64") for values in draws)
        is_known = np.isfinite(coarse) | np.isfinite(fine)
        differences = np.nan_to_num(np.abs((coarse - fine)[is_known]), nan=np.inf, posinf=np.inf)
        difference = float(np.mean(differences)) if len(differences) else 0.0
        if tolerance is None:
            dimension_count = max(layer.dimension_count for layer in layers)
            tolerance = max(_TOLERANCE, _TOLERANCE_BY_DIMENSION * dimension_count)
        if difference > tolerance:
            solvers = ", ".join(sorted({_describe(layer) for layer in layers}))
            warn(
                f"Log-densities of model '{self.name}', by {solvers}, differ by "
                f"{difference:.2g} nats on average from those by shorter steps. They may be those "
                "of no density, and too high. More steps, smaller learning rates, and the "
                "penalties `kinetic` and `jacobian` of a `ContinuousFlow` help."
            )
        self._has_new_densities = False
        return difference

    def _log_prob_by_steps(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes log-densities twice: by the steps of the model, and by shorter ones."""
        states = [seeds.state for layer in flatten_layers(self) for seeds in list_seeds(layer)]
        values = [ops.copy(state) for state in states]
        coarse = self._log_prob(x, context)
        for state, value in zip(states, values, strict=True):
            state.assign(value)
        with refine_steps():
            return coarse, self._log_prob(x, context)

    def _list_continuous(self) -> list[ContinuousFlow]:
        return [layer for layer in flatten_layers(self) if isinstance(layer, ContinuousFlow)]

    @contextlib.contextmanager
    def _during_fit(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with super()._during_fit(arguments) as arguments:  # type: ignore[misc]
            yield arguments
        self._note_training()

    def _note_training(self) -> None:
        """Lets the steps be checked when densities are next asked for, if they are fixed."""
        self._has_new_densities = any(layer.solver != "dopri5" for layer in self._list_continuous())

    def evaluate(self, x: Data = None, y: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Computes loss and metrics; see `keras.Model.evaluate` and :meth:`fit`."""
        results = super().evaluate(x, y, *args, **kwargs)  # type: ignore[misc]
        self._check_new_steps(*split_context(x))
        return results

    def _check_new_steps(self, x: Data, context: Tensor | None) -> None:
        """Checks the steps on a few instances if the model has been trained since it last was."""
        if not self._has_new_densities or self._fit is not None:
            return
        x = to_arrays(x)
        if not hasattr(x, "shape") or is_traced([x]) or isinstance(x, keras.KerasTensor):
            return
        stride = -(-len(x) // _ROW_COUNT)
        if stride:
            context = self._spread(context, len(x))
            self.check_steps(x[::stride], None if context is None else context[::stride])


def _describe(layer: ContinuousFlow) -> str:
    if layer.solver == "dopri5":
        return f"'dopri5' with rtol={layer.rtol} and atol={layer.atol}"
    return f"{layer.step_count} steps of '{layer.solver}'"
