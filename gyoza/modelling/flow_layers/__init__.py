"""Flow layers, and the models that chain them."""

from gyoza.modelling.flow_layers.affine_couplings import (
    AdditiveCoupling,
    AffineCoupling,
    VolumePreservingCoupling,
)
from gyoza.modelling.flow_layers.autoregressive import (
    MaskedAffine,
    MaskedAutoregressive,
    MaskedRationalQuadraticSpline,
)
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.batch_normalisation import BatchNormalization
from gyoza.modelling.flow_layers.bounded import Arctanh, Logit, Sigmoid, Softplus, Tanh
from gyoza.modelling.flow_layers.columns import Columns
from gyoza.modelling.flow_layers.conditional import ConditionalFlowLayer
from gyoza.modelling.flow_layers.continuous import ContinuousFlow
from gyoza.modelling.flow_layers.couplings import Coupling
from gyoza.modelling.flow_layers.dequantization import (
    ArgmaxDequantization,
    UniformDequantization,
    VariationalDequantization,
)
from gyoza.modelling.flow_layers.disentangling import DisentanglingFlowModel
from gyoza.modelling.flow_layers.elementwise import Affine, Standardize, YeoJohnson
from gyoza.modelling.flow_layers.elementwise_couplings import ElementwiseCoupling
from gyoza.modelling.flow_layers.flow_distribution import FlowDistribution
from gyoza.modelling.flow_layers.flow_matching import FlowMatchingModel
from gyoza.modelling.flow_layers.gaussianization import MixtureGaussianization
from gyoza.modelling.flow_layers.images import (
    Flatten,
    HaarDownsampling,
    Reshape,
    Squeeze,
    Unsqueeze,
)
from gyoza.modelling.flow_layers.inverse import Inverse
from gyoza.modelling.flow_layers.linear import (
    InvertibleConvolution,
    LULinear,
    TriangularAffine,
)
from gyoza.modelling.flow_layers.linear_maps import LinearMap, PrincipalRotation
from gyoza.modelling.flow_layers.logistic_couplings import MixtureLogisticCoupling
from gyoza.modelling.flow_layers.models import FlowModel
from gyoza.modelling.flow_layers.multi_scale import FactorOut
from gyoza.modelling.flow_layers.neural_autoregressive import BlockNeuralAutoregressive
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.flow_layers.pair_axes import PairAxes
from gyoza.modelling.flow_layers.permutations import (
    CheckerBoardPermutation,
    HeavisidePermutation,
    Permutation,
    ShufflePermutation,
)
from gyoza.modelling.flow_layers.planar import Planar, Radial, Sylvester
from gyoza.modelling.flow_layers.reflections import Orthogonal, Reflection
from gyoza.modelling.flow_layers.residual import Residual
from gyoza.modelling.flow_layers.spline_couplings import (
    CircularSplineCoupling,
    RationalQuadraticSplineCoupling,
)
from gyoza.modelling.flow_layers.univariate import Elementwise
from gyoza.modelling.flow_layers.variational import VariationalModel

__all__ = [
    "FlowDistribution",
    "FlowLayer",
    "ConditionalFlowLayer",
    "FlowModel",
    "DisentanglingFlowModel",
    "VariationalModel",
    "FlowMatchingModel",
    "Coupling",
    "ElementwiseCoupling",
    "AdditiveCoupling",
    "AffineCoupling",
    "VolumePreservingCoupling",
    "RationalQuadraticSplineCoupling",
    "CircularSplineCoupling",
    "MixtureLogisticCoupling",
    "MaskedAutoregressive",
    "MaskedAffine",
    "MaskedRationalQuadraticSpline",
    "BlockNeuralAutoregressive",
    "Inverse",
    "Columns",
    "ActivationNormalization",
    "BatchNormalization",
    "Reflection",
    "Orthogonal",
    "Permutation",
    "ShufflePermutation",
    "HeavisidePermutation",
    "CheckerBoardPermutation",
    "LULinear",
    "InvertibleConvolution",
    "TriangularAffine",
    "LinearMap",
    "PrincipalRotation",
    "PairAxes",
    "Affine",
    "Standardize",
    "YeoJohnson",
    "Softplus",
    "Sigmoid",
    "Logit",
    "Tanh",
    "Arctanh",
    "Elementwise",
    "MixtureGaussianization",
    "Planar",
    "Radial",
    "Sylvester",
    "Residual",
    "ContinuousFlow",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "HaarDownsampling",
    "FactorOut",
    "UniformDequantization",
    "VariationalDequantization",
    "ArgmaxDequantization",
]
