r"""Toy densities with known entropy, by which the accuracy of a density model is measured.

Every density generates its own data, and its true values are known:

- `sample(count, seed)` draws independent points, a float32 array of shape [count, dimension_count],
- `log_prob(x)` is the logarithm of the density, in nats, a float64 array of shape [count],
- `entropy` is the differential entropy :math:`H = -\mathbb{E}[\log p(x)]`, in nats, and
- `dimension_count` is the number of dimensions of a point.

No model :math:`q` has a lower expected negative log-likelihood than the entropy, and the excess is
the Kullback-Leibler divergence from the truth, which shows how much is left to gain:

.. math::
    D_\text{KL}(p \,\|\, q) = -\mathbb{E}_{x \sim p}[\log q(x)] - H

References:
    - Grathwohl, W., Chen, R. T. Q., Bettencourt, J., Sutskever, I., & Duvenaud, D. (2019).
      "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models."
      `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
"""

from gyoza.data.toy.curves import Arc, Pinwheel, TwoMoons
from gyoza.data.toy.mixtures import CheckerBoard, EightGaussians, GaussianMixtureDensity
from gyoza.data.toy.warped import Banana, Funnel

__all__ = [
    "EightGaussians",
    "TwoMoons",
    "CheckerBoard",
    "Pinwheel",
    "Banana",
    "Arc",
    "Funnel",
    "GaussianMixtureDensity",
]
