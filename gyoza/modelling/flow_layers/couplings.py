"""Coupling layers, which change one part of their inputs by a function of the other part."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import forget_gradients
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.flow_layers.invertible import is_own
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.tensors import TRACING_ERRORS, is_number
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
      it takes `(x, context=None)` and passes it on. It can also be called
      `compute_log_jacobian_determinant`.

    A law that acts on each entry by itself is simpler, and faster, as a subclass of
    :class:`ElementwiseCoupling`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: The network :math:`g`: a Keras layer or model, or any other
            callable. It is given :math:`x_1` in the full shape of the inputs, or the list
            :math:`[x_1, c]` where there is a context, and returns whatever the law expects, a
            tensor or a list of tensors. A :class:`~gyoza.modelling.conditioners.Conditioner`, such
            as :class:`~gyoza.modelling.conditioners.MLP`, computes only what is needed. A network
            that Keras cannot trace, because it uses NumPy, say, is built when it is first run. If
            the inputs have one entry alone, it is changed, whatever the mask, and :math:`g` sees
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

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Builds the mask and the network for inputs of `input_shape`.

        Args:
            input_shape: See :meth:`FlowLayer.build`. Without it, a network that is given inputs in
                full shape is built when it is first run.
        """
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
        network: Any = self._compute_coupling_parameters_
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

    def _build_network(self, input_shape: Sequence[int | None]) -> None:
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
            if network.output_size is None:  # the layer was built without a shape
                self._build_network(x.shape)
            parameters = network(self.join_context(x, context))
        else:
            parameters = network(x if context is None else [x, context])
        parameters = mark_rows(parameters, context)
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
        parameters = self.compute_parameters(inputs, context)
        coupled = self._couple_(inputs, parameters)
        log_det = self._compute_log_det(inputs, context, parameters)
        return self._put_back(inputs, coupled), ops.cast(log_det, self.log_det_dtype)

    def _compute_log_det(self, inputs: Any, context: Any, parameters: Any) -> Any:
        """Computes the log-determinants in full shape, for parameters that are computed already."""
        arguments = {} if context is None else {"context": context}
        return self.compute_jacobian_determinant(inputs, **arguments)

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
        if not _fits(changed.shape[1:], unchanged.shape[1:]):
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


