"""Metrics of densities and regressions, and of how well the factors of a code are disentangled."""

from gyoza.modelling.metrics.agreement import agreement
from gyoza.modelling.metrics.clustering import ClusteringAccuracy
from gyoza.modelling.metrics.density import BitsPerDimension, NegativeLogLikelihood
from gyoza.modelling.metrics.entanglement import Entanglement
from gyoza.modelling.metrics.identification import mean_correlation_coefficient
from gyoza.modelling.metrics.information import (
    modularity,
    mutual_information,
    mutual_information_gap,
)
from gyoza.modelling.metrics.interventions import (
    SwapConsistency,
    factor_vae_score,
    swap_consistency,
)
from gyoza.modelling.metrics.optimal_probes import OptimalProbe, optimal_probe_accuracy
from gyoza.modelling.metrics.pairs import PairCorrelation
from gyoza.modelling.metrics.predictability import (
    DisentanglementScores,
    disentanglement_completeness_informativeness,
    leakage,
    separated_attribute_predictability,
)
from gyoza.modelling.metrics.regression import ExplainedVariance

__all__ = [
    "NegativeLogLikelihood",
    "BitsPerDimension",
    "ExplainedVariance",
    "ClusteringAccuracy",
    "Entanglement",
    "PairCorrelation",
    "leakage",
    "optimal_probe_accuracy",
    "OptimalProbe",
    "swap_consistency",
    "SwapConsistency",
    "mutual_information",
    "mutual_information_gap",
    "separated_attribute_predictability",
    "disentanglement_completeness_informativeness",
    "DisentanglementScores",
    "modularity",
    "factor_vae_score",
    "mean_correlation_coefficient",
    "agreement",
]
