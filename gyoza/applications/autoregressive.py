"""Autoregressive flows."""

from collections.abc import Iterable
from typing import Any

from gyoza.applications.building import in_dtype, make_autoregressive
from gyoza.modelling.flow_layers import FlowModel, Inverse, MaskedAffine

__all__ = ["MAF", "IAF"]


@in_dtype
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
    layers = make_autoregressive(layer_count, hidden_sizes, residual, MaskedAffine)
    return FlowModel(layers, **kwargs)


@in_dtype
def IAF(
    layer_count: int = 5,
    hidden_sizes: Iterable[int] = (128, 128),
    residual: bool = False,
    **kwargs: Any,
) -> FlowModel:
    """The inverted layers of :func:`MAF`: for variational inference.

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
    layers = make_autoregressive(
        layer_count, hidden_sizes, residual, lambda **options: Inverse(MaskedAffine(**options))
    )
    return FlowModel(layers, **kwargs)
