"""Figures of the plane, and of space: points, grids and densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.plotting.canvas import PALETTE, SEQUENTIAL, get_axes, get_colours
from gyoza.typing import Tensor

__all__ = ["latent_scatter", "warped_grid", "density_heat_map"]

Bounds = tuple[tuple[float, float], tuple[float, float]]


def latent_scatter(
    latent: Tensor,
    factor: Tensor | None = None,
    dimensions: tuple[int, ...] = (0, 1),
    factor_name: str | None = None,
    show_key: bool = True,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws two or three dimensions of latent, or other, vectors as points coloured by a factor.

    Args:
        latent: The vectors, array-like of shape [N, D].
        factor: The factor, array-like of shape [N]. Floats are values, on a continuous scale;
            integers, booleans and strings are classes, each in its own colour.
        dimensions: The dimensions along the horizontal and the vertical axis, or along the three
            axes of a three-dimensional figure.
        factor_name: The title of the colour key.
        show_key: Whether to draw this key: a colour bar for values, a legend for classes.
        ax: The axes to draw on: for three dimensions, axes with the projection "3d". If None, a new
            figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.scatter`, such as `s`, `vmin` or `cmap`.

    Returns:
        The axes. The points are a single artist, the last of `ax.collections`.

    Raises:
        ValueError: If an argument has an unsuitable shape, or `ax` another projection.

    Example:
        >>> from gyoza.plotting import latent_scatter
        >>> latent = np.random.default_rng(0).normal(size=(100, 3))
        >>> ax = latent_scatter(latent, factor=latent[:, 0] > 0, dimensions=(0, 2))
        >>> print(ax.get_xlabel(), "|", ax.get_ylabel(), "|", len(ax.collections[-1].get_offsets()))
        dimension 0 | dimension 2 | 100
        >>> print(latent_scatter(latent, dimensions=(0, 1, 2)).get_zlabel())
        dimension 2
    """
    if len(dimensions) not in (2, 3):
        raise ValueError(
            f"`dimensions` should be two or three dimensions. Received: dimensions={dimensions}"
        )
    projection = "3d" if len(dimensions) == 3 else None
    points = _check_columns("latent", latent, dimensions)
    style = {"s": 8, "linewidths": 0, "rasterized": len(points) > 1000} | kwargs
    if factor is None:
        ax = get_axes(ax, projection)
        ax.scatter(*points.T, **({"color": PALETTE[0]} | style))
    else:
        factor = to_numpy(factor)
        if factor.shape != points.shape[:1]:
            raise ValueError(
                f"`factor` should have one value for each of the {len(points)} vectors. "
                f"Received: factor.shape={factor.shape}"
            )
        ax = get_axes(ax, projection)
        if factor.dtype.kind == "f":
            artist = ax.scatter(*points.T, c=factor, **({"cmap": SEQUENTIAL} | style))
            if show_key:
                ax.figure.colorbar(artist, ax=ax, label=factor_name)
        else:
            names, classes = np.unique(factor, return_inverse=True)
            colours = get_colours(len(names))
            ax.scatter(*points.T, c=colours[classes.reshape(-1)], **style)
            if show_key:
                for name, colour in zip(names, colours, strict=True):
                    ax.plot([], [], "o", color=colour, label=str(name))
                ax.legend(title=factor_name)
    for axis, dimension in zip("xyz", dimensions, strict=False):
        ax.set(**{f"{axis}label": f"dimension {dimension}"})
    return ax


