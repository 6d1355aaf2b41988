"""What `fit`, `evaluate` and `predict` do for models of gyoza, beyond what Keras does.

- `compilation`: checks of what `compile` is given,
- `data`: arrays, data frames and weights of instances in the form that Keras takes,
- `files`: saving and exporting,
- `fit`: one call of `fit`: with what Keras trains, by XLA or not, in how many steps per execution,
- `loss_watch`: a hint where the loss is not finite,
- `trainer`: how steps are compiled, and what happens where that is not possible.
"""

from gyoza.modelling.training.compilation import (
    ChecksCompilation,
    bind_compile,
    find_foreign,
    list_metrics,
)
from gyoza.modelling.training.data import PreparesCallbacks, TakesData, average_losses, to_arrays
from gyoza.modelling.training.files import SavesFiles, get_temporary, write_atomically
from gyoza.modelling.training.fit import describe, get_rank
from gyoza.modelling.training.trainer import Training

__all__ = [
    "ChecksCompilation",
    "PreparesCallbacks",
    "SavesFiles",
    "TakesData",
    "Training",
    "average_losses",
    "bind_compile",
    "describe",
    "find_foreign",
    "get_rank",
    "get_temporary",
    "list_metrics",
    "to_arrays",
    "write_atomically",
]
