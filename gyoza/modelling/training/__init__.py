"""What `fit`, `evaluate` and `predict` do for models of gyoza, beyond what Keras does.

- `data`: arrays, data frames and weights of instances in the form that Keras takes,
- `files`: saving and exporting,
- `fit`: one call of `fit`: with what Keras trains, and how many steps an execution takes,
- `loss_watch`: a hint where the loss is not finite,
- `trainer`: how steps are compiled, and what happens where that is not possible.
"""

from gyoza.modelling.training.data import PreparesCallbacks, TakesData, average_losses, to_arrays
from gyoza.modelling.training.files import SavesFiles, get_temporary, write_atomically
from gyoza.modelling.training.fit import describe, get_rank
from gyoza.modelling.training.trainer import Training

__all__ = [
    "PreparesCallbacks",
    "SavesFiles",
    "TakesData",
    "Training",
    "average_losses",
    "describe",
    "get_rank",
    "get_temporary",
    "to_arrays",
    "write_atomically",
]
