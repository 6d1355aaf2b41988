"""Flows that disentangle hidden representations."""

from collections.abc import Iterable, Mapping
from typing import Any

from gyoza.applications.building import in_dtype
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    DisentanglingFlowModel,
    FactorOut,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    LULinear,
    Orthogonal,
    PairAxes,
    PrincipalRotation,
    RationalQuadraticSplineCoupling,
    ShufflePermutation,
)
from gyoza.modelling.functions.checks import check_integer, check_positive_integers

__all__ = ["InterpretationNetwork", "CAPACITIES"]

CAPACITIES = "rotation", "linear", "affine", "spline"
"""What an interpretation network can do, from the least to the most."""
# What mixes the dimensions between its blocks.
_MIXINGS = "linear", "shuffle"


@in_dtype
def InterpretationNetwork(
    block_count: int = 12,
    hidden_sizes: Iterable[int] = (512, 512),
    seed: int | None = 0,
    mixing: str = "linear",
    dimensions_per_factor: Mapping[str, int] | Iterable[int] | None = None,
    kept_count: int | None = None,
    capacity: str = "affine",
    **kwargs: Any,
) -> DisentanglingFlowModel:
    r"""The flow by which Esser et al. disentangle hidden representations, with learnt mixing.

    Each block is a normalisation, a pair of affine couplings that change both halves in turn, with
    scales of :math:`e^{\tanh}`, and a linear map that is learnt. An orthogonal map, learnt as well,
    ends the flow. One network computes both the scales and the shifts of a coupling. With
    `mixing="shuffle"`, it is the flow of the paper, with random permutations instead.

    With `dimensions_per_factor`, the flow starts from the best linear answer: its first layer is
    :class:`~gyoza.modelling.flow_layers.PairAxes`, and all others start as the identity, so that
    training only adds what is not linear. Adapt it to pairs then: `model.adapt(pairs)`. There is no
    orthogonal map at the end.

    With `kept_count`, the flow is for hidden layers that are thin in most directions: it rotates to
    principal axes, normalises them, and runs all of the above on the first `kept_count` only. The
    others become the first dimensions of the latent, and thus part of the residual factor.

    Args:
        block_count: The number of blocks, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of the networks of couplings.
        seed: Seed of the linear maps or permutations.
        mixing: "linear" or "shuffle".
        dimensions_per_factor: The number of latent dimensions of each factor, of all of the
            latent, the residual one first: a dictionary by name, or a sequence.
        kept_count: The number of principal axes that go through the flow, less than there are
            dimensions. All dimensions, without a rotation, if omitted.
        capacity: What the flow can do: "affine" for the couplings above, "spline" for couplings
            with monotonic splines. For comparison, "linear" and "rotation" have a single linear or
            orthogonal map instead of blocks, which starts as the identity.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.DisentanglingFlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`, to be fitted to pairs.

    Raises:
        ValueError: If a number is out of range, `mixing` or `capacity` is unknown, permutations
            should start as the identity, or the residual factor does not have room for the
            dimensions that are not kept.

    Example:

        >>> from gyoza.modelling.losses import SupervisedFactorLoss
        >>> labels = np.random.default_rng(0).integers(3, size=[64, 1])
        >>> x = (np.random.default_rng(1).normal(size=[64, 4]) + labels).astype("float32")
        >>> pairs = gyoza.data.CategoricalPairs(x, labels, seed=0)
        >>> sizes = {"residual": 3, "shape": 1}
        >>> model = gyoza.applications.InterpretationNetwork(
        ...     block_count=2, hidden_sizes=[16], dimensions_per_factor=sizes, kept_count=3
        ... )
        >>> model.adapt(pairs)
        >>> model.compile("adam", loss=SupervisedFactorLoss(sizes.values()))
        >>> history = model.fit(pairs, verbose=0)

    References:
        - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation
          network for explaining latent representations."
          `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    """
    check_integer("block_count", block_count, minimum=1)
    if kept_count is not None:
        check_integer("kept_count", kept_count, minimum=1)
    if mixing not in _MIXINGS:
        raise ValueError(f"`mixing` should be one of {list(_MIXINGS)}. Received: mixing={mixing!r}")
    if capacity not in CAPACITIES:
        raise ValueError(
            f"`capacity` should be one of {list(CAPACITIES)}. Received: capacity={capacity!r}"
        )
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    starts_linear = dimensions_per_factor is not None
    if starts_linear and mixing != "linear":
        raise ValueError(
            "`mixing` should be 'linear' where `dimensions_per_factor` are given, as the flow then "
            f"starts as a linear map. Received: mixing={mixing!r}"
        )

    def couple() -> FlowLayer:
        network = MLP(hidden_sizes, activation="leaky_relu")
        if capacity == "spline":
            return RationalQuadraticSplineCoupling(conditioner=network)
        return AffineCoupling(conditioner=network, log_scale_bound=1.0)

    layers: list[FlowLayer] = []
    if dimensions_per_factor is not None:
        layers.append(PairAxes(_reduce_residual(dimensions_per_factor, kept_count)))
    if capacity in ("rotation", "linear"):
        make_map = Orthogonal if capacity == "rotation" else LULinear
        layers += [] if starts_linear else [ActivationNormalization()]
        layers.append(make_map(initializer="identity"))
        block_count, mixing = 0, "none"
    for block in range(block_count):
        block_seed = None if seed is None else seed + block
        layers += [ActivationNormalization(), couple(), HeavisidePermutation(), couple()]
        if starts_linear:
            layers += [Inverse(HeavisidePermutation()), LULinear(initializer="identity")]
        elif mixing == "linear":
            layers.append(LULinear(seed=block_seed))
        else:
            layers.append(ShufflePermutation(seed=block_seed))
    if mixing == "linear" and not starts_linear:
        layers.append(Orthogonal())
    if kept_count is not None:
        thin = FactorOut(FlowModel(layers), kept_count)
        layers = [PrincipalRotation(), ActivationNormalization(), thin]
    return DisentanglingFlowModel(layers, **kwargs)


def _reduce_residual(dimensions_per_factor: Any, kept_count: int | None) -> Any:
    """Subtracts from the residual factor, the first, all dimensions that are not kept."""
    is_named = isinstance(dimensions_per_factor, Mapping)
    sizes = dict(dimensions_per_factor if is_named else enumerate(dimensions_per_factor))
    if kept_count is not None:
        residual = next(iter(sizes))
        sizes[residual] += kept_count - sum(sizes.values())
        if sizes[residual] < 0:
            raise ValueError(
                "`kept_count` should be at least the number of dimensions of all factors but the "
                f"residual one. Received: kept_count={kept_count}, "
                f"dimensions_per_factor={dimensions_per_factor}"
            )
    return sizes if is_named else list(sizes.values())
