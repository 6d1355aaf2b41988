"""Monotonic rational-quadratic splines, as pure functions."""

import itertools
import math

from keras import ops

from gyoza.backend import SHORT_AXIS, take_along_short, trace_once
from gyoza.modelling.functions.checks import check_integer, is_between
from gyoza.modelling.functions.dtypes import at_least_float32, check_float_dtype
from gyoza.modelling.functions.tensors import clip
from gyoza.typing import Tensor

__all__ = ["rational_quadratic_spline", "circular_spline", "check_spline"]


@trace_once
def rational_quadratic_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    bound: float = 5.0,
    minimum_bin_width: float = 1e-3,
    minimum_bin_height: float = 1e-3,
    minimum_slope: float = 1e-3,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Maps each number by a monotonic rational-quadratic spline with linear tails.

    The spline runs through the knots :math:`(x_0, y_0), …, (x_K, y_K)` with slopes :math:`d_k > 0`
    there, from :math:`(-B, -B)` to :math:`(B, B)`, where :math:`B` is the `bound`. Between two
    knots, with the width :math:`w = x_{k+1} - x_k` and the mean slope :math:`s = (y_{k+1} - y_k) /
    w`,

    .. math::
        \xi = \frac{x - x_k}{w}, \qquad
        y = y_k + w s \, \frac{s \xi^2 + d_k \xi (1 - \xi)}
        {s + (d_k + d_{k+1} - 2 s) \, \xi (1 - \xi)}.

    Outside of :math:`(-B, B)` it is the identity, and the slopes :math:`d_0 = d_K = 1` make it
    smooth there. Parameters can be any numbers. If all of them are zero, the spline is the
    identity.

    In float32, knots are known to about :math:`10^{-7} B`, which is 0.01% of the smallest bins.
    This is enough for usual parameters: with ones of size 0.3, log-slopes are exact to 2e-5. With
    ones of size 30, slopes in a bin range over nine orders of magnitude: of 400,000 numbers, half
    have log-slopes exact to 1e-6, 99% to 1e-4, all to 0.3; and where slopes are below
    :math:`10^{-6}`, outputs do not tell inputs apart, so that `inverse` returns any number that is
    mapped to `x`, and the log-slope there. In float64, such inverses are exact to 1e-6.

    Args:
        x: The numbers, `[...]`. In float16 and bfloat16, they are mapped in float32.
        widths: Parameters of the bin widths, `[..., bin count]`: a softmax makes fractions of them.
        heights: Parameters of the bin heights, likewise.
        slopes: Parameters of the slopes at the inner knots, `[..., bin count - 1]`: a softplus
            makes them positive.
        bound: Where the tails begin, :math:`B`.
        minimum_bin_width: The least width of a bin, as a fraction of the interval.
        minimum_bin_height: The least height of a bin, likewise.
        minimum_slope: The least slope at a knot.
        inverse: Whether to map back.

    Returns:
        The pair of results, in the shape and dtype of `x`, and logarithms of the slope of what was
        computed, with respect to `x`, in float32 at least.

    Raises:
        TypeError: If `x` are not floating-point numbers.
        ValueError: If parameters do not have the lengths above, or options are out of range; see
            :func:`check_spline`.

    Example:

        >>> from gyoza.modelling.functions import rational_quadratic_spline
        >>> widths, heights, slopes = np.zeros([3, 4]), np.ones([3, 4]), np.full([3, 3], 2.0)
        >>> x = np.array([-7.0, 0.5, 7.0])
        >>> y, log_slope = rational_quadratic_spline(x, widths, heights, slopes)
        >>> keras.ops.convert_to_numpy(y).round(3)
        array([-7.   ,  0.756,  7.   ])
        >>> keras.ops.convert_to_numpy(log_slope).round(3)
        array([ 0.   , -0.092,  0.   ])

    References:
        - Gregory, J. A. & Delbourgo, R. (1982). "Piecewise rational quadratic interpolation to
          monotonic data." IMA Journal of Numerical Analysis 2(2), 123-130.
        - Durkan, C., Bekasov, A., Murray, I. & Papamakarios, G. (2019). "Neural spline flows."
          `arXiv:1906.04032 <https://arxiv.org/abs/1906.04032>`_
    """
    bin_count = widths.shape[-1]
    _check_counts(heights, slopes, bin_count, bin_count - 1)
    check_spline(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
    check_float_dtype(x.dtype)
    dtype = at_least_float32(x.dtype)
    exact, widths, heights, slopes = (ops.cast(v, dtype) for v in (x, widths, heights, slopes))

    end = ops.zeros_like(slopes[..., :1])  # of which `_positive` makes the slope 1
    displacement, log_slope = _displace(
        # A gradient through the tail that is not selected must stay finite: clip before, select
        # after.
        clip(exact, -bound, bound),
        _divide(widths, bound, minimum_bin_width),
        _divide(heights, bound, minimum_bin_height),
        ops.concatenate([end, slopes, end], axis=-1),
        minimum_slope,
        inverse,
    )
    is_inside = ops.logical_and(exact > -bound, exact < bound)
    zero = ops.zeros((), dtype)
    results = exact + ops.where(is_inside, displacement, zero)
    return ops.cast(results, x.dtype), ops.where(is_inside, log_slope, zero)


@trace_once
def circular_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    bound: float = math.pi,
    minimum_bin_width: float = 1e-3,
    minimum_bin_height: float = 1e-3,
    minimum_slope: float = 1e-3,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Maps each periodic coordinate by a monotonic rational-quadratic spline on the circle.

    On :math:`[-B, B)`, this is :func:`rational_quadratic_spline` with equal slopes :math:`d_0 =
    d_K` at both ends, which are learnt like the others. Elsewhere it is continued such that
    :math:`f(x + 2 B) = f(x) + 2 B`: coordinates that denote the same point of the circle are mapped
    to coordinates that denote the same point.

    Args:
        x: The coordinates, `[...]`, with the period `2 * bound`.
        widths: See :func:`rational_quadratic_spline`.
        heights: See :func:`rational_quadratic_spline`.
        slopes: Parameters of the slopes at all knots but the last, `[..., bin count]`.
        bound: Half of the period, :math:`B`.
        minimum_bin_width: See :func:`rational_quadratic_spline`.
        minimum_bin_height: See :func:`rational_quadratic_spline`.
        minimum_slope: See :func:`rational_quadratic_spline`.
        inverse: Whether to map back.

    Returns:
        See :func:`rational_quadratic_spline`.

    Raises:
        ValueError: See :func:`rational_quadratic_spline`.

    Example:

        >>> from gyoza.modelling.functions import circular_spline
        >>> widths, heights, slopes = np.zeros([2, 4]), np.zeros([2, 4]), np.full([2, 4], 2.0)
        >>> x = np.array([1.0, 1.0 + 2.0 * np.pi])
        >>> y, log_slope = circular_spline(x, widths, heights, slopes)
        >>> (keras.ops.convert_to_numpy(y) / np.pi).round(3)
        array([0.289, 2.289])

    References:
        - Rezende, D. J., Papamakarios, G., Racanière, S., Albergo, M. S., Kanwar, G., Shanahan,
          P. E. & Cranmer, K. (2020). "Normalizing flows on tori and spheres."
          `arXiv:2002.02428 <https://arxiv.org/abs/2002.02428>`_
    """
    bin_count = widths.shape[-1]
    _check_counts(heights, slopes, bin_count, bin_count)
    check_spline(bin_count, bound, minimum_bin_width, minimum_bin_height, minimum_slope)
    check_float_dtype(x.dtype)
    dtype = at_least_float32(x.dtype)
    exact, widths, heights, slopes = (ops.cast(v, dtype) for v in (x, widths, heights, slopes))

    period = 2.0 * bound
    # The operator keeps float64, which `floor` rounds on some backends; PyTorch's has no gradient.
    wrapped = exact - period * (ops.stop_gradient(exact + bound) // period)
    displacement, log_slope = _displace(
        clip(wrapped, -bound, bound),  # from which rounding may lead
        _divide(widths, bound, minimum_bin_width),
        _divide(heights, bound, minimum_bin_height),
        ops.concatenate([slopes, slopes[..., :1]], axis=-1),
        minimum_slope,
        inverse,
    )
    return ops.cast(exact + displacement, x.dtype), log_slope


def check_spline(
    bin_count: int,
    bound: float,
    minimum_bin_width: float,
    minimum_bin_height: float,
    minimum_slope: float,
) -> None:
    """Checks the options of a spline.

    Args:
        bin_count: The number of bins.
        bound: Half of the length of the interval that the spline covers.
        minimum_bin_width: The least width of a bin, as a fraction of the interval.
        minimum_bin_height: The least height of a bin, likewise.
        minimum_slope: The least slope at a knot.

    Raises:
        ValueError: If `bin_count` is not an integer of at least 2, `bound` is not positive and
            finite, `bin_count` bins of minimum size would fill the interval, `minimum_slope` is not
            between 0 and 1, or the minima are not positive.
    """
    check_integer("bin_count", bin_count, minimum=2)
    if not is_between(0.0, bound, math.inf):
        raise ValueError(f"`bound` should be a positive, finite number. Received: bound={bound!r}")
    for name, minimum in (
        ("minimum_bin_width", minimum_bin_width),
        ("minimum_bin_height", minimum_bin_height),
    ):
        if not is_between(0.0, minimum, 1.0 / bin_count):
            raise ValueError(
                f"`{name}` should be between 0 and 1 / bin_count. "
                f"Received: {name}={minimum!r}, bin_count={bin_count}"
            )
    if not is_between(0.0, minimum_slope, 1.0):
        raise ValueError(
            "`minimum_slope` should be between 0 and 1, the slope that a new spline has. "
            f"Received: minimum_slope={minimum_slope!r}"
        )


def _check_counts(heights: Tensor, slopes: Tensor, bin_count: int, slope_count: int) -> None:
    if heights.shape[-1] != bin_count or slopes.shape[-1] != slope_count:
        raise ValueError(
            f"`heights` and `slopes` should have lengths of {bin_count} and {slope_count}, as "
            f"`widths` has one of {bin_count}. Received: heights.shape={tuple(heights.shape)}, "
            f"slopes.shape={tuple(slopes.shape)}"
        )


def _divide(parameters: Tensor, bound: float, minimum: float) -> tuple[Tensor, Tensor]:
    """Divides the interval by a softmax into bins: their starts and sizes, along the short axis."""
    bin_count = parameters.shape[-1]
    fractions = ops.softmax(_lay(parameters), axis=SHORT_AXIS)
    sizes = minimum + (1.0 - minimum * bin_count) * fractions
    # Quicker to differentiate than `cumsum`, which computes float64 in float32 on PyTorch.
    sums = list(itertools.accumulate(ops.unstack(sizes, axis=SHORT_AXIS)[:-1]))
    starts = (2.0 * bound) * ops.stack([ops.zeros_like(sums[0]), *sums], axis=SHORT_AXIS) - bound
    # Differences of starts would lose most digits of bins much smaller than the interval.
    return starts, (2.0 * bound) * sizes


def _lay(parameters: Tensor) -> Tensor:
    """Moves the last axis to where a short axis is quick to work along."""
    return ops.moveaxis(parameters, (-1,), (SHORT_AXIS,))  # tuples, for the `vmap` of PyTorch


def _positive(parameters: Tensor, minimum: float) -> Tensor:
    r"""Maps any number :math:`p` to one above `minimum`, and zero to exactly 1.

    This is :math:`m + \operatorname{softplus}(p + \ln(e^{1 - m} - 1))`, in a form that has no
    rounding error at zero: :math:`1 + \ln(1 + (1 - e^{m - 1}) (e^p - 1))`, and for :math:`p > 0`
    the same without the large exponential.
    """
    is_positive = parameters >= 0.0
    # Not `abs` and `relu`, whose gradient at zero, where training starts, is zero.
    magnitudes = ops.where(is_positive, parameters, -parameters)
    linear = ops.where(is_positive, parameters, 0.0)
    rest = math.exp(minimum - 1.0)
    one = ops.ones((), parameters.dtype)  # `where` of two numbers would be float32
    factors = ops.where(is_positive, rest * one, (1.0 - rest) * one)
    # As 1 is added, `expm1` and `log1p`, which ONNX does not have, would not be more exact.
    return 1.0 + linear + ops.log(1.0 + factors * (ops.exp(-magnitudes) - 1.0))


def _displace(
    x: Tensor,
    x_bins: tuple[Tensor, Tensor],
    y_bins: tuple[Tensor, Tensor],
    slopes: Tensor,
    minimum_slope: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Evaluates a spline within its interval.

    Numerators and denominators are sums without cancellation, arranged such that equal bins
    `x_bins` and `y_bins` with slopes of 1 give a displacement of exactly zero.

    Args:
        x: The numbers, `[...]`, none of them outside the bins.
        x_bins: The ascending starts and the sizes of the bins, along the short axis.
        y_bins: Those of the bins that they are mapped to, likewise.
        slopes: Parameters of the slopes at the knots, `[..., bin count + 1]`.
        minimum_slope: See :func:`rational_quadratic_spline`.
        inverse: Whether to map back.

    Returns:
        By how much each number is moved, and the logarithm of the slope there, `[...]` both.
    """
    starts = (y_bins if inverse else x_bins)[0]
    is_later = ops.cast(ops.expand_dims(x, SHORT_AXIS) < starts, "int32")  # never if x is NaN
    bins = starts.shape[SHORT_AXIS] - 1 - ops.sum(is_later, axis=SHORT_AXIS, keepdims=True)
    x_k, width, y_k, height = take_along_short(bins, *x_bins, *y_bins)
    s = height / width
    # Only two slopes per number are needed: select first, transform them afterwards.
    slopes = _lay(slopes)
    taken = (take_along_short(indices, slopes)[0] for indices in (bins, bins + 1))
    d_k, d_next = (_positive(slope, minimum_slope) for slope in taken)

    if inverse:
        theta = ops.clip((x - y_k) / height, 0.0, 1.0)  # as rounding may move knots
        xi = _solve(theta, s, d_k, d_next)
    else:
        xi = ops.clip((x - x_k) / width, 0.0, 1.0)
    eta = 1.0 - xi
    start = d_k * eta + s * xi
    stop = s * eta + d_next * xi
    denominator = s + (d_k + d_next - 2.0 * s) * xi * eta
    log_slope = ops.log(eta * start + xi * stop) - 2.0 * ops.log(denominator / s)
    if inverse:
        return (x_k - y_k) + width * (xi - s * theta), -log_slope
    theta = xi * start / denominator
    return (y_k - x_k) + width * (s * theta - xi), log_slope


def _solve(theta: Tensor, s: Tensor, d_k: Tensor, d_next: Tensor) -> Tensor:
    r"""Finds the position :math:`\xi` in a bin where the fraction :math:`\theta` of its height is.

    It is the root in :math:`[0, 1]` of :math:`(s - b) \xi^2 + b \xi - s \theta`, where :math:`b =
    d_k (1 - \theta) + (2 s - d_{k+1}) \theta`. The discriminant is a sum of two terms that are not
    negative, whichever sign :math:`b - s` has, and the root has no difference of numbers of equal
    sign, whichever sign :math:`b` has (if it is negative, :math:`s - b > s`).
    """
    rest = 1.0 - theta
    b = d_k * rest + (2.0 * s - d_next) * theta
    excess = (d_k - s) * rest + (s - d_next) * theta  # b - s
    discriminant = ops.where(
        excess > 0.0,
        ops.square((d_k - 2.0 * s) * rest - d_next * theta) + 4.0 * s * excess * rest,
        ops.square(b) - 4.0 * s * excess * theta,
    )
    root = ops.sqrt(discriminant)
    is_negative = b < 0.0
    q = root + ops.where(is_negative, -b, b)
    return ops.where(is_negative, q, 2.0 * s * theta) / ops.where(is_negative, -2.0 * excess, q)
