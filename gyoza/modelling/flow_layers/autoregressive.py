"""Layers whose map of each entry depends on the entries before it."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.conditioners.made import MADE
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.functions.scales import bound_log_scales, check_log_scale_bound
from gyoza.modelling.functions.splines import check_spline, rational_quadratic_spline

__all__ = ["MaskedAutoregressive", "MaskedAffine", "MaskedRationalQuadraticSpline"]


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedAutoregressive(ConditionalFlowLayer):
    r"""Base class of layers that map each entry by a law given by the entries before it.

    In an order :math:`o_1, …, o_n` of the entries, with a context :math:`c` if there is one, a
    masked network :math:`p` and an invertible law :math:`f`, the layer computes

    .. math::
        y_{o_i} = f(x_{o_i}, p_{o_i}(x_{o_1}, …, x_{o_{i-1}}; c)), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \left| \frac{\partial f(x_i, p_i)}{\partial x_i} \right|.

    `call` takes one evaluation of the network. `invert` finds one entry after the other, in a
    compiled loop with one evaluation for each of the :math:`n` entries; the memory of its gradient
    grows with :math:`n`, too. To sample fast and evaluate densities slowly, turn the layer round
    with :class:`~gyoza.modelling.flow_layers.Inverse`. To give all entries the same chance to
    depend on others, let several layers follow each other, with permutations in between.

    A law acts on each entry by itself. A subclass implements

    - `_couple_(inputs, parameters)`,
    - `_decouple_(outputs, parameters)`,
    - `compute_log_stretch(inputs, parameters)`, the logarithms
      :math:`\ln |\partial y_i / \partial x_i|`, or `_couple_and_stretch_`, where outputs and their
      log-stretch come from one computation,

    and `parameter_count`. Parameters have a last axis of that length.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. The entries along several axes are numbered in row-major
            order.
        conditioner: The network :math:`p`, a :class:`~gyoza.modelling.conditioners.MADE`, which
            also says what the order is. One with its default arguments if omitted.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `conditioner` is not a `MADE`.
        ValueError: If `conditioner` does not suit the number of entries.

    Attributes:
        conditioner: The network :math:`p`.
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        if conditioner is None:
            conditioner = MADE(dtype=self.dtype_policy)
        if not isinstance(conditioner, MADE):
            raise TypeError(
                f"`conditioner` should be a `MADE`. Received: conditioner={conditioner} (of type "
                f"{type(conditioner)})"
            )
        self.conditioner = conditioner

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Builds the network for inputs of `input_shape`."""
        super().build(input_shape)
        self.conditioner.set_parameter_count(self.parameter_count)
        if not self.conditioner.built:
            context_shape = None if self.context_size is None else (None, self.context_size)
            self.conditioner.build((None, self.dimension_count), context_shape)

    @property
    def parameter_count(self) -> int:
        """The number of parameters that the law needs per entry."""
        return 1

    def _couple_(self, inputs: Any, parameters: Any) -> Any:
        """Applies the law.

        Args:
            inputs: Entries of `inputs`, `[batch, ..., entries]`.
            parameters: Their parameters, `[batch, ..., entries, parameter_count]`.

        Returns:
            The outputs, in the shape of `inputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_couple_`.")

    def _decouple_(self, outputs: Any, parameters: Any) -> Any:
        """Inverts the law.

        Args:
            outputs: Entries of `outputs`, `[batch, ..., entries]`.
            parameters: Their parameters, `[batch, ..., entries, parameter_count]`.

        Returns:
            The inputs, in the shape of `outputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} should implement `_decouple_`.")

    def compute_log_stretch(self, inputs: Any, parameters: Any) -> Any:
        """Computes the contribution of each entry to the log-determinant.

        Args:
            inputs: Entries of `inputs`, `[batch, ..., entries]`.
            parameters: Their parameters, `[batch, ..., entries, parameter_count]`.

        Returns:
            A tensor of the shape of `inputs`, one number that holds for all entries, or `None` if
            the law preserves volume.
        """
        return None

    def _couple_and_stretch_(self, inputs: Any, parameters: Any) -> tuple[Any, Any]:
        """Gives what `_couple_` and `compute_log_stretch` return."""
        return self._couple_(inputs, parameters), self.compute_log_stretch(inputs, parameters)

    def _compute_parameters(self, vectors: Any, context: Any, entry: Any = None) -> Any:
        """Runs the network, which may have another dtype policy, and casts what it returns."""
        parameters = self.conditioner(vectors, context=context, entry=entry)
        return ops.cast(mark_rows(parameters, context), self.compute_dtype)

    def call(self, inputs: Any, context: Any = None) -> tuple[Any, Any]:
        """Transforms a batch; runs the network once.

        Args:
            inputs: See :meth:`FlowLayer.call`.
            context: See :class:`ConditionalFlowLayer`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        vectors = to_vectors(inputs, self._axes_, self._shape_)
        parameters = self._compute_parameters(vectors, context)
        outputs, log_stretch = self._couple_and_stretch_(vectors, parameters)
        outputs = from_vectors(outputs, self._axes_, self._shape_)
        return outputs, self.sum_log_det(inputs, log_stretch, vectors)

    def invert(self, outputs: Any, context: Any = None) -> Any:
        """Maps outputs of `call` back; runs the network once for each entry.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        vectors = to_vectors(outputs, self._axes_, self._shape_)
        order = ops.convert_to_tensor(self.conditioner.order, dtype="int32")
        entries = ops.arange(self.dimension_count, dtype="int32")

        def find_next(index: Any, inputs: Any) -> Any:
            entry = ops.take(order, index)
            parameters = self._compute_parameters(inputs, context, entry)
            output = ops.take(vectors, ops.reshape(entry, (1,)), axis=-1)
            return ops.where(entries == entry, self._decouple_(output, parameters), inputs)

        inputs = ops.zeros_like(vectors)
        if self.dimension_count == 1:
            inputs = find_next(0, inputs)  # XLA can differentiate less in a loop
        else:
            inputs = repeat(find_next, inputs, self.dimension_count)
        return from_vectors(inputs, self._axes_, self._shape_)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        serialize = keras.saving.serialize_keras_object
        # Only the second configuration tells that layers share a conditioner; see `Coupling`.
        serialize(self.conditioner)
        return {**super().get_config(), "conditioner": serialize(self.conditioner)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MaskedAutoregressive":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        config = dict(config)
        conditioner = keras.saving.deserialize_keras_object(config.pop("conditioner"))
        return cls(conditioner=conditioner, **config)


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedAffine(MaskedAutoregressive):
    r"""A :class:`MaskedAutoregressive` layer that scales and shifts each entry.

    With a raw log-scale :math:`r_i` and a shift :math:`t_i`, which depend on the entries before
    :math:`i`,

    .. math::
        y_i = x_i \, e^{s(r_i)} + t_i, \qquad s(r) = c \tanh(r / c), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i s(r_i).

    A flow of such layers is a masked autoregressive flow (MAF). Turned round by
    :class:`~gyoza.modelling.flow_layers.Inverse`, they make an inverse autoregressive flow (IAF). A
    new layer is the identity. See :class:`MaskedAutoregressive` for the cost.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`MaskedAutoregressive`.
        conditioner: See :class:`MaskedAutoregressive`.
        log_scale_bound: The bound :math:`c`: no entry is stretched or squeezed by more than
            :math:`e^c`. With `None`, :math:`s(r) = r`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: See :class:`MaskedAutoregressive`.
        ValueError: If `log_scale_bound` is not positive, or as for :class:`MaskedAutoregressive`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.MaskedAffine(
        ...     conditioner=gyoza.modelling.conditioners.MADE([64, 64], order=[2, 1, 0])
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3.]], dtype=float32)

    References:
        - Papamakarios, G., Pavlakou, T. & Murray, I. (2017). "Masked autoregressive flow for
          density estimation." `arXiv:1705.07057 <https://arxiv.org/abs/1705.07057>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        log_scale_bound: float | None = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, conditioner, **kwargs)
        check_log_scale_bound(log_scale_bound)
        self.log_scale_bound = log_scale_bound

    @property
    def parameter_count(self) -> int:
        """Two: the raw log-scale and the shift."""
        return 2

    def compute_log_stretch(self, inputs: Any, parameters: Any) -> Any:
        """Gives the log-scales; see :meth:`MaskedAutoregressive.compute_log_stretch`."""
        return bound_log_scales(parameters[..., 0], self.log_scale_bound)

    def _couple_(self, inputs: Any, parameters: Any) -> Any:
        """Scales and shifts; see :meth:`MaskedAutoregressive._couple_`."""
        scales = ops.exp(self.compute_log_stretch(inputs, parameters))
        return inputs * ops.cast(scales, inputs.dtype) + parameters[..., 1]

    def _decouple_(self, outputs: Any, parameters: Any) -> Any:
        """Shifts and scales back; see :meth:`MaskedAutoregressive._decouple_`."""
        scales = ops.exp(-self.compute_log_stretch(outputs, parameters))
        return (outputs - parameters[..., 1]) * ops.cast(scales, outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedRationalQuadraticSpline(MaskedAutoregressive):
    r"""A :class:`MaskedAutoregressive` layer that maps each entry by a monotonic spline.

    The spline has :math:`K` bins in :math:`[-B, B]` and is the identity outside. Its :math:`3 K -
    1` parameters per entry, which depend on the entries before it, are those of the widths, heights
    and slopes that :func:`~gyoza.modelling.functions.rational_quadratic_spline` takes, in this
    order.
    With :math:`d y_i / d x_i` from there,

    .. math::
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \frac{d y_i}{d x_i}.

    A new layer is the identity. See :class:`MaskedAutoregressive` for the cost. Data should lie
    mostly within the bound; put an :class:`~gyoza.modelling.flow_layers.ActivationNormalization`
    first if it does not.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`MaskedAutoregressive`.
        conditioner: See :class:`MaskedAutoregressive`.
        bin_count: The number of bins, :math:`K`, at least 2.
        bound: Where the tails begin, :math:`B`.
        minimum_bin_width: The least width of a bin, as a fraction of the interval.
        minimum_bin_height: The least height of a bin, likewise.
        minimum_slope: The least slope at a knot.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: See :class:`MaskedAutoregressive`.
        ValueError: If an option is out of range, or as for :class:`MaskedAutoregressive`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.MaskedRationalQuadraticSpline(bin_count=4)
        >>> x = np.array([[1.0, 2.0, 3.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3.]], dtype=float32)
        >>> layer.parameter_count
        11

    References:
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        bin_count: int = 8,
        bound: float = 5.0,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, conditioner, **kwargs)
        check_spline(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
        self.bin_count = bin_count
        self.spline_options: dict[str, Any] = {
            "bound": bound,
            "minimum_bin_width": minimum_bin_width,
            "minimum_bin_height": minimum_bin_height,
            "minimum_slope": minimum_slope,
        }

    @property
    def parameter_count(self) -> int:
        """Those of the widths, of the heights, and of the slopes at the inner knots."""
        return 3 * self.bin_count - 1

    def _map(self, x: Any, parameters: Any, inverse: bool = False) -> tuple[Any, Any]:
        """Maps entries, and gives the logarithms of the slopes there, too."""
        parts = ops.split(parameters, [self.bin_count, 2 * self.bin_count], axis=-1)
        widths, heights, slopes = parts
        return rational_quadratic_spline(
            x, widths, heights, slopes, inverse=inverse, **self.spline_options
        )

    def _couple_and_stretch_(self, inputs: Any, parameters: Any) -> tuple[Any, Any]:
        """Evaluates the spline and its log-slopes."""
        return self._map(inputs, parameters)

    def _decouple_(self, outputs: Any, parameters: Any) -> Any:
        """Evaluates the inverse of the spline; see :meth:`MaskedAutoregressive._decouple_`."""
        return self._map(outputs, parameters, inverse=True)[0]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "bin_count": self.bin_count, **self.spline_options}
