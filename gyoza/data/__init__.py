"""Training data: pairs from which factors are learnt, tables, pictures and toy densities.

Importing this package imports neither SciPy, nor scikit-learn, nor Matplotlib.
"""

from gyoza.data.digits import TintedDigits, distort, load_tinted_digits, tint
from gyoza.data.faces import Faces
from gyoza.data.pairs import CategoricalPairs, ContinuousPairs
from gyoza.data.sprites import Sprites
from gyoza.data.tables import ColumnKind, Table
from gyoza.data.toy import (
    Arc,
    Banana,
    CheckerBoard,
    EightGaussians,
    Funnel,
    GaussianMixtureDensity,
    Pinwheel,
    TwoMoons,
)

__all__ = [
    "CategoricalPairs",
    "ContinuousPairs",
    "Table",
    "ColumnKind",
    "Sprites",
    "Faces",
    "TintedDigits",
    "load_tinted_digits",
    "tint",
    "distort",
    "EightGaussians",
    "TwoMoons",
    "CheckerBoard",
    "Pinwheel",
    "Banana",
    "Arc",
    "Funnel",
    "GaussianMixtureDensity",
]
