"""Distributions given labels, some of which may be unknown."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_normal
from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.tools import (
    check_values,
    make_constant,
)
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_finite, check_positive
from gyoza.modelling.functions.normal import standard_normal_log_density
from gyoza.typing import Seed, Tensor

__all__ = ["Labelled", "LabelledNormal"]


class Labelled(Distribution):
    """Base class of distributions whose events have labels.

    Subclasses implement `label_count` and `check_label_values(values)`, and give `compute_log_prob`
    and `draw` a further argument `labels`: `None`, or a tensor in `log_prob_dtype`, `[batch,
    label_count]`.
    """

    @property
    def label_count(self) -> int:
        """The number of labels of an event."""
        raise NotImplementedError(f"{type(self).__name__} should implement `label_count`.")

    @property
    def accepts_labels(self) -> bool:
        """Whether `log_prob` and `sample` can be given `labels`."""
        return True

    def check_label_values(self, values: np.ndarray) -> None:
        """Raises a `ValueError` if some of the labels do not exist.

        Args:
            values: The labels, `[batch, label_count]`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `check_label_values`.")

    def check_labels(self, labels: Tensor | None) -> Tensor | None:
        """Returns labels as a tensor, and checks their values if they are known.

        Args:
            labels: The labels, `[batch, label_count]`, or if there is one label per event, also
                `[batch]`. Or `None`.

        Returns:
            The labels in `log_prob_dtype`, `[batch, label_count]`, or `None`.

        Raises:
            ValueError: If the distribution takes no labels, they have another shape, or an array of
                labels holds some that there are not.
        """
        if labels is None or isinstance(labels, keras.KerasTensor):
            return labels
        if not self.accepts_labels:
            raise ValueError(
                f"`labels` should be omitted, since distribution '{self.name}' takes none. A "
                f"`GaussianMixture` takes them if it has a `class_count`. Received: labels={labels}"
            )
        shape, count = tuple(np.shape(labels)), self.label_count
        one_each = count == 1 and len(shape) < 2
        if not one_each and (len(shape) not in (1, 2) or shape[-1] not in (None, count)):
            raise ValueError(
                f"`labels` should have shape [batch, {count}] for distribution '{self.name}'. "
                f"Received: labels.shape={shape}"
            )
        if not ops.is_tensor(labels):
            values = np.asarray(labels, "float64").reshape(-1, count)
            self.check_label_values(values)
            labels = ops.convert_to_tensor(values, dtype=self.log_prob_dtype)
        return ops.reshape(ops.cast(labels, self.log_prob_dtype), (-1, count))

    def call(
        self, x: Tensor, context: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """See :meth:`log_prob`."""
        x, labels = self._to_vectors(x), self.check_labels(labels)
        if labels is not None:
            known = labels.shape[0], x.shape[0]
            if None not in known and known[0] != known[1]:
                raise ValueError(
                    "`labels` should have as many rows as there are events. "
                    f"Received: labels of {known[0]} for {known[1]} events"
                )
        return self.compute_log_prob(x, **self._change(context), **given(labels=labels))

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Computes log-densities.

        Args:
            x: Events, `[batch, *event_shape]`.
            context: See :meth:`Distribution.log_prob`.
            labels: The labels of each event, `[batch, label_count]`, for the densities given them.
                Without labels, all are unknown.

        Returns:
            The natural logarithms of the densities, `[batch]`. NaN for classes out of range where
            they are not known before the computation, as in compiled code.

        Raises:
            ValueError: If there are labels but the distribution takes none, they have another
                shape, or an array of labels is out of range.
        """
        arguments = given(labels=self.check_labels(labels), context=self._to_tensor(context))
        return self(self._to_tensor(x), **arguments)

    def sample(
        self,
        sample_count: int | Tensor,
        seed: Seed = None,
        context: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draws independent events.

        Args:
            sample_count: See :meth:`Distribution.sample`.
            seed: See :meth:`Distribution.sample`.
            context: See :meth:`Distribution.sample`.
            labels: The labels of each event, `[sample_count, label_count]`, or those of all,
                `[label_count]`. What is unknown is drawn, too.

        Returns:
            The events, `[sample_count, *event_shape]`. NaN for classes out of range where they are
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
                    "`labels` should be those of one event, or of each of `sample_count` events. "
                    f"Received: labels of {known[0]}, sample_count={known[1]}"
                )
            labels = ops.broadcast_to(labels, (sample_count, self.label_count))
        return self._to_events(self.draw(sample_count, seed, **changes, **given(labels=labels)))


@keras.saving.register_keras_serializable(package="gyoza")
class LabelledNormal(Labelled):
    r"""Normal numbers around values that are known for some events: one label per dimension.

    A dimension :math:`x_i` is its label :math:`y_i` with some noise, and the labels are normal,
    too:

    .. math::
        p(x_i \mid y_i) = \mathcal{N}(x_i \mid y_i, \epsilon_i^2), \qquad
        p(y_i) = \mathcal{N}(y_i \mid l_i, s_i^2), \qquad
        p(x_i) = \mathcal{N}(x_i \mid l_i, s_i^2 + \epsilon_i^2).

    The last is the density where the label is unknown, that is, NaN. A flow to this distribution
    regresses: its likelihood given labels contains the squared distance :math:`(x_i - y_i)^2 / 2
    \epsilon_i^2`. There are no weights. As :math:`p(y)` is fixed, :math:`p(x, y)` and :math:`p(x
    \mid y)` are of equal use in training.

    Args:
        shape: See :class:`Distribution`. It has to be known before labels are given.
        noise: Standard deviations :math:`\epsilon`, positive, a number or an array that broadcasts
            to `shape`.
        location: Means :math:`l` of the labels, likewise.
        scale: Standard deviations :math:`s` of the labels, positive, likewise.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If numbers are not finite or do not fit, or `noise` or `scale` are not positive.

    Example:

        >>> distribution = gyoza.modelling.distributions.LabelledNormal(shape=[1], noise=0.5)
        >>> log_prob = distribution.log_prob([[2.0], [2.0]], labels=[[2.0], [np.nan]])
        >>> keras.ops.convert_to_numpy(log_prob).round(4)
        array([-0.2258, -2.6305], dtype=float32)
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        noise: Tensor = 0.3,
        location: Tensor = 0.0,
        scale: Tensor = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self._noise = check_positive("noise", noise)
        self._location = check_finite("location", location)
        self._scale = check_positive("scale", scale)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates no weights, but finds out whether the numbers fit the shape."""
        for name in ("noise", "location", "scale"):
            make_constant(name, getattr(self, f"_{name}"), self._event_shape or ())

    @property
    def label_count(self) -> int:
        """The number of labels of an event: that of its dimensions."""
        return self.dimension_count

    def check_label_values(self, values: np.ndarray) -> None:
        """Raises an error for infinite labels; see :meth:`check_labels`."""
        check_values("labels", values)

    def compute_log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Computes the log-densities of vectors; see :meth:`Distribution.compute_log_prob`.

        Args:
            x: Vectors, `[batch, dimension_count]`.
            labels: Labels, likewise, or `None`.

        Returns:
            Their log-densities, `[batch]`.
        """
        location, scale = self._location_and_scale(labels)
        z = (x - location) / scale
        return ops.sum(standard_normal_log_density(z) - ops.log(scale), axis=-1)

    def draw(self, sample_count: int | Tensor, seed: Seed, labels: Tensor | None = None) -> Tensor:
        """Draws vectors; see :meth:`Distribution.draw`.

        Args:
            sample_count: Their number.
            seed: An integer or a `keras.random.SeedGenerator`.
            labels: Labels, `[sample_count, dimension_count]`, or `None`.

        Returns:
            The vectors, `[sample_count, dimension_count]`.
        """
        location, scale = self._location_and_scale(labels)
        shape = (sample_count, self.dimension_count)
        return location + scale * draw_normal(shape, self.log_prob_dtype, seed)

    def _location_and_scale(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns means and standard deviations, `[(batch,) dimension_count]`."""
        noise, location, marginal_scale = (
            ops.convert_to_tensor(
                np.broadcast_to(values, self._event_shape or ()).reshape(-1),
                dtype=self.log_prob_dtype,
            )
            for values in (self._noise, self._location, np.hypot(self._noise, self._scale))
        )
        if labels is None:
            return location, marginal_scale
        is_unknown = ops.isnan(labels)
        return (
            ops.where(is_unknown, location, labels),
            ops.where(is_unknown, marginal_scale, noise),
        )

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {
            **super().get_config(),
            "noise": self._noise.tolist(),
            "location": self._location.tolist(),
            "scale": self._scale.tolist(),
        }
