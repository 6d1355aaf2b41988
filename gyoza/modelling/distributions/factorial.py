"""Products of distributions."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.labelled import Labelled
from gyoza.modelling.distributions.tools import split_seed
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_integers
from gyoza.typing import Seed, Tensor

__all__ = ["Factorial"]


@keras.saving.register_keras_serializable(package="gyoza")
class Factorial(Labelled):
    r"""A product of distributions, each of which is that of a factor: of a block of the dimensions.

    .. math::
        \ln p(x) = \sum_f \ln p_f(x_f), \qquad x = (x_1, x_2, \dots).

    With a :class:`~gyoza.modelling.distributions.GaussianMixture` per factor, it is a factorial
    mixture: as many clusters as there are combinations of components. Where factors take labels, so
    does the product, one column per label, `[batch, label_count]`, in the order of the factors.
    What is unknown of them is integrated out, factor by factor. So a flow is trained supervised or
    semi-supervised by `fit(x, labels)`, and unsupervised by `fit(x)`. A context is passed on to the
    factors that take one.

    Args:
        distributions: The distributions of the factors, in the order of their blocks.
        dimensions_per_factor: The number of dimensions of each block. It may be omitted if all
            distributions know their shapes.
        shape: Shape of an event, whose dimensions in row-major order are divided among the blocks.
            They form a vector if it is omitted.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If one of `distributions` is not a distribution, or `dimensions_per_factor` are
            not integers.
        ValueError: If there are no `distributions`, or one of them occurs twice, or blocks are
            empty or their sizes unknown or in contradiction.

    Attributes:
        distributions: The distributions of the factors.
        dimensions_per_factor: The sizes of their blocks.

    Example:

        >>> from gyoza.modelling.distributions import Factorial, GaussianMixture, StandardNormal
        >>> distribution = Factorial(
        ...     [StandardNormal(), GaussianMixture(1, class_count=2), GaussianMixture(4)],
        ...     dimensions_per_factor=[3, 1, 2],
        ... )
        >>> x = distribution.sample(5, seed=0, labels=[1])
        >>> distribution.log_prob(x, labels=[1, 1, 1, 1, 1]).shape == (5,)
        True
        >>> class_log_prob = distribution.distributions[1].class_log_prob(distribution.split(x)[1])
        >>> class_log_prob.shape == (5, 2)
        True

    References:
        - Izmailov, P., Kirichenko, P., Finzi, M. & Wilson, A. G. (2020). "Semi-supervised learning
          with normalizing flows." `arXiv:1912.13025 <https://arxiv.org/abs/1912.13025>`_
    """

    def __init__(
        self,
        distributions: Iterable[Distribution],
        dimensions_per_factor: Iterable[int] | None = None,
        shape: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> None:
        distributions = list(distributions)
        dimensions = _check_factors(distributions, dimensions_per_factor)
        super().__init__(shape=[sum(dimensions)] if shape is None else shape, **kwargs)
        if self.dimension_count != sum(dimensions):
            raise ValueError(
                f"`shape` should have {sum(dimensions)} dimensions, the sum of "
                f"`dimensions_per_factor`. Received: shape={shape}, "
                f"dimensions_per_factor={dimensions}"
            )
        self.distributions = distributions
        self.dimensions_per_factor = dimensions
        for distribution, dimension in zip(distributions, dimensions, strict=True):
            distribution.build((None, *(distribution.event_shape or [dimension])))

    @property
    def accepts_context(self) -> bool:
        """Whether a factor takes a context."""
        return any(distribution.accepts_context for distribution in self.distributions)

    @property
    def accepts_labels(self) -> bool:
        """Whether a factor takes labels."""
        return self.label_count > 0

    @property
    def label_count(self) -> int:
        """The number of labels of an event: the sum of those of its factors."""
        return sum(_label_counts(self.distributions))

    def check_label_values(self, values: np.ndarray) -> None:
        """Raises an error for labels that a factor does not take; see :meth:`check_labels`."""
        for distribution, columns in zip(
            self.distributions, self._split_labels(values), strict=True
        ):
            if columns is not None:
                distribution.check_labels(columns)

    def split(self, x: Tensor) -> list[Tensor]:
        """Splits events into those of the factors.

        Args:
            x: Events, `[batch, *event_shape]`.

        Returns:
            One tensor per factor, `[batch, *event_shape]` with its event shape.
        """
        vectors = self._to_vectors(self._to_tensor(x))
        ends = np.cumsum(self.dimensions_per_factor)
        return [
            ops.reshape(vectors[:, end - count : end], (-1, *(distribution.event_shape or ())))
            for distribution, count, end in zip(
                self.distributions, self.dimensions_per_factor, ends, strict=True
            )
        ]

    def compute_log_prob(
        self, x: Tensor, context: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Computes the log-densities of vectors; see :meth:`Distribution.compute_log_prob`.

        Args:
            x: Vectors, `[batch, dimension_count]`.
            context: Contexts, `[batch, context_size]`, or `None`.
            labels: Labels, `[batch, label_count]`, or `None`.

        Returns:
            Their log-densities, `[batch]`.
        """
        log_probs = [
            distribution.log_prob(block, **arguments)
            for distribution, block, arguments in zip(
                self.distributions, self.split(x), self._arguments(context, labels), strict=True
            )
        ]
        return sum(ops.cast(log_prob, self.log_prob_dtype) for log_prob in log_probs)

    def compute_log_odds(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`Distribution.compute_log_odds`."""
        blocks = [
            distribution.log_odds(block, **arguments)
            for distribution, block, arguments in zip(
                self.distributions, self.split(x), self._arguments(context, None), strict=True
            )
        ]
        return ops.concatenate([ops.cast(block, self.log_prob_dtype) for block in blocks], axis=1)

    def compute_quantiles(self, log_odds: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`Distribution.compute_quantiles`."""
        ends = np.cumsum(self.dimensions_per_factor)
        blocks = [
            distribution.quantiles(log_odds[:, end - count : end], **arguments)
            for distribution, count, end, arguments in zip(
                self.distributions,
                self.dimensions_per_factor,
                ends,
                self._arguments(context, None),
                strict=True,
            )
        ]
        return self._join(blocks)

    def _join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Merges events of the factors to vectors."""
        vectors = [
            ops.reshape(ops.cast(block, self.log_prob_dtype), (-1, count))
            for block, count in zip(blocks, self.dimensions_per_factor, strict=True)
        ]
        return ops.concatenate(vectors, axis=1)

    def draw(
        self,
        sample_count: int | Tensor,
        seed: Seed,
        context: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draws vectors; see :meth:`Distribution.draw`.

        Args:
            sample_count: Their number.
            seed: An integer or a `keras.random.SeedGenerator`.
            context: Contexts, `[sample_count, context_size]`, one for all, or `None`.
            labels: Labels, `[sample_count, label_count]`, or `None`.

        Returns:
            The vectors, `[sample_count, dimension_count]`.
        """
        seeds = split_seed(seed, len(self.distributions))
        blocks = [
            distribution.sample(sample_count, seed=seed, **arguments)
            for distribution, seed, arguments in zip(
                self.distributions, seeds, self._arguments(context, labels), strict=True
            )
        ]
        return self._join(blocks)

    def _check_context(self, context: Tensor | None, counts: Sequence[int | Tensor]) -> None:
        if not self.accepts_context:
            super()._check_context(context, counts)
        for distribution in self.distributions:
            if distribution.accepts_context:
                distribution._check_context(context, counts)
                self.context_size = distribution.context_size

    def _change(self, context: Tensor | None, count: int | Tensor | None = None) -> dict[str, Any]:
        # The context networks are those of the factors.
        return given(context=context)

    def _split_labels(self, labels: Tensor | None) -> list[Tensor | None]:
        """Returns the labels of each factor, or `None`."""
        counts = _label_counts(self.distributions)
        return [
            labels[:, end - count : end] if labels is not None and count else None
            for count, end in zip(counts, np.cumsum(counts), strict=True)
        ]

    def _arguments(self, context: Tensor | None, labels: Tensor | None) -> list[dict[str, Any]]:
        """Returns the arguments that pass context and labels to each factor."""
        return [
            given(context=context if distribution.accepts_context else None, labels=columns)
            for distribution, columns in zip(
                self.distributions, self._split_labels(labels), strict=True
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {
            **super().get_config(),
            "distributions": [
                keras.saving.serialize_keras_object(distribution)
                for distribution in self.distributions
            ],
            "dimensions_per_factor": list(self.dimensions_per_factor),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Factorial":
        """See :meth:`Distribution.from_config`."""
        distributions = [
            keras.saving.deserialize_keras_object(distribution)
            for distribution in config["distributions"]
        ]
        return super().from_config({**config, "distributions": distributions})


def _label_counts(distributions: Sequence[Distribution]) -> list[int]:
    return [
        distribution.label_count
        if isinstance(distribution, Labelled) and distribution.accepts_labels
        else 0
        for distribution in distributions
    ]


def _check_factors(
    distributions: Sequence[Distribution], dimensions_per_factor: Iterable[int] | None
) -> list[int]:
    """Checks that there are distributions, all different, and returns the sizes of their blocks."""
    for distribution in distributions:
        if not isinstance(distribution, Distribution):
            raise TypeError(
                "`distributions` should hold distributions. "
                f"Received: {distribution} (of type {type(distribution)})"
            )
    if not distributions or len(set(map(id, distributions))) < len(distributions):
        raise ValueError(
            "`distributions` should hold at least one distribution, and none of them twice. "
            f"Received: distributions={distributions}"
        )
    known = [
        None if distribution.event_shape is None else math.prod(distribution.event_shape)
        for distribution in distributions
    ]
    if dimensions_per_factor is None:
        if None in known:
            raise ValueError(
                "`dimensions_per_factor` should be given, unless all `distributions` have a "
                "`shape`. Received: dimensions_per_factor=None, distributions of "
                f"{known} dimensions"
            )
        return [count for count in known if count is not None]
    dimensions = check_integers("dimensions_per_factor", dimensions_per_factor)
    fits = len(dimensions) == len(known) and all(
        dimension > 0 and count in (None, dimension)
        for dimension, count in zip(dimensions, known, strict=False)
    )
    if not fits:
        raise ValueError(
            "`dimensions_per_factor` should hold a positive number for each of `distributions`: "
            "that of its dimensions, where it has a `shape`. Received: "
            f"dimensions_per_factor={dimensions}, distributions of {known} dimensions"
        )
    return dimensions
