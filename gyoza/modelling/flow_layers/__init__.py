"""Flow layers, and the models that chain them."""

from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.couplings import AdditiveCoupling, Coupling, ElementwiseCoupling
from gyoza.modelling.flow_layers.models import DisentanglingFlowModel, FlowModel
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.flow_layers.permutations import (
    CheckerBoardPermutation,
    HeavisidePermutation,
    Permutation,
    ShufflePermutation,
)
from gyoza.modelling.flow_layers.reflections import Reflection

__all__ = [
    "FlowLayer",
    "FlowModel",
    "DisentanglingFlowModel",
    "Coupling",
    "ElementwiseCoupling",
    "AdditiveCoupling",
    "ActivationNormalization",
    "Reflection",
    "Permutation",
    "ShufflePermutation",
    "HeavisidePermutation",
    "CheckerBoardPermutation",
]
