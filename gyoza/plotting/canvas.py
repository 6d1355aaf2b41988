"""What all figures share: axes, colours and checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

__all__ = ["PALETTE", "SEQUENTIAL", "DIVERGING", "get_axes", "get_colours", "check_names"]

PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Ten colours that people who are colour-blind can tell apart.

References:
    - Petroff, M. A. (2021). "Accessible Color Sequences for Data Visualization."
      `arXiv:2107.02270 <https://arxiv.org/abs/2107.02270>`_
"""

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"


def get_axes(ax: Axes | None, projection: str | None = None) -> Axes:
    """Returns the given axes, or those of a new figure, in a projection that Matplotlib knows."""
    if ax is None:
        return plt.subplots(layout="constrained", subplot_kw={"projection": projection})[1]
    if projection is not None and ax.name != projection:
        raise ValueError(
            f"`ax` should have the projection {projection!r}, as "
            f"`plt.subplots(subplot_kw={{'projection': {projection!r}}})` creates them. "
            f"Received: ax={ax} (with the projection {ax.name!r})"
        )
    return ax


def get_colours(count: int) -> np.ndarray:
    """Returns colours for a number of classes, as an array of shape [count, 3]."""
    if count <= len(PALETTE):
        return np.array([to_rgb(colour) for colour in PALETTE[:count]]).reshape(count, 3)
    return colormaps[SEQUENTIAL](np.linspace(0, 1, count))[:, :3]


def check_names(name: str, names: Sequence[str] | None, count: int) -> None:
    """Raises a `ValueError` if names are given, but not `count` of them."""
    if names is not None and len(names) != count:
        raise ValueError(f"`{name}` should have {count} names. Received: {name}={names}")
