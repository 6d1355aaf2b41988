"""The base class of couplings, which change one part of their inputs given the other part."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.conditioners import MADE, Conditioner
from gyoza.modelling.conditioners.base import run_within
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.functions.arguments import make_parts, take_first
from gyoza.modelling.functions.checks import check_instance
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.tensors import TRACING_ERRORS
from gyoza.modelling.masks import HeavisideMask, Mask
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["Coupling", "fits"]


class _TakesTransformer(ConditionalFlowLayer):
    """Makes a `Coupling` with a `transformer` a coupling of each dimension by itself."""

    # The class of couplings by transforms, which derives from `Coupling`.
    _elementwise: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        is_elementwise = cls is Coupling and kwargs.get("transformer") is not None
        return super().__new__(cls._elementwise if is_elementwise else cls, *args, **kwargs)


@keras.saving.register_keras_serializable(package="gyoza")
class Coupling(_TakesTransformer):
    r"""Base class of layers that couple one part of their inputs with the other.

    With a binary mask :math:`w`, a network :math:`g` that computes coupling parameters, and an
    invertible transform :math:`f`, the layer computes

    .. math::
        x_1 = w \, x, \qquad x_2 = (1 - w) \, x, \qquad
        y = x_1 + (1 - w) \, f(x_2, g(x_1)).

    As :math:`x_1` passes unchanged, the inverse knows :math:`g(x_1)` and has to invert only
    :math:`f`; :math:`g` itself can be any network. To let all dimensions take part, follow a
    coupling with a permutation that matches its mask, such as
    :class:`~gyoza.modelling.flow_layers.HeavisidePermutation` for
    :class:`~gyoza.modelling.masks.HeavisideMask`, and then with another coupling.

    With a context :math:`c`, as :class:`ConditionalFlowLayer` describes it, the coupling parameters
    are :math:`g(x_1, c)`.

    A coupling of your own is a subclass with three methods:

    - `_couple_(inputs, coupling_parameters)`, the transform :math:`f`, in full shape,
    - `_decouple_(outputs, coupling_parameters)`, its inverse in the first argument,
    - `compute_jacobian_determinant(x)`, the logarithm of its Jacobian determinant, `[batch]`;
      `compute_parameters(x)` returns the coupling parameters that it needs. To work with a context,
      it takes `(x, context=None)` and passes it on. It can also be called
      `compute_log_jacobian_determinant`.

    A transform of each dimension by itself is simpler, and faster, as a
    :class:`~gyoza.modelling.transforms.Transform`: `Coupling(..., transformer=transform)` makes an
    :class:`ElementwiseCoupling`.

    Args:
        shape: See :class:`FlowLayer`. The network can be passed first instead, without its name,
            and the mask second: `AffineCoupling(MLP([64]), CheckerBoardMask())`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: The network :math:`g`: a Keras layer or model, or any other
            callable. It is given :math:`x_1` in the full shape of the inputs, or the list
            :math:`[x_1, c]` where there is a context, and returns whatever `_couple_` expects, a
            tensor or a list of tensors. A :class:`~gyoza.modelling.conditioners.Conditioner`, such
            as :class:`~gyoza.modelling.conditioners.MLP`, computes only what is needed. A network
            that Keras cannot trace, because it uses NumPy, say, is built when it is first run. If
            the inputs have one dimension alone, it is changed, whatever the mask, and :math:`g`
            sees nothing; weights of the layer then stand in for a `Conditioner` without a context.
        mask: The mask :math:`w`, with the same shape and axes, or with both omitted: then it takes
            those of the first coupling that it is given to. A
            :class:`~gyoza.modelling.masks.HeavisideMask` if omitted.
        **kwargs: Arguments of `keras.Layer`; `conditioner`, which is another name of
            `compute_coupling_parameters` that autoregressive layers use, too; and `transformer`, a
            transform of each dimension by itself, with which `Coupling` makes an
            :class:`ElementwiseCoupling`. Subclasses with a transform of their own take none.

    Raises:
        TypeError: If `compute_coupling_parameters` cannot be called, `mask` is not a `Mask`, or
            a subclass is given a `transformer`.
        ValueError: If shape or axes of the mask differ from the coupling's, the mask leaves nothing
            to be changed, or the network is given by both names.

    Attributes:
        _compute_coupling_parameters_: The network :math:`g`.
        _mask_: The mask :math:`w`.
        coupling_parameters: The weight that stands in for the network where there is nothing that
            it could see, and `None` elsewhere.

    Example:

        >>> @keras.saving.register_keras_serializable(package="example")
        ... class ScalingCoupling(gyoza.modelling.flow_layers.Coupling):
        ...     def _couple_(self, inputs, coupling_parameters):
        ...         return inputs * keras.ops.exp(coupling_parameters)
        ...
        ...     def _decouple_(self, outputs, coupling_parameters):
        ...         return outputs * keras.ops.exp(-coupling_parameters)
        ...
        ...     def compute_jacobian_determinant(self, x):
        ...         log_scales = self.compute_parameters(x)
        ...         return keras.ops.sum(self._mask_(log_scales, is_positive=False), axis=-1)
        >>> layer = ScalingCoupling(conditioner=keras.layers.Dense(4))
        >>> outputs, log_det = layer(np.ones([1, 4], "float32"))
        >>> keras.ops.convert_to_numpy(layer.invert(outputs)).round(4)
        array([[1., 1., 1., 1.]], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        names = ["compute_jacobian_determinant", "compute_log_jacobian_determinant"]
        defined = [name for name in names if name in vars(cls)]
        if defined == names[1:]:
            setattr(cls, names[0], vars(cls)[names[1]])
        super().__init_subclass__(**kwargs)
        if len(defined) == 1:
            setattr(cls, names[1], vars(cls)[names[0]])

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        transformer = kwargs.pop("transformer", None)
        if transformer is not None:
            raise TypeError(
                f"{type(self).__name__} has a transform of its own. To take a `transformer`, it "
                f"should be derived from `ElementwiseCoupling`. Received: transformer={transformer}"
            )
        lengths, compute_coupling_parameters = take_first(
            shape, compute_coupling_parameters, callable
        )
        axes, mask = take_first(axes, mask, lambda value: isinstance(value, Mask))
        conditioner = kwargs.pop("conditioner", None)
        if conditioner is not None:
            if compute_coupling_parameters is not None:
                raise ValueError(
                    "The network should be given as `conditioner` or as "
                    "`compute_coupling_parameters`, not as both. Received: "
                    f"conditioner={conditioner}, "
                    f"compute_coupling_parameters={compute_coupling_parameters}"
                )
            compute_coupling_parameters = conditioner
        if mask is None:
            mask = HeavisideMask()
        check_instance("mask", mask, Mask, "a `Mask`")
        super().__init__(
            shape=mask._shape_ if lengths is None else lengths,
            axes=mask._axes_ if axes is None else axes,
            **kwargs,
        )
        is_wrong = isinstance(compute_coupling_parameters, type | MADE)
        if is_wrong or not callable(compute_coupling_parameters):
            raise TypeError(
                "`compute_coupling_parameters` should be a Keras layer or another callable, such "
                "as `MLP([64, 64])`; a `MADE` is for autoregressive layers. "
                f"Received: compute_coupling_parameters={compute_coupling_parameters}"
            )
        self._compute_coupling_parameters_ = compute_coupling_parameters
        self._mask_ = mask
        self.coupling_parameters: keras.Variable | None = None
        # Whether the network is given the kept dimensions alone, not all of them in full shape.
        self._is_compact = False
        given_axes = mask._axes_
        if given_axes is not None and given_axes[0] < 0 and list(given_axes) != self._axes_:
            raise ValueError(
                "`mask` should have the axes of the coupling, where they are negative. Received: a "
                f"mask with axes={given_axes}, axes={self._axes_}"
            )
        is_known = self._shape_ is not None and self._axes_ is not None
        if is_known and self._axes_[0] > 0:
            mask.set_shape(self._shape_, self._axes_)

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the mask and the network for inputs of `input_shape`.

        Args:
            input_shape: See :meth:`FlowLayer.build`. Without it, a network that is given inputs in
                full shape is built when it is first run.
        """
        super().build(input_shape)
        self._mask_.set_shape(self._shape_, self._axes_)
        if self.dimension_count == 1 and len(self._mask_.changed_indices) == 0:
            # There is no other part: the one dimension is transformed by parameters of its own.
            self._mask_ = Mask(self._axes_, self._shape_, np.zeros(self._shape_))
            self._mask_.set_shape(self._shape_, self._axes_)
        changed_count = len(self._mask_.changed_indices)
        if changed_count == 0:
            raise ValueError(
                "`mask` should leave at least one dimension to be changed. Received: a mask of "
                f"ones only, for shape={self._shape_}"
            )
        network: Any = self._compute_coupling_parameters_
        is_conditioner = isinstance(network, Conditioner)
        self._is_compact = is_conditioner and network.sees_kept_entries(self._axes_)
        if self._is_compact:
            network.set_output_size(changed_count * self.parameter_count)
            if len(self._mask_.kept_indices) == 0 and self.context_size is None:
                self.coupling_parameters = self.add_weight(
                    shape=[network.output_size], initializer="zeros", name="coupling_parameters"
                )
                return
            if input_shape is None:
                input_shape = [None] * (self._axes_[-1] + 1)
        if input_shape is not None:
            self._build_network(input_shape)

    def _build_network(self, input_shape: Shape) -> None:
        """Builds the network, where that is possible without running it."""
        network = self._compute_coupling_parameters_
        if isinstance(network, Conditioner):
            if not self._is_compact:
                network.set_output_size(int(input_shape[-1] or 0) * self.parameter_count)
            if not network.built:
                network(self._describe_network_inputs(input_shape))
        elif isinstance(network, keras.Layer) and not network.built:
            # What is wrong with a network, and not only with tracing it, is said when it is run.
            with contextlib.suppress(*TRACING_ERRORS):
                network(self._describe_network_inputs(input_shape))

    def _describe_network_inputs(self, input_shape: Shape) -> Tensors:
        """Returns symbolic tensors in the shape of what the network is given."""
        context_size = self.context_size or 0
        if self._is_compact:
            shape = self.vector_shape(input_shape, len(self._mask_.kept_indices))
        else:
            shape = (None, *input_shape[1:])
            if isinstance(self._compute_coupling_parameters_, Conditioner):
                shape = (*shape[:-1], int(input_shape[-1] or 0) + context_size)
        x = keras.KerasTensor(shape, self.compute_dtype)
        if self.context_shape is None or isinstance(
            self._compute_coupling_parameters_, Conditioner
        ):
            return x
        return [x, keras.KerasTensor((None, *self.context_shape), self.compute_dtype)]

    @property
    def conditioner(self) -> Callable[..., Tensors]:
        """The network :math:`g`."""
        return self._compute_coupling_parameters_

    @property
    def parameter_count(self) -> int:
        """The number of parameters of each changed dimension, which a `Conditioner` returns."""
        return 1

    def _couple_(self, inputs: Tensor, coupling_parameters: Tensor) -> Tensor:
        """Applies the transform.

        There is no need to mask the result: what the coupling keeps is put back later.

        Args:
            inputs: The inputs of `call`.
            coupling_parameters: What the network :math:`g` computed.

        Returns:
            The coupled tensor, in the shape of `inputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_couple_`.")

    def _decouple_(self, outputs: Tensor, coupling_parameters: Tensor) -> Tensor:
        """Inverts the transform.

        Args:
            outputs: The outputs of `call`.
            coupling_parameters: What the network :math:`g` computed.

        Returns:
            The decoupled tensor, in the shape of `outputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_decouple_`.")

    def compute_jacobian_determinant(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the log-determinant, the logarithm of the absolute determinant.

        Args:
            x: The inputs of `call`, `[batch, ...]`.
            context: The context that `call` is given; a coupling that takes none can leave it out.

        Returns:
            The log-determinants, `[batch]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `compute_jacobian_determinant`."
        )

    def _run_network(self, x: Tensor, context: Tensor | None) -> Tensors:
        """Runs the network, which may have another dtype policy, and casts what it returns."""
        if self.coupling_parameters is not None:
            shape = (*ops.shape(x)[:-1], self.coupling_parameters.shape[0])
            return ops.broadcast_to(self.coupling_parameters, shape)
        network: Any = self._compute_coupling_parameters_
        if isinstance(network, Conditioner):
            if network.output_size is None:  # the layer was built without a shape
                self._build_network(x.shape)
            x = x if context is None else self.join_context(x, context)
            parameters = run_within(self, network, x)
        else:
            parameters = network(x if context is None else [x, context])
        if context is not None:
            parameters = mark_rows(parameters, context)
        if getattr(parameters, "dtype", None) == x.dtype:
            return parameters
        cast = functools.partial(ops.cast, dtype=self.compute_dtype)
        return keras.tree.map_structure(cast, parameters)

    def compute_parameters(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the coupling parameters in full shape, whatever the network is.

        Args:
            x: Inputs or outputs of `call`, `[batch, ...]`; they have :math:`x_1` in common.
            context: The context that `call` is given.

        Returns:
            What the network returns; of a :class:`~gyoza.modelling.conditioners.Conditioner`, its
            parameters in the shape of `x`, with zeros where the mask is one.
        """
        if not self._is_compact:
            return self._run_network(self._mask_(x), context)
        kept, _ = self._mask_.split(x)
        return self._mask_.join(ops.zeros_like(kept), self._run_network(kept, context))

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transforms a batch.

        Args:
            inputs: Floating-point tensor `[batch, ...]` with `shape` along `axes`.
            context: The context, if there is one; see :class:`ConditionalFlowLayer`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        parameters = self.compute_parameters(inputs, context)
        coupled = self._couple_(inputs, parameters)
        log_det = self._compute_log_det(inputs, context, parameters)
        return self._put_back(inputs, coupled), ops.cast(log_det, self.log_det_dtype)

    def _compute_log_det(
        self, inputs: Tensor, context: Tensor | None, parameters: Tensor
    ) -> Tensor:
        """Computes the log-determinants in full shape, for parameters that are computed already."""
        arguments = {} if context is None else {"context": context}
        return self.compute_jacobian_determinant(inputs, **arguments)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps outputs of `call` back to its inputs.

        Args:
            outputs: See :meth:`FlowLayer.invert`.
            context: The context that `call` was given.

        Returns:
            The reconstructed inputs, `[batch, ...]`.
        """
        decoupled = self._decouple_(outputs, self.compute_parameters(outputs, context))
        return self._put_back(outputs, decoupled)

    def _put_back(self, unchanged: Tensor, changed: Tensor) -> Tensor:
        """Takes from `unchanged` where the mask is one, and from `changed` elsewhere."""
        if not fits(changed.shape[1:], unchanged.shape[1:]):
            raise ValueError(
                "A coupling should return a tensor of the shape of its inputs: check the "
                "shape of what `compute_coupling_parameters` returns. Expected "
                f"shape={tuple(unchanged.shape)}. Received: shape={tuple(changed.shape)}"
            )
        return self._mask_(unchanged) + self._mask_(changed, is_positive=False)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        serialize = keras.saving.serialize_keras_object
        # Keras marks an object as shared only after it copied its first configuration. The second
        # has the mark, by which couplings that share a network still do so after loading.
        serialize(self._compute_coupling_parameters_)
        return {
            **super().get_config(),
            "compute_coupling_parameters": serialize(self._compute_coupling_parameters_),
            "mask": serialize(self._mask_),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Coupling":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        names = "compute_coupling_parameters", "conditioner", "mask", "transformer"
        return cls(**make_parts(config, *names))


def fits(received: Shape, expected: Shape) -> bool:
    """Returns whether two shapes are equal, as far as their lengths are known."""
    return len(received) == len(expected) and all(
        None in lengths or lengths[0] == lengths[1]
        for lengths in zip(received, expected, strict=True)
    )
