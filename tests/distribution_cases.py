"""One distribution of each class, and what it is compared with."""

import numpy as np
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.distributions import (
    DiagonalNormal,
    Factorial,
    GaussianMixture,
    LabelledNormal,
    Logistic,
    MultivariateNormal,
    StandardNormal,
    StudentT,
    Uniform,
)
from gyoza.testing.functions import compile_on_jax as fast

LOCATION, SCALE, DEGREES = np.array([0.5, -1.0, 3.0]), np.array([0.3, 1.0, 4.0]), [1.5, 4.0, 60.0]
COVARIANCE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]])
LOCATIONS = np.array([[[0.0, 1.0, 2.0], [4.0, -1.0, 0.0]], [[-3.0, 0.0, 1.0], [1.0, 1.0, -2.0]]])
SCALES = np.array([[[1.0, 0.5, 2.0], [0.3, 1.0, 1.0]], [[1.0, 1.0, 1.0], [2.0, 0.5, 1.5]]])


def independent(distribution):
    """The log-density of independent dimensions, by SciPy."""
    return lambda x: distribution.logpdf(x).sum(axis=-1)


def mixture(locations, scales):
    """The log-density of a mixture of equal weights, by SciPy."""

    def log_prob(x):
        parts = scipy.stats.norm(locations[:, None], scales[:, None]).logpdf(x).sum(axis=-1)
        return scipy.special.logsumexp(parts, axis=0) - np.log(len(locations))

    return log_prob


# Distribution of three dimensions, and SciPy's log-density.
CASES = {
    "StandardNormal": (lambda **kwargs: StandardNormal(**kwargs), independent(scipy.stats.norm())),
    "DiagonalNormal": (
        lambda **kwargs: DiagonalNormal(location=LOCATION, scale=SCALE, **kwargs),
        independent(scipy.stats.norm(LOCATION, SCALE)),
    ),
    "MultivariateNormal": (
        lambda **kwargs: MultivariateNormal(location=LOCATION, covariance=COVARIANCE, **kwargs),
        scipy.stats.multivariate_normal(LOCATION, COVARIANCE).logpdf,
    ),
    "Uniform": (
        lambda **kwargs: Uniform(low=LOCATION - SCALE, high=LOCATION + 2 * SCALE, **kwargs),
        independent(scipy.stats.uniform(LOCATION - SCALE, 3 * SCALE)),
    ),
    "Logistic": (
        lambda **kwargs: Logistic(location=LOCATION, scale=SCALE, **kwargs),
        independent(scipy.stats.logistic(LOCATION, SCALE)),
    ),
    "StudentT": (
        lambda **kwargs: StudentT(
            location=LOCATION, scale=SCALE, degrees_of_freedom=DEGREES, **kwargs
        ),
        independent(scipy.stats.t(DEGREES, LOCATION, SCALE)),
    ),
    "GaussianMixture": (
        lambda **kwargs: GaussianMixture(2, location=LOCATIONS[0], scale=SCALES[0], **kwargs),
        mixture(LOCATIONS[0], SCALES[0]),
    ),
    "GaussianMixture with classes": (
        lambda **kwargs: GaussianMixture(
            2, class_count=2, location=LOCATIONS, scale=SCALES, **kwargs
        ),
        mixture(LOCATIONS.reshape(4, 3), SCALES.reshape(4, 3)),
    ),
    "LabelledNormal": (
        lambda **kwargs: LabelledNormal(noise=0.5, location=LOCATION, scale=SCALE, **kwargs),
        independent(scipy.stats.norm(LOCATION, np.hypot(0.5, SCALE))),
    ),
    "Factorial": (
        lambda **kwargs: Factorial(
            [
                Logistic([1], location=1.0, scale=0.5, dtype=kwargs.get("dtype")),
                GaussianMixture(
                    2, None, 2, LOCATIONS[..., 1:], SCALES[..., 1:], dtype=kwargs.get("dtype")
                ),
            ],
            [1, 2],
            **kwargs,
        ),
        lambda x: (
            scipy.stats.logistic(1.0, 0.5).logpdf(x[:, 0])
            + mixture(LOCATIONS[..., 1:].reshape(4, 2), SCALES[..., 1:].reshape(4, 2))(x[:, 1:])
        ),
    ),
}


def make(case, **kwargs):
    return CASES[case][0](**{"shape": [3], **kwargs})


def events(count=64, scale=3.0, seed=0):
    return np.random.default_rng(seed).normal(scale=scale, size=(count, 3))


def log_prob_of(distribution, x, dtype=None):
    """The log-densities of an array."""
    x = ops.convert_to_tensor(x, dtype=dtype or distribution.log_prob_dtype)
    return to_numpy(fast(distribution)(x))


def sample_of(distribution, *args, **kwargs):
    """Samples for a given seed."""
    return to_numpy(fast(lambda: distribution.sample(*args, **kwargs))())


def shake(distribution, seed=0):
    """Moves the weights away from where they start."""
    random = np.random.default_rng(seed)
    for weight in distribution.trainable_weights:
        weight.assign(weight + random.normal(scale=0.3, size=weight.shape))
