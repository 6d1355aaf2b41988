"""Couplings whose law is a monotonic spline."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import read_shape
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.couplings import ElementwiseCoupling
from gyoza.modelling.functions.splines import (
    check_spline,
    circular_spline,
    rational_quadratic_spline,
)
from gyoza.modelling.masks import Mask

__all__ = ["RationalQuadraticSplineCoupling", "CircularSplineCoupling"]


@keras.saving.register_keras_serializable(package="gyoza")
class RationalQuadraticSplineCoupling(ElementwiseCoupling):
    r"""A :class:`Coupling` that maps each entry by a monotonic rational-quadratic spline.

    The spline has :math:`K` bins in :math:`[-B, B]` and is the identity outside. Its :math:`3 K -
    1` coupling parameters per entry are those of the widths, heights and slopes that
    :func:`~gyoza.modelling.functions.rational_quadratic_spline` takes, in this order. With
    :math:`d y_i / d x_i` from there,

    .. math::
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \frac{d y_i}{d x_i},

    where the sum is over the entries that change. Both directions cost one evaluation of the
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
        ...     compute_coupling_parameters=gyoza.modelling.conditioners.MLP([64]), bin_count=4
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

    # How a number is mapped, given the parameters of widths, heights and slopes.
    _spline = staticmethod(rational_quadratic_spline)

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        compute_coupling_parameters: Callable[..., Any] | None = None,
        mask: Mask | None = None,
        bin_count: int = 8,
        bound: float = 5.0,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, compute_coupling_parameters, mask, **kwargs)
        check_spline(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
        self.bin_count = bin_count
        self.bound = bound
        self.minimum_bin_width = minimum_bin_width
        self.minimum_bin_height = minimum_bin_height
        self.minimum_slope = minimum_slope

    @property
    def parameter_count(self) -> int:
        """Those of the widths, of the heights, and of the slopes at the inner knots."""
        return 3 * self.bin_count - 1

    def _map(self, x: Any, coupling_parameters: Any, inverse: bool = False) -> tuple[Any, Any]:
        """Maps entries, and gives the logarithms of the slopes there, too."""
        return self._spline(
            x,
            coupling_parameters[..., : self.bin_count],
            coupling_parameters[..., self.bin_count : 2 * self.bin_count],
            coupling_parameters[..., 2 * self.bin_count :],
            bound=self.bound,
            minimum_bin_width=self.minimum_bin_width,
            minimum_bin_height=self.minimum_bin_height,
            minimum_slope=self.minimum_slope,
            inverse=inverse,
        )

    def _couple_(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Evaluates the spline; see :meth:`Coupling._couple_`."""
        return self._map(inputs, coupling_parameters)[0]

    def _decouple_(self, outputs: Any, coupling_parameters: Any) -> Any:
        """Evaluates the inverse of the spline; see :meth:`Coupling._decouple_`."""
        return self._map(outputs, coupling_parameters, inverse=True)[0]

    def _couple_and_stretch_(self, inputs: Any, coupling_parameters: Any) -> tuple[Any, Any]:
        """Evaluates the spline and its log-slopes."""
        return self._map(inputs, coupling_parameters)

    def _decouple_and_stretch_(self, outputs: Any, coupling_parameters: Any) -> tuple[Any, Any]:
        """Evaluates the inverse of the spline, and the log-slopes of the spline there."""
        inputs, log_slopes = self._map(outputs, coupling_parameters, inverse=True)
        return inputs, -log_slopes

    def compute_log_stretch(self, inputs: Any, coupling_parameters: Any) -> Any:
        """Computes log-slopes; see :meth:`ElementwiseCoupling.compute_log_stretch`."""
        return self._map(inputs, coupling_parameters)[1]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {
            **super().get_config(),
            "bin_count": self.bin_count,
            "bound": self.bound,
            "minimum_bin_width": self.minimum_bin_width,
            "minimum_bin_height": self.minimum_bin_height,
            "minimum_slope": self.minimum_slope,
        }


@keras.saving.register_keras_serializable(package="gyoza")
class CircularSplineCoupling(RationalQuadraticSplineCoupling):
    r"""A :class:`RationalQuadraticSplineCoupling` for periodic coordinates, such as angles.

    Its spline is smooth on the circle, where :math:`-B` and :math:`B` are the same point; see
    :func:`~gyoza.modelling.functions.circular_spline`. It has :math:`3 K` coupling parameters per
    entry. A :class:`~gyoza.modelling.conditioners.Conditioner` is given the cosines and then the
    sines of :math:`\pi x_1 / B`, and so cannot tell coordinates of the same point from each other.
    Any other network is given the coordinates themselves.

    Angles and other numbers can go together: in a
    :class:`~gyoza.modelling.flow_layers.FlowModel`, entries that circular couplings change are
    periodic for all conditioners, and entries that other couplings change are not, up to the first
    layer that may mix entries. Elsewhere, a conditioner is told by its argument `periods`. This
    layer gives it entries that are not periodic in units of :math:`B`.

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
        ...     compute_coupling_parameters=gyoza.modelling.conditioners.MLP([64]), bin_count=4
        ... )
        >>> outputs, log_det = layer(np.array([[0.0, 1.0, 2.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs)  # a new layer is the identity
        array([[0., 1., 2., 3.]], dtype=float32)

    References:
        - Rezende, D. J., Papamakarios, G., Racanière, S., Albergo, M. S., Kanwar, G., Shanahan,
          P. E. & Cranmer, K. (2020). "Normalizing flows on tori and spheres."
          `arXiv:2002.02428 <https://arxiv.org/abs/2002.02428>`_
    """

    _spline = staticmethod(circular_spline)

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        compute_coupling_parameters: Callable[..., Any] | None = None,
        mask: Mask | None = None,
        bin_count: int = 8,
        bound: float = math.pi,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            shape,
            axes,
            compute_coupling_parameters,
            mask,
            bin_count,
            bound,
            minimum_bin_width,
            minimum_bin_height,
            minimum_slope,
            **kwargs,
        )

    @property
    def parameter_count(self) -> int:
        """Those of the widths, of the heights, and of the slopes at all knots but the last."""
        return 3 * self.bin_count

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Builds the network, which is told that what it sees is periodic, too."""
        shape, axes = read_shape(input_shape, self._shape_, self._axes_)
        self._mask_.set_shape(shape, axes)
        network = self._compute_coupling_parameters_
        if isinstance(network, Conditioner) and network.sees_kept_entries(axes):
            network.set_periods([2 * self.bound] * len(self._mask_.kept_indices))
        super().build(input_shape)

    def _run_network(self, x: Any, context: Any) -> Any:
        if self._is_compact:
            network: Any = self._compute_coupling_parameters_
            periods = [*network.periods, *(None for _ in range(x.shape[-1]))]
            units = [1.0 if period else self.bound for period in periods[: x.shape[-1]]]
            x = x / ops.convert_to_tensor(units, dtype=x.dtype)
        return super()._run_network(x, context)
