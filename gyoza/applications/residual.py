"""Flows of residual layers."""

from collections.abc import Iterable
from typing import Any

from gyoza.applications.building import alternate, in_dtype
from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel, Residual
from gyoza.modelling.functions.checks import check_positive_integers

__all__ = ["ResidualFlow"]


@in_dtype
def ResidualFlow(
    layer_count: int = 8, hidden_sizes: Iterable[int] = (64, 64), **kwargs: Any
) -> FlowModel:
    """Residual layers of bounded Lipschitz constant, each after a normalisation.

    The networks need no particular structure. In return, densities take a log-determinant, see
    :class:`~gyoza.modelling.flow_layers.Residual`, and samples a fixed-point iteration.

    Args:
        layer_count: The number of residual layers, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If a number is out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 2]).astype("float32")
        >>> model = gyoza.applications.ResidualFlow(layer_count=2, hidden_sizes=[16])
        >>> model.adapt(x)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Behrmann, J., Grathwohl, W., Chen, R. T. Q., Duvenaud, D. & Jacobsen, J.-H. (2019).
          "Invertible residual networks." `arXiv:1811.00995 <https://arxiv.org/abs/1811.00995>`_
        - Chen, R. T. Q., Behrmann, J., Duvenaud, D. & Jacobsen, J.-H. (2019). "Residual flows for
          invertible generative modeling." `arXiv:1906.02735 <https://arxiv.org/abs/1906.02735>`_
    """
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    layers = alternate(
        layer_count,
        lambda: Residual(hidden_sizes=hidden_sizes),
        lambda: [ActivationNormalization()],
    )
    return FlowModel([ActivationNormalization(), *layers], **kwargs)
