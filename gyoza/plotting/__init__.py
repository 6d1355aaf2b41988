"""Figures of latent spaces, edits, metrics and training, drawn with Matplotlib.

Every function takes data as arrays, draws on the axes `ax`, or on those of a new figure, and
returns them. Showing, saving and closing figures is left to the caller. The colours can be told
apart by people who are colour-blind, and the settings of Matplotlib are left as they are.

`import gyoza` does not import this package, which needs Matplotlib, from the extra `plotting`.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        '`gyoza.plotting` needs matplotlib. Install it with `pip install "gyoza[plotting]"`.'
    ) from error

from gyoza.plotting.comparisons import comparison_bars, size_curves
from gyoza.plotting.images import swap_grid, traversal_strips
from gyoza.plotting.matrices import correlation_heat_map, heat_map, leakage_heat_map
from gyoza.plotting.planes import density_heat_map, latent_scatter, warped_grid
from gyoza.plotting.samples import calibration, pair_plot
from gyoza.plotting.training import training_curves

__all__ = [
    "latent_scatter",
    "warped_grid",
    "density_heat_map",
    "swap_grid",
    "traversal_strips",
    "heat_map",
    "correlation_heat_map",
    "leakage_heat_map",
    "training_curves",
    "calibration",
    "pair_plot",
    "comparison_bars",
    "size_curves",
]
