"""Autoencoders whose codes are distributions."""

from gyoza.modelling.autoencoders.supervised import SupervisedVAE
from gyoza.modelling.autoencoders.variational import VariationalAutoencoder

__all__ = ["VariationalAutoencoder", "SupervisedVAE"]
