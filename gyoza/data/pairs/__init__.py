r"""Pairs of instances with a known correlation in each factor, from which flows disentangle.

`gyoza.modelling.losses.SupervisedFactorLoss` learns from pairs of instances :math:`(a, b)` and,
for each pair, from the correlation :math:`\sigma_{ab}` of the two instances in every factor. The
sources in this module draw such pairs from a labelled data set, anew in every epoch:

- `CategoricalPairs` for factors that are classes, such as a digit, a colour or a person.
- `ContinuousPairs` for factors that are numbers, such as an angle, an age or a temperature.

Both are Keras data sets that yield batches `((a, b), y)`, and can be passed to `fit` as they are.
The matrix `y` has one column per factor, preceded by one for the residual factor, which is always
zero since the residual factor comprises what no factor explains. The argument `share` tells which
factors a pair shares: one, all but one, or all.

References:
    - Esser, P., Rombach, R., & Ommer, B. (2020). "A Disentangling Invertible Interpretation
      Network for Explaining Latent Representations."
      `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from gyoza.data.pairs.categorical import CategoricalPairs
from gyoza.data.pairs.continuous import ContinuousPairs

__all__ = ["CategoricalPairs", "ContinuousPairs"]
