"""What flow models do when they are trained, evaluated or run on data by Keras."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from gyoza.backend import (
    XLA_ERRORS,
    find_unsupported,
    is_distributed,
    jit_step,
    jit_steps,
    keep_values,
    to_data_set,
)
from gyoza.modelling.functions.dtypes import keep_float64
from gyoza.modelling.training.data import TakesData
from gyoza.modelling.training.fit import count_steps, make_callbacks

__all__ = ["Training"]


class _Choice(int):
    """What is true, as XLA was chosen for a user who left the choice to Keras."""


_CHOICE = _Choice(True)


class Training(TakesData):
    """A Keras model whose `fit`, `evaluate` and `predict` suit flows.

    Steps are compiled by XLA on processors, too, and several are taken at once, where that makes no
    difference but in time.
    """

    steps_per_execution: int
    jit_compile: Any
    train_function: Any
    _step_count = 1

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_jax_state":
            # What Keras' training on JAX assigns in each step. Keras would look for new weights in
            # it, one tensor after the other, which takes longer than a step of a small model.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @contextlib.contextmanager
    def _during_fit(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._create_variables(*(arguments[name] for name in ("x", "y", "sample_weight")))
        with self._keep_values(), self._take_several_steps(arguments) as arguments:
            yield arguments

    @contextlib.contextmanager
    def _during_run(self, x: Any) -> Iterator[None]:
        self._check_shapes(x)
        with self._keep_values():
            yield

    def _check_shapes(self, x: Any) -> None:
        """Raises an error if the shapes of data, or of their descriptions, do not suit the model.

        Compiled steps of TensorFlow would find a wrong shape only where it does harm.
        """
        return

    def _create_variables(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Builds model, optimiser and metrics, unless it takes drawing from an iterator.

        Where they are built within the first step, TensorFlow traces it twice.
        """
        if not self.compiled or is_distributed(self):
            return
        batch = x[0] if isinstance(x, keras.utils.PyDataset) else (x, y, sample_weight)
        batch = getattr(x, "element_spec", batch)
        if any(
            _get_rank(value) is None for value in keras.tree.flatten(batch) if value is not None
        ):
            return
        batch = keras.tree.map_structure(describe, batch)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if not self.built:
            self(x)
        self._check_shapes(x)
        self._symbolic_build(data_batch=batch)

    @contextlib.contextmanager
    def _keep_values(self) -> Iterator[None]:
        """Sees to it that weights outlive a failure, and that data stay as exact as the model."""
        optimizer = getattr(self, "optimizer", None)  # models can predict before `compile`
        variables = [*self.variables, *self.metrics_variables]
        variables += getattr(optimizer, "variables", ())
        with keep_values(variables), keep_float64(self.compute_dtype):
            yield

    @contextlib.contextmanager
    def _take_several_steps(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Lets `fit` take several steps at once where nobody looks in between.

        Args:
            arguments: Arguments of `fit`.

        Yields:
            Arguments to call it with instead.
        """
        given = self.steps_per_execution
        if given == 1 and self.built and self._compiles_steps():
            self._step_count = count_steps(self, arguments)
        else:
            self._step_count = given
        self._given_steps_per_execution = given
        self.steps_per_execution = self._step_count
        are_compiled = self._step_count > 1 and self._compiles_steps()
        taken = int(self.optimizer.iterations) if are_compiled else 0
        try:
            if self._step_count > 1:
                arguments = {**arguments, "callbacks": make_callbacks(arguments)}
            if not is_distributed(self) and (self._step_count == 1 or self._compiles_steps()):
                arguments = to_data_set(arguments)
            yield arguments
            if are_compiled and self.history.epoch:
                self._check_progress(taken)
        finally:
            self.steps_per_execution, self._step_count = given, 1

    def _check_progress(self, before: int) -> None:
        """Raises an error if there are no more steps than before, which compiled code has counted.

        With a persistent compilation cache, JAX 0.6.0 does not run what it has donated memory to.
        """
        has_train_step = type(self).train_step is not keras.Model.train_step
        if has_train_step or not self.trainable_variables:
            return
        if before == int(self.optimizer.iterations):
            raise RuntimeError(
                f"`fit` should have taken steps, but the optimizer of model '{self.name}' has "
                "counted none. Switch off the persistent compilation cache of the backend, or "
                "compile the model with `steps_per_execution=2`. "
                f"Received: optimizer.iterations={before} before and after"
            )

    def _compiles_steps(self) -> bool:
        """Returns whether steps of training are compiled as a whole."""
        return (
            keras.backend.backend() != "torch"
            and self.jit_compile
            and not self.run_eagerly
            and not is_distributed(self)
        )

    def make_train_function(self, force: bool = False) -> None:
        """Makes what `fit` calls to take steps; see `keras.Model.make_train_function`."""
        if self.train_function is None or force:
            self._train_functions: dict[bool, Any] = {}
        several = self._step_count > 1
        if several not in self._train_functions:
            if several and self._compiles_steps():
                take_steps = jit_steps(self.train_step, self._leave_xla)
                self.train_function = lambda *args: take_steps(self._step_count, *args)
            else:
                super().make_train_function(force=True)
                self._guard("train_function")
            self._train_functions[several] = self.train_function
        self.train_function = self._train_functions[several]
        if several:  # Validation, which Keras prepares later, is as usual.
            self.steps_per_execution = self._given_steps_per_execution

    def make_test_function(self, force: bool = False) -> None:
        """Makes what `evaluate` calls; see `keras.Model.make_test_function`."""
        if self.test_function is None or force:
            super().make_test_function(force=True)
            self._guard("test_function")

    def make_predict_function(self, force: bool = False) -> None:
        """Makes what `predict` calls; see `keras.Model.make_predict_function`."""
        if self.predict_function is None or force:
            super().make_predict_function(force=True)
            self._guard("predict_function")

    def _resolve_auto_jit_compile(self) -> Any:
        """Resolves `jit_compile="auto"`: to XLA on processors, too, where Keras leaves it out.

        There, training steps of flows take about half the time with it.
        """
        if keras.backend.backend() != "tensorflow" or self._distribute_strategy is not None:
            return super()._resolve_auto_jit_compile()
        return _CHOICE if all(layer.supports_jit for layer in self._flatten_layers()) else False

    def _make_function(self, step_function: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes the compiled step of `fit`, `evaluate` or `predict`; called by Keras on JAX."""
        if self.jit_compile and not self.run_eagerly and keras.distribution.distribution() is None:
            step_function = jit_step(step_function)
        return super()._make_function(step_function, *args, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what `compile` was called with; see `keras.Model.get_compile_config`."""
        config = super().get_compile_config()
        if config and isinstance(config["jit_compile"], _Choice):
            config["jit_compile"] = "auto"
        return config

    def _guard(self, name: str) -> None:
        """Lets a function of Keras' that XLA cannot compile run without it, on the same batch.

        Args:
            name: `"train_function"` or `"test_function"`, which are given an iterator, or
                `"predict_function"`, which is given a list of batches.
        """
        if self.run_eagerly or self.jit_compile is not _CHOICE:
            return
        compiled = getattr(self, name)
        remake: Callable[..., Any] = getattr(super(), f"make_{name}")

        def run(batches: Any) -> Any:
            try:
                return compiled(batches)
            except XLA_ERRORS as error:
                with self._leave_xla(error):
                    remake(force=True)
                    return getattr(self, name)(batches)

        def run_from_iterator(iterator: Iterator[Any]) -> Any:
            outputs = None
            for batch in itertools.islice(iterator, self.steps_per_execution):
                outputs = run([batch])
            if outputs is None:
                raise StopIteration
            return outputs

        setattr(self, name, run if name == "predict_function" else run_from_iterator)

    @contextlib.contextmanager
    def _leave_xla(self, error: Exception) -> Iterator[None]:
        """Does without XLA, for good if that helps, where it was not asked for.

        Args:
            error: What XLA raised.

        Raises:
            Exception: That error, if XLA was asked for.
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


def describe(values: Any) -> Any:
    """Returns a symbolic tensor for an array, or one for a batch of a data set."""
    if values is None:
        return None
    dtype = keras.backend.standardize_dtype(values.dtype)
    return keras.KerasTensor((None, *values.shape[1:]), dtype)


def _get_rank(value: Any) -> int | None:
    """Returns the number of axes, or `None` if it is not known."""
    shape = getattr(value, "shape", None)
    if shape is None or hasattr(shape, "rank"):
        return getattr(shape, "rank", None)
    return len(shape)
