"""Flows of monotonic splines."""

from collections.abc import Iterable
from typing import Any

from gyoza.applications.building import ORDERS, in_dtype
from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    LULinear,
    MaskedRationalQuadraticSpline,
    RationalQuadraticSplineCoupling,
)
from gyoza.modelling.functions.checks import check_integer, check_positive_integers

__all__ = ["NeuralSplineFlow"]


@in_dtype
def NeuralSplineFlow(
    layer_count: int = 4,
    hidden_sizes: Iterable[int] = (128, 128),
    autoregressive: bool = False,
    bin_count: int = 8,
    bound: float = 5.0,
    residual: bool = False,
    **kwargs: Any,
) -> FlowModel:
    """Rational-quadratic splines between linear maps ("NSF"): the first choice for tables.

    With couplings, both directions take one pass. With autoregressive layers, whose order
    alternates, densities do so, and samples take one for each dimension and layer.

    Args:
        layer_count: The number of spline layers, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        autoregressive: Whether they are autoregressive layers, rather than couplings.
        bin_count: The number of bins of splines.
        bound: Where the linear tails of splines begin.
        residual: Whether their networks are residual.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If a number is out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 4]).astype("float32")
        >>> model = gyoza.applications.NeuralSplineFlow(layer_count=2, hidden_sizes=[16])
        >>> model.adapt(x)
        >>> model.compile("adam")
        >>> history = model.fit(x, verbose=0)

    References:
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """
    check_integer("layer_count", layer_count, minimum=1)
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    layers: list[FlowLayer] = [ActivationNormalization()]
    for index in range(layer_count):
        if autoregressive:
            network = MADE(hidden_sizes, residual=residual, order=ORDERS[index % 2])
            spline: FlowLayer = MaskedRationalQuadraticSpline(
                conditioner=network, bin_count=bin_count, bound=bound
            )
        else:
            spline = RationalQuadraticSplineCoupling(
                conditioner=MLP(hidden_sizes, residual=residual),
                bin_count=bin_count,
                bound=bound,
            )
        swap = [] if autoregressive else [HeavisidePermutation()]
        layers += [spline, *swap, LULinear()]
    return FlowModel(layers, **kwargs)
