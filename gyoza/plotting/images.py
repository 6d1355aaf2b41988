"""Figures of pictures that were edited factor by factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gyoza.modelling.functions.tensors import to_numpy
from gyoza.plotting.canvas import check_names, get_axes
from gyoza.typing import Tensor

__all__ = ["swap_grid", "traversal_strips"]

_GAP = 0.15
"""Distance between a swap grid and the pictures at its edges, in units of a picture."""


def swap_grid(
    results: Tensor,
    row_images: Tensor,
    column_images: Tensor,
    row_label: str | None = None,
    column_label: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws the results for pairs of pictures, with the pictures to the left and on top.

    Args:
        results: For every row and column, the picture that results from the two, array-like of
            shape [row count, column count, height, width, 3]. For grey pictures, the last axis has
            length 1 or is left out. Values are clipped to [0, 1].
        row_images: The pictures of the rows, of shape [row count, height, width, 3].
        column_images: The pictures of the columns, of shape [column count, height, width, 3].
        row_label: The label to the left.
        column_label: The label on top.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.imshow`, such as `interpolation`.

    Returns:
        The axes, with three images, which are the results, the rows and the columns. Each picture
        has height and width 1; the results start at (0, 0) and extend to the right and downwards.

    Raises:
        ValueError: If an argument has an unsuitable shape.

    Example:
        >>> from gyoza.plotting import swap_grid
        >>> random = np.random.default_rng(0)
        >>> a, b = random.uniform(size=(4, 8, 8, 3)), random.uniform(size=(5, 8, 8, 3))
        >>> ax = swap_grid((a[:, None] + b) / 2, a, b, row_label="a", column_label="b")
        >>> print(len(ax.images), ax.images[0].get_extent())
        3 [0, 5, 4, 0]
    """
    results = _to_colours("results", results, ndim=5)
    row_images = _to_colours("row_images", row_images, ndim=4)
    column_images = _to_colours("column_images", column_images, ndim=4)
    row_count, column_count = results.shape[:2]
    for name, images, count in (
        ("row_images", row_images, row_count),
        ("column_images", column_images, column_count),
    ):
        if images.shape != (count, *results.shape[2:]):
            raise ValueError(
                f"`{name}` should hold {count} pictures like those in `results`. "
                f"Received: {name}.shape={images.shape}, results.shape={results.shape}"
            )
    ax = get_axes(ax)
    _draw(ax, results, 0, 0, kwargs)
    _draw(ax, row_images[:, None], -1 - _GAP, 0, kwargs)
    _draw(ax, column_images[None], 0, -1 - _GAP, kwargs)
    ax.set(xlim=(-1 - _GAP, column_count), ylim=(row_count, -1 - _GAP))
    _clear(ax)
    ax.set_xlabel(column_label)
    ax.xaxis.set_label_position("top")
    ax.set_ylabel(row_label, rotation=0, ha="right", va="center")
    return ax


def traversal_strips(
    images: Tensor,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws strips of pictures, along each of which something changes step by step.

    Args:
        images: The pictures, array-like of shape [row count, step count, height, width, 3]. For
            grey pictures, the last axis has length 1 or is left out. Values are clipped to [0, 1].
        row_names: The labels to the left of the strips, such as the factors that change.
        column_names: The labels below the steps, such as the values of the factors.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.imshow`, such as `interpolation`.

    Returns:
        The axes, with one image, in which each picture has height and width 1.

    Raises:
        ValueError: If an argument has an unsuitable shape.

    Example:
        >>> from gyoza.data import Sprites
        >>> from gyoza.plotting import traversal_strips
        >>> sprites = Sprites()
        >>> factors = np.tile([2, 0.15, 0.0, 0.5, 0.5], [2, 5, 1])
        >>> factors[0, :, 1] = np.linspace(0.1, 0.2, 5)
        >>> factors[1, :, 3] = np.linspace(0.25, 0.75, 5)
        >>> images = sprites.render(factors.reshape(-1, 5)).reshape(2, 5, 64, 64, 1)
        >>> ax = traversal_strips(images, row_names=["scale", "x"])
        >>> print([label.get_text() for label in ax.get_yticklabels()])
        ['scale', 'x']
    """
    images = _to_colours("images", images, ndim=5)
    row_count, step_count = images.shape[:2]
    check_names("row_names", row_names, row_count)
    check_names("column_names", column_names, step_count)
    ax = get_axes(ax)
    _draw(ax, images, 0, 0, kwargs)
    ax.set(xlim=(0, step_count), ylim=(row_count, 0))
    _clear(ax)
    if row_names is not None:
        ax.set_yticks(np.arange(row_count) + 0.5, row_names)
    if column_names is not None:
        ax.set_xticks(np.arange(step_count) + 0.5, column_names)
    return ax


def _to_colours(name: str, images: Tensor, ndim: int) -> np.ndarray:
    """Converts coloured or grey pictures to coloured ones."""
    images = to_numpy(images)
    if images.ndim == ndim - 1:
        images = images[..., None]
    if images.ndim != ndim or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"`{name}` should have {ndim} axes, the last of which has length 3; for grey "
            f"pictures, it may have length 1 or be left out. Received: {name}.shape={images.shape}"
        )
    return np.broadcast_to(images, (*images.shape[:-1], 3)).clip(0, 1)


def _draw(ax: Axes, images: np.ndarray, left: float, top: float, style: dict[str, Any]) -> None:
    """Draws pictures of shape [rows, columns, height, width, 3] as one, each in a black frame."""
    frame = max(1, round(min(images.shape[2:4]) / 24))
    images = np.pad(images, [(0, 0), (0, 0), (frame, frame), (frame, frame), (0, 0)])
    rows, columns, height, width, _ = images.shape
    mosaic = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    ax.imshow(
        mosaic, **({"extent": [left, left + columns, top + rows, top], "aspect": "equal"} | style)
    )


def _clear(ax: Axes) -> None:
    """Hides everything but pictures and labels."""
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
