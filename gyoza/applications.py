"""Ready-made flows: functions that return a model, to be adapted, compiled and fitted.

Their layers, and the order of these, are those of the papers, up to the options of each function. A
model is built by the first data it sees. `model.adapt(x)` gives it a start that suits the data.

`dtype`, one of the arguments of models, also counts for all layers, for their networks and for the
default base distribution.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras

from gyoza.modelling.axes import is_integer
from gyoza.modelling.conditioners import MADE, MLP, ResNet
from gyoza.modelling.distributions import Distribution, Logistic
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    DisentanglingFlowModel,
    FactorOut,
    Flatten,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    InvertibleConvolution,
    Logit,
    LULinear,
    MaskedAffine,
    MaskedRationalQuadraticSpline,
    MixtureGaussianization,
    Orthogonal,
    PairAxes,
    PrincipalRotation,
    RationalQuadraticSplineCoupling,
    Residual,
    ShufflePermutation,
    Squeeze,
    UniformDequantization,
)

__all__ = [
    "NICE",
    "RealNVP",
    "Glow",
    "MAF",
    "IAF",
    "NeuralSplineFlow",
    "GaussianizationFlow",
    "ResidualFlow",
    "InterpretationNetwork",
]

# Of autoregressive layers, one after the other.
_ORDERS = "natural", "reversed"

CAPACITIES = "rotation", "linear", "affine", "spline"
"""What an interpretation network can do, from the least to the most."""
# What mixes the dimensions between its blocks.
_MIXINGS = "linear", "shuffle"

_Make = TypeVar("_Make", bound=Callable[..., FlowModel])


def _in_dtype(make: _Make) -> _Make:
    """Lets `dtype` be the policy of all that a function makes, by Keras' default policy."""

    @functools.wraps(make)
    def make_in_dtype(*args: Any, dtype: Any = None, **kwargs: Any) -> FlowModel:
        default = keras.config.dtype_policy()
        keras.config.set_dtype_policy(keras.dtype_policies.get(dtype))
        try:
            return make(*args, **kwargs)
        finally:
            keras.config.set_dtype_policy(default)

    return make_in_dtype  # type: ignore[return-value]


@_in_dtype
def NICE(
    layer_count: int = 4,
    hidden_sizes: Iterable[int] = (128, 128),
    base_distribution: Distribution | None = None,
    **kwargs: Any,
) -> FlowModel:
    """Additive couplings between swaps of halves, and a scale for each dimension at the end.

    Both directions take one pass.

    Args:
        layer_count: The number of couplings, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        base_distribution: The distribution of the latent; the standard logistic one if omitted, as
            in the paper.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If `layer_count` or `hidden_sizes` are out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 4]).astype("float32")
        >>> model = gyoza.applications.NICE(layer_count=2, hidden_sizes=[16])
        >>> model.adapt(x)
        >>> model.compile("adam")
        >>> history = model.fit(x, verbose=0)
        >>> tuple(model.sample(3, seed=0).shape)
        (3, 4)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
    """
    hidden_sizes = list(hidden_sizes)
    layers = _alternate(
        layer_count,
        lambda: AdditiveCoupling(compute_coupling_parameters=MLP(hidden_sizes)),
        lambda: [HeavisidePermutation()],
    )
    if base_distribution is None:
        base_distribution = Logistic(trainable=False)
    return FlowModel([*layers, ActivationNormalization()], base_distribution, **kwargs)


@_in_dtype
def RealNVP(
    layer_count: int = 8, hidden_sizes: Iterable[int] = (128, 128), **kwargs: Any
) -> FlowModel:
    """Affine couplings between swaps of halves, each after a normalisation.

    Both directions take one pass. For images, see :func:`Glow`.

    Args:
        layer_count: The number of couplings, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If `layer_count` or `hidden_sizes` are out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 4]).astype("float32")
        >>> model = gyoza.applications.RealNVP(layer_count=2, hidden_sizes=[16])
        >>> model.adapt(x)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """
    hidden_sizes = list(hidden_sizes)
    layers = _alternate(
        layer_count,
        lambda: AffineCoupling(compute_coupling_parameters=MLP(hidden_sizes)),
        lambda: [HeavisidePermutation(), ActivationNormalization()],
    )
    return FlowModel([ActivationNormalization(), *layers], **kwargs)


