"""Networks that compute the parameters of couplings."""

from gyoza.modelling.conditioners.base import Conditioner
from gyoza.modelling.conditioners.mlp import MLP

__all__ = ["Conditioner", "MLP"]
