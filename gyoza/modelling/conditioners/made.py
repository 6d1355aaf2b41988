"""Networks whose outputs depend only on what comes before them in an order of the inputs."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.axes import align_context
from gyoza.modelling.conditioners.dense import DenseNetwork
from gyoza.modelling.functions.checks import check_integers
from gyoza.typing import Shape, Tensor

__all__ = ["MADE"]


@keras.saving.register_keras_serializable(package="gyoza")
class MADE(DenseNetwork):
    r"""A network of masked dense layers: parameters of a dimension depend on those before it.

    In an order :math:`o_1, …, o_n` of the dimensions of a vector :math:`x`, and with a context
    :math:`c` if there is one, the parameters of dimension :math:`o_i` are a function

    .. math::
        p_{o_i}(x_{o_1}, …, x_{o_{i-1}}; c),

    and one pass through the network computes all of them. For this, dimension :math:`o_i` has the
    degree :math:`i`, and each hidden unit a degree from 1 to :math:`n - 1`, or from 0 if there is a
    context. With a mask :math:`M` of zeros and ones, a layer computes :math:`\sigma(h (W \odot M) +
    b)`, where

    - a hidden unit sees the units and inputs whose degree is at most its own,
    - the parameters of a dimension see the units whose degree is less than its own.

    Degrees ascend evenly in each hidden layer, so the parameters of each dimension can depend on
    all dimensions before it. The context is multiplied by an unmasked matrix and added to the first
    layer, before the activation. A single dimension without context has parameters that are weights
    themselves, and no hidden units.

    The last layer starts at zero, such that a new flow layer is the identity.

    Args:
        hidden_sizes: The number of units of each hidden layer: at least :math:`n - 1`, or :math:`n`
            with a context, so that all degrees occur.
        activation: The activation of hidden layers, by name or as a function.
        residual: See :class:`~gyoza.modelling.conditioners.MLP`.
        order: The indices of all dimensions, in their order, or `"natural"` for 0, 1, …, or
            `"reversed"`.
        parameter_count: The number of parameters per dimension, or `None` to let the flow
            layer set it.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If a hidden layer has too few units, or `order` is not a permutation of the
            indices of all dimensions.

    Example:

        >>> conditioner = gyoza.modelling.conditioners.MADE([8], "tanh", parameter_count=2)
        >>> conditioner(np.ones([5, 3], "float32")).shape == (5, 3, 2)
        True
        >>> conditioner.dense_layers[0].mask  # three dimensions see eight hidden units
        array([[1, 1, 1, 1, 1, 1, 1, 1],
               [0, 0, 0, 0, 1, 1, 1, 1],
               [0, 0, 0, 0, 0, 0, 0, 0]])

    References:
        - Germain, M., Gregor, K., Murray, I. & Larochelle, H. (2015). "MADE: Masked autoencoder for
          distribution estimation." `arXiv:1502.03509 <https://arxiv.org/abs/1502.03509>`_
    """

    def __init__(
        self,
        hidden_sizes: Iterable[int] = (128, 128),
        activation: str | Callable[..., Tensor] = "relu",
        residual: bool = False,
        order: Iterable[int] | str = "natural",
        parameter_count: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_sizes, activation, residual, **kwargs)
        self.order = _check_order(order)
        self.parameter_count = parameter_count

    def set_parameter_count(self, parameter_count: int) -> None:
        """Fixes the number of parameters per dimension; called by a flow layer before it is built.

        Args:
            parameter_count: The number of parameters per dimension.

        Raises:
            ValueError: If the network has another number of parameters already, as it has when it
                is shared by layers of different kind.
        """
        if self.parameter_count not in (None, parameter_count):
            raise ValueError(
                f"Conditioner '{self.name}' should have {parameter_count} parameters per dimension "
                f"for this layer. Received: parameter_count={self.parameter_count}"
            )
        self.parameter_count = parameter_count

    def build(
        self,
        inputs_shape: Shape,
        context_shape: Shape | None = None,
    ) -> None:
        """Creates the masked layers.

        Args:
            inputs_shape: Shape of the inputs, `[batch, ..., n]`.
            context_shape: Shape of the context, `[batch, ..., context size]`, if there is one.
        """
        size: Any = inputs_shape[-1]
        if self.parameter_count is None:
            raise ValueError(
                f"Conditioner '{self.name}' should be given `parameter_count` by its constructor "
                "or by a flow layer before it is built. Received: parameter_count=None"
            )
        if isinstance(self.order, str):
            natural = list(range(size))
            self.order = natural if self.order == "natural" else natural[::-1]
        if len(self.order) != size:
            raise ValueError(
                f"`order` should hold the indices of {size} dimensions. "
                f"Received: order={self.order}"
            )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: size})
        context_size = None if context_shape is None else context_shape[-1]
        lowest_degree = 1 if context_size is None else 0
        degrees = 1 + np.argsort(self.order)
        self.dense_layers = []
        for hidden_size in self.hidden_sizes if size > lowest_degree else ():
            hidden_degrees = _spread(lowest_degree, size, hidden_size)
            mask = degrees[:, None] <= hidden_degrees
            self._add_layer(mask, context_size, activation=self.activation)
            degrees, context_size = hidden_degrees, None
        mask = degrees[:, None] < 1 + np.argsort(self.order)
        mask = np.repeat(mask, self.parameter_count, axis=1)
        self._add_layer(mask, context_size, initializer="zeros")

    def _add_layer(self, mask: np.ndarray, context_size: int | None, **options: Any) -> None:
        layer = _MaskedDense(mask.astype(int), context_size, dtype=self.dtype_policy, **options)
        layer.build((None, mask.shape[0]))
        self.dense_layers.append(layer)

    def call(
        self, inputs: Tensor, context: Tensor | None = None, entry: Tensor | None = None
    ) -> Tensor:
        """Computes parameters.

        Args:
            inputs: Vectors, `[batch, ..., n]`.
            context: What all parameters can depend on, `[batch, context size]` or `[batch, ...,
                context size]`.
            entry: The index of a dimension, an integer tensor, to compute no parameters but its
                own.

        Returns:
            The parameters, `[batch, ..., n, parameter_count]`, or those of one dimension, `[batch,
            ..., 1, parameter_count]`.
        """
        first, *others = self.dense_layers
        if context is not None:
            first = functools.partial(first, context=align_context(context, inputs))
        layers = [first, *others]
        if entry is not None:
            columns = entry * self.parameter_count + ops.arange(self.parameter_count)
            layers[-1] = functools.partial(layers[-1], columns=columns)
        parameters = self._run_dense_layers(inputs, layers=layers)
        dimension_count = inputs.shape[-1] if entry is None else 1
        return ops.reshape(
            parameters, (*ops.shape(parameters)[:-1], dimension_count, self.parameter_count)
        )

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of the parameters of all dimensions."""
        return (*input_shape, self.parameter_count)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "residual": self.residual,
            "order": self.order,
            "parameter_count": self.parameter_count,
        }


