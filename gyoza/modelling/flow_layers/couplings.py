"""Coupling layers, which change one part of their inputs by a function of the other part."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.masks import HeavisideMask, Mask

__all__ = ["Coupling", "ElementwiseCoupling", "AdditiveCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class Coupling(FlowLayer):
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

    A law of your own is a subclass with three methods:

    - `_couple_(inputs, coupling_parameters)`, the law :math:`f`, in full shape,
    - `_decouple_(outputs, coupling_parameters)`, its inverse in the first argument,
    - `compute_jacobian_determinant(x)`, the logarithm of its Jacobian determinant, `[batch]`;
      `compute_parameters(x)` gives the coupling parameters that it needs.

    A law that acts on each entry by itself is simpler, and faster, as a subclass of
    :class:`ElementwiseCoupling`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: The network :math:`g`: a Keras layer or model, or any other
            callable. It is given :math:`x_1` in the full shape of the inputs and returns whatever
            the law expects, a tensor or a list of tensors. A
            :class:`~gyoza.modelling.conditioners.Conditioner`, such as
            :class:`~gyoza.modelling.conditioners.MLP`, computes only what is needed.
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
        if self._shape_ is not None and self._axes_ is not None:
            mask.set_shape(self._shape_, self._axes_)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds the mask and the network for inputs of `input_shape`."""
        super().build(input_shape)
        self._mask_.set_shape(self._shape_, self._axes_)
        changed_count = len(self._mask_.changed_indices)
        if changed_count == 0:
            raise ValueError(
                "`mask` should leave at least one entry to be changed. Received: a mask of ones "
                f"only, for shape={self._shape_}"
            )
        network = self._compute_coupling_parameters_
        if isinstance(network, Conditioner):
            if len(self._mask_.kept_indices) == 0:
                raise ValueError(
                    "`mask` should keep at least one entry for the conditioner to see. Received: a "
                    f"mask of zeros only, for shape={self._shape_}"
                )
            network.set_output_size(changed_count * self.parameter_count)
        if isinstance(network, keras.Layer) and not network.built:
            network(keras.KerasTensor(self._network_input_shape(input_shape), self.compute_dtype))

    def _network_input_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        if not isinstance(self._compute_coupling_parameters_, Conditioner):
            return (None, *input_shape[1:])
        rest = [size for axis, size in enumerate(input_shape) if axis not in self._axes_]
        return (None, *rest[1:], len(self._mask_.kept_indices))

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

    def compute_jacobian_determinant(self, x: Any) -> Any:
        """Computes the log-determinant of the law.

        Args:
            x: The inputs of `call`, `[batch, ...]`.

        Returns:
            The log-determinants, `[batch]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should implement `compute_jacobian_determinant`."
        )

    def _run_network(self, kept: Any) -> Any:
        """Runs the network, which may have another dtype policy, and casts what it returns."""
        return keras.tree.map_structure(
            lambda parameters: ops.cast(parameters, self.compute_dtype),
            self._compute_coupling_parameters_(kept),
        )

    def compute_parameters(self, x: Any) -> Any:
        """Computes the coupling parameters in full shape, whatever the network is.

        Args:
            x: Inputs or outputs of `call`, `[batch, ...]`; they have :math:`x_1` in common.

        Returns:
            What the network returns; of a :class:`~gyoza.modelling.conditioners.Conditioner`, its
            parameters in the shape of `x`, with zeros where the mask is one.
        """
        if not isinstance(self._compute_coupling_parameters_, Conditioner):
            return self._run_network(self._mask_(x))
        kept, _ = self._mask_.split(x)
        return self._mask_.join(ops.zeros_like(kept), self._run_network(kept))

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """See :meth:`FlowLayer.call`."""
        coupled = self._couple_(inputs, self.compute_parameters(inputs))
        log_det = ops.cast(self.compute_jacobian_determinant(inputs), self.log_det_dtype)
        return self._put_back(inputs, coupled), log_det

    def invert(self, outputs: Any) -> Any:
        """See :meth:`FlowLayer.invert`."""
        decoupled = self._decouple_(outputs, self.compute_parameters(outputs))
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

    and if it needs more than one parameter per entry, `parameter_count`. Parameters then have a
    further, last axis of that length, also those of a network that answers in full shape.

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

    def compute_jacobian_determinant(self, x: Any) -> Any:
        """See :meth:`FlowLayer.compute_jacobian_determinant`."""
        return self(x)[1]

    @property
    def _is_in_full_shape(self) -> bool:
        """Whether a subclass has replaced the log-determinant, as laws in full shape do."""
        own = type(self).compute_jacobian_determinant
        return own is not ElementwiseCoupling.compute_jacobian_determinant

    def _split(self, x: Any) -> tuple[Any, Any, Any]:
        """Gives the kept entries, the changed entries and the parameters of the changed ones."""
        kept, changed = self._mask_.split(x)
        per_entry = (self.parameter_count,) if self.parameter_count > 1 else ()
        if isinstance(self._compute_coupling_parameters_, Conditioner):
            parameters = self._run_network(kept)
            expected = (*changed.shape[:-1], changed.shape[-1] * self.parameter_count)
            self._check_parameters(parameters, expected)
            if per_entry:
                parameters = ops.reshape(parameters, (*ops.shape(changed), *per_entry))
            return kept, changed, parameters
        parameters = self._run_network(self._mask_(x))
        self._check_parameters(parameters, (*x.shape, *per_entry))
        if per_entry:
            parts = ops.unstack(parameters, axis=-1)
            return kept, changed, ops.stack([self._mask_.split(p)[1] for p in parts], axis=-1)
        return kept, changed, self._mask_.split(parameters)[1]

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

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """See :meth:`FlowLayer.call`."""
        if self._is_in_full_shape:
            return super().call(inputs)
        kept, changed, parameters = self._split(inputs)
        outputs = self._mask_.join(kept, self._couple_(changed, parameters))
        return outputs, self.sum_log_det(inputs, self.compute_log_stretch(changed, parameters))

    def invert(self, outputs: Any) -> Any:
        """See :meth:`FlowLayer.invert`."""
        if self._is_in_full_shape:
            return super().invert(outputs)
        kept, changed, parameters = self._split(outputs)
        return self._mask_.join(kept, self._decouple_(changed, parameters))


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