@_in_dtype
def Glow(
    scale_count: int = 2,
    step_count: int = 4,
    width: int = 64,
    block_count: int = 0,
    levels: int | None = None,
    **kwargs: Any,
) -> FlowModel:
    """A multi-scale flow of images: normalisations, 1×1 convolutions and affine couplings.

    Each scale squeezes 2×2 pixels into channels, runs its steps, and all but the last hand half of
    the channels to the latent, which is one flat vector. Both directions take one pass. With few
    images, a base distribution of heavy tails, such as
    :class:`~gyoza.modelling.distributions.StudentT`, keeps rare pixels from costing too much.

    Args:
        scale_count: The number of scales, at least 1. Height and width are multiples of 2 to this
            power.
        step_count: The number of steps of each scale, at least 1.
        width: The number of channels of the convolutions in couplings.
        block_count: The number of residual blocks in couplings, 0 for the network of the paper.
        levels: The number of levels of pixel values, for images of integers from 0 to `levels - 1`
            (as floating-point numbers): they are dequantised to numbers between 0 and 1, and mapped
            to all numbers by a logit. `None` for continuous images.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for images `[batch, height, width, channels]`.

    Raises:
        ValueError: If a number is out of range.

    Example:

        >>> x = np.random.default_rng(0).integers(16, size=[8, 4, 4, 1]).astype("float32")
        >>> model = gyoza.applications.Glow(step_count=1, width=8, levels=16)
        >>> model.adapt(x)
        >>> tuple(model(x)[0].shape), tuple(model.sample(2, seed=0).shape)
        ((8, 16), (2, 4, 4, 1))

    References:
        - Kingma, D. P. & Dhariwal, P. (2018). "Glow: Generative flow with invertible 1x1
          convolutions." `arXiv:1807.03039 <https://arxiv.org/abs/1807.03039>`_
    """
    _check_count("scale_count", scale_count)
    _check_count("step_count", step_count)
    layers: list[Any] = [Flatten()]
    for scale in reversed(range(scale_count)):
        if scale < scale_count - 1:
            layers = [FactorOut(FlowModel(layers))]
        steps: list[FlowLayer] = []
        for _ in range(step_count):
            network = ResNet(width, block_count)
            steps += [
                ActivationNormalization(axes=[3]),
                InvertibleConvolution(),
                AffineCoupling(axes=[3], compute_coupling_parameters=network),
            ]
        layers = [Squeeze(), *steps, *layers]
    if levels is not None:
        layers = [UniformDequantization(levels), Logit(alpha=0.01), *layers]
    return FlowModel(layers, **kwargs)


@_in_dtype
def MAF(
    layer_count: int = 5,
    hidden_sizes: Iterable[int] = (128, 128),
    residual: bool = False,
    **kwargs: Any,
) -> FlowModel:
    """Masked autoregressive affine layers of alternating order, each after a normalisation.

    Densities take one pass, samples one for each dimension and layer.

    Args:
        layer_count: The number of autoregressive layers, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        residual: Whether these networks are residual.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If `layer_count` or `hidden_sizes` are out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 3]).astype("float32")
        >>> model = gyoza.applications.MAF(layer_count=2, hidden_sizes=[16])
        >>> model.adapt(x)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Papamakarios, G., Pavlakou, T. & Murray, I. (2017). "Masked autoregressive flow for
          density estimation." `arXiv:1705.07057 <https://arxiv.org/abs/1705.07057>`_
    """
    return FlowModel(_autoregressive(layer_count, hidden_sizes, residual, MaskedAffine), **kwargs)


@_in_dtype
def IAF(
    layer_count: int = 5,
    hidden_sizes: Iterable[int] = (128, 128),
    residual: bool = False,
    **kwargs: Any,
) -> FlowModel:
    """The layers of :func:`MAF` turned round: for variational inference.

    Samples take one pass, densities one for each dimension and layer; the densities of its own
    samples, by `sample_and_log_prob`, come with them. Train it by
    :class:`~gyoza.modelling.flow_layers.VariationalModel`.

    Args:
        layer_count: The number of autoregressive layers, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of their networks.
        residual: Whether these networks are residual.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If `layer_count` or `hidden_sizes` are out of range.

    Example:

        >>> model = gyoza.applications.IAF(layer_count=2, hidden_sizes=[16])
        >>> model.build((None, 3))
        >>> samples, log_prob = model.sample_and_log_prob(5, seed=0)
        >>> tuple(samples.shape), tuple(log_prob.shape)
        ((5, 3), (5,))

    References:
        - Kingma, D. P., Salimans, T., Jozefowicz, R., Chen, X., Sutskever, I. & Welling, M. (2016).
          "Improving variational inference with inverse autoregressive flow." `arXiv:1606.04934
          <https://arxiv.org/abs/1606.04934>`_
    """
    layers = _autoregressive(
        layer_count, hidden_sizes, residual, lambda **options: Inverse(MaskedAffine(**options))
    )
    return FlowModel(layers, **kwargs)


