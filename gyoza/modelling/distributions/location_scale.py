"""What distributions of independent, shifted and scaled entries have in common."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.tools import (
    check_finite,
    check_positive,
)

__all__ = ["LocationScale"]


class LocationScale(Distribution):
    """Base class of distributions of independent entries that are shifted and scaled.

    Subclasses implement `standard_log_prob(z)` and `standard_draw(shape, seed)`.
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        location: Any = 0.0,
        scale: Any = 1.0,
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
    def scale(self) -> Any:
        """The scale, with `event_shape`: the exponential of the weight `log_scale`."""
        return ops.exp(self.log_scale)

    def standard_log_prob(self, z: Any) -> Any:
        """Computes log-densities at location 0 and scale 1, entry by entry.

        Args:
            z: Vectors, `[batch, dimension_count]`.

        Returns:
            A tensor of the shape of `z`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `standard_log_prob(z)`.")

    def standard_draw(self, shape: tuple[Any, ...], seed: Any) -> Any:
        """Draws entries at location 0 and scale 1.

        Args:
            shape: The shape `[sample_count, dimension_count]`.
            seed: See :meth:`Distribution.draw`.

        Returns:
            A tensor of that shape.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `standard_draw(shape, seed)`."
        )

    def compute_log_prob(self, x: Any) -> Any:
        """See :meth:`Distribution.compute_log_prob`."""
        log_scale = self._parameter(self.log_scale)
        z = (x - self._parameter(self.location)) * ops.exp(-log_scale)
        return ops.sum(self.standard_log_prob(z) - log_scale, axis=-1)

    def draw(self, sample_count: Any, seed: Any) -> Any:
        """See :meth:`Distribution.draw`."""
        z = self.standard_draw((sample_count, self.dimension_count), seed)
        return self._parameter(self.location) + ops.exp(self._parameter(self.log_scale)) * z

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Distribution.get_config`."""
        return {
            **super().get_config(),
            "location": self._initial_location.tolist(),
            "scale": self._initial_scale.tolist(),
        }
