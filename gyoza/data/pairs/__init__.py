r"""Pairs of instances with a known correlation per factor, from which a flow is disentangled.

`gyoza.modelling.losses.SupervisedFactorLoss` learns from pairs of instances :math:`(a, b)` and,
for each pair, from the correlation :math:`\sigma_{ab}` of its two instances along every factor.
The sources of this module draw such pairs from a labelled data set, and draw them anew in every
epoch:

- `CategoricalPairs` for factors that are classes, such as a digit, a colour or a person.
- `ContinuousPairs` for factors that are numbers, such as an angle, an age or a temperature.

Both are Keras data sets that yield batches `((a, b), y)`, to be passed to `fit` as they are. The
matrix `y` has one column per factor, and an additional first one for the residual factor, which
collects whatever no factor explains and is therefore always zero. Which factors a pair shares, one,
all but one, or all, is the argument `share`.

References:
    - Esser, P., Rombach, R., & Ommer, B. (2020). "A Disentangling Invertible Interpretation
      Network for Explaining Latent Representations."
      `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from gyoza.data.pairs.categorical import CategoricalPairs
from gyoza.data.pairs.continuous import ContinuousPairs

__all__ = ["CategoricalPairs", "ContinuousPairs"]
