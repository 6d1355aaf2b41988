"""What distributions of independent, shifted and scaled dimensions have in common."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.functions.checks import check_finite, check_positive
from gyoza.typing import Seed, Shape, Tensor

__all__ = ["LocationScale"]


class LocationScale(Distribution):
    """Base class of distributions of independent dimensions that are shifted and scaled.

    Subclasses implement `standard_log_prob(z, *shapes)` and `standard_draw(shape, seed, *shapes)`,
    where `shapes` are further parameters that `get_shapes(changes)` gives, if there are any.
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        location: Tensor = 0.0,
        scale: Tensor = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, **kwargs)
        self._initial_location = check_finite("location", location)
        self._initial_scale = check_positive("scale", scale)
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates location and logarithm of the scale."""
        self.location = self._add_parameter("location", (), self._initial_location)
        self.log_scale = self._add_parameter("log_scale", (), np.log(self._initial_scale))

    @property
    def scale(self) -> Tensor:
        """The scale, with `event_shape`: the exponential of the weight `log_scale`."""
        return ops.exp(self.log_scale)

    def get_shapes(self, changes: dict[str, Tensor] | None) -> tuple[Tensor, ...]:
        """Returns the parameters besides location and scale, `[dimension_count]` or per event.

        Args:
            changes: See :class:`Distribution`.
        """
        return ()

    def standard_log_prob(self, z: Tensor, *shapes: Tensor) -> Tensor:
        """Computes log-densities at location 0 and scale 1, dimension by dimension.

        Args:
            z: Vectors, `[batch, dimension_count]`.
            *shapes: What `get_shapes` gave.

        Returns:
            A tensor of the shape of `z`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `standard_log_prob(z)`.")

    def standard_draw(self, shape: Shape, seed: Seed, *shapes: Tensor) -> Tensor:
        """Draws numbers at location 0 and scale 1.

        Args:
            shape: The shape `[sample_count, dimension_count]`.
            seed: See :meth:`Distribution.draw`.
            *shapes: What `get_shapes` gave.

        Returns:
            A tensor of that shape.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `standard_draw(shape, seed)`."
        )

    def standard_log_odds(self, z: Tensor, *shapes: Tensor) -> Tensor:
        """Computes the log-odds of numbers at location 0 and scale 1.

        Args:
            z: Vectors, `[batch, dimension_count]`.
            *shapes: What `get_shapes` gave.

        Returns:
            A tensor of the shape of `z`.
        """
        raise self._lacks_quantiles()

    def standard_quantiles(self, log_odds: Tensor, *shapes: Tensor) -> Tensor:
        """Inverts `standard_log_odds`."""
        raise self._lacks_quantiles()

    def compute_log_odds(self, x: Tensor, changes: dict[str, Tensor] | None = None) -> Tensor:
        """See :meth:`Distribution.compute_log_odds`."""
        scale = ops.exp(self._parameter(self.log_scale, changes))
        z = (x - self._parameter(self.location, changes)) / scale
        return self.standard_log_odds(z, *self.get_shapes(changes))

    def compute_quantiles(
        self, log_odds: Tensor, changes: dict[str, Tensor] | None = None
    ) -> Tensor:
        """See :meth:`Distribution.compute_quantiles`."""
        z = self.standard_quantiles(log_odds, *self.get_shapes(changes))
        scale = ops.exp(self._parameter(self.log_scale, changes))
        return self._parameter(self.location, changes) + scale * z

    def compute_log_prob(self, x: Tensor, changes: dict[str, Tensor] | None = None) -> Tensor:
        """See :meth:`Distribution.compute_log_prob`."""
        log_scale = self._parameter(self.log_scale, changes)
        z = (x - self._parameter(self.location, changes)) * ops.exp(-log_scale)
        return ops.sum(self.standard_log_prob(z, *self.get_shapes(changes)) - log_scale, axis=-1)

    def draw(
        self, sample_count: int | Tensor, seed: Seed, changes: dict[str, Tensor] | None = None
    ) -> Tensor:
        """See :meth:`Distribution.draw`."""
        shape = (sample_count, self.dimension_count)
        z = self.standard_draw(shape, seed, *self.get_shapes(changes))
        scale = ops.exp(self._parameter(self.log_scale, changes))
        return self._parameter(self.location, changes) + scale * z

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {
            **super().get_config(),
            "location": self._initial_location.tolist(),
            "scale": self._initial_scale.tolist(),
        }
