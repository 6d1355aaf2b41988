"""Coupling layers, which change one part of their inputs by a function of the other part."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.masks import HeavisideMask, Mask

__all__ = ["Coupling", "ElementwiseCoupling", "AdditiveCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class Coupling(ConditionalFlowLayer):
    r"""Base class of layers that couple one part of their inputs with the other.

    With a binary mask :math:`w`, a network :math:`g` that computes coupling parameters, and an
    invertible coupling law :math:`f`, the layer computes

    .. math::
        x_1 = w \, x, \qquad x_2 = (1 - w) \, x, \qquad
        y = x_1 + (1 - w) \, f(x_2, g(x_1)).

    As :math:`x_1` passes unchanged, the inverse knows :math:`g(x_1)` and has to invert only
    :math:`f`; :math:`g` itself can be any network. To let all entries take part, follow a coupling
    with a permutation that matches its mask, such as
    :class:`~gyoza.modelling.flow_layers.HeavisidePermutation` for
    :class:`~gyoza.modelling.masks.HeavisideMask`, and then with another coupling.

    With a context :math:`c`, as :class:`ConditionalFlowLayer` describes it, the coupling parameters
    are :math:`g(x_1, c)`.

    A law of your own is a subclass with three methods:

    - `_couple_(inputs, coupling_parameters)`, the law :math:`f`, in full shape,
    - `_decouple_(outputs, coupling_parameters)`, its inverse in the first argument,
    - `compute_jacobian_determinant(x)`, the logarithm of its Jacobian determinant, `[batch]`;
      `compute_parameters(x)` gives the coupling parameters that it needs. To work with a context,
      it takes `(x, context=None)` and passes it on.

    A law that acts on each entry by itself is simpler, and faster, as a subclass of
    :class:`ElementwiseCoupling`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: The network :math:`g`: a Keras layer or model, or any other
            callable. It is given :math:`x_1` in the full shape of the inputs, or the list
            :math:`[x_1, c]` where there is a context, and returns whatever the law expects, a
            tensor or a list of tensors. A :class:`~gyoza.modelling.conditioners.Conditioner`, such
            as :class:`~gyoza.modelling.conditioners.MLP`, computes only what is needed. If the
            inputs have one entry alone, it is changed, whatever the mask, and :math:`g` sees
            nothing; weights of the layer then stand in for a `Conditioner` without a context.
        mask: The mask :math:`w`, with the same shape and axes, or with both omitted: then it takes
            those of the first coupling that it is given to. A
            :class:`~gyoza.modelling.masks.HeavisideMask` if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `compute_coupling_parameters` cannot be called, or `mask` is not a `Mask`.
        ValueError: If shape or axes of the mask differ from the coupling's, or the mask leaves
            nothing to be changed.

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
        >>> layer = ScalingCoupling(compute_coupling_parameters=keras.layers.Dense(4))
        >>> outputs, log_det = layer(np.ones([1, 4], "float32"))
        >>> keras.ops.convert_to_numpy(layer.invert(outputs)).round(4)
        array([[1., 1., 1., 1.]], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        compute_coupling_parameters: Callable[..., Any] | None = None,
        mask: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        is_class = isinstance(compute_coupling_parameters, type)
        if is_class or not callable(compute_coupling_parameters):
            raise TypeError(
                "`compute_coupling_parameters` should be a Keras layer or another callable. "
                f"Received: compute_coupling_parameters={compute_coupling_parameters}"
            )
        if mask is None:
            mask = HeavisideMask()
        if not isinstance(mask, Mask):
            raise TypeError(
                f"`mask` should be a `Mask`. Received: mask={mask} (of type {type(mask)})"
            )
        super().__init__(
            shape=mask._shape_ if shape is None else shape,
            axes=mask._axes_ if axes is None else axes,
            **kwargs,
        )
        self._compute_coupling_parameters_ = compute_coupling_parameters
        self._mask_ = mask
        self.coupling_parameters: Any = None
        if self._shape_ is not None and self._axes_ is not None:
            mask.set_shape(self._shape_, self._axes_)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds the mask and the network for inputs of `input_shape`."""
        super().build(input_shape)
        self._mask_.set_shape(self._shape_, self._axes_)
        if self.dimension_count == 1 and len(self._mask_.changed_indices) == 0:
            # There is no other part: the one entry is transformed by parameters of its own.
            self._mask_ = Mask(self._axes_, self._shape_, np.zeros(self._shape_))
        changed_count = len(self._mask_.changed_indices)
        if changed_count == 0:
            raise ValueError(
                "`mask` should leave at least one entry to be changed. Received: a mask of ones "
                f"only, for shape={self._shape_}"
            )
        network = self._compute_coupling_parameters_
        kept_count = len(self._mask_.kept_indices)
        if isinstance(network, Conditioner):
            count = changed_count if self._is_compact else int(input_shape[-1] or 0)
            network.set_output_size(count * self.parameter_count)
            if self._is_compact and kept_count == 0 and self.context_size is None:
                self.coupling_parameters = self.add_weight(
                    shape=[network.output_size], initializer="zeros", name="coupling_parameters"
                )
                return
        if isinstance(network, keras.Layer) and not network.built:
            network(self._describe_network_inputs(input_shape))

    @property
    def _is_compact(self) -> bool:
        """Whether the network is given the kept entries alone, not all of them in full shape."""
        network = self._compute_coupling_parameters_
        return isinstance(network, Conditioner) and network.sees_kept_entries(self._axes_)

    def _compact_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Gives the shape of what the network is given if it is compact."""
        return self.vector_shape(input_shape, len(self._mask_.kept_indices))

    def _describe_network_inputs(self, input_shape: Sequence[int | None]) -> Any:
        """Gives symbolic tensors in the shape of what the network is given."""
        context_size = self.context_size or 0
        if self._is_compact:
            shape = self._compact_shape(input_shape)
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
    def parameter_count(self) -> int:
        """The number of parameters that the law needs per changed entry, from a `Conditioner`."""
        return 1

    def _couple_(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Applies the coupling law.

        There is no need to mask the result: entries that the coupling keeps are put back later.

        Args:
            inputs: The inputs of `call`.
            coupling_parameters: What the network :math:`g` computed.

        Returns:
            The coupled tensor, in the shape of `inputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_couple_`.")

    def _decouple_(self, outputs: Any, coupling_parameters: Any) -> Any:
        """Inverts the coupling law.

        Args:
            outputs: The outputs of `call`.
            coupling_parameters: What the network :math:`g` computed.

        Returns:
            The decoupled tensor, in the shape of `outputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_decouple_`.")

    def compute_jacobian_determinant(self, x: Any, context: Any = None) -> Any:
        """Computes the log-determinant of the law.

        Args:
            x: The inputs of `call`, `[batch, ...]`.
            context: The context that `call` is given; a law that takes none can leave it out.

        Returns:
            The log-determinants, `[batch]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `compute_jacobian_determinant`."
        )

    def _run_network(self, x: Any, context: Any) -> Any:
        """Runs the network, which may have another dtype policy, and casts what it returns."""
        if self.coupling_parameters is not None:
            shape = (*ops.shape(x)[:-1], self.coupling_parameters.shape[0])
            return ops.broadcast_to(self.coupling_parameters, shape)
        network = self._compute_coupling_parameters_
        if isinstance(network, Conditioner):
            parameters = network(self.join_context(x, context))
        else:
            parameters = network(x if context is None else [x, context])
        return keras.tree.map_structure(lambda p: ops.cast(p, self.compute_dtype), parameters)

    def compute_parameters(self, x: Any, context: Any = None) -> Any:
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

    def call(self, inputs: Any, context: Any = None) -> tuple[Any, Any]:
        """Transforms a batch.

        Args:
            inputs: Floating-point tensor `[batch, ...]` with `shape` along `axes`.
            context: The context, if there is one; see :class:`ConditionalFlowLayer`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        coupled = self._couple_(inputs, self.compute_parameters(inputs, context))
        arguments = {} if context is None else {"context": context}
        log_det = self.compute_jacobian_determinant(inputs, **arguments)
        return self._put_back(inputs, coupled), ops.cast(log_det, self.log_det_dtype)

    def invert(self, outputs: Any, context: Any = None) -> Any:
        """Maps outputs of `call` back to its inputs.

        Args:
            outputs: See :meth:`FlowLayer.invert`.
            context: The context that `call` was given.

        Returns:
            The reconstructed inputs, `[batch, ...]`.
        """
        decoupled = self._decouple_(outputs, self.compute_parameters(outputs, context))
        return self._put_back(outputs, decoupled)

    def _put_back(self, unchanged: Any, changed: Any) -> Any:
        """Takes entries where the mask is one from `unchanged`, and the others from `changed`."""
        if tuple(changed.shape[1:]) != tuple(unchanged.shape[1:]):
            raise ValueError(
                "The coupling law should return a tensor of the shape of its inputs: check the "
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
        config = dict(config)
        for name in ("compute_coupling_parameters", "mask"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


class ElementwiseCoupling(Coupling):
    r"""Base class of couplings whose law acts on each entry by itself.

    The law is evaluated only for the entries that change. Its methods are given those entries and
    their parameters, and need no regard for masks, axes and shapes. (A subclass that overrides
    `compute_jacobian_determinant` is run in full shape instead, like any :class:`Coupling`.) A
    subclass implements

    - `_couple_(inputs, coupling_parameters)`,
    - `_decouple_(outputs, coupling_parameters)`,
    - `compute_log_stretch(inputs, coupling_parameters)`, the logarithms
      :math:`\ln |\partial y_i / \partial x_i|`, unless the law preserves volume,

    or `_couple_and_stretch_` and `_decouple_and_stretch_`, where results and their log-stretch come
    from one computation, and if it needs more than one parameter per entry, `parameter_count`.
    Parameters then have a further, last axis of that length, also those of a network that answers
    in full shape. A :class:`~gyoza.modelling.conditioners.Conditioner` gives the first parameter of
    all entries, then the second of all, and so on, which is faster to read than one entry after the
    other.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. A network that answers in full shape
            returns a tensor of the shape of the inputs, with the further axis if there is one.
        mask: See :class:`Coupling`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the network returns parameters of the wrong shape.
    """

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Computes the contribution of each entry to the log-determinant.

        Args:
            inputs: The entries that change, `[batch, ..., changed entries]`.
            coupling_parameters: Their parameters.

        Returns:
            A tensor of the shape of `inputs`, or `None` if the law preserves volume.
        """
        return None

    def _couple_and_stretch_(self, inputs: Any, coupling_parameters: Any) -> tuple[Any, Any]:
        """Applies the law and computes the contributions to the log-determinant.

        Args:
            inputs: The entries that change, `[batch, ..., changed entries]`.
            coupling_parameters: Their parameters.

        Returns:
            What `_couple_` and `compute_log_stretch` return.
        """
        log_stretch = self.compute_log_stretch(inputs, coupling_parameters)
        return self._couple_(inputs, coupling_parameters), log_stretch

    def _decouple_and_stretch_(self, outputs: Any, coupling_parameters: Any) -> tuple[Any, Any]:
        """Inverts the law and computes the contributions to the log-determinant of `call`.

        Args:
            outputs: The entries that changed, `[batch, ..., changed entries]`.
            coupling_parameters: Their parameters.

        Returns:
            What `_decouple_` returns, and `compute_log_stretch` for it.
        """
        inputs = self._decouple_(outputs, coupling_parameters)
        return inputs, self.compute_log_stretch(inputs, coupling_parameters)

    def compute_jacobian_determinant(self, x: Any, context: Any = None) -> Any:
        """See :meth:`Coupling.compute_jacobian_determinant`."""
        return self(x, context)[1]

    @property
    def _is_in_full_shape(self) -> bool:
        """Whether a subclass has replaced the log-determinant, as laws in full shape do."""
        own = type(self).compute_jacobian_determinant
        return own is not ElementwiseCoupling.compute_jacobian_determinant

    def _split(self, x: Any, context: Any) -> tuple[Any, Any, Any]:
        """Gives the kept entries, the changed entries and the parameters of the changed ones."""
        kept, changed = self._mask_.split(x)
        per_entry = (self.parameter_count,) if self.parameter_count > 1 else ()
        if self._is_compact:
            parameters = self._run_network(kept, context)
            expected = (*changed.shape[:-1], changed.shape[-1] * self.parameter_count)
            self._check_parameters(parameters, expected)
            if per_entry:
                parameters = self._group_by_entry(parameters)
            return kept, changed, parameters
        parameters = self._run_network(self._mask_(x), context)
        if isinstance(self._compute_coupling_parameters_, Conditioner) and per_entry:
            parameters = self._group_by_entry(parameters)
        self._check_parameters(parameters, (*x.shape, *per_entry))
        _, parameters = self._mask_.split(parameters)
        return kept, changed, ops.swapaxes(parameters, -1, -2) if per_entry else parameters

    def _group_by_entry(self, parameters: Any) -> Any:
        """Gives the parameters of each entry an axis of their own."""
        count = self.parameter_count
        shape = (*ops.shape(parameters)[:-1], count, parameters.shape[-1] // count)
        return ops.swapaxes(ops.reshape(parameters, shape), -1, -2)

    def _check_parameters(self, parameters: Any, expected: Sequence[int | None]) -> None:
        received = getattr(parameters, "shape", None)
        if (
            received is None
            or len(received) != len(expected)
            or any(
                None not in sizes and sizes[0] != sizes[1]
                for sizes in zip(received, expected, strict=True)
            )
        ):
            raise ValueError(
                "`compute_coupling_parameters` should return a tensor of shape "
                f"{tuple(expected)} here. Received: "
                + (f"{parameters}" if received is None else f"a tensor of shape {tuple(received)}")
            )

    def call(self, inputs: Any, context: Any = None) -> tuple[Any, Any]:
        """See :meth:`Coupling.call`."""
        if self._is_in_full_shape:
            return super().call(inputs, context)
        kept, changed, parameters = self._split(inputs, context)
        coupled, log_stretch = self._couple_and_stretch_(changed, parameters)
        return self._mask_.join(kept, coupled), self.sum_log_det(inputs, log_stretch)

    def invert(self, outputs: Any, context: Any = None) -> Any:
        """See :meth:`Coupling.invert`."""
        if self._is_in_full_shape:
            return super().invert(outputs, context)
        kept, changed, parameters = self._split(outputs, context)
        return self._mask_.join(kept, self._decouple_(changed, parameters))

    def invert_and_log_det(self, outputs: Any, context: Any = None) -> tuple[Any, Any]:
        """See :meth:`FlowLayer.invert_and_log_det`; runs the network once."""
        if self._is_in_full_shape:
            return super().invert_and_log_det(outputs, context=context)
        kept, changed, parameters = self._split(outputs, context)
        decoupled, log_stretch = self._decouple_and_stretch_(changed, parameters)
        return self._mask_.join(kept, decoupled), self.sum_log_det(outputs, log_stretch)

    def recompute(self, outputs: Any, shift: Any, context: Any = None) -> tuple[Any, Any, Any]:
        """See :meth:`FlowLayer.recompute`; runs the network once."""
        if self._is_in_full_shape:
            return super().recompute(outputs, shift, context=context)
        kept, coupled, parameters = self._split(outputs + self._mask_(shift), context)
        with forget_gradients():
            changed = self._decouple_(coupled, ops.stop_gradient(parameters))
        inputs = ops.stop_gradient(self._mask_.join(kept, changed))
        _, changed = self._mask_.split(inputs + shift)
        coupled, log_stretch = self._couple_and_stretch_(changed, parameters)
        return inputs, self._mask_.join(kept, coupled), self.sum_log_det(inputs, log_stretch)


@keras.saving.register_keras_serializable(package="gyoza")
class AdditiveCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` with the law :math:`f(x_2, g(x_1)) = x_2 + g(x_1)`.

    It preserves volume: its log-determinant is 0.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns the shift: a tensor of the
            shape of the inputs, or a :class:`~gyoza.modelling.conditioners.Conditioner` does for
            the changed entries alone.
        mask: See :class:`Coupling`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the network returns a tensor of another shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.AdditiveCoupling(
        ...     compute_coupling_parameters=lambda x: 10.0 + x[..., ::-1],
        ...     mask=gyoza.modelling.masks.Mask(axes=[1], shape=[2], mask=[1, 0]),
        ... )
        >>> outputs, log_det = layer(np.array([[1.0, 2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)
        array([[ 1., 13.]], dtype=float32)

    References:
        - Dinh, L., Krueger, D. & Bengio, Y. (2015). "NICE: Non-linear independent components
          estimation." `arXiv:1410.8516 <https://arxiv.org/abs/1410.8516>`_
    """

    def _couple_(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Adds the shift; see :meth:`Coupling._couple_`."""
        return inputs + coupling_parameters

    def _decouple_(self, outputs: Any, coupling_parameters: Any) -> Any:
        """Subtracts the shift; see :meth:`Coupling._decouple_`."""
        return outputs - coupling_parameters
