"""Log-likelihoods of data given the outputs of decoders, and the losses that they make up."""

from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.functions.checks import check_positive_number
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.normal import LOG_2_PI
from gyoza.typing import DType, Tensor

__all__ = [
    "bernoulli_log_likelihood",
    "normal_log_likelihood",
    "BernoulliLoss",
    "NormalLoss",
    "to_tensors",
    "sum_per_example",
    "normal_log_density",
]


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    r"""Computes the log-likelihood of data between 0 and 1 under independent Bernoulli variables.

    .. math::
        \ln p(x) = \sum_i \left( x_i \ln \sigma(l_i) + (1 - x_i) \ln \sigma(-l_i) \right)

    Args:
        x: The data, `[batch, ...]`: 0, 1, or numbers in between, for which the result is an
            expectation. Other numbers result in NaN.
        logits: The logits :math:`l`, `[batch, ...]`.

    Returns:
        The log-likelihoods, `[batch]`.

    Example:

        >>> from gyoza.modelling.losses import bernoulli_log_likelihood
        >>> log_p = bernoulli_log_likelihood([[0.0, 1.0]], logits=[[0.0, 2.0]])
        >>> keras.ops.convert_to_numpy(log_p).round(4)
        array([-0.8201], dtype=float32)
    """
    x, logits = to_tensors(x, logits)
    x = ops.where((x >= 0.0) & (x <= 1.0), x, np.nan)
    return sum_per_example(x * logits - ops.softplus(logits))


def normal_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor = 0.0) -> Tensor:
    r"""Computes the log-likelihood of data under independent normal variables.

    .. math::
        \ln p(x) = -\frac{1}{2} \sum_i \left( \frac{(x_i - \mu_i)^2}{\sigma_i^2}
        + \ln 2 \pi \sigma_i^2 \right)

    Args:
        x: The data, `[batch, ...]`.
        mean: The means :math:`\mu`, `[batch, ...]`.
        log_variance: Logarithms of variances, a number or an array that broadcasts to `x`.

    Returns:
        The log-likelihoods, `[batch]`.

    Example:

        >>> from gyoza.modelling.losses import normal_log_likelihood
        >>> keras.ops.convert_to_numpy(normal_log_likelihood([[0.0, 1.0]], [[0.0, 0.0]])).round(4)
        array([-2.3379], dtype=float32)
    """
    return sum_per_example(normal_log_density(*to_tensors(x, mean, log_variance)))


@keras.saving.register_keras_serializable(package="gyoza")
class BernoulliLoss(keras.losses.Loss):
    """The negative :func:`bernoulli_log_likelihood` of `y_true`, where `y_pred` holds logits.

    Unlike `keras.losses.BinaryCrossentropy(from_logits=True)`, it is the sum over the dimensions of
    an example rather than their mean, as an ELBO requires.

    Args:
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Example:

        >>> loss = gyoza.modelling.losses.BernoulliLoss()
        >>> round(float(loss(np.array([[0.0, 1.0]]), np.array([[0.0, 2.0]]))), 4)
        0.8201
    """

    def __init__(
        self,
        name: str = "bernoulli_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each example.

        Args:
            y_true: The data, between 0 and 1, `[batch, ...]`.
            y_pred: Logits, `[batch, ...]`.

        Returns:
            The losses, `[batch]`.
        """
        return -bernoulli_log_likelihood(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {**super().get_config(), "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="gyoza")
class NormalLoss(keras.losses.Loss):
    r"""The negative :func:`normal_log_likelihood` of `y_true`, where `y_pred` holds means.

    Unlike `keras.losses.MeanSquaredError`, it is in nats: a sum over the dimensions of an example,
    with the constant that makes it a density.

    Args:
        variance: The variance of every dimension, positive.
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
        dtype: See `keras.losses.Loss`.

    Raises:
        ValueError: If `variance` is not positive.

    Example:

        >>> loss = gyoza.modelling.losses.NormalLoss(variance=0.5)
        >>> round(float(loss(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]))), 4)
        2.1447
    """

    def __init__(
        self,
        variance: float = 1.0,
        name: str = "normal_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.variance = check_positive_number("variance", variance)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each example.

        Args:
            y_true: The data, `[batch, ...]`.
            y_pred: Means, `[batch, ...]`.

        Returns:
            The losses, `[batch]`.
        """
        return -normal_log_likelihood(y_true, y_pred, np.log(self.variance))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal loss."""
        return {**super().get_config(), "variance": self.variance, "dtype": self.dtype}


def to_tensors(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Converts all arguments to the dtype of the first, but at least float32."""
    dtype = at_least_float32(getattr(first, "dtype", "float32"))
    # Keras would round arrays in float64 to float32 on some backends.
    return [
        ops.cast(x, dtype) if ops.is_tensor(x) else ops.convert_to_tensor(x, dtype=dtype)
        for x in (first, *others)
    ]


def sum_per_example(values: Tensor) -> Tensor:
    """Sums `[batch, ...]` to `[batch]`."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))


def normal_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns the log-densities of normal variables, one for each dimension."""
    return -0.5 * (ops.square(x - mean) * ops.exp(-log_variance) + log_variance + LOG_2_PI)
