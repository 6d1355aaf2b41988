r"""Losses that models are compiled with, and the functions that make them up.

Negative evidence lower bounds (ELBOs) are sums. For an encoder :math:`q(z | x)`, a prior
:math:`p(z)` and a decoder :math:`p(x | z)`,

.. math::
    -\ln p(x) \le \operatorname{KL} \left( q(z | x) \parallel p(z) \right)
    - E_{q(z | x)} \left[ \ln p(x | z) \right],

where the functions named `…_kl` compute the divergence and those named `…_log_likelihood` the
log-likelihood, per example and in nats.
:class:`~gyoza.modelling.autoencoders.VariationalAutoencoder` is a model that is trained with such a
bound.
"""

from gyoza.modelling.losses.attributes import AttributeLoss
from gyoza.modelling.losses.elbo import (
    additive_mixture_kl,
    mixture_kl,
    mixture_log_responsibilities,
    normal_kl,
)
from gyoza.modelling.losses.factors import SupervisedFactorLoss
from gyoza.modelling.losses.likelihoods import (
    BernoulliLoss,
    NormalLoss,
    bernoulli_log_likelihood,
    normal_log_likelihood,
)
from gyoza.modelling.losses.margins import HingeLoss, MulticlassHingeLoss
from gyoza.modelling.losses.penalties import EntanglementLoss, entanglement

__all__ = [
    "SupervisedFactorLoss",
    "AttributeLoss",
    "EntanglementLoss",
    "BernoulliLoss",
    "NormalLoss",
    "HingeLoss",
    "MulticlassHingeLoss",
    "entanglement",
    "normal_kl",
    "mixture_kl",
    "mixture_log_responsibilities",
    "additive_mixture_kl",
    "bernoulli_log_likelihood",
    "normal_log_likelihood",
]
