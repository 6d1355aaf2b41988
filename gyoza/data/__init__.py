"""Training data: pairs from which factors are disentangled, and densities of known entropy.

Importing this package imports neither scipy, nor scikit-learn, nor matplotlib.
"""

from gyoza.data.pairs import CategoricalPairs, ContinuousPairs
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
    "EightGaussians",
    "TwoMoons",
    "CheckerBoard",
    "Pinwheel",
    "Banana",
    "Arc",
    "Funnel",
    "GaussianMixtureDensity",
]
