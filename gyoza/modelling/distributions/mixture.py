"""Mixtures of normal distributions."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_normal, draw_uniform
from gyoza.modelling.distributions.labelled import Labelled
from gyoza.modelling.distributions.tools import (
    check_classes,
    class_penalty,
    select_rows,
    split_seed,
    to_classes,
)
from gyoza.modelling.functions.checks import check_finite, check_integer, check_positive
from gyoza.modelling.functions.logistic_mixtures import mixture_log_odds, mixture_quantile
from gyoza.modelling.functions.normal import standard_normal_log_density
from gyoza.typing import Seed, Tensor

__all__ = ["GaussianMixture"]


@keras.saving.register_keras_serializable(package="gyoza")
class GaussianMixture(Labelled):
    r"""A mixture of normal distributions with diagonal covariances, all of it learnt.

    .. math::
        p(x) = \sum_{k=1}^K w_k \prod_i \mathcal{N} \left( x_i \mid l_{ki}, s_{ki}^2 \right), \qquad
        w = \operatorname{softmax}(\text{logits}).

    With `class_count`, every class has `component_count` components of its own, and a flow to this
    distribution is a generative classifier. Given labels, densities :math:`p(x \mid c)` and samples
    are those of the components of their classes. All :math:`C` classes are equally likely: where
    the label is -1 (or NaN), which stands for unknown, and without labels, the density is

    .. math::
        p(x) = \frac{1}{C} \sum_c p(x \mid c).

    So a flow is trained semi-supervised by `fit(x, labels)`. The joint density :math:`p(x, c) = p(x
    \mid c) / C` would serve as well: its logarithm differs by a constant from that of :math:`p(x
    \mid c)`. :meth:`class_log_prob` classifies.

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
        location: Tensor | None = None,
        scale: Tensor = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self.component_count = check_integer("component_count", component_count, minimum=1)
        if class_count is not None:
            class_count = check_integer("class_count", class_count, minimum=1)
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
    def scale(self) -> Tensor:
        """The standard deviations, in the shape of `log_scale`."""
        return ops.exp(self.log_scale)

    @property
    def accepts_labels(self) -> bool:
        """Whether there are classes."""
        return self.class_count is not None

    @property
    def label_count(self) -> int:
        """The number of labels of an event: 1, its class, from 0 to `class_count - 1`."""
        return 1

    def check_label_values(self, values: np.ndarray) -> None:
        """Raises an error for classes that do not exist; see :meth:`check_labels`."""
        check_classes("labels", values, self._class_count)

    def class_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Computes how probable the classes are for given events, by Bayes' rule.

        .. math::
            \ln p(c \mid x) = \ln p(x \mid c) - \ln \sum_{c'} p(x \mid c').

        Args:
            x: Events, `[batch, *event_shape]`, such as the latents that a flow gives.
            context: See :meth:`Distribution.log_prob`.

        Returns:
            The natural logarithms of the probabilities, `[batch, class_count]`.

        Raises:
            ValueError: If there are no classes.
        """
        if self.class_count is None:
            raise ValueError(
                f"Mixture '{self.name}' should have classes: pass `class_count` to its "
                "constructor. Received: class_count=None"
            )
        x, context = self._to_tensor(x), self._to_tensor(context)
        if not self.built:
            self.build(x.shape)
        self._check_context(context, (x.shape[0],))
        return ops.log_softmax(
            self._class_log_probs(self._to_vectors(x), **self._change(context)), axis=-1
        )

    def compute_log_prob(
        self, x: Tensor, changes: dict[str, Tensor] | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Computes the log-densities of vectors; see :meth:`Distribution.compute_log_prob`.

        Args:
            x: Vectors, `[batch, dimension_count]`.
            changes: See :class:`Distribution`.
            labels: Classes, `[batch, 1]`, or `None`.

        Returns:
            Their log-densities, `[batch]`.
        """
        log_probs = self._class_log_probs(x, changes)
        marginal = ops.logsumexp(log_probs, axis=-1) - math.log(self._class_count)
        if labels is None:
            return marginal
        classes = to_classes(labels[:, 0])
        given = select_rows(log_probs, self._clip(classes), has_batch=True)
        return ops.where(classes == -1, marginal, given) + self._penalty(classes)

    def draw(
        self,
        sample_count: int | Tensor,
        seed: Seed,
        changes: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draws vectors; see :meth:`Distribution.draw`.

        Args:
            sample_count: Their number.
            seed: An integer or a `keras.random.SeedGenerator`.
            changes: See :class:`Distribution`.
            labels: Classes, `[sample_count, 1]`, or `None`.

        Returns:
            The vectors, `[sample_count, dimension_count]`.
        """
        seeds = split_seed(seed, 3)
        has_batch = changes is not None
        chosen = keras.random.randint((sample_count,), 0, self._class_count, seed=seeds[2])
        penalty: Tensor = 0.0
        if labels is not None:
            classes = to_classes(labels[:, 0])
            chosen = ops.where(classes == -1, chosen, self._clip(classes))
            penalty = self._penalty(classes)[:, None]
        location, log_scale, log_weights = self._components(changes)
        # A component is the first whose cumulative weight exceeds a uniform number.
        weights = ops.exp(select_rows(log_weights, chosen, has_batch))
        uniform = draw_uniform((sample_count, 1), self.log_prob_dtype, seeds[0])
        reached = uniform >= ops.cumsum(weights, axis=-1)[:, :-1]
        component = chosen * self.component_count + ops.sum(ops.cast(reached, "int32"), axis=-1)
        lead = (-1,) if has_batch else ()
        shape = (*lead, self._class_count * self.component_count, self.dimension_count)
        location, log_scale = (
            select_rows(ops.reshape(values, shape), component, has_batch)
            for values in (location, log_scale)
        )
        z = draw_normal((sample_count, self.dimension_count), self.log_prob_dtype, seeds[1])
        return location + ops.exp(log_scale) * z + penalty

    def compute_log_odds(self, x: Tensor, changes: dict[str, Tensor] | None = None) -> Tensor:
        """See :meth:`Distribution.compute_log_odds`; for mixtures of one dimension."""
        log_weights, location, log_scale = self._components_of_each(changes)
        return mixture_log_odds(x, log_weights, location, log_scale, "normal")[0]

    def compute_quantiles(
        self, log_odds: Tensor, changes: dict[str, Tensor] | None = None
    ) -> Tensor:
        """See :meth:`Distribution.compute_quantiles`; for mixtures of one dimension."""
        log_weights, location, log_scale = self._components_of_each(changes)
        return mixture_quantile(log_odds, log_weights, location, log_scale, "normal")

    def _components_of_each(self, changes: dict[str, Tensor] | None) -> list[Tensor]:
        """Returns logarithms of weights, locations and logarithms of scales of each dimension.

        They broadcast to `[batch, dimension_count, component_count]`, with those of all classes.
        """
        count = self._class_count * self.component_count
        if count > 1 and self.dimension_count > 1:
            raise self._lacks_quantiles()
        location, log_scale, log_weights = self._components(changes)
        log_weights = log_weights - math.log(self._class_count)
        return [
            ops.reshape(values, (-1, size, count))
            for values, size in (
                (log_weights, 1),
                (location, self.dimension_count),
                (log_scale, self.dimension_count),
            )
        ]

    @property
    def _class_count(self) -> int:
        return self.class_count or 1

    def _class_log_probs(self, x: Tensor, changes: dict[str, Tensor] | None = None) -> Tensor:
        """Returns the log-densities given each class, `[batch, classes]`."""
        location, log_scale, log_weights = self._components(changes)
        z = (x[:, None, None, :] - location) * ops.exp(-log_scale)
        log_probs = ops.sum(standard_normal_log_density(z) - log_scale, axis=-1)
        return ops.logsumexp(log_probs + log_weights, axis=-1)

    def _components(self, changes: dict[str, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns locations, logarithms of scales and of weights, `[(batch,) classes, ...]`."""
        shape = (self._class_count, self.component_count)
        location, log_scale = (
            self._parameter(weight, changes, (*shape, self.dimension_count))
            for weight in (self.location, self.log_scale)
        )
        logits = self._parameter(self.logits, changes, shape)
        return location, log_scale, ops.log_softmax(logits, axis=-1)

    def _clip(self, classes: Tensor) -> Tensor:
        return ops.clip(classes, 0, self._class_count - 1)

    def _penalty(self, classes: Tensor) -> Tensor:
        return class_penalty(classes, self._class_count, self.log_prob_dtype)

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
