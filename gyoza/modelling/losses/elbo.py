"""Divergences of normal posteriors from priors, the first term of evidence lower bounds (ELBOs).

Posteriors have diagonal covariances. They and the components of mixtures are given by their means
and the logarithms of their variances.
"""

from keras import ops

from gyoza.modelling.losses.likelihoods import normal_log_density, sum_per_example, to_tensors
from gyoza.typing import Tensor

__all__ = [
    "normal_kl",
    "mixture_kl",
    "mixture_log_responsibilities",
    "additive_mixture_kl",
]


def normal_kl(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor = 0.0, prior_log_variance: Tensor = 0.0
) -> Tensor:
    r"""Computes the divergence of normal posteriors from a normal prior.

    For posteriors :math:`\mathcal{N}(m, s^2)` and the prior :math:`\mathcal{N}(\mu, \sigma^2)`,
    which is standard normal by default,

    .. math::
        \operatorname{KL} = \frac{1}{2} \sum_i \left( \frac{s_i^2 + (m_i - \mu_i)^2}{\sigma_i^2}
        - 1 + \ln \frac{\sigma_i^2}{s_i^2} \right).

    Args:
        mean: Posterior means, `[batch, ...]`.
        log_variance: Logarithms of posterior variances, likewise.
        prior_mean: Prior means, a number or an array that broadcasts to `mean`.
        prior_log_variance: Logarithms of prior variances, likewise.

    Returns:
        The divergences, `[batch]`.

    Example:

        >>> from gyoza.modelling.losses import normal_kl
        >>> keras.ops.convert_to_numpy(normal_kl([[1.0, 2.0]], [[0.0, 0.0]]))
        array([2.5], dtype=float32)

    References:
        - Kingma, D. P. & Welling, M. (2014). "Auto-encoding variational Bayes."
          `arXiv:1312.6114 <https://arxiv.org/abs/1312.6114>`_
    """
    arguments = to_tensors(mean, log_variance, prior_mean, prior_log_variance)
    return sum_per_example(_normal_kl(*arguments))


def mixture_log_responsibilities(
    z: Tensor, prior_mean: Tensor, prior_log_variance: Tensor, prior_logits: Tensor
) -> Tensor:
    r"""Computes how likely each component of a Gaussian mixture is to have produced latent vectors.

    .. math::
        \ln p(c | z) = \ln \pi_c + \ln \mathcal{N}(z | \mu_c, \sigma_c^2)
        - \ln \sum_{c'} \pi_{c'} \mathcal{N}(z | \mu_{c'}, \sigma_{c'}^2), \qquad
        \pi = \operatorname{softmax}(\text{logits}).

    :class:`~gyoza.modelling.metrics.ClusteringAccuracy` takes them as scores of clusters.

    Args:
        z: Latent vectors, `[batch, d]`, or `[batch, factors, d]` for a mixture per factor.
        prior_mean: Means of components, `[components, d]` or `[factors, components, d]`.
        prior_log_variance: Logarithms of their variances, likewise.
        prior_logits: Logits of their weights, `[components]` or `[factors, components]`.

    Returns:
        The log-probabilities, `[batch, components]` or `[batch, factors, components]`.

    Example:

        >>> from gyoza.modelling.losses import mixture_log_responsibilities
        >>> log_p = mixture_log_responsibilities(
        ...     [[1.0]], prior_mean=[[-1.0], [1.0]], prior_log_variance=[[0.0], [0.0]],
        ...     prior_logits=[0.0, 0.0],
        ... )
        >>> keras.ops.convert_to_numpy(log_p).round(4)
        array([[-2.1269, -0.1269]], dtype=float32)
    """
    z, prior_mean, prior_log_variance, prior_logits = to_tensors(
        z, prior_mean, prior_log_variance, prior_logits
    )
    log_densities = normal_log_density(z[..., None, :], prior_mean, prior_log_variance)
    return ops.log_softmax(ops.sum(log_densities, axis=-1) + ops.log_softmax(prior_logits))


