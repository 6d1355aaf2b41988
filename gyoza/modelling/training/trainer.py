"""Compilation of training, evaluation and prediction, and what happens where it fails."""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.backend import (
    CHANGES,
    XLA_ERRORS,
    find_unsupported,
    flatten_layers,
    is_distributed,
    jit_step,
    jit_steps,
    keep_values,
)
from gyoza.modelling.functions.dtypes import keep_float64
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.options import HasOptions
from gyoza.modelling.training.data import TakesData
from gyoza.modelling.training.fit import Fit, create_variables
from gyoza.modelling.training.loss_watch import watch_loss
from gyoza.typing import Data, Tensors

__all__ = ["Training"]


class _Choice(int):
    """A Boolean that gyoza chose, where `jit_compile` was `"auto"`."""

    def __repr__(self) -> str:
        return repr(bool(self))


# XLA, which is left where it fails.
_CHOICE = _Choice(True)


def _separate_averages(optimizer: keras.Optimizer) -> None:
    """Copies an optimizer's averages of weights, so that they do not share memory with these.

    Keras assigns them to the weights at the end of `fit`. On JAX, both are then the same memory,
    which steps could not overwrite.
    """
    if keras.backend.backend() == "jax":
        for variable in getattr(optimizer, "variables", ()):
            variable.assign(ops.copy(variable))


