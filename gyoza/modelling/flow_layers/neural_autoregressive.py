"""Layers that map each dimension by an increasing network, given the dimensions before it."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import align_context, from_vectors, to_vectors
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.functions.checks import check_positive_integers
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.tangents import tanh_and_slope
from gyoza.typing import Shape, Tensor

__all__ = ["BlockNeuralAutoregressive"]

# The greatest logarithm of the slope of a path through all layers, and the greatest logit of a
# gate. Gradients of logarithms of slopes have terms as large as the product of both exponentials,
# which is in the range of float32.
_LARGEST_LOG_SLOPE = 44.0
_LARGEST_GATE = 40.0


@keras.saving.register_keras_serializable(package="gyoza")
class BlockNeuralAutoregressive(ConditionalFlowLayer):
    r"""Maps each dimension by an increasing network of it and of the dimensions before it.

    In a network with matrices of blocks, one row and one column of blocks per dimension,

    .. math::
        h_0 = x, \qquad h_k = \tanh(h_{k-1} W_k + b_k), \qquad
        y = (1 - \alpha) \odot x + \alpha \odot (h_K W_{K+1} + b_{K+1}),

    with gates :math:`\alpha_i \in (0, 1)` and, from the units of dimension :math:`j` to those of
    dimension :math:`i`, blocks

    .. math::
        (W_k)_{ji} \text{ of any numbers for } j < i, \qquad
        (W_k)_{ii} = e^{V_{ki}} / a_{k-1}, \qquad
        (W_k)_{ji} = 0 \text{ for } j > i,

    where :math:`a_k` is the number of units per dimension. So :math:`y_i` depends on :math:`x_1, …,
    x_i`, and increases with :math:`x_i`, from :math:`-\infty` to :math:`\infty`: the hidden layers
    are bounded, but the gate lets a part of :math:`x_i` pass. The layer is a bijection of
    :math:`\mathbb{R}^n`, and with enough units approximates any distribution. With
    :math:`D_{ki} = \operatorname{diag}(1 - \tanh^2)` at the units of dimension :math:`i`,

    .. math::
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i \ln \left( 1 - \alpha_i +
        \alpha_i (W_1)_{ii} D_{1i} \cdots D_{Ki} (W_{K+1})_{ii} \right).

    All these numbers are positive, so neither products nor sums lose digits. A context is
    multiplied by a matrix and added to :math:`h_0 W_1`.

    `call` takes one pass, computed in at least float32. The inverse has no closed form: `invert`
    finds one of the :math:`n` dimensions after the other, in a compiled loop. Each takes a pass,
    and a root of the network of this dimension, found by some 10 to 30 evaluations within a bracket
    that follows from the gate. Gradients of `invert` are exact, by the implicit function theorem;
    second derivatives are not. To sample fast, use
    :class:`~gyoza.modelling.flow_layers.MaskedAutoregressive` layers.

    So that nothing overflows, numbers in :math:`V_k` beyond :math:`\pm 44 / (K + 1)`, and logits of
    :math:`\alpha` beyond :math:`\pm 40`, count as these.

    Unlike many layers, a new one is not the identity: it starts with :math:`\alpha = 1/2` and a
    random network.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. The dimensions along several axes are taken in row-major
            order.
        hidden_sizes: The number of units per dimension of each hidden layer, :math:`a_1, …, a_K`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If there is no hidden layer, or one without units.

    Attributes:
        kernels: The weights whose blocks :math:`j < i` are used, `[dimension_count · units before,
            dimension_count · units]` for each layer. There are none if there is one dimension only.
        log_diagonals: The weights :math:`V_k`, `[dimension_count, units before, units]`.
        biases: The weights :math:`b_k`, `[dimension_count, units]`.
        gates: The weights :math:`\operatorname{logit}(\alpha)`, `[dimension_count]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.BlockNeuralAutoregressive(hidden_sizes=[4])
        >>> x = np.array([[1.0, -2.0, 30.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> bool(np.allclose(keras.ops.convert_to_numpy(layer.invert(outputs)), x, atol=1e-4))
        True

    References:
        - De Cao, N., Titov, I. & Aziz, W. (2019). "Block neural autoregressive flow."
          `arXiv:1904.04676 <https://arxiv.org/abs/1904.04676>`_
        - Huang, C.-W., Krueger, D., Lacoste, A. & Courville, A. (2018). "Neural autoregressive
          flows." `arXiv:1804.00779 <https://arxiv.org/abs/1804.00779>`_
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        hidden_sizes: Iterable[int] = (8, 8),
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError(
                "`hidden_sizes` should hold at least one number of units. Received: hidden_sizes=[]"
            )
        self.context_kernel: keras.Variable | None = None
        self._create_weights_once()

    def create_weights(self) -> None:
        """Creates all weights but that of the context."""
        count, sizes = self.dimension_count, [1, *self.hidden_sizes, 1]
        self.kernels, self.log_diagonals, self.biases = [], [], []
        for level, (size, next_size) in enumerate(itertools.pairwise(sizes)):
            if count > 1:
                kernel = self._add(f"kernel_{level}", [count * size, count * next_size])
                self.kernels.append(kernel)
            # Units of the same dimension would stay alike if they started alike.
            log_diagonal = self._add(
                f"log_diagonal_{level}",
                [count, size, next_size],
                keras.initializers.RandomNormal(stddev=0.5),
            )
            bias = self._add(
                f"bias_{level}",
                [count, next_size],
                keras.initializers.RandomUniform(-1.0, 1.0),
            )
            self.log_diagonals.append(log_diagonal)
            self.biases.append(bias)
        self.gates = self._add("gates", [count], "zeros")

    def build(self, input_shape: Shape | None = None) -> None:
        """Creates all weights; see :meth:`FlowLayer.build`."""
        super().build(input_shape)
        if self.context_size is not None:
            unit_count = self.dimension_count * self.hidden_sizes[0]
            self.context_kernel = self._add("context_kernel", [self.context_size, unit_count])

    def _add(
        self,
        name: str,
        shape: Sequence[int],
        initializer: str | Callable[..., Tensor] = "glorot_uniform",
    ) -> keras.Variable:
        return self.add_weight(shape=shape, initializer=initializer, autocast=False, name=name)

    def _mask_kernels(self) -> list[Tensor]:
        """Returns the matrices with nothing but their blocks from one dimension to a later one."""
        count = self.dimension_count
        is_later = np.triu(np.ones([count, count]), k=1)
        masks = [
            np.kron(is_later, np.ones([kernel.shape[0] // count, kernel.shape[1] // count]))
            for kernel in self.kernels
        ]
        return [
            ops.cast(kernel, self.log_det_dtype)
            * ops.convert_to_tensor(mask, dtype=self.log_det_dtype)
            for kernel, mask in zip(self.kernels, masks, strict=True)
        ]

    def _diagonals(self) -> list[Tensor]:
        """Returns each dimension's own blocks, `[dimension_count, units before, units]`."""
        limit = _LARGEST_LOG_SLOPE / len(self.log_diagonals)
        weights = [
            ops.clip(ops.cast(weight, self.log_det_dtype), -limit, limit)
            for weight in self.log_diagonals
        ]
        return [ops.exp(weight) / weight.shape[1] for weight in weights]

    def _cast_gates(self) -> Tensor:
        """Returns the logits of the gates, none of which is shut entirely."""
        gates = ops.cast(self.gates, self.log_det_dtype)
        return ops.clip(gates, -_LARGEST_GATE, _LARGEST_GATE)

    def _offsets(self, vectors: Tensor, context: Tensor | None) -> Callable[[int, Tensor], Tensor]:
        """Returns a function that computes what units get from dimensions before their own.

        It is called with the index of a layer and with the units before that layer, `[batch, ...,
        dimension_count, units before]`, and returns `[batch, ..., dimension_count, units]`.
        """
        kernels = self._mask_kernels()
        biases = [ops.cast(bias, self.log_det_dtype) for bias in self.biases]
        first_offsets = biases[0]
        if context is not None:
            context = ops.cast(align_context(context, vectors), self.log_det_dtype)
            contribution = context @ ops.cast(self.context_kernel, self.log_det_dtype)
            contribution = mark_rows(contribution, context)
            lengths = (*ops.shape(contribution)[:-1], *biases[0].shape)
            first_offsets = first_offsets + ops.reshape(contribution, lengths)

        def find(level: int, units: Tensor) -> Tensor:
            offsets = biases[level] if level else first_offsets
            if not kernels:
                return offsets
            *lead, count, size = ops.shape(units)
            from_others = ops.reshape(units, (*lead, count * size)) @ kernels[level]
            shape = (*ops.shape(from_others)[:-1], *biases[level].shape)
            return offsets + ops.reshape(from_others, shape)

        return find

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transforms a batch.

        Args:
            inputs: See :meth:`FlowLayer.call`.
            context: See :class:`ConditionalFlowLayer`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        vectors = ops.cast(to_vectors(inputs, self._axes_, self._shape_), self.log_det_dtype)
        gates = self._cast_gates()
        find_offsets = self._offsets(vectors, context)
        outputs, slopes = _map(vectors, gates, self._diagonals(), find_offsets)
        outputs = from_vectors(ops.cast(outputs, inputs.dtype), self._axes_, self._shape_)
        return outputs, self.sum_log_det(inputs, ops.log(slopes))

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps outputs of `call` back, one dimension after the other.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        targets = ops.cast(to_vectors(outputs, self._axes_, self._shape_), self.log_det_dtype)
        gates = self._cast_gates()
        diagonals, find_offsets = self._diagonals(), self._offsets(targets, context)
        lower, upper, magnitudes = self._bracket(targets, gates, diagonals[-1])
        dimensions = ops.arange(self.dimension_count, dtype="int32")

        def find_next(which: Tensor, vectors: Tensor) -> Tensor:
            def take(values: Tensor, axis: int) -> Tensor:
                return ops.take(values, ops.reshape(which, (1,)), axis=axis)

            offsets: list[Tensor] = []

            def keep_offsets(level: int, units: Tensor) -> Tensor:
                all_offsets = find_offsets(level, units)
                offsets.append(take(all_offsets, -2))
                return all_offsets

            _map(vectors, gates, diagonals, keep_offsets)
            parameters = [
                take(targets, -1),
                take(gates, -1),
                *offsets,
                *(take(diagonal, 0) for diagonal in diagonals),
            ]
            root = find_root(
                _miss, take(lower, -1), take(upper, -1), parameters, take(magnitudes, -1)
            )
            return ops.where(dimensions == which, root, vectors)

        vectors = repeat(find_next, ops.zeros_like(targets), self.dimension_count)
        return from_vectors(ops.cast(vectors, outputs.dtype), self._axes_, self._shape_)

    def _bracket(self, targets: Tensor, gates: Tensor, last_diagonal: Tensor) -> tuple[Tensor, ...]:
        """Returns points below and above the inputs, and how large terms of outputs are.

        The last hidden units are between -1 and 1.
        """
        limit = ops.sum(last_diagonal, axis=(1, 2)) + ops.abs(
            ops.cast(self.biases[-1][:, 0], self.log_det_dtype)
        )
        for kernel in self._mask_kernels()[-1:]:
            limit = limit + ops.sum(ops.abs(kernel), axis=0)
        open_, reach = ops.sigmoid(-gates), ops.sigmoid(gates) * limit
        bracket = (targets - reach) / open_, (targets + reach) / open_
        # Terms that are larger only where they cancel are not counted.
        return *bracket, ops.abs(targets) + ops.clip(reach, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "hidden_sizes": list(self.hidden_sizes)}


def _map(
    x: Tensor,
    gates: Tensor,
    diagonals: Sequence[Tensor],
    find_offsets: Callable[[int, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Maps dimensions by their networks.

    Args:
        x: The inputs, `[batch, ..., dimensions]`.
        gates: The logits of their gates, `[dimensions]`.
        diagonals: For each layer, the blocks from each dimension to itself, `[dimensions, units
            before, units]`.
        find_offsets: Returns, for the index of a layer and the units before it, what to add,
            `[batch, ..., dimensions, units]`.

    Returns:
        The results and their derivatives with respect to `x`, in its shape.
    """
    units = ops.expand_dims(x, -1)
    slopes = ops.ones_like(units)
    for level, diagonal in enumerate(diagonals):
        if level > 0:
            units, slope = tanh_and_slope(units)
            slopes = slopes * slope
        offsets = find_offsets(level, units)
        units, slopes = _multiply(units, diagonal) + offsets, _multiply(slopes, diagonal)
    gate, open_ = ops.sigmoid(gates), ops.sigmoid(-gates)
    return (
        open_ * x + gate * ops.squeeze(units, -1),
        open_ + gate * ops.squeeze(slopes, -1),
    )


def _multiply(units: Tensor, blocks: Tensor) -> Tensor:
    """Multiplies the units of each dimension by its block: `[..., dimensions, units]`."""
    return ops.squeeze(ops.expand_dims(units, -2) @ blocks, -2)


def _miss(x: Tensor, target: Tensor, gates: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns by how much a dimension is mapped above its target, and with which slope."""
    offsets, diagonals = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    outputs, slopes = _map(x, gates, diagonals, lambda level, _: offsets[level])
    return outputs - target, slopes