@_in_dtype
def NeuralSplineFlow(
    layer_count: int = 4,
    hidden_sizes: Iterable[int] = (128, 128),
    autoregressive: bool = False,
    bin_count: int = 8,
    bound: float = 5.0,
    residual: bool = False,
    **kwargs: Any,
) -> FlowModel:
    """Rational-quadratic splines between linear maps: the first choice for tables.

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
    _check_count("layer_count", layer_count)
    hidden_sizes = list(hidden_sizes)
    layers: list[FlowLayer] = [ActivationNormalization()]
    for index in range(layer_count):
        if autoregressive:
            network = MADE(hidden_sizes, residual=residual, order=_ORDERS[index % 2])
            spline: FlowLayer = MaskedRationalQuadraticSpline(
                conditioner=network, bin_count=bin_count, bound=bound
            )
        else:
            spline = RationalQuadraticSplineCoupling(
                compute_coupling_parameters=MLP(hidden_sizes, residual=residual),
                bin_count=bin_count,
                bound=bound,
            )
        swap = [] if autoregressive else [HeavisidePermutation()]
        layers += [spline, *swap, LULinear()]
    return FlowModel(layers, **kwargs)


@_in_dtype
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
    layers = _alternate(
        layer_count,
        lambda: MixtureGaussianization(component_count=component_count),
        lambda: [Orthogonal()],
    )
    return FlowModel(layers, **kwargs)


@_in_dtype
def ResidualFlow(
    layer_count: int = 8, hidden_sizes: Iterable[int] = (64, 64), **kwargs: Any
) -> FlowModel:
    """Residual layers of bounded Lipschitz constant, each after a normalisation.

    Networks are free of structure here, and densities cost a log-determinant for it, see
    :class:`~gyoza.modelling.flow_layers.Residual`; samples take a fixed-point iteration.

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
    hidden_sizes = list(hidden_sizes)
    layers = _alternate(
        layer_count,
        lambda: Residual(hidden_sizes=hidden_sizes),
        lambda: [ActivationNormalization()],
    )
    return FlowModel([ActivationNormalization(), *layers], **kwargs)


@_in_dtype
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
    others become the first entries of the latent, and thus part of the residual factor.

    Args:
        block_count: The number of blocks, at least 1.
        hidden_sizes: The numbers of units of the hidden layers of the networks of couplings.
        seed: Seed of the linear maps or permutations.
        mixing: "linear" or "shuffle".
        dimensions_per_factor: The number of latent entries of each factor, of all of the latent,
            the residual one first: a dictionary by name, or a sequence.
        kept_count: The number of principal axes that go through the flow, less than there are
            dimensions. All dimensions, without a rotation, if omitted.
        capacity: What the flow can do: "affine" for the couplings above, "spline" for couplings
            with monotonic splines. For comparison, "linear" and "rotation" have a single linear or
            orthogonal map in place of blocks, which starts as the identity.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.DisentanglingFlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`, to be fitted to pairs.

    Raises:
        ValueError: If a number is out of range, `mixing` or `capacity` is unknown, permutations
            should start as the identity, or the residual factor does not have room for the entries
            that are not kept.

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
    _check_count("block_count", block_count)
    if kept_count is not None:
        _check_count("kept_count", kept_count)
    if mixing not in _MIXINGS:
        raise ValueError(f"`mixing` should be one of {list(_MIXINGS)}. Received: mixing={mixing!r}")
    if capacity not in CAPACITIES:
        raise ValueError(
            f"`capacity` should be one of {list(CAPACITIES)}. Received: capacity={capacity!r}"
        )
    hidden_sizes = list(hidden_sizes)
    starts_linear = dimensions_per_factor is not None
    if starts_linear and mixing != "linear":
        raise ValueError(
            "`mixing` should be 'linear' where `dimensions_per_factor` are given, as the flow then "
            f"starts as a linear map. Received: mixing={mixing!r}"
        )

    def couple() -> FlowLayer:
        network = MLP(hidden_sizes, activation="leaky_relu")
        if capacity == "spline":
            return RationalQuadraticSplineCoupling(compute_coupling_parameters=network)
        return AffineCoupling(compute_coupling_parameters=network, log_scale_bound=1.0)

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
    """Takes from the residual factor, the first, all dimensions that are not kept."""
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


def _check_count(name: str, count: int) -> None:
    if not is_integer(count) or count < 1:
        raise ValueError(f"`{name}` should be a positive integer. Received: {name}={count}")


def _alternate(
    layer_count: int,
    make_layer: Callable[[], FlowLayer],
    make_between: Callable[[], list[FlowLayer]],
) -> list[FlowLayer]:
    """Makes layers, with others in between."""
    _check_count("layer_count", layer_count)
    layers = [make_layer()]
    for _ in range(layer_count - 1):
        layers += [*make_between(), make_layer()]
    return layers


def _autoregressive(
    layer_count: int,
    hidden_sizes: Iterable[int],
    residual: bool,
    make_layer: Callable[..., FlowLayer],
) -> list[FlowLayer]:
    """Makes autoregressive layers of alternating order, each after a normalisation."""
    _check_count("layer_count", layer_count)
    hidden_sizes = list(hidden_sizes)
    layers: list[FlowLayer] = []
    for index in range(layer_count):
        network = MADE(hidden_sizes, residual=residual, order=_ORDERS[index % 2])
        layers += [ActivationNormalization(), make_layer(conditioner=network)]
    return layers