class Training(HasOptions, TakesData):
    """A Keras model whose `fit`, `evaluate` and `predict` suit flows.

    Steps of trainings that are not short are compiled by XLA on processors, too, and an execution
    takes several, where nothing but the time changes.
    """

    jit_compile: Any
    train_function: Any
    # The call of `fit` that is going on, if there is one.
    _fit: Fit | None = None
    _steps_per_execution = 1
    # Whether `evaluate` runs without XLA, as it was made by a call of `fit` that does.
    _has_short_test = False

    @property
    def _chose_xla(self) -> bool:
        """Whether gyoza chose XLA, which Keras would not have done, and nobody asked for."""
        return self.jit_compile is _CHOICE and not self.run_eagerly

    @property
    def steps_per_execution(self) -> int:
        """The number of steps per execution, as given to `compile` or chosen by `fit`."""
        if self._fit is None or self._fit.has_begun:
            return self._steps_per_execution
        return self._fit.step_count

    @steps_per_execution.setter
    def steps_per_execution(self, count: int) -> None:
        self._steps_per_execution = count

    def _warn_if_uncompiled(self) -> None:
        """Warns where JAX is asked not to compile, which on TensorFlow leaves out XLA alone."""
        is_chosen = isinstance(self.jit_compile, _Choice)
        if keras.backend.backend() != "jax" or self.jit_compile or is_chosen or self.run_eagerly:
            return
        warn(
            f"Model '{self.name}' should be compiled without the argument `jit_compile` on JAX, "
            "which otherwise runs each operation of a step by itself, a hundred times as slowly: "
            "`run_eagerly=True` does the same without this warning. "
            f"Received: jit_compile={self.jit_compile}"
        )

    @contextlib.contextmanager
    def _during_fit(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._warn_if_uncompiled()
        create_variables(self, *(arguments[name] for name in ("x", "y", "sample_weight")))
        _separate_averages(getattr(self, "optimizer", None))
        outer = self._fit
        with self._keep_values():
            self._fit = fit = Fit(self, watch_loss(arguments))
            try:
                yield fit.arguments
            finally:
                self._fit = outer
                if outer is not None:  # a callback of which has called this one
                    self.make_train_function()

    @contextlib.contextmanager
    def _during_run(self, x: Data) -> Iterator[None]:
        self._check_shapes(x)
        with self._keep_values():
            yield

    def _check_shapes(self, x: Tensors) -> None:
        """Raises an error if the shapes of data, or of their descriptions, do not suit the model.

        Compiled steps of TensorFlow would find a wrong shape only where it does harm.
        """
        return

    @contextlib.contextmanager
    def _keep_values(self) -> Iterator[None]:
        """Ensures that weights survive a failure, and that data keep the precision of the model."""
        optimizer = getattr(self, "optimizer", None)  # models can predict before `compile`
        variables = [*self.variables, *self.metrics_variables]
        variables += getattr(optimizer, "variables", ())
        with keep_values(variables), keep_float64(self.compute_dtype):
            yield

    def make_train_function(self, force: bool = False) -> None:
        """Makes what `fit` calls to take steps; see `keras.Model.make_train_function`."""
        if self._is_outdated("train_function") or self.train_function is None or force:
            # Two of Keras, of which one is without XLA, and one that takes several steps: a model
            # may need all in turn.
            self._train_functions: dict[str, Any] = {}
        made, fit = self._train_functions, self._fit
        name = "short" if self._is_short else "one"
        if fit is not None and fit.runs_loop:
            if "several" not in made:
                made["several"] = jit_steps(self.train_step, self._leave_xla)
            self.train_function = functools.partial(made["several"], fit.step_count)
        elif name in made:
            self.train_function = made[name]
        else:
            with self._leave_xla_if_short():
                super().make_train_function(force=True)
                self._guard("train_function")
            made[name] = self.train_function
        self.train_function = self._keep_up(self.train_function)
        if fit is not None:
            fit.has_begun = True

    def _keep_up(self, take_steps: Callable[..., Any]) -> Callable[..., Any]:
        """Lets steps be made anew where a callback has changed an option."""
        seen = CHANGES.count

        def take_latest_steps(*arguments: Any) -> Any:
            if seen == CHANGES.count:
                return take_steps(*arguments)
            self.make_train_function()
            return self.train_function(*arguments)

        return take_latest_steps

    def make_test_function(self, force: bool = False) -> None:
        """Makes what `evaluate` calls; see `keras.Model.make_test_function`."""
        is_too_slow = self._has_short_test and self._fit is not None and not self._is_short
        is_outdated = self._is_outdated("test_function")
        if is_outdated or self.test_function is None or force or is_too_slow:
            with self._leave_xla_if_short():
                super().make_test_function(force=True)
                self._guard("test_function")
            self._has_short_test = self._is_short

    def make_predict_function(self, force: bool = False) -> None:
        """Makes what `predict` calls; see `keras.Model.make_predict_function`."""
        if self._is_outdated("predict_function") or self.predict_function is None or force:
            super().make_predict_function(force=True)
            self._guard("predict_function")

    def _is_outdated(self, name: str) -> bool:
        """Returns whether options have changed since a function was asked for, and notes that."""
        seen = self._seen_changes.get(name, CHANGES.count)
        self._seen_changes[name] = CHANGES.count
        return seen != CHANGES.count

    @functools.cached_property
    def _seen_changes(self) -> dict[str, int]:
        # Keras would track an attribute.
        return {}

    @property
    def _is_short(self) -> bool:
        return self._fit is not None and self._fit.is_short

    @contextlib.contextmanager
    def _leave_xla_if_short(self) -> Iterator[None]:
        """Lets Keras make functions without XLA if training is too short for it."""
        chosen = self.jit_compile
        if self._is_short:
            self.jit_compile = False
        try:
            yield
        finally:
            self.jit_compile = chosen

    def _choose_jit(self, default: bool) -> Any:
        """Chooses XLA for TensorFlow on processors, too, where Keras leaves it out.

        There, training steps of flows take about half the time with it.
        """
        if keras.backend.backend() != "tensorflow" or is_distributed(self):
            return _Choice(default)
        supports_jit = all(layer.supports_jit for layer in flatten_layers(self))
        return _CHOICE if supports_jit else _Choice(False)

    def _compile_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        is_compiled = self.jit_compile and not self.run_eagerly
        return jit_step(step) if is_compiled and not is_distributed(self) else step

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what `compile` was called with; see `keras.Model.get_compile_config`."""
        config = super().get_compile_config()
        if config and isinstance(config["jit_compile"], _Choice):
            config["jit_compile"] = "auto"
        return config

    def _guard(self, name: str) -> None:
        """Lets a function of Keras that XLA cannot compile run without it, on the same batch.

        Args:
            name: `"train_function"` or `"test_function"`, which are given an iterator, or
                `"predict_function"`, which is given a list of batches.
        """
        if not self._chose_xla:
            return
        compiled = getattr(self, name)
        remake: Callable[..., Any] = getattr(super(), f"make_{name}")

        def run(batches: Sequence[Tensors]) -> Tensors:
            try:
                return compiled(batches)
            except XLA_ERRORS as error:
                with self._leave_xla(error):
                    remake(force=True)
                    return getattr(self, name)(batches)

        def run_from_iterator(iterator: Iterator[Tensors]) -> Tensors:
            outputs = None
            for batch in itertools.islice(iterator, self.steps_per_execution):
                outputs = run([batch])
            if outputs is None:
                raise StopIteration
            return outputs

        setattr(self, name, run if name == "predict_function" else run_from_iterator)

    @contextlib.contextmanager
    def _leave_xla(self, error: Exception) -> Iterator[None]:
        """Runs without XLA, permanently if that succeeds, unless XLA was requested.

        Args:
            error: What XLA raised.

        Raises:
            Exception: That error, if XLA was requested.
        """
        if self.jit_compile is not _CHOICE:
            raise error
        self.jit_compile = False
        try:
            yield
        except Exception:
            self.jit_compile = _CHOICE
            raise
        self._train_functions = {}
        warnings.warn(
            f"XLA cannot compile {find_unsupported(error)}, so model '{self.name}' runs without "
            "it, which takes longer. `compile(..., jit_compile=False)` avoids the attempt.",
            stacklevel=2,
        )
