"""Seeing inside a trained network: splitting it, sizing factors, and editing them."""

from gyoza.interpretation import baselines
from gyoza.interpretation.alignment import SwapPairs, SwapTraining
from gyoza.interpretation.block_sizes import AnswersBySize, answers_by_size
from gyoza.interpretation.comparison import Comparison, Estimate, compare, default_methods
from gyoza.interpretation.counterfactuals import Counterfactual
from gyoza.interpretation.factor_sizes import estimate_factor_sizes, estimate_pair_correlations
from gyoza.interpretation.fitting import FitReport, fit_interpreter
from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.splitting import split_network

__all__ = [
    "split_network",
    "estimate_factor_sizes",
    "estimate_pair_correlations",
    "Interpreter",
    "fit_interpreter",
    "FitReport",
    "Counterfactual",
    "SwapTraining",
    "SwapPairs",
    "baselines",
    "compare",
    "default_methods",
    "Comparison",
    "Estimate",
    "answers_by_size",
    "AnswersBySize",
]
