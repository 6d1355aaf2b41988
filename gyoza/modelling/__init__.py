"""Flow layers and models, and the masks, conditioners and losses that they work with."""

from gyoza.modelling import conditioners, flow_layers, losses, masks

__all__ = ["flow_layers", "masks", "conditioners", "losses"]
