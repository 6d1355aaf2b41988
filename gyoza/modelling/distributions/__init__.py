"""Distributions with densities and samples, which serve as base distributions of flows."""

from gyoza.modelling.distributions.base import Distribution
from gyoza.modelling.distributions.empirical import Empirical
from gyoza.modelling.distributions.factorial import Factorial
from gyoza.modelling.distributions.heavy_tailed import Logistic, StudentT
from gyoza.modelling.distributions.labelled import LabelledNormal
from gyoza.modelling.distributions.mixture import GaussianMixture
from gyoza.modelling.distributions.normal import (
    DiagonalNormal,
    MultivariateNormal,
    StandardNormal,
)
from gyoza.modelling.distributions.uniform import Uniform

__all__ = [
    "Distribution",
    "StandardNormal",
    "DiagonalNormal",
    "MultivariateNormal",
    "Uniform",
    "Logistic",
    "StudentT",
    "GaussianMixture",
    "LabelledNormal",
    "Factorial",
    "Empirical",
]
