"""Flow layers and models, with the masks, conditioners, distributions and losses they need."""

from gyoza.modelling import (
    attributes,
    autoencoders,
    conditioners,
    distributions,
    flow_layers,
    functions,
    losses,
    masks,
    metrics,
    regularizers,
    transforms,
)

__all__ = [
    "flow_layers",
    "masks",
    "conditioners",
    "distributions",
    "attributes",
    "losses",
    "metrics",
    "regularizers",
    "autoencoders",
    "functions",
    "transforms",
]
