"""Mixtures of normal distributions."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.tools import (
    LOG_2_PI,
    check_finite,
    check_natural,
    check_positive,
    draw_normal,
    select_rows,
    split_seed,
)

__all__ = ["GaussianMixture"]


@keras.saving.register_keras_serializable(package="gyoza")
class GaussianMixture(Distribution):
    r"""A mixture of normal distributions with diagonal covariances, all of it learnt.

    .. math::
        p(x) = \sum_{k=1}^K w_k \prod_i \mathcal{N} \left( x_i \mid l_{ki}, s_{ki}^2 \right), \qquad
        w = \operatorname{softmax}(\text{logits}).

    With `class_count`, every class has `component_count` components of its own, and a flow to this
    distribution is a generative classifier. Given labels, densities :math:`p(x \mid c)` and samples
    are those of the components of their classes. Without labels, all classes are equally likely.

    Samples are differentiable with respect to locations and scales, but not to the weights of the
    mixture, since the choice of a component is discrete. Memory grows with the batch size times
    the number of components times that of dimensions.

    Args:
        component_count: The number of components, :math:`K`, per class if there are classes.
        shape: See :class:`Distribution`.
        class_count: The number of classes, or `None` for a mixture without classes.
        location: Initial means, an array that broadcasts to `[component_count, *shape]`, or, with
            classes, `[class_count, component_count, *shape]`. Standard normal draws if omitted:
            components that start equal stay equal.
        scale: Initial standard deviations, positive, likewise.
        **kwargs: Arguments of `keras.Layer`. With `trainable=False`, the mixture stays fixed.

    Raises:
        ValueError: If `component_count` or `class_count` are not positive integers, `location` or
            `scale` are not finite or do not fit, or `scale` is not positive.

    Attributes:
        logits: The weight whose softmax are the mixture weights, `[component_count]` or, with
            classes, `[class_count, component_count]`. They start equal.
        location: The weight :math:`l`, in the shape of `logits` followed by `event_shape`.
        log_scale: The weight :math:`\ln s`, likewise.

    Example:

        >>> mixture = gyoza.modelling.distributions.GaussianMixture(
        ...     component_count=1, shape=[1], class_count=2, location=[[[-3.0]], [[3.0]]]
        ... )
        >>> keras.ops.convert_to_numpy(mixture.log_prob([[3.0]], labels=[1])).round(4)
        array([-0.9189], dtype=float32)
        >>> keras.ops.convert_to_numpy(mixture.log_prob([[3.0]])).round(4)
        array([-1.6121], dtype=float32)
        >>> tuple(mixture.sample(5, labels=0, seed=0).shape)
        (5, 1)

    References:
        - Izmailov, P., Kirichenko, P., Finzi, M. & Wilson, A. G. (2020). "Semi-supervised learning
          with normalizing flows." `arXiv:1912.13025 <https://arxiv.org/abs/1912.13025>`_
    """

    def __init__(
        self,
        component_count: int,
        shape: Iterable[int] | None = None,
        class_count: int | None = None,
        location: Any = None,
        scale: Any = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self.component_count = check_natural("component_count", component_count, minimum=1)
        if class_count is not None:
            class_count = check_natural("class_count", class_count, minimum=1)
        self.class_count = class_count
        self._initial_location = None if location is None else check_finite("location", location)
        self._initial_scale = check_positive("scale", scale)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates logits, locations and logarithms of scales."""
        lead: tuple[int, ...] = (self.component_count,)
        if self.class_count is not None:
            lead = (self.class_count, *lead)
        location = self._initial_location
        if location is None:
            location = keras.initializers.RandomNormal(stddev=1.0)
        self.logits = self.add_weight(
            shape=lead, initializer="zeros", name="logits", autocast=False
        )
        self.location = self._add_parameter("location", lead, location)
        self.log_scale = self._add_parameter("log_scale", lead, np.log(self._initial_scale))

    @property
    def scale(self) -> Any:
        """The standard deviations, in the shape of `log_scale`."""
        return ops.exp(self.log_scale)

    @property
    def accepts_labels(self) -> bool:
        """Whether there are classes."""
        return self.class_count is not None

    def call(self, x: Any, context: Any = None, labels: Any = None) -> Any:
        """See :meth:`log_prob`."""
        labels = self.check_labels(labels)
        return self.compute_log_prob(self._to_vectors(x), labels=labels, **self._change(context))

    def compute_log_prob(
        self, x: Any, changes: dict[str, Any] | None = None, labels: Any = None
    ) -> Any:
        """Computes the log-densities of vectors; see :meth:`Distribution.compute_log_prob`.

        Args:
            x: Vectors, `[batch, dimension_count]`.
            changes: See :class:`Distribution`.
            labels: Classes, `[batch]`, or `None`.

        Returns:
            Their log-densities, `[batch]`.
        """
        if labels is not None:
            known = labels.shape[0], x.shape[0]
            if None not in known and known[0] != known[1]:
                raise ValueError(
                    "`labels` should have as many entries as there are events. "
                    f"Received: {known[0]} labels for {known[1]} events"
                )
        location, log_scale = self._components(labels, changes)
        z = (x[:, None, :] - location) * ops.exp(-log_scale)
        log_probs = -ops.sum(0.5 * (ops.square(z) + LOG_2_PI) + log_scale, axis=-1)
        log_prob = ops.logsumexp(log_probs + self._log_weights(labels, changes), axis=-1)
        return log_prob if labels is None else log_prob + self._penalty(labels)

    def log_prob(self, x: Any, context: Any = None, labels: Any = None) -> Any:
        """Computes log-densities.

        Args:
            x: Events, `[batch, *event_shape]`.
            context: See :meth:`Distribution.log_prob`.
            labels: Classes from 0 to `class_count - 1`, `[batch]` or `[batch, 1]`, for the
                densities given these classes.

        Returns:
            The natural logarithms of the densities, `[batch]`. NaN for labels out of range where
            they are not known before the computation, as in compiled code.

        Raises:
            ValueError: If there are labels but no classes, or an array of labels is out of range.
        """
        arguments = self._pass_on(
            labels=self.check_labels(labels), context=self._to_tensor(context)
        )
        return self(self._to_tensor(x), **arguments)

    def sample(
        self, sample_count: Any, seed: Any = None, context: Any = None, labels: Any = None
    ) -> Any:
        """Draws independent events.

        Args:
            sample_count: See :meth:`Distribution.sample`.
            seed: See :meth:`Distribution.sample`.
            context: See :meth:`Distribution.sample`.
            labels: The class of each event, `[sample_count]`, or one for all.

        Returns:
            The events, `[sample_count, *event_shape]`. NaN for labels out of range where they are
            not known before the computation, as in compiled code.

        Raises:
            ValueError: See :meth:`Distribution.sample` and :meth:`log_prob`.
        """
        sample_count, seed, changes = self._prepare_draw(sample_count, seed, context)
        labels = self.check_labels(labels)
        if labels is not None:
            known = labels.shape[0], sample_count
            if all(isinstance(size, int) for size in known) and known[0] not in (1, known[1]):
                raise ValueError(
                    "`labels` should be one class, or one for each of `sample_count` events. "
                    f"Received: {known[0]} labels, sample_count={known[1]}"
                )
            labels = ops.broadcast_to(labels, (sample_count,))
        return self._to_events(self.draw(sample_count, seed, labels=labels, **changes))

    def draw(
        self,
        sample_count: Any,
        seed: Any,
        changes: dict[str, Any] | None = None,
        labels: Any = None,
    ) -> Any:
        """Draws vectors; see :meth:`Distribution.draw`.

        Args:
            sample_count: Their number.
            seed: An integer or a `keras.random.SeedGenerator`.
            changes: See :class:`Distribution`.
            labels: Classes, `[sample_count]`, or `None`.

        Returns:
            The vectors, `[sample_count, dimension_count]`.
        """
        seeds = split_seed(seed)
        # A component is the first whose cumulative weight exceeds a uniform number.
        cumulative = ops.cumsum(ops.exp(self._log_weights(labels, changes)), axis=-1)[..., :-1]
        uniform = keras.random.uniform((sample_count, 1), dtype=self.log_prob_dtype, seed=seeds[0])
        chosen = ops.sum(ops.cast(uniform >= cumulative, "int32"), axis=-1)
        if labels is not None:
            chosen = chosen + self._clip(labels) * self.component_count
        location, log_scale = (
            select_rows(values, chosen, changes is not None)
            for values in self._components(None, changes)
        )
        z = draw_normal((sample_count, self.dimension_count), self.log_prob_dtype, seeds[1])
        vectors = location + ops.exp(log_scale) * z
        return vectors if labels is None else vectors + self._penalty(labels)[:, None]

    def _components(self, labels: Any, changes: dict[str, Any] | None) -> tuple[Any, Any]:
        """Gives locations and logarithms of scales, `[(batch,) components, dimension_count]`."""
        shape = (self.class_count or 1, self.component_count, self.dimension_count)
        location, log_scale = (
            self._parameter(weight, changes, shape) for weight in (self.location, self.log_scale)
        )
        has_batch = changes is not None
        return self._of(labels, location, has_batch), self._of(labels, log_scale, has_batch)

    def _log_weights(self, labels: Any, changes: dict[str, Any] | None) -> Any:
        """Gives the log-weights of components, `[(batch,) components]`."""
        shape = (self.class_count or 1, self.component_count)
        log_weights = ops.log_softmax(self._parameter(self.logits, changes, shape), axis=-1)
        log_weights = self._of(labels, log_weights, changes is not None)
        return log_weights if labels is not None else log_weights - math.log(shape[0])

    def _of(self, labels: Any, values: Any, has_batch: bool) -> Any:
        """Gives the components of a class for each event, or those of all classes in one row.

        Args:
            labels: Classes, `[batch]`, or `None` for all.
            values: A number or vector for each component, `[classes, components, ...]`, or
                `[batch, classes, components, ...]`.
            has_batch: Whether `values` has the axis `batch`.
        """
        if labels is not None:
            return select_rows(values, self._clip(labels), has_batch)
        lead = (-1,) if has_batch else ()
        count = (self.class_count or 1) * self.component_count
        return ops.reshape(values, (*lead, count, *values.shape[len(lead) + 2 :]))

    def _clip(self, labels: Any) -> Any:
        return ops.clip(labels, 0, (self.class_count or 1) - 1)

    def _penalty(self, labels: Any) -> Any:
        """Gives NaN for labels out of range, and 0 for others."""
        zeros = ops.zeros_like(labels, dtype=self.log_prob_dtype)
        return ops.where(labels == self._clip(labels), zeros, zeros + math.nan)

    def check_labels(self, labels: Any) -> Any:
        """Gives labels as integers, and checks their values if they are known.

        Args:
            labels: Classes, `[batch]` or `[batch, 1]`, or `None`.

        Returns:
            The classes as a tensor of integers, `[batch]`, or `None`.

        Raises:
            ValueError: If there are no classes, or an array of labels is out of range.
        """
        if labels is None or isinstance(labels, keras.KerasTensor):
            return labels
        if self.class_count is None:
            raise ValueError(
                f"`labels` should be omitted, since mixture '{self.name}' has no classes: pass "
                "`class_count` to its constructor. Received: class_count=None"
            )
        if not ops.is_tensor(labels):
            values = np.asarray(labels)
            if not np.all(
                (values == np.floor(values)) & (values >= 0) & (values < self.class_count)
            ):
                raise ValueError(
                    f"`labels` should be integers from 0 to {self.class_count - 1}. "
                    f"Received: labels={labels}"
                )
            labels = ops.convert_to_tensor(values.astype("int32"))
        return ops.reshape(ops.cast(labels, "int32"), (-1,))

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        location = self._initial_location
        return {
            **super().get_config(),
            "component_count": self.component_count,
            "class_count": self.class_count,
            "location": None if location is None else location.tolist(),
            "scale": self._initial_scale.tolist(),
        }
