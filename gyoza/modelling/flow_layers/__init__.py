"""Flow layers, and the models that chain them."""

from gyoza.modelling.flow_layers.affine_couplings import AffineCoupling, VolumePreservingCoupling
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.couplings import AdditiveCoupling, Coupling, ElementwiseCoupling
from gyoza.modelling.flow_layers.elementwise import (
    Affine,
    Arctanh,
    Logit,
    Sigmoid,
    Softplus,
    Standardize,
    Tanh,
    YeoJohnson,
)
from gyoza.modelling.flow_layers.images import (
    Flatten,
    HaarDownsampling,
    Reshape,
    Squeeze,
    Unsqueeze,
)
from gyoza.modelling.flow_layers.linear import (
    InvertibleConvolution,
    LULinear,
    TriangularAffine,
)
from gyoza.modelling.flow_layers.models import DisentanglingFlowModel, FlowModel
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.flow_layers.permutations import (
    CheckerBoardPermutation,
    HeavisidePermutation,
    Permutation,
    ShufflePermutation,
)
from gyoza.modelling.flow_layers.reflections import Reflection
from gyoza.modelling.flow_layers.spline_couplings import (
    CircularSplineCoupling,
    RationalQuadraticSplineCoupling,
)

__all__ = [
    "FlowLayer",
    "FlowModel",
    "DisentanglingFlowModel",
    "Coupling",
    "ElementwiseCoupling",
    "AdditiveCoupling",
    "AffineCoupling",
    "VolumePreservingCoupling",
    "RationalQuadraticSplineCoupling",
    "CircularSplineCoupling",
    "ActivationNormalization",
    "Reflection",
    "Permutation",
    "ShufflePermutation",
    "HeavisidePermutation",
    "CheckerBoardPermutation",
    "LULinear",
    "InvertibleConvolution",
    "TriangularAffine",
    "Affine",
    "Standardize",
    "YeoJohnson",
    "Softplus",
    "Sigmoid",
    "Logit",
    "Tanh",
    "Arctanh",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "HaarDownsampling",
]
