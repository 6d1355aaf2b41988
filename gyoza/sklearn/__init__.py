"""Flows as estimators of scikit-learn, for pipelines, grid searches and cross-validation.

`import gyoza` does not import this package, which needs scikit-learn, from the extra `sklearn`.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        '`gyoza.sklearn` needs scikit-learn. Install it with `pip install "gyoza[sklearn]"`.'
    ) from error

from gyoza.sklearn.density import FlowDensity
from gyoza.sklearn.regression import FlowRegressor

__all__ = ["FlowDensity", "FlowRegressor"]
