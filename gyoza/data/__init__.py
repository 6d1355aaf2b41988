"""Training data for flows, such as the pairs from which factors are disentangled.

Importing this package imports neither scipy, nor scikit-learn, nor matplotlib.
"""

from gyoza.data.pairs import CategoricalPairs, ContinuousPairs

__all__ = ["CategoricalPairs", "ContinuousPairs"]
