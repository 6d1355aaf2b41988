"""Figures of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gyoza.plotting.canvas import get_axes

__all__ = ["training_curves"]


def training_curves(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    optimum: float | Mapping[str, float] | None = None,
    metric: str = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draws a loss or metric of training, and of validation if there was any, over the epochs.

    Args:
        history: What `fit` returns, or its attribute `history`.
        optimum: The best possible value, such as the entropy of the data, drawn as a horizontal
            line; or several of them by name.
        metric: The name of the loss or metric.
        ax: The axes to draw on. If None, a new figure is made.

    Returns:
        The axes, with one line for training, one for validation, and one for each optimum.

    Raises:
        ValueError: If there is no such metric.

    Example:
        >>> from gyoza.plotting import training_curves
        >>> history = {"loss": [3.0, 2.2, 2.1], "val_loss": [2.5, 2.3, 2.2]}
        >>> ax = training_curves(history, optimum={"entropy of the data": 2.0})
        >>> print([line.get_label() for line in ax.lines])
        ['training', 'validation', 'entropy of the data']
    """
    history = getattr(history, "history", history)
    if metric not in history:
        raise ValueError(
            f"`metric` should be one of {sorted(history)}. Received: metric={metric!r}"
        )
    if optimum is None:
        optimum = {}
    elif not isinstance(optimum, Mapping):
        optimum = {"optimum": optimum}
    ax = get_axes(ax)
    for name, label, style, colour in (
        (metric, "training", "o-", "#0072b2"),
        (f"val_{metric}", "validation", "s-", "#d55e00"),
    ):
        if name in history:
            epochs = np.arange(1, 1 + len(history[name]))
            ax.plot(epochs, history[name], style, color=colour, markersize=4, label=label)
    for i, (label, value) in enumerate(optimum.items()):
        ax.axhline(value, color="black", ls=("--", ":", "-.")[i % 3], label=label)
    ax.set(xlabel="epoch", ylabel=metric)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax
