"""Networks that compute the parameters of couplings, or velocities of flows in continuous time."""

from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.conditioners.made import MADE
from gyoza.modelling.conditioners.mlp import MLP
from gyoza.modelling.conditioners.optional_context import OptionalContext
from gyoza.modelling.conditioners.resnet import ResNet
from gyoza.modelling.conditioners.unet import VelocityUNet
from gyoza.modelling.conditioners.velocity import VelocityMLP

__all__ = ["Conditioner", "MLP", "MADE", "ResNet", "VelocityMLP", "VelocityUNet", "OptionalContext"]