def _fits(received: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Whether two shapes are equal, as far as their lengths are known."""
    return len(received) == len(expected) and all(
        None in lengths or lengths[0] == lengths[1]
        for lengths in zip(received, expected, strict=True)
    )


def _wrong_parameters(parameters: Any, expected: Sequence[int | None]) -> ValueError:
    received = getattr(parameters, "shape", None)
    return ValueError(
        "`compute_coupling_parameters` should return a tensor of shape "
        f"{tuple(expected)} here, or one that broadcasts to it. Received: "
        + (f"{parameters}" if received is None else f"a tensor of shape {tuple(received)}")
    )


class ElementwiseCoupling(Coupling):
    r"""Base class of couplings whose law acts on each entry by itself.

    The law is evaluated only for the entries that change. Its methods are given those entries and
    their parameters, and need no regard for masks, axes and shapes. A subclass implements

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

    That holds for subclasses of this class. A law of gyoza's that derives from it, such as
    :class:`AdditiveCoupling`, is a :class:`Coupling` to those who override its `_couple_` or
    `_decouple_`: these are given the inputs of `call` in full shape, and parameters likewise, where
    those of a :class:`~gyoza.modelling.conditioners.Conditioner` are zero for entries that are
    kept. The log-determinant remains that of gyoza's law unless it is overridden, too. Any subclass
    that overrides `compute_jacobian_determinant` is run in full shape.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. A network that answers in full shape
            returns a tensor of the shape of the inputs, with the further axis if there is one, or
            one that broadcasts to it.
        mask: See :class:`Coupling`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If the network returns parameters of the wrong shape.
    """

    preserves_volume = True  # unless a subclass has a log-stretch
    _volume_hooks = ("compute_log_stretch", "_couple_and_stretch_")
    # Whether methods are given all entries, not only those that change, because a user replaced
    # them, and whether that is so for the log-determinant.
    _is_in_full_shape = _replaces_log_det = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        law = next(base for base in cls.__mro__ if is_own(base))

        def replaces(hook: str) -> bool:
            return getattr(cls, hook) is not getattr(law, hook)

        cls._replaces_log_det = replaces("compute_jacobian_determinant")
        cls._is_in_full_shape = cls._replaces_log_det or (
            law is not ElementwiseCoupling and (replaces("_couple_") or replaces("_decouple_"))
        )

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Computes the contribution of each entry to the log-determinant.

        Args:
            inputs: The entries that change, `[batch, ..., changed entries]`.
            coupling_parameters: Their parameters.

        Returns:
            A tensor of the shape of `inputs`, one number that holds for all entries, or `None` if
            the law preserves volume.
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
        if self.preserves_volume:
            return self.sum_log_det(x, None)
        if self._is_in_full_shape:
            return self._sum_log_stretch(x, self.compute_parameters(x, context))
        _, changed, parameters = self._split(x, context)
        _, log_stretch = self._couple_and_stretch_(changed, parameters)
        return self.sum_log_det(x, log_stretch, changed)

    def _compute_log_det(self, inputs: Any, context: Any, parameters: Any) -> Any:
        if self._replaces_log_det:
            return super()._compute_log_det(inputs, context, parameters)
        return self._sum_log_stretch(inputs, parameters)

    def _sum_log_stretch(self, inputs: Any, parameters: Any) -> Any:
        """Computes log-determinants of the law in full shape, where parameters may broadcast."""
        if self.preserves_volume:
            return self.sum_log_det(inputs, None)
        _, log_stretch = self._couple_and_stretch_(inputs, parameters)
        if log_stretch is not None:
            log_stretch = ops.broadcast_to(log_stretch, ops.shape(inputs))
            log_stretch = self._mask_(log_stretch, is_positive=False)
        return self.sum_log_det(inputs, log_stretch)

    def compute_parameters(self, x: Any, context: Any = None) -> Any:
        """Computes the coupling parameters in full shape; see :meth:`Coupling.compute_parameters`.

        Those of a :class:`~gyoza.modelling.conditioners.Conditioner` have a last axis for the
        parameters of an entry if it has several.
        """
        if self.parameter_count == 1 or not isinstance(
            self._compute_coupling_parameters_, Conditioner
        ):
            return super().compute_parameters(x, context)
        if not self._is_compact:
            return self._group_by_entry(self._run_network(self._mask_(x), context))
        kept, _, parameters = self._split(x, context)
        zeros = ops.expand_dims(ops.zeros_like(kept), -2)
        zeros = ops.repeat(zeros, self.parameter_count, axis=-2)
        # To the mask, parameters of an entry are positions, which `join` puts behind all others.
        return self._mask_.join(zeros, ops.swapaxes(parameters, -1, -2))

    def _split(self, x: Any, context: Any) -> tuple[Any, Any, Any]:
        """Gives the kept entries, the changed entries and the parameters of the changed ones."""
        kept, changed = self._mask_.split(x)
        per_entry = (self.parameter_count,) if self.parameter_count > 1 else ()
        if self._is_compact:
            parameters = self._run_network(kept, context)
            expected = (*changed.shape[:-1], changed.shape[-1] * self.parameter_count)
            if not _fits(parameters.shape, expected):
                raise _wrong_parameters(parameters, expected)
            if per_entry:
                parameters = self._group_by_entry(parameters)
            return kept, changed, parameters
        parameters = self._run_network(self._mask_(x), context)
        if isinstance(self._compute_coupling_parameters_, Conditioner) and per_entry:
            parameters = self._group_by_entry(parameters)
        parameters = self._broadcast_parameters(parameters, x, per_entry)
        _, parameters = self._mask_.split(parameters)
        return kept, changed, ops.swapaxes(parameters, -1, -2) if per_entry else parameters

    def _group_by_entry(self, parameters: Any) -> Any:
        """Gives the parameters of each entry an axis of their own."""
        count = self.parameter_count
        shape = (*ops.shape(parameters)[:-1], count, parameters.shape[-1] // count)
        return ops.swapaxes(ops.reshape(parameters, shape), -1, -2)

    def _broadcast_parameters(self, parameters: Any, x: Any, per_entry: tuple[int, ...]) -> Any:
        """Checks parameters in full shape, and gives those that entries share to each of them."""
        expected = (*x.shape, *per_entry)
        received = getattr(parameters, "shape", None)
        if received is None:
            raise _wrong_parameters(parameters, expected)
        if _fits(received, expected):
            return parameters
        if not is_number(parameters):
            shared = [length == 1 and axis > 0 for axis, length in enumerate(received)]
            if not _fits(received, [1 if s else e for s, e in zip(shared, expected, strict=False)]):
                raise _wrong_parameters(parameters, expected)
        return ops.broadcast_to(parameters, (*ops.shape(x), *per_entry))

    def call(self, inputs: Any, context: Any = None) -> tuple[Any, Any]:
        """See :meth:`Coupling.call`."""
        if self._is_in_full_shape:
            return super().call(inputs, context)
        kept, changed, parameters = self._split(inputs, context)
        coupled, log_stretch = self._couple_and_stretch_(changed, parameters)
        log_det = self.sum_log_det(inputs, log_stretch, changed)
        return self._mask_.join(kept, coupled), log_det

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
        log_det = self.sum_log_det(outputs, log_stretch, changed)
        return self._mask_.join(kept, decoupled), log_det

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
        log_det = self.sum_log_det(inputs, log_stretch, changed)
        return inputs, self._mask_.join(kept, coupled), log_det


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
