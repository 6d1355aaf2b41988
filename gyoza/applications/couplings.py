"""Flows of couplings."""

from collections.abc import Iterable
from typing import Any

from gyoza.applications.building import alternate, in_dtype
from gyoza.modelling.conditioners import MLP, ResNet
from gyoza.modelling.distributions import Distribution, Logistic
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    FactorOut,
    Flatten,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    InvertibleConvolution,
    Logit,
    Squeeze,
    UniformDequantization,
)
from gyoza.modelling.functions.checks import check_integer, check_positive_integers

__all__ = ["NICE", "RealNVP", "Glow"]


@in_dtype
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
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    layers = alternate(
        layer_count,
        lambda: AdditiveCoupling(conditioner=MLP(hidden_sizes)),
        lambda: [HeavisidePermutation()],
    )
    if base_distribution is None:
        base_distribution = Logistic(trainable=False)
    return FlowModel([*layers, ActivationNormalization()], base_distribution, **kwargs)


@in_dtype
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
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    layers = alternate(
        layer_count,
        lambda: AffineCoupling(conditioner=MLP(hidden_sizes)),
        lambda: [HeavisidePermutation(), ActivationNormalization()],
    )
    return FlowModel([ActivationNormalization(), *layers], **kwargs)


@in_dtype
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
    check_integer("scale_count", scale_count, minimum=1)
    check_integer("step_count", step_count, minimum=1)
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
                AffineCoupling(axes=[3], conditioner=network),
            ]
        layers = [Squeeze(), *steps, *layers]
    if levels is not None:
        layers = [UniformDequantization(levels), Logit(alpha=0.01), *layers]
    return FlowModel(layers, **kwargs)
