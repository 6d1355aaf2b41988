r"""Linear maps that find factors in a hidden representation without any training.

Each function has the arguments of :func:`units` and returns an ordinary
:class:`~gyoza.interpretation.Interpreter`, so that whatever can be done with a trained flow can be
done with each of them. A flow is worth its training where it does better than the best of them.

All latent dimensions have variance 1 (unless they are constant), and within a block of
:func:`difference_of_means`, :func:`leace`, :func:`pair_axes` or :func:`random_subspace` they are
uncorrelated.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from gyoza.interpretation.factor_sizes import estimate_factor_sizes, name_factors, to_sizes
from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.parts import (
    LayerKey,
    Network,
    make_pairs,
    read_hidden,
    to_classes,
    to_columns,
    to_names,
    to_parts,
)
from gyoza.modelling.flow_layers import FlowModel, LinearMap, PairAxes
from gyoza.modelling.functions.principal_axes import diagonalise
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensor, Tensors

__all__ = [
    "units",
    "principal_axes",
    "pair_axes",
    "difference_of_means",
    "leace",
    "random_subspace",
]

Sizes = Mapping[str, int] | Iterable[int] | None

_THIN = 1e-10
"""Directions with less than this share of the largest variance are constant, up to rounding."""


def units(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor the hidden units that tell the most about it.

    For each factor in turn, these are the units for which its classes explain the largest share of
    the variance,

    .. math::
        \eta^2 = \frac{\operatorname{var}_c \operatorname{E}[h_i | c]}{\operatorname{var} h_i},

    which is the correlation of pairs that share a class. Numbers are sorted into twenty classes of
    equal size.

    Args:
        network: The network: a head and a tail, `(head, tail)`, as
            :func:`~gyoza.interpretation.split_network` returns them, or an encoder and its decoder;
            or a Keras model, which is split at `layer`.
        x: Inputs of the network, `[instances, ...]`.
        labels: What is known of them, `[instances, K]`: classes (integers, strings, booleans) or
            real numbers, one column for each factor. Columns of whole numbers are classes.
        dimensions_per_factor: The sizes of factors, the residual one first: a dictionary by name,
            or a sequence. If `None`, they are estimated by
            :func:`~gyoza.interpretation.estimate_factor_sizes`, by the rule "likelihood".
        layer: The layer at which `network` is split, if it is a model.
        names: The names of the K factors. "factor_1" and so on if omitted.
        seed: Seed of the pairs from which sizes are estimated.

    Returns:
        The interpreter.

    Raises:
        TypeError: If `network` or sizes are of the wrong type.
        ValueError: If labels, names, sizes and hidden representations do not fit one another.

    Example:

        >>> from gyoza.interpretation import baselines
        >>> random = np.random.default_rng(0)
        >>> head = keras.Sequential([keras.Input([4]), keras.layers.Dense(6)])
        >>> tail = keras.Sequential([keras.Input([6]), keras.layers.Dense(3)])
        >>> labels = random.integers(3, size=[200, 1])
        >>> x = (labels + random.normal(size=[200, 4])).astype("float32")
        >>> interpreter = baselines.units((head, tail), x, labels, [4, 2], names=["shape"])
        >>> {name: block.shape for name, block in interpreter.encode(x).items()}
        {'residual': (200, 4), 'shape': (200, 2)}
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    return _choose_columns(study, np.eye(study.width), dimensions_per_factor, seed)


def principal_axes(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor the principal axes that tell the most about it.

    They are chosen in the same way as :func:`units`. Within a block, they are ordered by how much
    they tell.

    Args:
        network: See :func:`units`.
        x: Likewise.
        labels: Likewise.
        dimensions_per_factor: Likewise.
        layer: Likewise.
        names: Likewise.
        seed: Likewise.

    Returns:
        The interpreter.
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    _, axes = diagonalise(study.covariance)
    return _choose_columns(study, axes, dimensions_per_factor, seed)


def pair_axes(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor the directions along which pairs that share it correlate most.

    The directions are those of :class:`~gyoza.modelling.flow_layers.PairAxes`. Pairs share a class,
    or one of twenty quantile ranges of a number.

    Args:
        network: See :func:`units`.
        x: Likewise.
        labels: Likewise.
        dimensions_per_factor: Likewise.
        layer: Likewise.
        names: Likewise.
        seed: Seed of the pairs.

    Returns:
        The interpreter.
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    sizes = _find_sizes(study, dimensions_per_factor, seed)
    flow_layer = PairAxes(sizes, shape=[study.width])
    flow_layer.adapt(make_pairs(study.hidden.astype("float32"), study.columns, seed=seed))
    return _to_interpreter(study, flow_layer, sizes)


def difference_of_means(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor the directions in which the means of its classes differ.

    For two classes this is the steering vector, :math:`\operatorname{E}[h | c = 1] -
    \operatorname{E}[h | c = 0]`; for a real number :math:`c`, it is :math:`\operatorname{cov}(h,
    c)`. These directions span the block of the factor. The blocks are at right angles to one
    another: that of the second factor lies in the orthogonal complement of the first, and so on.

    Args:
        network: See :func:`units`.
        x: Likewise.
        labels: Likewise.
        dimensions_per_factor: Likewise. If `None`, a factor has one dimension less than it has
            classes, or one dimension for a number. There are no more directions than these: any
            further dimensions are left to the residual factor. If a size is smaller, the directions
            along which the means differ most are used.
        layer: Likewise.
        names: Likewise.
        seed: Not used.

    Returns:
        The interpreter.

    References:
        - Subramani, N., Suresh, N. & Peters, M. E. (2022). "Extracting latent steering vectors from
          pretrained language models." `arXiv:2205.05124 <https://arxiv.org/abs/2205.05124>`_
        - Marks, S. & Tegmark, M. (2023). "The geometry of truth: Emergent linear structure in large
          language model representations of true/false datasets."
          `arXiv:2310.06824 <https://arxiv.org/abs/2310.06824>`_
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    return _span_contrasts(study, np.eye(study.width), dimensions_per_factor)


def leace(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor what least-squares concept erasure removes.

    With the whitening :math:`W = \Sigma^{-1/2}` of the hidden representation :math:`h` (a
    pseudo-inverse if it does not vary in all directions), the block of a factor with labels
    :math:`c`, one-hot for classes, is spanned by the columns of :math:`W
    \operatorname{cov}(h, c)`, and the residual factor is its complement. Setting the block to its
    mean, 0, is LEACE:

    .. math::
        h' = h - W^+ P W (h - \operatorname{E}h),

    with the projection :math:`P` onto those columns. No linear classifier or regression on
    :math:`h'` can then do better than a constant, for which :math:`\operatorname{cov}(h', c) = 0`
    is necessary and sufficient. Of all affine maps that achieve this, it changes :math:`h` the
    least, in any norm :math:`\operatorname{E}\lVert h' - h \rVert_M^2`.

    This holds for the first factor. The blocks of later factors lie in the complement of those
    before them: setting all of them to 0 erases all factors together. To erase a later factor alone
    with the least change, fit an interpreter to that factor alone.

    Args:
        network: See :func:`units`.
        x: Likewise.
        labels: Likewise.
        dimensions_per_factor: See :func:`difference_of_means`. With fewer dimensions than one less
            than the number of classes, erasure is incomplete.
        layer: See :func:`units`.
        names: Likewise.
        seed: Not used.

    Returns:
        The interpreter.

    References:
        - Belrose, N., Schneider-Joseph, D., Ravfogel, S., Cotterell, R., Raff, E. & Biderman, S.
          (2023). "LEACE: Perfect linear concept erasure in closed form."
          `arXiv:2306.03819 <https://arxiv.org/abs/2306.03819>`_
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    variances, axes = diagonalise(study.covariance)
    return _span_contrasts(study, axes / _to_scales(variances), dimensions_per_factor)


def random_subspace(
    network: Network,
    x: Tensors,
    labels: Tensor,
    dimensions_per_factor: Sizes = None,
    *,
    layer: LayerKey = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Interpreter:
    r"""Assigns to each factor directions that are drawn at random: the control that has to fail.

    All sets of orthonormal directions are equally likely. The share of answers that follow an
    exchange of such a block shows how much is due to its size alone.

    Args:
        network: See :func:`units`.
        x: Likewise.
        labels: Likewise. They matter only if sizes are estimated.
        dimensions_per_factor: Likewise.
        layer: Likewise.
        names: Likewise.
        seed: Seed of the directions, and of the pairs from which sizes are estimated.

    Returns:
        The interpreter.
    """
    study = _prepare(network, x, labels, layer, names, dimensions_per_factor)
    sizes = _find_sizes(study, dimensions_per_factor, seed)
    normal = np.random.default_rng(seed).normal(size=[study.width, study.width])
    directions, _ = np.linalg.qr(normal)
    return _rotate_blocks(study, directions, sizes)


class _Study(NamedTuple):
    """What all baselines are computed from."""

    parts: tuple[keras.Layer, keras.Layer]
    hidden: np.ndarray
    """Hidden representations, `[instances, n]`."""
    columns: list[np.ndarray]
    names: list[str]
    location: np.ndarray
    covariance: np.ndarray

    @property
    def width(self) -> int:
        return self.hidden.shape[1]


def _prepare(
    network: Network,
    x: Tensors,
    labels: Tensor,
    layer: LayerKey,
    names: Iterable[str] | None,
    dimensions_per_factor: Sizes,
) -> _Study:
    parts = to_parts(network, layer)
    hidden = read_hidden(parts[0], x)
    columns = to_columns(labels, len(hidden))
    if names is None and isinstance(dimensions_per_factor, Mapping):
        names = list(dimensions_per_factor)[1:]
    location = hidden.mean(axis=0)
    covariance = np.atleast_2d(np.cov(hidden, rowvar=False, bias=True))
    if not np.all(np.isfinite(covariance)) or not np.any(covariance):
        raise ValueError(
            "Hidden representations should be finite, and vary. Received: a total variance of "
            f"{np.trace(covariance)}"
        )
    return _Study(parts, hidden, columns, to_names(names, len(columns)), location, covariance)


def _find_sizes(study: _Study, dimensions_per_factor: Sizes, seed: int) -> dict[str, int]:
    """Returns the sizes of factors, estimated if they are not given."""
    if dimensions_per_factor is not None:
        return to_sizes(dimensions_per_factor, study.names, study.width)
    pairs = make_pairs(study.hidden, study.columns, seed=seed)
    return estimate_factor_sizes(pairs, "likelihood", study.names)


def _to_scales(variances: np.ndarray) -> np.ndarray:
    """Returns standard deviations, with 1 instead of those that are 0 up to rounding."""
    varies = variances > _THIN * variances.max()
    return np.sqrt(np.where(varies, variances, 1.0))


def _choose_columns(
    study: _Study, directions: np.ndarray, dimensions_per_factor: Sizes, seed: int
) -> Interpreter:
    """Assigns to each factor in turn the directions that tell the most about it."""
    sizes = _find_sizes(study, dimensions_per_factor, seed)
    codes = (study.hidden - study.location) @ directions
    rest, chosen = np.arange(study.width), []
    for name, column in zip(study.names, study.columns, strict=True):
        order = np.argsort(-_explain(codes[:, rest], to_classes(column)), kind="stable")
        chosen.append(rest[order[: sizes[name]]])
        rest = np.sort(rest[order[sizes[name] :]])
    order = np.concatenate([rest, *chosen])
    return _to_linear(study, directions[:, order], sizes)


def _explain(codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the share of the variance of each dimension that classes explain.

    Args:
        codes: Centred vectors, `[instances, n]`.
        classes: Their classes, `[instances]`.
    """
    is_member = np.eye(classes.max() + 1)[classes]
    counts = is_member.sum(axis=0)
    means = is_member.T @ codes / counts[:, None]
    variances = np.mean(codes**2, axis=0)
    varies = variances > _THIN * variances.max(initial=0.0)
    return np.where(varies, counts @ means**2 / len(codes) / np.where(varies, variances, 1.0), 0.0)


