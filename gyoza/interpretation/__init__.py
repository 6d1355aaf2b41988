"""Seeing inside a trained network: finding factors in a hidden layer, and editing them."""

from gyoza.interpretation import baselines
from gyoza.interpretation.alignment import SwapPairs, SwapTraining
from gyoza.interpretation.block_sizes import AnswersBySize, answers_by_size
from gyoza.interpretation.comparison import Comparison, compare
from gyoza.interpretation.counterfactuals import Counterfactual
from gyoza.interpretation.estimates import Estimate
from gyoza.interpretation.factor_sizes import estimate_factor_sizes, estimate_pair_correlations
from gyoza.interpretation.fit_report import FitReport
from gyoza.interpretation.fitting import fit_interpreter
from gyoza.interpretation.interpreter import Interpreter
from gyoza.interpretation.methods import default_methods
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
