"""Figures that compare methods of interpretation with controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gyoza.plotting.canvas import PALETTE, get_axes, get_colours

__all__ = ["comparison_bars", "size_curves"]

_NETWORK_COLOURS = PALETTE[0], PALETTE[3], PALETTE[8]
"""The colours of a network, and, in shades of grey, of controls."""


def comparison_bars(comparison: Any, column: str = "score", ax: Axes | None = None) -> Axes:
    """Draws a score of each method, on the network and on controls, with standard errors.

    Args:
        comparison: What :func:`~gyoza.interpretation.compare` returns.
        column: The name of the score.
        ax: The axes to draw on. If None, a new figure is made.

    Returns:
        The axes, with a group of bars for each method, one bar for each network.

    Raises:
        ValueError: If there is no such score.

    Example:
        >>> from gyoza.interpretation import Comparison
        >>> from gyoza.plotting import comparison_bars
        >>> rows = [
        ...     {"method": "units", "network": "trained", "seed": 0, "sizes": {}, "score": 0.9},
        ...     {"method": "units", "network": "labels shuffled", "seed": 0, "sizes": {},
        ...      "score": 0.1},
        ... ]
        >>> ax = comparison_bars(Comparison(rows))
        >>> print([float(bar.get_height()) for bar in ax.patches])
        [0.9, 0.1]
    """
    methods, networks = comparison.methods, comparison.networks
    ax = get_axes(ax)
    width = 0.8 / len(networks)
    for k, (network, colour) in enumerate(zip(networks, _NETWORK_COLOURS, strict=False)):
        estimates = [comparison.estimate(method, column, network) for method in methods]
        ax.bar(
            np.arange(len(methods)) + (k - (len(networks) - 1) / 2) * width,
            [estimate.mean for estimate in estimates],
            width,
            yerr=np.nan_to_num([estimate.error for estimate in estimates]),
            color=colour,
            label=network,
        )
    ax.set_xticks(np.arange(len(methods)), methods, rotation=30, ha="right")
    ax.set_ylabel(column)
    ax.legend(frameon=False)
    return ax


def size_curves(
    sizes: Sequence[int], follows: Mapping[str, Any], ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draws how many answers follow an exchange, by the size of the exchanged block.

    Args:
        sizes: The sizes of the block.
        follows: The rates by name, array-like of shape [sizes, seeds], as
            :func:`~gyoza.interpretation.answers_by_size` returns both: `size_curves(*answers)`.
        ax: The axes to draw on. If None, a new figure is made.
        **kwargs: Arguments of `matplotlib.axes.Axes.plot`.

    Returns:
        The axes, with a line for each name, and a band of one standard error on either side.

    Raises:
        ValueError: If rates do not have one row for each size.

    Example:
        >>> from gyoza.plotting import size_curves
        >>> follows = {"pair axes": [[0.8, 0.9], [0.9, 1.0]], "random": [[0.1, 0.1], [0.2, 0.3]]}
        >>> ax = size_curves([1, 2], follows)
        >>> print([line.get_label() for line in ax.lines], ax.get_xscale())
        ['pair axes', 'random'] log
    """
    ax = get_axes(ax)
    for (name, rates), colour in zip(follows.items(), get_colours(len(follows)), strict=True):
        rates = np.asarray(rates, "float64")
        if rates.ndim != 2 or len(rates) != len(sizes):
            raise ValueError(
                f"`follows` should hold rates of shape [{len(sizes)}, seeds]. "
                f"Received: shape {rates.shape} of '{name}'"
            )
        mean = rates.mean(axis=1)
        ax.plot(sizes, mean, **({"marker": "o", "ms": 4, "color": colour, "label": name} | kwargs))
        if rates.shape[1] > 1:
            error = rates.std(axis=1, ddof=1) / np.sqrt(rates.shape[1])
            ax.fill_between(sizes, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sizes), [str(size) for size in sizes])
    ax.set(xlabel="dimensions exchanged", ylabel="answers that follow", ylim=(-0.02, 1.02))
    ax.legend(frameon=False)
    return ax
