"""Figures of matrices, such as correlations and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gyoza.modelling.functions.tensors import to_numpy
from gyoza.plotting.canvas import DIVERGING, SEQUENTIAL, check_names, get_axes
from gyoza.typing import Tensor

__all__ = ["heat_map", "correlation_heat_map", "leakage_heat_map"]


def heat_map(
    matrix: Tensor,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    value_format: str = "z.2f",
    label: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws a matrix in colours, with its values in the cells.

    Args:
        matrix: The values, array-like of shape [row count, column count].
        row_names: The names of the rows. If None, rows are numbered.
        column_names: The names of the columns. If None, columns are numbered.
        value_format: The format of the values, or an empty string to leave them out.
        label: The label of the colour bar, which is left out if this is None.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.imshow`, such as `vmin`, `vmax` or `cmap`.

    Returns:
        The axes, with one image and one text per value, row by row.

    Raises:
        ValueError: If an argument has an unsuitable shape.

    Example:
        >>> from gyoza.plotting import heat_map
        >>> ax = heat_map([[0.5, 0.25]], row_names=["digit"], column_names=["MIG", "SAP"])
        >>> print([text.get_text() for text in ax.texts])
        ['0.50', '0.25']
    """
    matrix = to_numpy(matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            "`matrix` should have shape [row count, column count]. "
            f"Received: matrix.shape={matrix.shape}"
        )
    check_names("row_names", row_names, matrix.shape[0])
    check_names("column_names", column_names, matrix.shape[1])
    ax = get_axes(ax)
    image = ax.imshow(matrix, **({"cmap": SEQUENTIAL} | kwargs))
    ax.set_yticks(range(matrix.shape[0]), row_names)
    ax.set_xticks(range(matrix.shape[1]), column_names)
    ax.tick_params(length=0)
    if value_format:
        brightness = image.to_rgba(matrix)[..., :3] @ [0.299, 0.587, 0.114]
        for (row, column), value in np.ndenumerate(matrix):
            colour = "black" if brightness[row, column] > 0.5 else "white"
            ax.text(column, row, f"{value:{value_format}}", color=colour, ha="center", va="center")
    if label is not None:
        ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def correlation_heat_map(
    matrix: Tensor,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws correlations, on a scale from −1 to 1 with a neutral 0.

    Args:
        matrix: The correlations, array-like of shape [row count, column count].
        row_names: The names of the rows. If None, rows are numbered.
        column_names: The names of the columns. If None, they are those of the rows if the matrix
            is square; otherwise columns are numbered.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `heat_map`.

    Returns:
        The axes, with one image and one text per value, row by row.

    Raises:
        ValueError: If an argument has an unsuitable shape.

    Example:
        >>> from gyoza.plotting import correlation_heat_map
        >>> ax = correlation_heat_map([[1.0, -0.3], [-0.3, 1.0]], row_names=["digit", "colour"])
        >>> print(ax.images[0].get_clim())
        (-1.0, 1.0)
    """
    if column_names is None and row_names is not None and np.shape(matrix) == (len(row_names),) * 2:
        column_names = row_names
    style: dict[str, Any] = {"cmap": DIVERGING, "vmin": -1.0, "vmax": 1.0, "label": "correlation"}
    return heat_map(matrix, row_names, column_names, ax=ax, **(style | kwargs))


def leakage_heat_map(
    matrix: Tensor,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws how well each label (columns) can be read from each factor's block (rows), from 0 to 1.

    Args:
        matrix: The scores, array-like of shape [block count, label count].
        row_names: The names of the blocks. If None, blocks are numbered.
        column_names: The names of the labels. If None, labels are numbered.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `heat_map`.

    Returns:
        The axes, with one image and one text per value, row by row.

    Raises:
        ValueError: If an argument has an unsuitable shape.

    Example:
        >>> from gyoza.plotting import leakage_heat_map
        >>> scores = [[0.1, 0.1], [0.95, 0.12], [0.13, 0.99]]
        >>> ax = leakage_heat_map(scores, ["residual", "digit", "colour"], ["digit", "colour"])
        >>> print(ax.get_xlabel(), "|", ax.get_ylabel(), "|", ax.images[0].get_clim())
        label | block | (0.0, 1.0)
    """
    style: dict[str, Any] = {"vmin": 0.0, "vmax": 1.0, "label": "score"}
    ax = heat_map(matrix, row_names, column_names, ax=ax, **(style | kwargs))
    ax.set(xlabel="label", ylabel="block")
    return ax