def mixture_kl(
    mean: Tensor,
    log_variance: Tensor,
    prior_mean: Tensor,
    prior_log_variance: Tensor,
    prior_logits: Tensor,
    log_responsibilities: Tensor | None = None,
) -> Tensor:
    r"""Computes the divergence of normal posteriors from a Gaussian mixture, over its components.

    It is the divergence of :math:`q(z, c | x) = q(z | x) \, q(c | x)` from :math:`p(z, c)`, an
    upper bound on that of :math:`q(z | x)` from :math:`p(z)`. For responsibilities
    :math:`\gamma_c = q(c | x)`,

    .. math::
        \operatorname{KL} = \sum_c \gamma_c \left( D_c + \ln \frac{\gamma_c}{\pi_c} \right)
        \ge -\ln \sum_c \pi_c e^{-D_c}, \qquad
        D_c = \operatorname{KL} \left( q(z | x) \parallel \mathcal{N}(\mu_c, \sigma_c^2) \right),

    which is least for :math:`\gamma_c \propto \pi_c e^{-D_c}`, the default. The responsibilities at
    the posterior mean, :func:`mixture_log_responsibilities` of `mean`, are another common choice.

    With an axis for factors, each factor has a mixture of its own, and the divergences are added.

    Args:
        mean: Posterior means, `[batch, d]`, or `[batch, factors, d]` for a mixture per factor.
        log_variance: Logarithms of posterior variances, likewise.
        prior_mean: Means of components, `[components, d]` or `[factors, components, d]`.
        prior_log_variance: Logarithms of their variances, likewise.
        prior_logits: Logits of their weights, `[components]` or `[factors, components]`.
        log_responsibilities: Logarithms of responsibilities, `[batch, components]` or `[batch,
            factors, components]`. If omitted, those of the tightest bound.

    Returns:
        The divergences, `[batch]`.

    Example:

        >>> from gyoza.modelling.losses import mixture_kl
        >>> kl = mixture_kl(
        ...     [[1.0]], [[0.0]], prior_mean=[[-1.0], [1.0]], prior_log_variance=[[0.0], [0.0]],
        ...     prior_logits=[0.0, 0.0],
        ... )
        >>> keras.ops.convert_to_numpy(kl).round(4)
        array([0.5662], dtype=float32)

    References:
        - Jiang, Z., Zheng, Y., Tan, H., Tang, B. & Zhou, H. (2017). "Variational deep embedding: an
          unsupervised and generative approach to clustering."
          `arXiv:1611.05148 <https://arxiv.org/abs/1611.05148>`_
    """
    mean, log_variance, *prior, prior_logits = to_tensors(
        mean, log_variance, prior_mean, prior_log_variance, prior_logits
    )
    divergences = _normal_kl(mean[..., None, :], log_variance[..., None, :], *prior)
    log_joint = ops.log_softmax(prior_logits) - ops.sum(divergences, axis=-1)
    if log_responsibilities is None:
        return sum_per_example(-ops.logsumexp(log_joint, axis=-1, keepdims=True))
    log_responsibilities = to_tensors(mean, log_responsibilities)[1]
    return sum_per_example(ops.exp(log_responsibilities) * (log_responsibilities - log_joint))


