"""Couplings by monotonic splines."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import read_shape
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.elementwise_couplings import ElementwiseCoupling
from gyoza.modelling.flow_layers.transforming import option
from gyoza.modelling.masks import Mask
from gyoza.modelling.transforms import CircularSplineTransform, RationalQuadraticTransform
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["RationalQuadraticSplineCoupling", "CircularSplineCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class RationalQuadraticSplineCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` that maps each dimension by a monotonic rational-quadratic spline.

    The spline has :math:`K` bins in :math:`[-B, B]` and is the identity outside. The :math:`3 K -
    1` parameters of each dimension are those of the widths, heights and slopes that
    :class:`~gyoza.modelling.transforms.RationalQuadraticTransform` takes, in this order. With
    :math:`d y_i / d x_i` from there,

    .. math::
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \frac{d y_i}{d x_i},

    where the sum is over the dimensions that change. Both directions cost one evaluation of the
    network, and the inverse is exact: the root of a quadratic equation. If the network returns
    zeros, the layer is the identity.

    Data should lie mostly within the bound; put an
    :class:`~gyoza.modelling.flow_layers.ActivationNormalization` first if it does not.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`Coupling`. It returns the parameters along a last
            axis; a :class:`~gyoza.modelling.conditioners.Conditioner` does so by itself.
        mask: See :class:`Coupling`.
        bin_count: The number of bins, :math:`K`, at least 2.
        bound: Where the tails begin, :math:`B`.
        minimum_bin_width: The least width of a bin, as a fraction of the interval.
        minimum_bin_height: The least height of a bin, likewise.
        minimum_slope: The least slope at a knot.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If an option is out of range, or the network returns a tensor of another shape.

    Example:

        >>> layer = gyoza.modelling.flow_layers.RationalQuadraticSplineCoupling(
        ...     conditioner=gyoza.modelling.conditioners.MLP([64]), bin_count=4
        ... )
        >>> x = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[1., 2., 3., 4.]], dtype=float32)
        >>> layer.parameter_count
        11

    References:
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """

    preserves_volume = False
    _is_configured_by_options = True
    bin_count = option("bin_count")
    bound = option("bound")
    minimum_bin_width = option("minimum_bin_width")
    minimum_bin_height = option("minimum_bin_height")
    minimum_slope = option("minimum_slope")
    _make_transformer: type[RationalQuadraticTransform] = RationalQuadraticTransform

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        bin_count: int = 8,
        bound: float = 5.0,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        options = bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope
        transformer = self._make_transformer(*options)
        super().__init__(shape, axes, compute_coupling_parameters, mask, transformer, **kwargs)


@keras.saving.register_keras_serializable(package="gyoza")
class CircularSplineCoupling(RationalQuadraticSplineCoupling):
    r"""A :class:`RationalQuadraticSplineCoupling` for periodic coordinates, such as angles.

    Its spline is smooth on the circle, where :math:`-B` and :math:`B` are the same point; see
    :class:`~gyoza.modelling.transforms.CircularSplineTransform`. Each dimension has :math:`3 K`
    parameters. A :class:`~gyoza.modelling.conditioners.Conditioner` is given the cosines and then
    the sines of :math:`\pi x_1 / B`, and so cannot tell coordinates of the same point from each
    other. Any other network is given the coordinates themselves.

    Angles and other numbers can go together: in a
    :class:`~gyoza.modelling.flow_layers.FlowModel`, dimensions that circular couplings change are
    periodic for all conditioners, and dimensions that other couplings change are not, up to the
    first layer that may mix dimensions. Elsewhere, pass `periods` to the conditioner.
    This layer gives it dimensions that are not periodic in units of :math:`B`.

    The spline leaves the point :math:`-B` where it is. A layer that rotates, between two such
    couplings, lets it move, too.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        compute_coupling_parameters: See :class:`RationalQuadraticSplineCoupling`.
        mask: See :class:`Coupling`.
        bin_count: The number of bins, :math:`K`, at least 2.
        bound: Half of the period, :math:`B`.
        minimum_bin_width: See :class:`RationalQuadraticSplineCoupling`.
        minimum_bin_height: See :class:`RationalQuadraticSplineCoupling`.
        minimum_slope: See :class:`RationalQuadraticSplineCoupling`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: See :class:`RationalQuadraticSplineCoupling`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.CircularSplineCoupling(
        ...     conditioner=gyoza.modelling.conditioners.MLP([64]), bin_count=4
        ... )
        >>> outputs, log_det = layer(np.array([[0.0, 1.0, 2.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[0., 1., 2., 3.]], dtype=float32)

    References:
        - Rezende, D. J., Papamakarios, G., Racanière, S., Albergo, M. S., Kanwar, G., Shanahan,
          P. E. & Cranmer, K. (2020). "Normalizing flows on tori and spheres."
          `arXiv:2002.02428 <https://arxiv.org/abs/2002.02428>`_
    """

    _make_transformer = CircularSplineTransform

    def __init__(
        self,
        shape: Iterable[int] | Callable[..., Any] | None = None,
        axes: Iterable[int] | Mask | None = None,
        compute_coupling_parameters: Callable[..., Tensors] | None = None,
        mask: Mask | None = None,
        bin_count: int = 8,
        bound: float = math.pi,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        options = bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope
        super().__init__(shape, axes, compute_coupling_parameters, mask, *options, **kwargs)

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the network, for inputs that are periodic, too."""
        shape, axes = read_shape(input_shape, self._shape_, self._axes_)
        self._mask_.set_shape(shape, axes)
        network = self._compute_coupling_parameters_
        if isinstance(network, Conditioner) and network.sees_kept_entries(axes):
            network.set_periods([2 * self.bound] * len(self._mask_.kept_indices))
        super().build(input_shape)

    def _run_network(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self._is_compact:
            network: Any = self._compute_coupling_parameters_
            periods = [*network.periods, *(None for _ in range(x.shape[-1]))]
            units = [1.0 if period else self.bound for period in periods[: x.shape[-1]]]
            x = x / ops.convert_to_tensor(units, dtype=x.dtype)
        return super()._run_network(x, context)
