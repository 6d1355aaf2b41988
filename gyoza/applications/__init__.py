"""Ready-made flows: functions that return a model, to be adapted, compiled and fitted.

Their layers, and the order of these, are those of the papers, up to the options of each function. A
model is built by the first data it sees. `model.adapt(x)` gives it a start that suits the data.

`dtype`, one of the arguments of models, also counts for all layers, for their networks and for the
default base distribution.
"""

from gyoza.applications.autoregressive import IAF, MAF
from gyoza.applications.continuous import FFJORD, FlowMatching
from gyoza.applications.couplings import NICE, Glow, RealNVP
from gyoza.applications.gaussianization import GaussianizationFlow
from gyoza.applications.interpretation_network import InterpretationNetwork
from gyoza.applications.residual import ResidualFlow
from gyoza.applications.splines import NeuralSplineFlow

__all__ = [
    "NICE",
    "RealNVP",
    "Glow",
    "MAF",
    "IAF",
    "NeuralSplineFlow",
    "GaussianizationFlow",
    "ResidualFlow",
    "FlowMatching",
    "FFJORD",
    "InterpretationNetwork",
]