def warped_grid(
    mapping: Callable[[np.ndarray], Tensor],
    bounds: Bounds = ((-3.0, 3.0), (-3.0, 3.0)),
    line_count: int = 9,
    point_count: int = 121,
    labels: tuple[str | None, str | None] = (None, None),
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws the image of a regular grid under a map of the plane.

    Args:
        mapping: Maps float32 points of shape [N, 2] to points of the same shape, such as
            `model.invert`. If it returns a tuple, as flows do, the first element is used.
        bounds: The ends of the grid along its first and its second coordinate.
        line_count: Number of lines in each direction.
        point_count: Number of points on each line.
        labels: The labels of lines along which the first, and the second, coordinate changes, for a
            legend that the caller may draw.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.plot`, such as `lw`. A `color` applies to all
            lines.

    Returns:
        The axes, with one line for each line of the grid, those along the first coordinate first.

    Raises:
        ValueError: If an argument has an unsuitable value, or `mapping` returns another shape.

    Example:
        >>> from gyoza.plotting import warped_grid
        >>> turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
        >>> ax = warped_grid(lambda points: points @ turn, line_count=5)
        >>> print(len(ax.lines))
        10
    """
    _check_bounds(bounds)
    check_integer("line_count", line_count, minimum=1)
    check_integer("point_count", point_count, minimum=2)
    lines = []
    for axis in (0, 1):
        course = np.linspace(*bounds[axis], point_count)
        levels = np.linspace(*bounds[1 - axis], line_count)
        # The shape is [point, line, coordinate], with the changing coordinate first.
        line = np.stack(np.meshgrid(course, levels, indexing="ij"), axis=-1)
        lines.append(line if axis == 0 else line[..., ::-1])
    grid = np.stack(lines).astype("float32")
    images = mapping(grid.reshape(-1, 2))
    images = to_numpy(images[0] if isinstance(images, tuple | list) else images)
    if images.shape != (grid.size // 2, 2):
        raise ValueError(
            f"`mapping` should return points of the shape it is given, {(grid.size // 2, 2)}. "
            f"Received: an array of shape {images.shape}"
        )
    ax = get_axes(ax)
    for curves, label, colour in zip(
        images.reshape(grid.shape), labels, ("#d55e00", "#4d4d4d"), strict=True
    ):
        names = [label] + [None] * (line_count - 1)
        ax.plot(
            *curves.transpose(2, 0, 1), **({"color": colour, "lw": 1.0, "label": names} | kwargs)
        )
    return ax


def density_heat_map(
    log_prob: Callable[[np.ndarray], Tensor],
    bounds: Bounds,
    samples: Tensor | None = None,
    resolution: int = 200,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws a density in the plane, and samples from it.

    Args:
        log_prob: Maps float32 points of shape [N, 2] to the logarithms of their density, of shape
            [N], such as `model.log_prob`.
        bounds: The ends of the figure along the first and the second coordinate.
        samples: Points to draw on top of the density, array-like of shape [M, 2].
        resolution: Number of points in each direction at which the density is evaluated.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.imshow`, such as `vmax` or `cmap`.

    Returns:
        The axes. The density is its last image.

    Raises:
        ValueError: If an argument has an unsuitable value, or `log_prob` returns another shape.

    Example:
        >>> from gyoza.data import TwoMoons
        >>> from gyoza.plotting import density_heat_map
        >>> moons = TwoMoons(noise=0.2)
        >>> bounds = ((-2, 3), (-2, 2))
        >>> ax = density_heat_map(moons.log_prob, bounds, moons.sample(100), resolution=20)
        >>> print(ax.images[-1].get_array().shape, ax.images[-1].get_extent())
        (20, 20) [-2, 3, -2, 2]
    """
    _check_bounds(bounds)
    check_integer("resolution", resolution, minimum=1)
    if samples is not None:
        samples = _check_columns("samples", samples, (0, 1))
    # The centres of the pixels.
    centres = (np.arange(resolution) + 0.5) / resolution
    coordinates = [low + (high - low) * centres for low, high in bounds]
    points = np.stack(np.meshgrid(*coordinates), axis=-1).reshape(-1, 2).astype("float32")
    log_probs = to_numpy(log_prob(points))
    if log_probs.shape != (len(points),):
        raise ValueError(
            f"`log_prob` should return one value for each point, shape {(len(points),)}. "
            f"Received: an array of shape {log_probs.shape}"
        )
    ax = get_axes(ax)
    ax.imshow(
        np.exp(log_probs).reshape(resolution, resolution),
        **(
            {"origin": "lower", "extent": [*bounds[0], *bounds[1]], "cmap": SEQUENTIAL, "vmin": 0.0}
            | kwargs
        ),
    )
    if samples is not None:
        ax.scatter(*samples.T, s=4, color="white", alpha=0.6, linewidths=0, rasterized=True)
    ax.set(xlim=bounds[0], ylim=bounds[1])
    return ax


def _check_columns(name: str, values: Tensor, columns: Sequence[int]) -> np.ndarray:
    """Returns some columns of vectors, once their shape is checked."""
    values = to_numpy(values)
    if values.ndim != 2 or values.shape[1] <= max(columns):
        raise ValueError(
            f"`{name}` should have shape [count, dimension count] with more than {max(columns)} "
            f"dimensions. Received: {name}.shape={values.shape}"
        )
    return values[:, list(columns)]


def _check_bounds(bounds: Bounds) -> None:
    if np.shape(bounds) != (2, 2) or not np.all(np.diff(bounds) > 0):
        raise ValueError(
            "`bounds` should be a lower and an upper end for each of two coordinates. "
            f"Received: bounds={bounds}"
        )
