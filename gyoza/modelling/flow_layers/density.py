"""What makes a chain of flow layers a density: likelihoods and samples."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import XLA_ERRORS, forget_gradients, is_traced, jit_batches
from gyoza.modelling.distributions import Distribution
from gyoza.modelling.flow_layers.quantiles import Quantiles
from gyoza.modelling.functions.checks import check_integer, check_numbers
from gyoza.modelling.training import describe
from gyoza.typing import Data, Seed, Tensor, Tensors

__all__ = ["Density"]

_BATCH_SIZE = 4096


class Density(Quantiles):
    """The part of a flow model that knows the base distribution of its latent.

    A class that derives from it is a `keras.Model` and invertible. Its `call(inputs, context=None)`
    returns latents and log-determinants.
    """

    name: str
    built: bool
    variables: Sequence[keras.Variable]
    losses: Sequence[Tensor]
    compute_dtype: str
    dtype_policy: keras.DTypePolicy
    context_shape: tuple[int | None, ...] | None
    run_eagerly: bool
    jit_compile: Any
    base_distribution: Distribution
    build: Callable[..., None]
    invert: Callable[..., Tensor]
    invert_and_log_det: Callable[..., tuple[Tensor, Tensor]]
    _prepare_context: Callable[..., None]
    _take_array: Callable[..., tuple[Tensor, Tensor | None]]
    _check_new_steps: Callable[..., None]
    _to_arrays: Callable[..., Data]
    _read_context: Callable[..., Data]
    _leave_xla: Callable[..., Any]
    encode: Callable[..., Tensor]

    def build_for(self, x: Tensor, context: Tensor | None = None) -> None:
        """Builds the model for data, unless it is built.

        Args:
            x: An array or tensor of instances, `[instances, ...]`.
            context: Their context, `[instances, ...]`, if the model is to be conditional.
        """
        if not self.built:
            arrays = [array for array in (x, context) if array is not None]
            self(*map(describe, arrays))  # type: ignore[operator]

    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        batch_size: int = _BATCH_SIZE,
        verbose: int = 0,
    ) -> Tensor:
        """Computes the logarithm of the density of data.

        It is compiled, once for each power of two, from 32 on, that batch sizes are rounded up to;
        not on PyTorch, nor by XLA after `compile(jit_compile=False)`. The results are
        differentiable; on PyTorch, if `x` is a tensor.

        Args:
            x: Floating-point array, tensor or data frame, `[instances, ...]`. Or a dictionary, as
                `fit` takes it.
            context: The context of each instance, `[instances, ...]`, or one for all of them,
                without the first axis or with 1 as its length; for conditional flows.
            batch_size: The number of instances that are processed at a time, which bounds the
                memory that is needed.
            verbose: Whether to show a progress bar, 0 or 1, if there are several batches.

        Returns:
            The log-densities in nats, `[instances]`.

        Raises:
            TypeError: If `x` does not hold floating-point numbers, or is a data set.
            ValueError: If the model is conditional and there is no `context`, or the reverse, or a
                shape is not as described.
        """
        x, context = self._take_array(x, context)
        log_prob = self._in_batches(self._log_prob, x, context, batch_size, verbose=verbose)
        self._check_new_steps(x, context)
        return log_prob

    def _log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        z, log_det = self(x, context)  # type: ignore[operator]
        return self._add_up(z, log_det, context)

    def _add_up(
        self,
        z: Tensor,
        log_det: Tensor,
        context: Tensor | None,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Computes log-densities from what `call` returned."""
        if context is not None:
            kwargs |= self._base_context(context, training)
        return self.base_distribution.log_prob(z, **kwargs) + log_det

    def _base_context(self, context: Tensor | None, training: bool | None = None) -> dict[str, Any]:
        """Returns the arguments that pass a context to the base distribution."""
        if context is None or not self.base_distribution.accepts_context:
            return {}
        return {"context": self.encode(context, training)}

    def sample(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        batch_size: int = _BATCH_SIZE,
        verbose: int = 0,
    ) -> Tensor:
        """Draws new data: latents from the base distribution, mapped back.

        It is compiled like :meth:`log_prob`, and differentiable by the weights on all backends.

        Args:
            sample_count: The number of instances.
            seed: Integer for the same samples every time. Other ones at each call if omitted.
            context: The context of each sample, `[sample_count, ...]`, or one for all of them; see
                :meth:`log_prob`. For several samples of each context, see
                :meth:`FlowModel.sample_each`.
            batch_size: See :meth:`log_prob`.
            verbose: See :meth:`log_prob`.

        Returns:
            The samples, `[sample_count, ...]`.

        Raises:
            ValueError: If the model is not built, so that the shape of the latent is not known. And
                see :meth:`log_prob`.
        """
        return self._sample(self._invert, sample_count, seed, context, batch_size, verbose)

    def sample_and_log_prob(
        self,
        sample_count: int,
        seed: Seed = None,
        context: Tensor | None = None,
        batch_size: int = _BATCH_SIZE,
        verbose: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Draws new data, together with the logarithm of their density.

        Args:
            sample_count: The number of instances.
            seed: See :meth:`sample`.
            context: See :meth:`sample`.
            batch_size: See :meth:`log_prob`.
            verbose: See :meth:`log_prob`.

        Returns:
            The samples, `[sample_count, ...]`, and their log-densities, `[sample_count]`.

        Raises:
            ValueError: See :meth:`sample`.
        """
        return self._sample(
            self._invert_and_log_prob, sample_count, seed, context, batch_size, verbose
        )

    def _invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.invert(z, context)

    def _invert_and_log_prob(
        self, z: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, log_det = self.invert_and_log_det(z, context)
        return x, self._add_up(z, log_det, context)

    def _pair(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns latents, and the data that they are mapped to."""
        return z, self.invert(z, context)

    def _draw_latents(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Draws as many latents as there are rows."""
        return self.base_distribution.sample(ops.shape(rows)[0], **self._base_context(context))

    def _sample(
        self,
        invert: Callable[..., Any],
        count: int,
        seed: Seed,
        context: Tensor | None,
        batch_size: int = _BATCH_SIZE,
        verbose: int = 0,
    ) -> Tensors:
        """Draws latents and inverts them."""
        if not self.built:
            raise ValueError(
                f"Model '{self.name}' should be built before it is sampled: call or fit it on "
                "data, or call `build` with their shape. Received: built=False"
            )
        context = self._spread(context, count)
        if seed is None and not ops.is_tensor(count):
            rows = np.zeros((check_integer("sample_count", count), 0), "float32")
            return self._in_batches(invert, rows, context, batch_size, self._draw_latents, verbose)
        z = self.base_distribution.sample(count, seed=seed, **self._base_context(context))
        return self._in_batches(invert, z, context, batch_size, verbose=verbose)

    def _spread(self, context: Tensor | None, count: int | Tensor) -> Tensor | None:
        """Repeats a context that is one for all instances."""
        if context is None:
            return None
        context = self._read_context(context)
        check_numbers("context", context)
        if not hasattr(context, "shape"):
            context = np.asarray(context)
        if self.context_shape is not None and len(context.shape) == len(self.context_shape):
            context = context[None]
        if tuple(context.shape[:1]) == (1,) and count != 1:
            context = ops.broadcast_to(context, (count, *context.shape[1:]))
        return context

    @functools.cached_property
    def _compiled(self) -> dict[Any, Callable[..., Any]]:
        # Keras would track what is assigned to an attribute.
        return {}

    def _in_batches(
        self,
        function: Callable[..., Any],
        x: Tensor,
        context: Tensor | None,
        batch_size: int,
        prepare: Callable[..., Any] | None = None,
        verbose: int = 0,
    ) -> Tensors:
        """Runs a method of the model on any number of instances, compiled and in batches.

        It is given what `prepare`, if there is one, makes of `x` and the context.
        """
        check_integer("batch_size", batch_size, minimum=1)
        if isinstance(x, keras.KerasTensor):
            return function(x, context)
        is_differentiable = prepare is not None or ops.is_tensor(x)
        holds = contextlib.nullcontext() if is_differentiable else forget_gradients()
        if prepare is None:
            x = self._to_tensor(x)
        if context is not None:
            context = self._to_tensor(self._spread(context, ops.shape(x)[0]))
        tensors = [x] if context is None else [x, context]
        self.build_for(*tensors)
        if is_traced(tensors):
            return function(x if prepare is None else prepare(*tensors), *tensors[1:])
        self._prepare_context(x, context)
        with holds:
            try:
                return self._run_compiled(function, tensors, batch_size, prepare, verbose)
            except XLA_ERRORS as error:
                if not self.jit_compile:
                    raise
                with self._leave_xla(error):
                    return self._run_compiled(function, tensors, batch_size, prepare, verbose)
            except ValueError as error:
                failure = error
            if prepare is None:
                # This raises the same error, about a batch that is not padded.
                function(*(tensor[:batch_size] for tensor in tensors))
            raise failure

    def _run_compiled(
        self,
        function: Callable[..., Any],
        tensors: Sequence[Tensor],
        batch_size: int,
        prepare: Callable[..., Any] | None,
        verbose: int,
    ) -> Tensors:
        key = function.__name__, prepare is None, self.jit_compile
        if key not in self._compiled:
            self._compiled[key] = jit_batches(function, self.jit_compile, prepare)
        compiled = self._compiled[key]
        count = tensors[0].shape[0]
        if count <= batch_size:
            return compiled(self, *tensors)
        starts = range(0, count, batch_size)
        progress = keras.utils.Progbar(len(starts), verbose=verbose, unit_name="batch")
        parts: list[Tensors] = []
        for start in starts:
            batch = (tensor[start : start + batch_size] for tensor in tensors)
            parts.append(compiled(self, *batch))
            if verbose:
                # Reading a number waits for the batch, which may still be computed.
                ops.convert_to_numpy(keras.tree.flatten(parts[-1])[-1][0])
                progress.add(1)
        return keras.tree.map_structure(lambda *values: ops.concatenate(values), *parts)

    def _to_tensor(self, x: Tensor) -> Tensor:
        if ops.is_tensor(x):
            return x
        x = np.asarray(x)
        if not keras.backend.is_float_dtype(str(x.dtype)):
            return ops.convert_to_tensor(x)
        # Keras would round arrays in float64 to float32 on some backends.
        return ops.convert_to_tensor(x, dtype=self.compute_dtype)
