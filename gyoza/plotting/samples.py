"""Figures that compare data with the density that was fitted to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from gyoza.modelling.functions.checks import check_integer, is_between
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.modelling.tables import frame_to_array, get_names, is_frame
from gyoza.plotting.canvas import check_names, get_axes, get_colours
from gyoza.typing import Tensor

__all__ = ["calibration", "pair_plot"]


def calibration(
    probabilities: Tensor | Mapping[str, Tensor],
    names: Sequence[str] | None = None,
    confidence: float | None = 0.95,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws how often targets were below their predicted quantiles.

    The curve is the distribution function of `probabilities`, :math:`u = P(Y \le y \mid x)`. It is
    the diagonal if predictions are calibrated: 10% of targets are then below the quantile of 10%.
    Where predicted distributions are too narrow, the curve is above the diagonal on the left and
    below it on the right, and the other way round where they are too wide. Where predictions are
    too large, it is above everywhere.

    Args:
        probabilities: What `probability_integral_transform` returns for data that were not fitted:
            array-like of shape [N] or, for several targets, [N, D]. Or several such arrays of shape
            [N] by name, to compare models.
        names: The names of targets.
        confidence: The probability with which the curve of a calibrated density stays within the
            band around the diagonal, for as many data as there are in the first curve. `None` for
            no band.
        ax: The axes to draw on. If None, a new figure is made.

    Returns:
        The axes, with the diagonal and then a line for each curve.

    Raises:
        ValueError: If an argument has an unsuitable shape, or is not between 0 and 1.

    Example:
        >>> from gyoza.plotting import calibration
        >>> u = np.random.default_rng(0).uniform(size=500)
        >>> ax = calibration({"calibrated": u, "too wide": 0.25 + 0.5 * u})
        >>> print([line.get_label() for line in ax.lines])
        ['ideal', 'calibrated', 'too wide']

    References:
        - Massart, P. (1990). "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality."
          Annals of Probability 18(3), 1269-1283.
        - Gneiting, T., Balabdaoui, F. & Raftery, A. E. (2007). "Probabilistic forecasts,
          calibration and sharpness." Journal of the Royal Statistical Society B 69(2), 243-268.
    """
    if isinstance(probabilities, Mapping):
        curves = {str(name): to_numpy(values) for name, values in probabilities.items()}
    else:
        array = to_numpy(probabilities)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ValueError(
                "`probabilities` should have shape [N] or [N, D]. "
                f"Received: probabilities of shape {array.shape}"
            )
        check_names("names", names, array.shape[1])
        one = ["data"] if array.shape[1] == 1 else [f"target {i}" for i in range(array.shape[1])]
        curves = dict(zip(names or one, array.T, strict=True))
    for name, values in curves.items():
        if values.ndim != 1 or not len(values) or not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                "`probabilities` should be numbers between 0 and 1, of shape [N] for each curve. "
                f"Received: {name!r}, of shape {values.shape}"
            )
    ax = get_axes(ax)
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, label="ideal")
    if confidence is not None:
        if not is_between(0, confidence, 1):
            raise ValueError(
                f"`confidence` should be between 0 and 1. Received: confidence={confidence}"
            )
        count = len(next(iter(curves.values())))
        width = math.sqrt(math.log(2 / (1 - confidence)) / (2 * count))
        levels = np.linspace(0, 1, 201)
        low, high = np.clip(levels - width, 0, 1), np.clip(levels + width, 0, 1)
        label = f"{confidence:.0%} of calibrated ones"
        ax.fill_between(levels, low, high, color="black", alpha=0.12, linewidth=0, label=label)
    for (name, values), colour in zip(curves.items(), get_colours(len(curves)), strict=True):
        levels = np.concatenate([[0.0], np.sort(values), [1.0]])
        shares = np.concatenate([[0.0], np.arange(1, len(values) + 1) / len(values), [1.0]])
        ax.step(levels, shares, where="post", color=colour, label=name)
    ax.set(xlabel="predicted probability", ylabel="share of targets", xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
    ax.legend()
    return ax


def pair_plot(
    data: Tensor | Mapping[str, Tensor],
    names: Sequence[str] | None = None,
    point_count: int = 1000,
    bin_count: int = 30,
    size: float = 2.0,
) -> np.ndarray:
    """Draws all dimensions of vectors against each other, to compare data with samples, say.

    On the diagonal are histograms, and below it points. Both are within the bounds of the first
    data.

    Args:
        data: The vectors, array-like of shape [N, D], or a data frame of numbers. Or several of
            them by name, such as `{"data": x, "samples": model.sample(1000)}`, each drawn in a
            colour of its own.
        names: The names of the dimensions. Those of the first data frame if omitted.
        point_count: The largest number of points to draw of each data: their first ones, evenly
            spread.
        bin_count: The number of bins of histograms.
        size: The width and the height of each axes, in inches.

    Returns:
        The axes of a new figure, an array of shape [D, D].

    Raises:
        ValueError: If data have no or different numbers of dimensions, or a number is out of range.

    Example:
        >>> from gyoza.plotting import pair_plot
        >>> x = np.random.default_rng(0).normal(size=[200, 3])
        >>> axes = pair_plot({"data": x, "samples": x + 1.0}, names=["a", "b", "c"])
        >>> print(axes.shape, axes[2, 0].get_xlabel(), axes[2, 0].get_ylabel())
        (3, 3) a c
    """
    check_integer("point_count", point_count, minimum=1)
    check_integer("bin_count", bin_count, minimum=1)
    groups = dict(data) if isinstance(data, Mapping) else {"": data}
    first = next(iter(groups.values()), None)
    names = get_names(first) if names is None else names
    arrays = {
        label: frame_to_array(values) if is_frame(values) else to_numpy(values)
        for label, values in groups.items()
    }
    shapes = [array.shape for array in arrays.values()]
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise ValueError(f"`data` should have shape [N, D]. Received: data of shapes {shapes}")
    count = shapes[0][1]
    if any(shape[1] != count for shape in shapes):
        raise ValueError(
            f"`data` should have as many dimensions each. Received: data of shapes {shapes}"
        )
    check_names("names", names, count)
    names = [f"dimension {i}" for i in range(count)] if names is None else list(names)
    figure, axes = plt.subplots(
        count, count, figsize=(size * count, size * count), squeeze=False, layout="constrained"
    )
    start = next(iter(arrays.values()))
    low, high = np.nanmin(start, axis=0), np.nanmax(start, axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    low, high = low - margin, high + margin
    colours = get_colours(len(arrays))
    for row, column in np.ndindex(count, count):
        ax = axes[row, column]
        if row < column:
            ax.set_axis_off()
            continue
        for (label, array), colour in zip(arrays.items(), colours, strict=True):
            if row == column:
                bins = np.linspace(low[row], high[row], bin_count + 1)
                style = {"density": True, "histtype": "step", "color": colour}
                ax.hist(array[:, row], bins=bins, label=label, **style)
            else:
                points = array[:: -(-len(array) // point_count)]
                style = {"s": 4, "linewidths": 0, "alpha": 0.6, "color": colour}
                ax.scatter(points[:, column], points[:, row], rasterized=True, **style)
                ax.set_ylim(low[row], high[row])
        ax.set_xlim(low[column], high[column])
        if row == column:
            ax.set_yticks([])
        if row < count - 1:
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel(names[column])
        if column > 0:
            ax.tick_params(labelleft=False)
        if column == 0 and row > 0:
            ax.set_ylabel(names[row])
    if len(arrays) > 1:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right")
    return axes
