"""Invertible functions of one number with parameters, each of whose formulas stands here once.

Couplings, autoregressive layers and element-wise layers differ in where parameters come from. What
they do to a number is a transform, called a transformer or a univariate transform elsewhere. A
transform of your own is a subclass of :class:`Transform` with two methods. An
:class:`~gyoza.modelling.flow_layers.ElementwiseCoupling`, a
:class:`~gyoza.modelling.flow_layers.MaskedAutoregressive` layer and
:class:`~gyoza.modelling.flow_layers.Elementwise` take it as their `transformer`.
"""

from gyoza.modelling.transforms.affine import (
    AdditiveTransform,
    AffineTransform,
    VolumePreservingTransform,
)
from gyoza.modelling.transforms.base import Transform
from gyoza.modelling.transforms.logistic_mixtures import (
    GaussianizationTransform,
    LogisticMixtureTransform,
)
from gyoza.modelling.transforms.splines import CircularSplineTransform, RationalQuadraticTransform

__all__ = [
    "Transform",
    "AdditiveTransform",
    "AffineTransform",
    "VolumePreservingTransform",
    "RationalQuadraticTransform",
    "CircularSplineTransform",
    "LogisticMixtureTransform",
    "GaussianizationTransform",
]
