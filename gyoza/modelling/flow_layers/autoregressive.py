"""Layers whose transform of each dimension depends on the dimensions before it."""

import functools
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.conditioners.made import MADE
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.flow_layers.transforming import AppliesTransform, option
from gyoza.modelling.functions.arguments import make_parts, take_first
from gyoza.modelling.functions.checks import check_instance, is_own
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.not_finite import mark_rows
from gyoza.modelling.transforms import AffineTransform, RationalQuadraticTransform, Transform
from gyoza.typing import Shape, Tensor

__all__ = ["MaskedAutoregressive", "MaskedAffine", "MaskedRationalQuadraticSpline"]


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedAutoregressive(AppliesTransform, ConditionalFlowLayer):
    r"""Transforms each dimension with parameters that depend on the dimensions before it.

    In an order :math:`o_1, …, o_n` of the dimensions, with a context :math:`c` if there is one, a
    masked network :math:`p` and an invertible transform :math:`f`, the layer computes

    .. math::
        y_{o_i} = f(x_{o_i}, p_{o_i}(x_{o_1}, …, x_{o_{i-1}}; c)), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \left| \frac{\partial f(x_i, p_i)}{\partial x_i} \right|.

    `call` takes one evaluation of the network. `invert` finds one dimension after the other, in a
    compiled loop with one evaluation for each of the :math:`n` dimensions; the memory of its
    gradient grows with :math:`n`, too. To sample fast and evaluate densities slowly, invert the
    layer by :class:`~gyoza.modelling.flow_layers.Inverse`. To give all dimensions the same chance
    to depend on others, let several layers follow each other, with permutations in between.

    Without a `transformer`, a subclass implements

    - `_couple_(inputs, coupling_parameters)`,
    - `_decouple_(outputs, coupling_parameters)`,
    - `compute_log_stretch(inputs, coupling_parameters)`, the logarithms
      :math:`\ln |\partial y_i / \partial x_i|`, or, instead of the first and the third,
      `_couple_and_stretch_`, where outputs and log-derivatives come from one computation,

    and `parameter_count`. Parameters have a last axis of that length.

    Args:
        shape: See :class:`FlowLayer`. The network can be passed first instead.
        axes: See :class:`FlowLayer`. The dimensions along several axes are numbered in row-major
            order.
        conditioner: The network :math:`p`, a :class:`~gyoza.modelling.conditioners.MADE`, which
            also defines the order. One with its default arguments if omitted.
        transformer: The transform :math:`f`, a :class:`~gyoza.modelling.transforms.Transform`.
            Subclasses that implement the methods above omit it.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `conditioner` is not a `MADE`, or `transformer` is not a `Transform`.
        ValueError: If `conditioner` does not suit the number of dimensions, or `transformer`
            depends on the parameters of several dimensions.
        NotImplementedError: If there is neither a `transformer` nor a method of a subclass.

    Attributes:
        conditioner: The network :math:`p`.
        transformer: The transform :math:`f`, or `None` where a subclass has methods of its own.

    Example:

        >>> layer = gyoza.modelling.flow_layers.MaskedAutoregressive(
        ...     conditioner=gyoza.modelling.conditioners.MADE([64, 64]),
        ...     transformer=gyoza.modelling.transforms.AffineTransform(),
        ... )
        >>> outputs, log_det = layer(np.array([[1.0, 2.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3.]], dtype=float32)
    """

    recomputable = False

    def __init__(
        self,
        shape: Iterable[int] | MADE | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        transformer: Transform | None = None,
        **kwargs: Any,
    ) -> None:
        shape, conditioner = take_first(shape, conditioner, callable)
        super().__init__(shape=shape, axes=axes, **kwargs)
        self._set_transformer(transformer)
        if transformer is not None and transformer.couples_dimensions:
            raise ValueError(
                "`transformer` should transform each dimension by its own parameters. Received: "
                f"transformer={transformer}"
            )
        if conditioner is None:
            conditioner = MADE(dtype=self.dtype_policy)
        what = "a `MADE`, such as `MADE([64, 64])`, whose masks keep the order of dimensions"
        check_instance("conditioner", conditioner, MADE, what)
        self.conditioner = conditioner

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the network for inputs of `input_shape`."""
        super().build(input_shape)
        self.conditioner.set_parameter_count(self.parameter_count)
        if not self.conditioner.built:
            context_shape = None if self.context_size is None else (None, self.context_size)
            self.conditioner.build((None, self.dimension_count), context_shape)

    def _compute_parameters(
        self, vectors: Tensor, context: Tensor | None, which: Tensor | None = None
    ) -> Tensor:
        """Runs the network, for one dimension or for all, and casts what it returns."""
        parameters = self.conditioner(vectors, context=context, entry=which)
        if which is not None and parameters.shape[-2] != 1:
            # The network of a subclass took a slice, whose length TensorFlow does not know, and
            # which XLA would fill up. One dimension is taken from all of them instead.
            parameters = self.conditioner(vectors, context=context)
            parameters = ops.take(parameters, ops.reshape(which, (1,)), axis=-2)
        if context is not None:
            parameters = mark_rows(parameters, context)
        return ops.cast(parameters, self.compute_dtype)

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transforms a batch; runs the network once.

        Args:
            inputs: See :meth:`FlowLayer.call`.
            context: See :class:`ConditionalFlowLayer`.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        vectors = to_vectors(inputs, self._axes_, self._shape_)
        parameters = self._compute_parameters(vectors, context)
        outputs, log_derivative = self._couple_and_stretch_(vectors, parameters)
        outputs = from_vectors(outputs, self._axes_, self._shape_)
        return outputs, self.sum_log_det(inputs, log_derivative, vectors)

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps outputs of `call` back; runs the network once for each dimension.

        Args:
            outputs: Outputs of `call`, `[batch, ...]`.
            context: The context that `call` was given.

        Returns:
            The inputs of `call`, `[batch, ...]`.
        """
        vectors = to_vectors(outputs, self._axes_, self._shape_)
        order = ops.convert_to_tensor(self.conditioner.order, dtype="int32")
        dimensions = ops.arange(self.dimension_count, dtype="int32")

        def find_next(index: Tensor, inputs: Tensor) -> Tensor:
            which = ops.take(order, index)
            parameters = self._compute_parameters(inputs, context, which)
            output = ops.take(vectors, ops.reshape(which, (1,)), axis=-1)
            return ops.where(dimensions == which, self._decouple_(output, parameters), inputs)

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
        return super().from_config(make_parts(config, "conditioner"))


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedAffine(MaskedAutoregressive):
    r"""A :class:`MaskedAutoregressive` layer that scales and shifts each dimension.

    With a raw log-scale :math:`r_i` and a shift :math:`t_i`, which depend on the dimensions before
    :math:`i`,

    .. math::
        y_i = x_i \, e^{s(r_i)} + t_i, \qquad s(r) = c \tanh(r / c), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i s(r_i).

    A flow of such layers is a masked autoregressive flow (MAF). Inverted by
    :class:`~gyoza.modelling.flow_layers.Inverse`, they make an inverse autoregressive flow (IAF). A
    new layer is the identity. See :class:`MaskedAutoregressive` for the cost, and
    :class:`~gyoza.modelling.transforms.AffineTransform` for the transform.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`MaskedAutoregressive`.
        conditioner: See :class:`MaskedAutoregressive`.
        log_scale_bound: The bound :math:`c`: no dimension is stretched or squeezed by more than
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

    _is_configured_by_options = True
    log_scale_bound = option("log_scale_bound")

    def __init__(
        self,
        shape: Iterable[int] | MADE | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        log_scale_bound: float | None = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, conditioner, AffineTransform(log_scale_bound), **kwargs)

    def _set_transformer(self, transformer: Transform | None) -> None:
        super()._set_transformer(transformer)
        if not is_own(type(self)):
            # A user's subclass may compute log-scales in another way, which do not need the inputs.
            self.transformer.compute_log_scales = functools.partial(self.compute_log_stretch, None)

    def compute_log_stretch(self, inputs: Tensor | None, coupling_parameters: Tensor) -> Tensor:
        """Computes the log-scales; see :meth:`MaskedAutoregressive.compute_log_stretch`."""
        return type(self.transformer).compute_log_scales(self.transformer, coupling_parameters)


@keras.saving.register_keras_serializable(package="gyoza")
class MaskedRationalQuadraticSpline(MaskedAutoregressive):
    r"""A :class:`MaskedAutoregressive` layer that maps each dimension by a monotonic spline.

    The spline has :math:`K` bins in :math:`[-B, B]` and is the identity outside. The :math:`3 K -
    1` parameters of each dimension, which depend on the dimensions before it, are those of the
    widths, heights and slopes that
    :class:`~gyoza.modelling.transforms.RationalQuadraticTransform` takes, in this order. With
    :math:`d y_i / d x_i` from there,

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

    _is_configured_by_options = True
    bin_count = option("bin_count")
    bound = option("bound")
    minimum_bin_width = option("minimum_bin_width")
    minimum_bin_height = option("minimum_bin_height")
    minimum_slope = option("minimum_slope")

    def __init__(
        self,
        shape: Iterable[int] | MADE | None = None,
        axes: Iterable[int] | None = None,
        conditioner: MADE | None = None,
        bin_count: int = 8,
        bound: float = 5.0,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        options = bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope
        transformer = RationalQuadraticTransform(*options)
        super().__init__(shape, axes, conditioner, transformer, **kwargs)