def _check_order(order: Iterable[int] | str) -> list[int] | str:
    if isinstance(order, str) and order in ("natural", "reversed"):
        return order
    indices = None if isinstance(order, str) else check_integers("order", order)
    if indices is None or sorted(indices) != list(range(len(indices))):
        raise ValueError(
            '`order` should be "natural" or "reversed", or hold each of the indices 0, 1, … of the '
            f"dimensions once. Received: order={order}"
        )
    return indices


def _spread(lowest_degree: int, size: int, hidden_size: int) -> np.ndarray:
    """Spreads the degrees from `lowest_degree` to `size - 1` evenly over hidden units."""
    degree_count = size - lowest_degree
    if hidden_size < degree_count:
        raise ValueError(
            f"`hidden_sizes` should be at least {degree_count} for vectors of {size} dimensions, "
            f"such that each can depend on all before it. Received: a hidden size of {hidden_size}"
        )
    return lowest_degree + np.arange(hidden_size) * degree_count // hidden_size


class _MaskedDense(keras.Layer):
    """A dense layer with a masked kernel, to which a context contributes through a full one."""

    def __init__(
        self,
        mask: np.ndarray,
        context_size: int | None = None,
        activation: str | Callable[..., Tensor] | None = None,
        initializer: str = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mask = mask
        self.context_size = context_size
        self.activation = keras.activations.get(activation)
        self.initializer = initializer

    def build(self, input_shape: Shape) -> None:
        """Creates the kernels and the bias."""
        size = self.mask.shape[1]
        # A kernel of which nothing is left would be a weight without a gradient.
        self.kernel = self._add_kernel(self.mask.shape, "kernel") if self.mask.any() else None
        self.context_kernel = None
        if self.context_size is not None:
            self.context_kernel = self._add_kernel((self.context_size, size), "context_kernel")
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias")

    def _add_kernel(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        return self.add_weight(shape=shape, initializer=self.initializer, name=name)

    def call(
        self, inputs: Tensor, context: Tensor | None = None, columns: Tensor | None = None
    ) -> Tensor:
        """Computes the outputs, or only those at the indices `columns`."""

        def select(weight: Tensor) -> Tensor:
            return weight if columns is None else ops.take(weight, columns, axis=-1)

        bias = select(self.bias)
        if self.kernel is None:
            x = ops.broadcast_to(bias, (*ops.shape(inputs)[:-1], bias.shape[-1]))
        else:
            mask = ops.convert_to_tensor(self.mask, dtype=self.compute_dtype)
            x = inputs @ select(self.kernel * mask) + bias
        if self.context_kernel is not None:
            x = x + context @ select(self.context_kernel)
        return x if self.activation is None else self.activation(x)
