"""Flow models as base distributions of others."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers.density import Density
from gyoza.modelling.functions.checks import check_instance
from gyoza.typing import DType, Seed, Shape, Tensor

__all__ = ["FlowDistribution", "to_distribution"]


@keras.saving.register_keras_serializable(package="gyoza")
class FlowDistribution(Distribution):
    r"""The distribution of what a flow model is a density of.

    It makes a flow :math:`g` with the density :math:`p_g` the base distribution of another,
    :math:`\log p(x) = \log p_g(f(x)) + \log \left| \det \frac{\partial f}{\partial x} \right|`:
    where a flow is a base distribution, a model makes one of these by itself. The likelihood is
    that of a single flow with the layers of both. With a
    :class:`~gyoza.modelling.flow_layers.FlowMatchingModel`, paths begin at samples of the flow.

    Its weights are those of the flow, which are trained unless `flow.trainable` is `False`. Layers
    that are adapted to data, such as normalisations, should be so before, by `flow.adapt`.

    Args:
        flow: The :class:`FlowModel`. If it is conditional, it is built, and has the same context as
            the layers of the other flow.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `flow` is not a flow model.

    Attributes:
        flow: The flow model.

    Example:

        >>> from gyoza.modelling import flow_layers
        >>> flow = flow_layers.FlowModel([flow_layers.Affine()])
        >>> flow.build((None, 2))
        >>> model = flow_layers.FlowModel([flow_layers.Reflection()], base_distribution=flow)
        >>> x = np.random.default_rng(0).normal(size=[8, 2]).astype("float32")
        >>> z, log_det = model(x)
        >>> expected = flow.log_prob(z) + log_det
        >>> bool(np.allclose(*map(keras.ops.convert_to_numpy, [model.log_prob(x), expected])))
        True
    """

    def __init__(self, flow: keras.Model, **kwargs: Any) -> None:
        check_instance("flow", flow, Density, "a `FlowModel`")
        super().__init__(**{"dtype": flow.dtype_policy, **kwargs})
        self.flow = flow

    @property
    def metrics(self) -> list[keras.Metric]:
        """None: the metrics of a compiled flow are those of its own training."""
        return []

    @property
    def accepts_context(self) -> bool:
        """Whether the flow is conditional."""
        return self.flow.context_shape is not None

    def build(self, input_shape: Shape) -> None:
        """Builds the flow for latents of the other one."""
        super().build(input_shape)
        if not self.flow.built:
            self.flow.build(input_shape)

    def compute_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes log-densities of the flow."""
        return self.flow._log_prob(self._to_events(x), context)

    def draw(self, sample_count: int | Tensor, seed: Seed, context: Tensor | None = None) -> Tensor:
        """Draws samples of the flow."""
        base = self.flow.base_distribution
        z = base.sample(sample_count, seed=seed, **self.flow._base_context(context))
        return self._to_vectors(self.flow._invert(z, context))

    def _check_context(self, context: Tensor | None, counts: Sequence[int | Tensor]) -> None:
        """Leaves checks of the context to the flow."""

    def _change(self, context: Tensor | None, count: int | Tensor | None = None) -> dict[str, Any]:
        """Returns the context as an argument of the methods above."""
        if context is None:
            return {}
        if count is not None:
            context = ops.broadcast_to(context, (count, *context.shape[1:]))
        return {"context": context}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        config = keras.Layer.get_config(self)
        return {**config, "flow": keras.saving.serialize_keras_object(self.flow)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FlowDistribution":
        """Makes a distribution from what `get_config` returned."""
        return cls(**{**config, "flow": keras.saving.deserialize_keras_object(config["flow"])})


def to_distribution(base_distribution: Distribution | None, dtype: DType) -> Distribution:
    """Returns what is passed as a base distribution, or a standard normal one instead of `None`."""
    if base_distribution is None:
        return StandardNormal(dtype=dtype)
    if isinstance(base_distribution, Density):
        return FlowDistribution(base_distribution)
    what = "a `Distribution` or a `FlowModel`"
    check_instance("base_distribution", base_distribution, Distribution | Density, what)
    return base_distribution
