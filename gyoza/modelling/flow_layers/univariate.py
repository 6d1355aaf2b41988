"""Layers that apply a transform to each dimension, with parameters that do not depend on data."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.transforming import check_transformer
from gyoza.modelling.functions.arguments import make_parts, take_first
from gyoza.modelling.transforms import Transform
from gyoza.typing import Tensor

__all__ = ["Elementwise"]


@keras.saving.register_keras_serializable(package="gyoza")
class Elementwise(FlowLayer):
    r"""Applies a transform to each dimension, with parameters :math:`p_i` that are weights.

    .. math::
        y_i = f(x_i; p_i), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \left| \frac{\partial f(x_i; p_i)}{\partial x_i} \right|.

    In an :class:`ElementwiseCoupling`, parameters are computed from other dimensions, and in a
    :class:`MaskedAutoregressive` layer from those before; here, they are the same for all
    instances. They start at zero, where most transforms are the identity. The components of a
    mixture would then be, and stay, equal: use :class:`MixtureGaussianization`.

    Args:
        shape: See :class:`FlowLayer`. The transform can be passed first instead.
        axes: See :class:`FlowLayer`.
        transformer: The function :math:`f`, a :class:`~gyoza.modelling.transforms.Transform`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `transformer` is not a `Transform`.

    Attributes:
        transformer: The transform.
        transform_parameters: The weight :math:`p`, `[dimension_count, parameter_count]`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Elementwise(
        ...     transformer=gyoza.modelling.transforms.RationalQuadraticTransform(bin_count=4)
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3.]], dtype=float32)
        >>> tuple(layer.transform_parameters.shape)
        (3, 11)

    References:
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """

    preserves_volume = True  # unless a transform or a subclass does not

    def __init__(
        self,
        shape: Iterable[int] | Transform | None = None,
        axes: Iterable[int] | None = None,
        transformer: Transform | None = None,
        **kwargs: Any,
    ) -> None:
        lengths, transformer = take_first(shape, transformer, lambda x: isinstance(x, Transform))
        super().__init__(shape=lengths, axes=axes, **kwargs)
        self.transformer: Any = check_transformer(transformer)
        self.preserves_volume = self.preserves_volume and self.transformer.preserves_volume
        self._create_weights_once()

    @property
    def recomputable(self) -> bool:
        """Whether memory-efficient models invert the layer; that depends on the transform."""
        return self.transformer.recomputable

    def create_weights(self) -> None:
        """Creates the parameters of the transform."""
        self.transform_parameters = self.add_weight(
            shape=(self.dimension_count, self.transformer.parameter_count),
            initializer="zeros",
            name="transform_parameters",
        )

    def expand_parameters(self, vectors: Tensor) -> Tensor:
        """Returns the parameters for a batch.

        Args:
            vectors: Inputs or outputs, `[batch, ..., dimension_count]`.

        Returns:
            Their parameters, `[batch, ..., dimension_count, parameter_count]`.
        """
        shape = (*ops.shape(vectors), self.transformer.parameter_count)
        return ops.broadcast_to(self.transform_parameters, shape)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Applies the transform; see :meth:`FlowLayer.transform`."""
        outputs, log_derivatives = self.transformer.forward(inputs, self.expand_parameters(inputs))
        if log_derivatives is None:
            return outputs, None
        return outputs, ops.sum(ops.broadcast_to(log_derivatives, ops.shape(inputs)), axis=-1)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Inverts the transform; see :meth:`FlowLayer.inverse_transform`."""
        return self.transformer.inverse(outputs, self.expand_parameters(outputs))

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        transformer = keras.saving.serialize_keras_object(self.transformer)
        return {**super().get_config(), "transformer": transformer}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Elementwise":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        return cls(**make_parts(config, "transformer"))
