"""Flow layers and models, and the masks, conditioners, distributions and losses beside them."""

from gyoza.modelling import conditioners, distributions, flow_layers, losses, masks, metrics

__all__ = ["flow_layers", "masks", "conditioners", "distributions", "losses", "metrics"]
