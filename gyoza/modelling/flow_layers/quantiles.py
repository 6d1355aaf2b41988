"""Distribution functions, quantiles and samples of conditional densities."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from gyoza.backend import vjp
from gyoza.modelling.batches import split_context
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.training import to_arrays
from gyoza.typing import Data, Seed, Tensor, Tensors

__all__ = ["Quantiles"]


def _check_probabilities(name: str, values: np.ndarray) -> None:
    """Raises a `ValueError` unless all values are between 0 and 1, and equal to neither."""
    wrong = values[~((values > 0) & (values < 1))].tolist()
    if wrong:
        shown = ", ".join(f"{value:g}" for value in wrong[:5]) + (", …" if len(wrong) > 5 else "")
        raise ValueError(
            f"`{name}` should be above 0 and below 1: 0.05 stands for 5%. Received: {shown}"
        )


class Quantiles:
    """The part of a density that knows its distribution functions.

    A class that derives from it is a :class:`~gyoza.modelling.flow_layers.density.Density`.
    """

    name: str
    base_distribution: Any
    invert: Callable[..., Tensor]
    sample: Callable[..., Tensor]
    _base_context: Callable[..., dict[str, Tensor]]
    _in_batches: Callable[..., Tensors]
    _check_inputs: Callable[..., None]
    _to_arrays: Callable[..., Data]
    _read_context: Callable[..., Data]
    context_shape: tuple[int | None, ...] | None

    def probability_integral_transform(
        self, x: Tensor, context: Tensor | None = None, batch_size: int = 4096
    ) -> Tensor:
        r"""Computes how likely each dimension is to be smaller, given those before it.

        .. math::
            u_i = P(X_i \le x_i \mid x_1, \dots, x_{i - 1}, c)

        If the data have the density of the flow, these are independent and uniform between 0 and
        1, so that their histogram tells whether a density is calibrated; see
        :func:`gyoza.plotting.calibration`.

        It is exact for flows of one dimension, and triangular ones, in which an output depends on
        no later input: masked autoregressive layers in the natural order, and layers that map each
        dimension by itself. Whether a flow is triangular is read from its derivatives.

        Args:
            x: Vectors, `[instances, dimensions]`. Or a dictionary, as `fit` takes it.
            context: See :meth:`log_prob`.
            batch_size: See :meth:`log_prob`.

        Returns:
            The probabilities, `[instances, dimensions]`.

        Raises:
            NotImplementedError: If the base distribution is not a product of distributions whose
                distribution functions are known.
            ValueError: If the flow is not triangular, or as for :meth:`log_prob`.

        References:
            - Rosenblatt, M. (1952). "Remarks on a multivariate transformation." Annals of
              Mathematical Statistics 23(3), 470-472.
            - Dawid, A. P. (1984). "Present position and potential developments: Some personal
              views: Statistical theory: The prequential approach." Journal of the Royal Statistical
              Society A 147(2), 278-292.
        """
        return ops.sigmoid(self._log_odds(x, context, batch_size))

    def invert_probability_integral_transform(
        self, probabilities: Tensor, context: Tensor | None = None, batch_size: int = 4096
    ) -> Tensor:
        """Maps the results of :meth:`probability_integral_transform` back to data.

        Args:
            probabilities: Numbers between 0 and 1, `[instances, dimensions]`.
            context: See :meth:`log_prob`.
            batch_size: See :meth:`log_prob`.

        Returns:
            The data, `[instances, dimensions]`.

        Raises:
            NotImplementedError: See :meth:`probability_integral_transform`.
            ValueError: Likewise, or if a probability is not above 0 and below 1.
        """
        u = np.asarray(ops.convert_to_numpy(to_arrays(probabilities)), "float64")
        shape = (len(u) if u.ndim else 0, self.base_distribution.dimension_count)
        if u.shape != shape:
            raise ValueError(
                f"`probabilities` should have shape [instances, {shape[1]}]. "
                f"Received: probabilities of shape {u.shape}"
            )
        _check_probabilities("probabilities", u)
        log_odds = np.log(u) - np.log1p(-u)
        x, signs, above = self._in_batches(self._find_quantiles, log_odds, context, batch_size)
        self._check_triangular(above)
        signs = ops.convert_to_numpy(signs)
        if np.any(signs < 0):  # where larger numbers have smaller latents
            x, _, _ = self._in_batches(self._find_quantiles, signs * log_odds, context, batch_size)
        return x

    def cdf(self, x: Tensor, context: Tensor | None = None, batch_size: int = 4096) -> Tensor:
        r"""Computes the distribution function :math:`P(X \le x \mid c)` of one dimension.

        Args:
            x: Numbers, `[instances, 1]`. Or a dictionary, as `fit` takes it.
            context: See :meth:`log_prob`.
            batch_size: See :meth:`log_prob`.

        Returns:
            The probabilities, `[instances]`.

        Raises:
            NotImplementedError: See :meth:`probability_integral_transform`.
            ValueError: If the flow has more dimensions than one.
        """
        u = self.probability_integral_transform(x, context, batch_size)
        if u.shape[1] != 1:
            raise self._has_dimensions(u.shape[1])
        return u[:, 0]

    def quantile(
        self, levels: Tensor, context: Tensor | None = None, batch_size: int = 4096
    ) -> Tensor:
        r"""Computes what numbers of one dimension are below with given probabilities.

        Args:
            levels: The probabilities, above 0 and below 1: one number or `[levels]`.
            context: The contexts, `[contexts, ...]`; for conditional flows.
            batch_size: See :meth:`log_prob`.

        Returns:
            The quantiles, `[contexts, levels]` or, for one level, `[contexts]`; in the shape of
            `levels` without a context.

        Raises:
            NotImplementedError: See :meth:`probability_integral_transform`.
            ValueError: If the flow has more dimensions than one, or a level is not above 0 and
                below 1.
        """
        levels = np.asarray(levels, "float64")
        if levels.ndim > 1:
            raise ValueError(
                "`levels` should be one number or a list of numbers, above 0 and below 1. "
                f"Received: levels of shape {levels.shape}"
            )
        _check_probabilities("levels", levels)
        count = self.base_distribution.dimension_count
        if count != 1:
            raise self._has_dimensions(count)
        shape, u = levels.shape, levels.reshape(-1, 1)
        if context is not None:
            context = self._to_context_array(context)
            shape, u = (len(context), *shape), np.tile(u, [len(context), 1])
            context = np.repeat(context, levels.size, axis=0)
        x = self.invert_probability_integral_transform(u, context, batch_size)
        return ops.reshape(x, shape)

    def sample_each(
        self, sample_count: int, context: Tensor, seed: Seed = None, **kwargs: Any
    ) -> Tensor:
        """Draws several samples for each context.

        Args:
            sample_count: Their number, n.
            context: The contexts, `[m, ...]`.
            seed: See :meth:`sample`.
            **kwargs: Further arguments of :meth:`sample`.

        Returns:
            The samples, `[n, m, ...]`: those of one context are `samples[:, row]`.

        Raises:
            ValueError: See :meth:`sample`.
        """
        sample_count = check_integer("sample_count", sample_count)
        context = self._to_context_array(context)
        contexts = np.concatenate([context[:0], *[context] * sample_count])
        samples = self.sample(len(contexts), seed=seed, context=contexts, **kwargs)
        return ops.reshape(samples, (sample_count, len(context), *samples.shape[1:]))

    def _to_context_array(self, context: Tensor) -> np.ndarray:
        context = np.asarray(ops.convert_to_numpy(self._read_context(context)))
        if self.context_shape is not None and context.ndim != 1 + len(self.context_shape):
            raise ValueError(
                f"`context` should have shape (contexts, {', '.join(map(str, self.context_shape))}"
                f") for '{self.name}'. Received: context of shape {context.shape}"
            )
        return context

    def _has_dimensions(self, count: int) -> Exception:
        return ValueError(
            "Distribution functions and quantiles are defined for flows of one dimension; those "
            "of more have a `probability_integral_transform`, and samples. "
            f"Received: '{self.name}', of {count} dimensions"
        )

    def _log_odds(self, x: Tensor, context: Tensor | None, batch_size: int) -> Tensor:
        """Returns the log-odds of data, checked to be meaningful."""
        x, context = self._take_array(x, context)
        if len(x.shape) != 2:
            raise ValueError(
                f"`x` should be vectors, of shape [instances, dimensions]. Received: x of shape "
                f"{tuple(x.shape)}"
            )
        log_odds, _, above = self._in_batches(self._find_log_odds, x, context, batch_size)
        self._check_triangular(above)
        return log_odds

    def _take_array(self, x: Data, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns instances and their context separately, checked to be arrays or similar."""
        x, context = split_context(x, context)
        x = self._to_arrays(x)
        self._check_inputs(x)
        if not hasattr(x, "shape"):
            raise TypeError(
                "`x` should be an array, a tensor or a data frame. With a data set, call this "
                "method for each of its batches, or call `evaluate` for the mean loss. "
                f"Received: x={x} (of type {type(x)})"
            )
        return x, context

    def _check_triangular(self, above: Tensor) -> None:
        """Raises a `ValueError` if there are derivatives by later dimensions."""
        largest = float(ops.max(above)) if above.shape[0] else 0.0
        if largest > 0:
            raise ValueError(
                "The flow should be triangular, so that a dimension of its outputs depends on no "
                "later dimension of its inputs: with masked autoregressive layers in the natural "
                f"order, say. Received: '{self.name}', with derivatives of up to {largest:.2g} by "
                "later dimensions"
            )

    def _find_log_odds(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log-odds of data, signs of derivatives, and the largest of those above."""
        z, pullback = vjp(lambda x: self(x, context)[0], [x])  # type: ignore[operator]
        zeros, count = ops.zeros_like(z), z.shape[1]
        rows = []
        for index in range(count):
            unit = np.zeros([1, count], "float32")
            unit[0, index] = 1.0
            rows.append(pullback(zeros + ops.cast(unit, z.dtype))[0])
        signs = ops.stack([ops.sign(row[:, i]) for i, row in enumerate(rows)], axis=1)
        above = [ops.max(ops.abs(row[:, i + 1 :]), axis=1) for i, row in enumerate(rows[:-1])]
        largest = sum(above, ops.zeros_like(signs[:, 0]))
        log_odds = self.base_distribution.log_odds(z, **self._base_context(context))
        return log_odds * ops.cast(signs, log_odds.dtype), signs, largest

    def _find_quantiles(
        self, log_odds: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns data of log-odds, signs of derivatives there, and the largest of those above."""
        z = self.base_distribution.quantiles(log_odds, **self._base_context(context))
        x = self.invert(z, context)
        _, signs, above = self._find_log_odds(x, context)
        return x, signs, above