def additive_mixture_kl(
    mean: Tensor,
    log_variance: Tensor,
    component_logits: Tensor,
    activity_logits: Tensor,
    prior_mean: Tensor,
    prior_log_variance: Tensor,
    prior_component_logits: Tensor,
    prior_activity_logits: Tensor,
    activity: str = "bernoulli",
) -> Tensor:
    r"""Computes the divergence of posteriors from a prior in which several factors add up.

    Each factor :math:`f` takes one of its components, :math:`c_f`, and is active or not,
    :math:`a_f \in \{0, 1\}`. Active factors add the means of their components:

    .. math::
        p(z | a, c) = \mathcal{N} \left( \sum_f a_f \mu_{f c_f}, \sigma^2 \right), \qquad
        p(c_f) = \pi_{f c_f}, \qquad p(a).

    With `activity="bernoulli"`, factors are active independently of each other, with
    :math:`p(a_f = 1) = \alpha_f`; with `"categorical"`, exactly one is, with probability
    :math:`\alpha_f`. The posterior :math:`\mathcal{N}(z | m, s^2) \, \prod_f q(c_f) \, q(a)` has
    the same form, with probabilities :math:`\gamma_{f c}` of components and :math:`\eta_f` of
    activity. If :math:`M` and :math:`V` are the mean and variance of
    :math:`\sum_f a_f \mu_{f c_f}` under it,

    .. math::
        \operatorname{KL} = \frac{1}{2} \sum_i \left( \frac{s_i^2 + (m_i - M_i)^2 + V_i}{\sigma_i^2}
        - 1 + \ln \frac{\sigma_i^2}{s_i^2} \right)
        + \sum_{f c} \gamma_{f c} \ln \frac{\gamma_{f c}}{\pi_{f c}}
        + \operatorname{KL} \left( q(a) \parallel p(a) \right).

    Logits are those of a softmax over the last axis or, for `"bernoulli"` activities, of a sigmoid.

    Args:
        mean: Posterior means :math:`m`, `[batch, d]`.
        log_variance: Logarithms of posterior variances, :math:`\ln s^2`, `[batch, d]`.
        component_logits: Logits of :math:`\gamma`, `[batch, factors, components]`.
        activity_logits: Logits of :math:`\eta`, `[batch, factors]`.
        prior_mean: The components' means :math:`\mu`, `[factors, components, d]`.
        prior_log_variance: Logarithms of prior variances, :math:`\ln \sigma^2`, `[d]`.
        prior_component_logits: Logits of :math:`\pi`, `[factors, components]`.
        prior_activity_logits: Logits of :math:`\alpha`, `[factors]`.
        activity: `"bernoulli"` or `"categorical"`.

    Returns:
        The divergences, `[batch]`.

    Raises:
        ValueError: If `activity` is unknown.

    Example:

        >>> from gyoza.modelling.losses import additive_mixture_kl
        >>> kl = additive_mixture_kl(
        ...     mean=[[3.0]], log_variance=[[0.0]],
        ...     component_logits=[[[0.0], [0.0]]], activity_logits=[[9.0, 9.0]],  # both active
        ...     prior_mean=[[[1.0]], [[2.0]]], prior_log_variance=[0.0],
        ...     prior_component_logits=[[0.0], [0.0]], prior_activity_logits=[0.0, 0.0],
        ... )
        >>> keras.ops.convert_to_numpy(kl).round(2)  # 2 ln 2
        array([1.38], dtype=float32)
    """
    if activity not in ("bernoulli", "categorical"):
        raise ValueError(
            f'`activity` should be "bernoulli" or "categorical". Received: activity={activity!r}'
        )
    mean, log_variance, component_logits, activity_logits = to_tensors(
        mean, log_variance, component_logits, activity_logits
    )
    prior_mean, prior_log_variance, prior_component_logits, prior_activity_logits = to_tensors(
        prior_mean, prior_log_variance, prior_component_logits, prior_activity_logits
    )
    is_bernoulli = activity == "bernoulli"
    eta = ops.sigmoid(activity_logits) if is_bernoulli else _softmax(activity_logits)
    gamma = _softmax(component_logits)
    # Moments of what each factor adds, `[batch, factors, d]`.
    first = ops.einsum("nf,nfc,fck->nfk", eta, gamma, prior_mean)
    second = ops.einsum("nf,nfc,fck->nfk", eta, gamma, ops.square(prior_mean))
    sum_mean = ops.sum(first, axis=1)
    if is_bernoulli:
        sum_variance = ops.sum(second - ops.square(first), axis=1)
        activity_kl = _categorical_kl(_two_way(activity_logits), _two_way(prior_activity_logits))
    else:
        sum_variance = ops.sum(second, axis=1) - ops.square(sum_mean)
        activity_kl = _categorical_kl(activity_logits, prior_activity_logits)
    latent_kl = _normal_kl(mean, log_variance, sum_mean, prior_log_variance)
    latent_kl = latent_kl + 0.5 * sum_variance * ops.exp(-prior_log_variance)
    component_kl = _categorical_kl(component_logits, prior_component_logits)
    return sum(sum_per_example(kl) for kl in (latent_kl, component_kl, activity_kl))


def _normal_kl(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor
) -> Tensor:
    """Returns the divergence in each dimension."""
    log_ratio = log_variance - prior_log_variance
    distance = ops.square(mean - prior_mean) * ops.exp(-prior_log_variance)
    return 0.5 * (ops.expm1(log_ratio) - log_ratio + distance)


def _categorical_kl(logits: Tensor, prior_logits: Tensor) -> Tensor:
    """Returns the terms of divergences of softmax distributions over the last axis."""
    log_q, log_p = ops.log_softmax(logits), ops.log_softmax(prior_logits)
    return ops.exp(log_q) * (log_q - log_p)


def _softmax(logits: Tensor) -> Tensor:
    # `ops.softmax` warns about an axis of length 1, which a factor with one component has.
    return ops.exp(ops.log_softmax(logits))


def _two_way(logits: Tensor) -> Tensor:
    """Returns the logits of a softmax over two classes, the second with the given logit."""
    return ops.stack([ops.zeros_like(logits), logits], axis=-1)
