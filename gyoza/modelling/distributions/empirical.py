"""The distribution of a data set."""

from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_uniform
from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.functions.checks import check_finite
from gyoza.typing import Seed, Tensor

__all__ = ["Empirical"]


@keras.saving.register_keras_serializable(package="gyoza")
class Empirical(Distribution):
    r"""The distribution of which a data set is all that is known.

    Samples are rows of the data, each drawn with the same probability, with replacement. There is
    no density, so that neither `log_prob` nor training by likelihood is possible. As the base
    distribution of a :class:`~gyoza.modelling.flow_layers.FlowMatchingModel`, whose training needs
    samples alone, it is the source of a transport from data to other data.

    The data are a weight that is not trained. They are saved with the weights of a model, and not
    with its configuration: what `from_config` or `keras.models.clone_model` make has zeros in their
    place until weights are loaded.

    Args:
        data: The rows, `[instances, *event_shape]`, in the units of latents. At most 2²³ of them.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If there are no rows or too many, if they have no axis but the first, or are not
            finite. By `log_prob`, always.

    Example:

        >>> source = np.random.default_rng(0).normal(3.0, 1.0, size=[1000, 2])
        >>> distribution = gyoza.modelling.distributions.Empirical(source)
        >>> rows = keras.ops.convert_to_numpy(distribution.sample(5, seed=0))
        >>> bool(np.isin(rows, source.astype("float32")).all())
        True

        Transport to other data, in units in which the latter have a mean of 0 and a standard
        deviation of 1:

        >>> target = np.random.default_rng(1).uniform(size=[1000, 2]).astype("float32")
        >>> layer = gyoza.modelling.flow_layers.Standardize()
        >>> layer.adapt(target)
        >>> latents, _ = layer(source.astype("float32"))
        >>> model = gyoza.modelling.flow_layers.FlowMatchingModel(
        ...     gyoza.modelling.conditioners.VelocityMLP([64, 64]),
        ...     flow_layers=[layer],
        ...     base_distribution=gyoza.modelling.distributions.Empirical(latents),
        ...     coupling="optimal",
        ... )
        >>> model.compile("adam")
        >>> history = model.fit(target, verbose=0)
        >>> moved = model.invert(latents)
    """

    def __init__(self, data: Tensor, **kwargs: Any) -> None:
        array = np.asarray(ops.convert_to_numpy(data))
        if array.ndim < 2 or not 0 < len(array) <= 2**23:
            raise ValueError(
                f"`data` should hold from 1 to {2**23} rows, [instances, ...]. "
                f"Received: data.shape={array.shape}"
            )
        super().__init__(shape=array.shape[1:], **kwargs)
        self._array: Any = check_finite("data", array)
        self.instance_count = len(array)
        self._create_weights_once()

    def create_weights(self) -> None:
        """See :meth:`Distribution.create_weights`."""
        array, self._array = self._array, None
        self.data = self.add_weight(
            shape=array.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(array, dtype=dtype),
            trainable=False,
            autocast=False,
            name="data",
        )

    def compute_log_prob(self, x: Tensor) -> Tensor:
        """Raises a `ValueError`, since a data set does not have a density."""
        raise ValueError(
            f"Distribution '{self.name}' has samples, but no density. A flow should have a base "
            "distribution with a density for `log_prob`; a `FlowMatchingModel` is trained and "
            f"sampled without one. Received: x of shape {tuple(x.shape)}"
        )

    def draw(self, sample_count: int | Tensor, seed: Seed) -> Tensor:
        """See :meth:`Distribution.draw`."""
        uniform = draw_uniform((sample_count,), "float32", seed)
        indices = ops.cast(ops.floor(uniform * self.instance_count), "int32")
        # Rounding could go beyond.
        indices = ops.minimum(indices, self.instance_count - 1)
        rows = ops.take(ops.cast(self.data, self.log_prob_dtype), indices, axis=0)
        return ops.reshape(rows, (-1, self.dimension_count))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the shape of the data instead of them."""
        config = super().get_config()
        return {"data_shape": [self.instance_count, *config.pop("shape")], **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Empirical":
        """Makes a distribution from what `get_config` returned, with zeros instead of data."""
        config = dict(config)
        config.pop("context_network", None)
        return cls(np.zeros(config.pop("data_shape"), "float32"), **config)
