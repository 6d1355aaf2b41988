"""Transforms that are monotonic splines."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gyoza.modelling.functions.splines import (
    check_spline,
    circular_spline,
    rational_quadratic_spline,
)
from gyoza.modelling.transforms.base import Transform
from gyoza.typing import Tensor

__all__ = ["RationalQuadraticTransform", "CircularSplineTransform"]


@keras.saving.register_keras_serializable(package="gyoza")
class RationalQuadraticTransform(Transform):
    r"""Maps each number by a monotonic rational-quadratic spline.

    The spline has :math:`K` bins in :math:`[-B, B]` and is the identity outside. Its :math:`3 K -
    1` parameters are those of the widths, heights and slopes that
    :func:`~gyoza.modelling.functions.rational_quadratic_spline` takes, in this order. If all are
    zero, it is the identity. The inverse is exact: the root of a quadratic equation.

    Args:
        bin_count: The number of bins, :math:`K`, at least 2.
        bound: Where the tails begin, :math:`B`.
        minimum_bin_width: The least width of a bin, as a fraction of the interval.
        minimum_bin_height: The least height of a bin, likewise.
        minimum_slope: The least slope at a knot.

    Raises:
        ValueError: If an option is out of range.

    Example:

        >>> transform = gyoza.modelling.transforms.RationalQuadraticTransform(bin_count=4)
        >>> x = keras.ops.array([0.5, 7.0], "float32")
        >>> parameters = keras.ops.zeros([2, transform.parameter_count])
        >>> y, log_derivative = transform.forward(x, parameters)
        >>> keras.ops.convert_to_numpy(y)
        array([0.5, 7. ], dtype=float32)

    References:
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """

    # The spline, and the number of its slopes that are parameters, as an excess over that of bins.
    _spline: Callable[..., tuple[Tensor, Tensor]] = staticmethod(rational_quadratic_spline)
    _excess = -1

    def __init__(
        self,
        bin_count: int = 8,
        bound: float = 5.0,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
    ) -> None:
        check_spline(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
        self.bin_count = int(bin_count)
        self.bound = bound
        self.minimum_bin_width = minimum_bin_width
        self.minimum_bin_height = minimum_bin_height
        self.minimum_slope = minimum_slope
        self.parameter_count = 3 * self.bin_count + self._excess

    def _map(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        count = self.bin_count
        widths, heights, slopes = ops.split(parameters, [count, 2 * count], axis=-1)
        return self._spline(
            x,
            widths,
            heights,
            slopes,
            bound=self.bound,
            minimum_bin_width=self.minimum_bin_width,
            minimum_bin_height=self.minimum_bin_height,
            minimum_slope=self.minimum_slope,
            inverse=inverse,
        )

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the spline; see :meth:`Transform.forward`."""
        return self._map(x, parameters, inverse=False)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Evaluates the inverse of the spline; see :meth:`Transform.inverse`."""
        return self._map(y, parameters, inverse=True)[0]

    def inverse_and_log_derivative(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the inverse once; see :meth:`Transform.inverse_and_log_derivative`."""
        x, log_derivative = self._map(y, parameters, inverse=True)
        return x, -log_derivative

    def get_config(self) -> dict[str, Any]:
        """See :meth:`Transform.get_config`."""
        return {
            **super().get_config(),
            "bin_count": self.bin_count,
            "bound": self.bound,
            "minimum_bin_width": self.minimum_bin_width,
            "minimum_bin_height": self.minimum_bin_height,
            "minimum_slope": self.minimum_slope,
        }


@keras.saving.register_keras_serializable(package="gyoza")
class CircularSplineTransform(RationalQuadraticTransform):
    r"""A :class:`RationalQuadraticTransform` for periodic coordinates, such as angles.

    Its spline is smooth on the circle, where :math:`-B` and :math:`B` are the same point; see
    :func:`~gyoza.modelling.functions.circular_spline`. It has :math:`3 K` parameters.

    Args:
        bin_count: See :class:`RationalQuadraticTransform`.
        bound: Half of the period, :math:`B`.
        minimum_bin_width: See :class:`RationalQuadraticTransform`.
        minimum_bin_height: See :class:`RationalQuadraticTransform`.
        minimum_slope: See :class:`RationalQuadraticTransform`.

    Raises:
        ValueError: See :class:`RationalQuadraticTransform`.

    Example:

        >>> transform = gyoza.modelling.transforms.CircularSplineTransform(bin_count=4)
        >>> x = keras.ops.array([1.0, 1.0 + 2.0 * np.pi], "float32")
        >>> y, _ = transform.forward(x, keras.ops.ones([2, transform.parameter_count]))
        >>> y = keras.ops.convert_to_numpy(y)
        >>> round(float(y[1] - y[0]) / np.pi, 4)
        2.0

    References:
        - Rezende, D. J., Papamakarios, G., Racanière, S., Albergo, M. S., Kanwar, G., Shanahan,
          P. E. & Cranmer, K. (2020). "Normalizing flows on tori and spheres."
          `arXiv:2002.02428 <https://arxiv.org/abs/2002.02428>`_
    """

    _spline = staticmethod(circular_spline)
    _excess = 0

    def __init__(
        self,
        bin_count: int = 8,
        bound: float = math.pi,
        minimum_bin_width: float = 1e-3,
        minimum_bin_height: float = 1e-3,
        minimum_slope: float = 1e-3,
    ) -> None:
        super().__init__(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
