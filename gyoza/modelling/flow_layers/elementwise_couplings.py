"""Couplings that transform each dimension by itself, and nothing but what changes."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.backend import forget_gradients
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.couplings import Coupling, fits
from gyoza.modelling.flow_layers.transforming import AppliesTransform
from gyoza.modelling.functions.checks import is_own
from gyoza.modelling.functions.tensors import is_number
from gyoza.modelling.masks import Mask
from gyoza.modelling.transforms import Transform
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["ElementwiseCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class ElementwiseCoupling(AppliesTransform, Coupling):
    r"""A :class:`Coupling` that transforms each changed dimension by itself.

    The transform is given to the constructor. It is evaluated only for the dimensions that change,
    and needs no regard for masks, axes and shapes.

    Without a `transformer`, a subclass implements

    - `_couple_(inputs, coupling_parameters)`,
    - `_decouple_(outputs, coupling_parameters)`,
    - `compute_log_stretch(inputs, coupling_parameters)`, the logarithms
      :math:`\ln |\partial y_i / \partial x_i|`, unless volume is preserved,

    which are given the dimensions that change and their parameters, and if there is more than one
    parameter for each dimension, `parameter_count`. Where results and log-derivatives come from one
    computation, `_couple_and_stretch_` can be implemented instead of `_couple_` and
    `compute_log_stretch`, and `_decouple_and_stretch_` as well as `_decouple_`.

    Parameters have a further, last axis of length `parameter_count` if that is not 1, also those of
    a network that returns tensors in full shape. A
    :class:`~gyoza.modelling.conditioners.Conditioner` returns the first parameter of all
    dimensions, then the second of all, and so on, which is faster to read than one dimension after
    the other.

    This holds for your own subclasses of :class:`ElementwiseCoupling`. Subclasses of gyoza's
    couplings that derive from it, such as :class:`AdditiveCoupling`, override `_couple_` and
    `_decouple_` as subclasses of :class:`Coupling` do: these methods are given the inputs of `call`
    in full shape, and parameters likewise, where those of a
    :class:`~gyoza.modelling.conditioners.Conditioner` are zero for dimensions that are kept. The
    log-determinant remains that of gyoza's coupling unless it is overridden, too. Any subclass that
    overrides `compute_jacobian_determinant` is run in full shape.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. A network that is not a `Conditioner`
            returns a tensor in full shape, that of the inputs, with the further axis if there is
            one. All axes but the first can have length 1 instead. One number holds for all.
        mask: See :class:`Coupling`.
        transformer: What is done to each dimension, a
            :class:`~gyoza.modelling.transforms.Transform`. Subclasses that implement the methods
            above omit it.
        **kwargs: Arguments of :class:`Coupling`.

    Raises:
        TypeError: If `transformer` is not a `Transform`, or as for :class:`Coupling`.
        ValueError: If the network returns parameters of the wrong shape.
        NotImplementedError: If there is neither a `transformer` nor a method of a subclass.

    Attributes:
        transformer: The transform, or `None` where a subclass has methods of its own.

    Example:

        >>> layer = gyoza.modelling.flow_layers.ElementwiseCoupling(
        ...     conditioner=gyoza.modelling.conditioners.MLP([64]),
        ...     transformer=gyoza.modelling.transforms.RationalQuadraticTransform(bound=3.0),
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3., 4.]], dtype=float32)
    """

    preserves_volume = True  # unless a transform or a subclass does not
    # Whether methods are given all dimensions, not only those that change, because a user replaced
    # them, and whether that is so for the log-determinant.
    _is_in_full_shape = _replaces_log_det = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = next(base for base in cls.__mro__ if is_own(base))
        cls._replaces_log_det = (
            cls.compute_jacobian_determinant is not own.compute_jacobian_determinant  # type: ignore[attr-defined]
        )
        cls._is_in_full_shape = cls._replaces_log_det or (
            own is not ElementwiseCoupling
            and not cls._replaced.isdisjoint(("_couple_", "_decouple_"))
        )

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        transformer: Transform | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, compute_coupling_parameters, mask, **kwargs)
        self._set_transformer(transformer)
        cls = next(base for base in type(self).__mro__ if "parameter_count" in vars(base))
        if is_own(cls):  # a user's class may not know it yet
            self._lacks_axis = self.parameter_count == 1

    @property
    def recomputable(self) -> bool:
        """Whether memory-efficient models invert the layer; that depends on the transform."""
        return self.transformer is None or self.transformer.recomputable

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the mask and the network; see :meth:`Coupling.build`."""
        self._parameter_count = self.parameter_count  # a property that a subclass may compute
        self._lacks_axis = self._parameter_count == 1
        super().build(input_shape)

    def compute_jacobian_determinant(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the log-determinant, the logarithm of the absolute determinant.

        See :meth:`Coupling.compute_jacobian_determinant`.
        """
        if self.preserves_volume:
            return self.sum_log_det(x, None)
        if self._is_in_full_shape:
            return self._sum_in_full_shape(x, self.compute_parameters(x, context))
        _, changed, parameters = self._split(x, context)
        _, log_derivative = self._couple_and_stretch_(changed, parameters)
        return self.sum_log_det(x, log_derivative, changed)

    def _compute_log_det(
        self, inputs: Tensor, context: Tensor | None, parameters: Tensor
    ) -> Tensor:
        if self._replaces_log_det:
            return super()._compute_log_det(inputs, context, parameters)
        return self._sum_in_full_shape(inputs, parameters)

    def _sum_in_full_shape(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """Computes log-determinants in full shape, where parameters may broadcast."""
        if self.preserves_volume:
            return self.sum_log_det(inputs, None)
        _, log_derivative = self._couple_and_stretch_(inputs, parameters)
        if log_derivative is not None:
            log_derivative = ops.broadcast_to(log_derivative, ops.shape(inputs))
            log_derivative = self._mask_(log_derivative, is_positive=False)
        return self.sum_log_det(inputs, log_derivative)

    def compute_parameters(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Computes the coupling parameters in full shape; see :meth:`Coupling.compute_parameters`.

        Those of a :class:`~gyoza.modelling.conditioners.Conditioner` have a last axis for the
        parameters of a dimension if it has several.
        """
        if not isinstance(self._compute_coupling_parameters_, Conditioner):
            return super().compute_parameters(x, context)
        kept, _, parameters = self._split(x, context)
        zeros = ops.zeros_like(kept)
        if self._parameter_count == 1:
            return self._mask_.join(zeros, parameters)
        zeros = ops.repeat(ops.expand_dims(zeros, -2), self._parameter_count, axis=-2)
        # The mask treats the axis of parameters as another position, which `join` puts last.
        return self._mask_.join(zeros, ops.swapaxes(parameters, -1, -2))

    def _split(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what is kept, what changes, and the parameters of what changes."""
        kept, changed = self._mask_.split(x)
        count = self._parameter_count
        parameters = self._run_network(kept if self._is_compact else self._mask_(x), context)
        if self._is_compact:
            expected = (*changed.shape[:-1], changed.shape[-1] * count)
            if tuple(parameters.shape) != expected and not fits(parameters.shape, expected):
                raise _wrong_parameters(parameters, expected)
        if count > 1 and isinstance(self._compute_coupling_parameters_, Conditioner):
            shape = (*ops.shape(parameters)[:-1], count, parameters.shape[-1] // count)
            parameters = ops.swapaxes(ops.reshape(parameters, shape), -1, -2)
        if self._is_compact:
            return kept, changed, parameters
        _, parameters = self._mask_.split(self._broadcast_parameters(parameters, x))
        # The mask treats the axis of parameters as another position.
        return kept, changed, parameters if count == 1 else ops.swapaxes(parameters, -1, -2)

    def _broadcast_parameters(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Checks parameters in full shape, and gives each dimension those that are shared."""
        per_dimension = () if self._parameter_count == 1 else (self._parameter_count,)
        expected = (*x.shape, *per_dimension)
        received = getattr(parameters, "shape", None)
        if received is None:
            raise _wrong_parameters(parameters, expected)
        if fits(received, expected):
            return parameters
        if not is_number(parameters) and not _are_shared(received, expected):
            raise _wrong_parameters(parameters, expected)
        return ops.broadcast_to(parameters, (*ops.shape(x), *per_dimension))

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`Coupling.call`."""
        if self._is_in_full_shape:
            return super().call(inputs, context)
        kept, changed, parameters = self._split(inputs, context)
        coupled, log_derivative = self._couple_and_stretch_(changed, parameters)
        log_det = self.sum_log_det(inputs, log_derivative, changed)
        return self._mask_.join(kept, coupled), log_det

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`Coupling.invert`."""
        if self._is_in_full_shape:
            return super().invert(outputs, context)
        kept, changed, parameters = self._split(outputs, context)
        return self._mask_.join(kept, self._decouple_(changed, parameters))

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.invert_and_log_det`; runs the network once."""
        if self._is_in_full_shape:
            return super().invert_and_log_det(outputs, context=context)
        kept, changed, parameters = self._split(outputs, context)
        decoupled, log_derivative = self._decouple_and_stretch_(changed, parameters)
        log_det = self.sum_log_det(outputs, log_derivative, changed)
        return self._mask_.join(kept, decoupled), log_det

    def recompute(
        self, outputs: Tensor, shift: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`FlowLayer.recompute`; runs the network once."""
        if self._is_in_full_shape:
            return super().recompute(outputs, shift, context=context)
        kept, coupled, parameters = self._split(outputs + self._mask_(shift), context)
        with forget_gradients():
            changed = self._decouple_(coupled, ops.stop_gradient(parameters))
        inputs = ops.stop_gradient(self._mask_.join(kept, changed))
        _, changed = self._mask_.split(inputs + shift)
        coupled, log_derivative = self._couple_and_stretch_(changed, parameters)
        log_det = self.sum_log_det(inputs, log_derivative, changed)
        return inputs, self._mask_.join(kept, coupled), log_det


Coupling._elementwise = ElementwiseCoupling


def _are_shared(received: Shape, expected: Shape) -> bool:
    """Returns whether a shape is as expected but for axes of length 1, other than the first."""
    # With fewer axes, one of instances could be taken for one of dimensions.
    return len(received) == len(expected) and all(
        fits([length], [demanded]) or (length == 1 and axis > 0)
        for axis, (length, demanded) in enumerate(zip(received, expected, strict=True))
    )


def _wrong_parameters(parameters: Tensor, expected: Shape) -> ValueError:
    received = getattr(parameters, "shape", None)
    return ValueError(
        "`compute_coupling_parameters` should return a tensor of shape "
        f"{tuple(expected)} here, where axes but the first can have length 1. Received: "
        + (f"{parameters}" if received is None else f"a tensor of shape {tuple(received)}")
    )
