"""Flows that make every dimension normal."""

from typing import Any

from gyoza.applications.building import alternate, in_dtype
from gyoza.modelling.flow_layers import FlowModel, MixtureGaussianization, Orthogonal

__all__ = ["GaussianizationFlow"]


@in_dtype
def GaussianizationFlow(
    layer_count: int = 6, component_count: int = 16, **kwargs: Any
) -> FlowModel:
    """Mixtures that make each dimension normal, between orthogonal maps.

    `adapt` alone, without training, makes it an estimate of the density. Densities take one pass;
    samples take a search for the root of each mixture.

    Args:
        layer_count: The number of mixture layers, at least 1.
        component_count: The number of components for each dimension.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If a number is out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 2]).astype("float32")
        >>> model = gyoza.applications.GaussianizationFlow(layer_count=2)
        >>> model.adapt(x)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Meng, C., Song, Y., Song, J. & Ermon, S. (2020). "Gaussianization flows."
          `arXiv:2003.01941 <https://arxiv.org/abs/2003.01941>`_
    """
    layers = alternate(
        layer_count,
        lambda: MixtureGaussianization(component_count=component_count),
        lambda: [Orthogonal()],
    )
    return FlowModel(layers, **kwargs)
