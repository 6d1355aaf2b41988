"""Networks that compute the parameters of couplings."""

from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.conditioners.made import MADE
from gyoza.modelling.conditioners.mlp import MLP
from gyoza.modelling.conditioners.resnet import ResNet

__all__ = ["Conditioner", "MLP", "MADE", "ResNet"]