def _span_contrasts(study: _Study, metric: np.ndarray, dimensions_per_factor: Sizes) -> Interpreter:
    """Assigns to each factor in turn the span of its contrasts, in coordinates `h @ metric`."""
    given = None
    if dimensions_per_factor is not None:
        given = to_sizes(dimensions_per_factor, study.names, study.width)
    codes = (study.hidden - study.location) @ metric
    complement, blocks = np.eye(study.width), []
    for name, column in zip(study.names, study.columns, strict=True):
        contrasts = _contrast(codes, column)
        span, lengths, _ = np.linalg.svd(complement.T @ contrasts)
        size = int(np.sum(lengths > 1e-6 * np.linalg.norm(contrasts)))
        size = min(size, column.max() if is_categorical(column) else 1)
        if given is not None:
            size = min(size, given[name])
        blocks.append(complement @ span[:, :size])
        complement = complement @ span[:, size:]
    sizes = [complement.shape[1], *(block.shape[1] for block in blocks)]
    directions = metric @ np.concatenate([complement, *blocks], axis=1)
    return _rotate_blocks(study, directions, name_factors(sizes, study.names))


def _contrast(codes: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns the covariance of centred codes with a label, `[n, columns]`.

    For classes, these are the differences between class means and the overall mean, each times the
    square root of the share of the class; for a number, the covariance over its standard deviation.
    """
    if not is_categorical(column):
        return (codes.T @ (column - column.mean()) / len(codes) / column.std())[:, None]
    is_member = np.eye(column.max() + 1)[column]
    return codes.T @ is_member / np.sqrt(len(codes) * is_member.sum(axis=0))


def _rotate_blocks(study: _Study, directions: np.ndarray, sizes: dict[str, int]) -> Interpreter:
    """Makes the dimensions of each block uncorrelated, in the order of their variance."""
    blocks = np.split(directions, np.cumsum(list(sizes.values()))[:-1], axis=1)
    rotated = [block @ diagonalise(block.T @ study.covariance @ block)[1] for block in blocks]
    return _to_linear(study, np.concatenate(rotated, axis=1), sizes)


def _to_linear(study: _Study, directions: np.ndarray, sizes: dict[str, int]) -> Interpreter:
    """Makes an interpreter from directions, as columns, which are scaled to variance 1."""
    variances = np.sum(directions * (study.covariance @ directions), axis=0)
    flow_layer = LinearMap(shape=[study.width])
    flow_layer.set_map(study.location, directions / _to_scales(variances))
    return _to_interpreter(study, flow_layer, sizes)


def _to_interpreter(study: _Study, flow_layer: LinearMap, sizes: dict[str, int]) -> Interpreter:
    flow = FlowModel([flow_layer])
    flow.build((None, study.width))
    return Interpreter(study.parts[0], flow, study.parts[1], sizes)
