"""The variational autoencoder, with flows as prior and posterior."""

import functools
import math
from typing import Any

import keras
from keras import ops

from gyoza.backend import draw_normal
from gyoza.modelling.distributions import Distribution, StandardNormal
from gyoza.modelling.flow_layers.density import Density
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.functions.checks import (
    check_instance,
    check_integer,
    check_positive_number,
)
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.functions.normal import standard_normal_log_density
from gyoza.modelling.losses import (
    bernoulli_log_likelihood,
    entanglement,
    normal_kl,
    normal_log_likelihood,
)
from gyoza.modelling.seeds import SeedGenerator, to_seed
from gyoza.modelling.training import TakesData, average_losses
from gyoza.typing import Seed, Shape, Tensor

__all__ = ["VariationalAutoencoder"]

_PARTS = ("encoder", "decoder", "prior", "posterior_flow")


@keras.saving.register_keras_serializable(package="gyoza")
class VariationalAutoencoder(TakesData):
    r"""A variational autoencoder (VAE), whose prior and posterior can be refined by flows.

    An encoder computes the means :math:`m` and the logarithms of the variances :math:`s^2` of a
    latent vector. A flow :math:`f`, if there is one, transforms this distribution further,

    .. math::
        z = f(m + s \, \epsilon), \quad \epsilon \sim \mathcal{N}(0, I), \qquad
        \ln q(z | x) = \ln \mathcal{N} \left( f^{-1}(z) \mid m, s^2 \right)
        - \ln \left| \det \frac{\partial f}{\partial f^{-1}(z)} \right|.

    A decoder determines the likelihood :math:`p(x | z)`. `compile(optimizer)` and `fit(x)` maximise
    the evidence lower bound (ELBO): the loss, in nats, is the mean over the batch of

    .. math::
        -E_{q(z | x)} \left[ \ln p(x | z) \right]
        + \text{kl\_weight} \cdot \operatorname{KL} \left( q(z | x) \parallel p(z) \right)
        + \text{entanglement\_weight} \cdot \ell(m),

    estimated from one sample per instance, with the :func:`~gyoza.modelling.losses.entanglement`
    :math:`\ell`. Without a flow, the divergence from a standard normal prior is exact. The progress
    bar shows it as `kl`. Metrics are given the inputs and their ELBOs, as those in
    :mod:`gyoza.modelling.metrics` expect.

    Some losses are means over the :math:`P` dimensions of :math:`x`, plus :math:`w` times twice the
    mean divergence over the :math:`d` dimensions of :math:`z`, plus :math:`v` times the
    entanglement. For these, pass `kl_weight` :math:`2 w P / d` and `entanglement_weight`
    :math:`v P`.

    Args:
        encoder: A Keras layer or model that maps data to a list of means and logarithms of
            variances, both `[batch, ...]`. A third output, if any, is the context of a conditional
            `posterior_flow`.
        decoder: A Keras layer or model that maps latent vectors to logits or means, in the shape of
            the data.
        prior: The distribution :math:`p(z)`: a
            :class:`~gyoza.modelling.distributions.Distribution` or a
            :class:`~gyoza.modelling.flow_layers.FlowModel`, which is also trained. If omitted,
            standard normal.
        posterior_flow: The flow :math:`f`: a :class:`~gyoza.modelling.flow_layers.FlowModel` or
            :class:`~gyoza.modelling.flow_layers.FlowLayer`, or `None`. Only its forward direction
            is used.
        likelihood: `"bernoulli"`, for data between 0 and 1 and a decoder that returns logits, or
            `"normal"`, for a decoder that returns means. Data outside [0, 1] have a `"bernoulli"`
            loss of NaN.
        variance: The variance of a `"normal"` likelihood.
        kl_weight: The weight of the divergence, 1 for a bound on the likelihood.
        entanglement_weight: The weight of the entanglement of the means :math:`m`, which then must
            have shape `[batch, d]`.
        seed: Integer that makes samples reproducible.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If `encoder` or `decoder` is not a Keras layer, `prior` is not a distribution, or
            `posterior_flow` is not a flow.
        ValueError: If `likelihood` is unknown, `variance` is not positive, a weight is negative, or
            the outputs of `encoder` or `decoder` are not as described above.

    Example:

        >>> from gyoza.modelling.autoencoders import VariationalAutoencoder
        >>> inputs = keras.Input([8])
        >>> outputs = [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)]
        >>> model = VariationalAutoencoder(
        ...     encoder=keras.Model(inputs, outputs), decoder=keras.layers.Dense(8)
        ... )
        >>> x = np.random.default_rng(0).integers(2, size=[64, 8]).astype("float32")
        >>> model.compile("adam")
        >>> history = model.fit(x, epochs=2, verbose=0)
        >>> sorted(history.history)
        ['kl', 'loss']
        >>> model.encode(x).shape == (64, 2) and model.sample(5).shape == (5, 8)
        True

    References:
        - Kingma, D. P. & Welling, M. (2014). "Auto-encoding variational Bayes."
          `arXiv:1312.6114 <https://arxiv.org/abs/1312.6114>`_
        - Rezende, D. J. & Mohamed, S. (2015). "Variational inference with normalizing flows."
          `arXiv:1505.05770 <https://arxiv.org/abs/1505.05770>`_
        - Higgins, I. et al. (2016). "Early visual concept learning with unsupervised deep
          learning." With `kl_weight`. `arXiv:1606.05579 <https://arxiv.org/abs/1606.05579>`_
    """

    def __init__(
        self,
        encoder: keras.Layer,
        decoder: keras.Layer,
        prior: Tensor | None = None,
        posterior_flow: keras.Layer | None = None,
        likelihood: str = "bernoulli",
        variance: float = 1.0,
        kl_weight: float = 1.0,
        entanglement_weight: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        prior = StandardNormal() if prior is None else prior
        check_instance("encoder", encoder, keras.Layer, "a Keras layer or model")
        check_instance("decoder", decoder, keras.Layer, "a Keras layer or model")
        check_instance("prior", prior, Distribution | Density, "a `Distribution` or a `FlowModel`")
        check_instance("posterior_flow", posterior_flow, Invertible | None, "a flow layer or model")
        if likelihood not in ("bernoulli", "normal"):
            raise ValueError(
                '`likelihood` should be "bernoulli" or "normal". '
                f"Received: likelihood={likelihood!r}"
            )
        weights = {"kl_weight": kl_weight, "entanglement_weight": entanglement_weight}
        for name, weight in weights.items():
            if not weight >= 0.0:
                raise ValueError(f"`{name}` should not be negative. Received: {name}={weight}")
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.posterior_flow = posterior_flow
        self.likelihood = likelihood
        self.variance = check_positive_number("variance", variance)
        self.kl_weight = float(kl_weight)
        self.entanglement_weight = float(entanglement_weight)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self._kl = keras.metrics.Mean(name="kl")

    def build(self, input_shape: Shape) -> None:
        """Builds all parts.

        Args:
            input_shape: Shape of the data, `[batch, ...]`, where the batch size may be `None`.
        """
        shape = (None, *input_shape[1:])
        mean, _, context = self._encode(keras.KerasTensor(shape, self.compute_dtype))
        z, _ = self._bend(mean, context)
        self.prior(z)
        decoded = self.decoder(z)
        if tuple(decoded.shape[1:]) != shape[1:]:
            raise ValueError(
                f"`decoder` should return outputs of shape {shape}, that of the data. "
                f"Received: outputs of shape {tuple(decoded.shape)}"
            )

    def _encode(
        self, x: Tensor, training: bool | None = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns means, logarithms of variances, and the arguments of the flow."""
        outputs = self.encoder(x, training=training)
        if not isinstance(outputs, list | tuple) or len(outputs) not in (2, 3):
            raise ValueError(
                "`encoder` should return a list of means and logarithms of variances, and possibly "
                f"a context. Received: {outputs}"
            )
        mean, log_variance, *context = outputs
        if tuple(mean.shape[1:]) != tuple(log_variance.shape[1:]):
            raise ValueError(
                "`encoder` should return means and logarithms of variances of the same shape. "
                f"Received: shapes {tuple(mean.shape)} and {tuple(log_variance.shape)}"
            )
        dtype = at_least_float32(self.compute_dtype)
        arguments = {"context": context[0]} if context else {}
        return ops.cast(mean, dtype), ops.cast(log_variance, dtype), arguments

    def _bend(self, z: Tensor, context: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Runs the flow of the posterior."""
        return (z, 0.0) if self.posterior_flow is None else self.posterior_flow(z, **context)

    def _draw(
        self, mean: Tensor, log_variance: Tensor, context: dict[str, Tensor], seed: Seed
    ) -> tuple[Tensor, Tensor]:
        """Draws from posteriors, and returns the samples and their log-densities, `[batch]`."""
        noise = draw_normal(ops.shape(mean), mean.dtype, seed)
        log_densities = standard_normal_log_density(noise) - 0.5 * log_variance
        z, log_det = self._bend(mean + ops.exp(0.5 * log_variance) * noise, context)
        return z, ops.sum(log_densities, axis=tuple(range(1, len(mean.shape)))) - log_det

    def _log_likelihood(self, x: Tensor, decoded: Tensor) -> Tensor:
        decoded = ops.cast(decoded, at_least_float32(self.compute_dtype))
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(x, decoded)
        return normal_log_likelihood(x, decoded, math.log(self.variance))

    def call(self, inputs: Tensor, training: bool | None = None) -> dict[str, Tensor]:
        """Encodes data, draws a latent vector for each instance, and decodes it.

        Args:
            inputs: The data, `[batch, ...]`.
            training: Whether the model is being trained.

        Returns:
            A dictionary of `"mean"`, the means from the encoder; `"kl"`, the divergences or their
            estimates, `[batch]`; and `"decoded"`, the outputs of the decoder, `[batch, ...]`.
        """
        mean, log_variance, context = self._encode(inputs, training)
        z, log_density = self._draw(mean, log_variance, context, self.seed_generator)
        if isinstance(self.prior, StandardNormal) and self.posterior_flow is None:
            kl = normal_kl(mean, log_variance)
        else:
            kl = log_density - self.prior.log_prob(z)
        return {"mean": mean, "kl": kl, "decoded": self.decoder(z, training=training)}

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the weighted negative ELBO; see `keras.Model.compute_loss`.

        Targets `y` are not used.
        """
        losses = self._compute_losses(x, y, y_pred)
        return average_losses(losses, sample_weight, self.losses)

    def _compute_losses(self, x: Tensor, y: Tensor | None, y_pred: Tensor) -> Tensor:
        """Computes the loss of each instance, `[batch]`."""
        losses = self.kl_weight * y_pred["kl"] - self._log_likelihood(x, y_pred["decoded"])
        if self.entanglement_weight:
            losses = losses + self.entanglement_weight * entanglement(y_pred["mean"])
        return losses

    def compute_metrics(
        self, x: Tensor, y: Tensor | None, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Updates the metrics; see `keras.Model.compute_metrics`."""
        self._kl.update_state(y_pred["kl"], sample_weight)
        elbo = self._log_likelihood(x, y_pred["decoded"]) - y_pred["kl"]
        return super().compute_metrics(x, x, elbo, sample_weight)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the latent vectors at the centres of posteriors.

        Args:
            x: The data, `[batch, ...]`.

        Returns:
            The means from the encoder, transformed by the flow if there is one, `[batch, ...]`.
        """
        mean, _, context = self._encode(self._to_tensor(x))
        return self._bend(mean, context)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Returns the expected data for latent vectors.

        Args:
            z: The latent vectors, `[batch, ...]`.

        Returns:
            The means of the likelihoods, `[batch, ...]`: between 0 and 1 for `"bernoulli"`.
        """
        return self._to_mean(self.decoder(self._to_tensor(z), training=False))

    def _to_mean(self, decoded: Tensor) -> Tensor:
        """Converts the outputs of the decoder to means of the likelihood."""
        return ops.sigmoid(decoded) if self.likelihood == "bernoulli" else decoded

    def sample(self, sample_count: int, seed: int | None = None) -> Tensor:
        """Draws latent vectors from the prior, and returns the expected data.

        Args:
            sample_count: The number of samples.
            seed: Non-negative integer that makes samples reproducible.

        Returns:
            The means of the likelihoods, `[sample_count, ...]`.
        """
        return self.decode(self.prior.sample(sample_count, seed=seed))

    def log_prob(self, x: Tensor, sample_count: int = 64, seed: int | None = None) -> Tensor:
        r"""Estimates log-likelihoods of data by importance sampling.

        .. math::
            \ln p(x) \approx \ln \frac{1}{S} \sum_{s=1}^S \frac{p(x | z_s) \, p(z_s)}{q(z_s | x)},
            \qquad z_s \sim q(z | x)

        On average, it is a lower bound, which becomes tighter as the number of samples grows. With
        one sample, it is the ELBO.

        Args:
            x: The data, `[batch, ...]`. All samples of all instances are processed at once, so pass
                large data in parts.
            sample_count: The number :math:`S` of samples per instance.
            seed: Non-negative integer that makes estimates reproducible.

        Returns:
            The estimates in nats, `[batch]`.

        References:
            - Burda, Y., Grosse, R. & Salakhutdinov, R. (2016). "Importance weighted autoencoders."
              `arXiv:1509.00519 <https://arxiv.org/abs/1509.00519>`_
        """
        sample_count = check_integer("sample_count", sample_count, minimum=1)
        x = self._to_tensor(x)
        copies = functools.partial(ops.repeat, repeats=sample_count, axis=0)
        mean, log_variance, context = keras.tree.map_structure(copies, self._encode(x))
        seed = self.seed_generator if seed is None else to_seed(seed)
        z, log_density = self._draw(mean, log_variance, context, seed)
        log_joint = self._log_likelihood(copies(x), self.decoder(z, training=False))
        log_weights = log_joint + self.prior.log_prob(z) - log_density
        log_weights = ops.reshape(log_weights, (-1, sample_count))
        return ops.logsumexp(log_weights, axis=1) - math.log(sample_count)

    def _to_tensor(self, x: Tensor) -> Tensor:
        return ops.convert_to_tensor(x, dtype=at_least_float32(self.compute_dtype))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            **{name: serialize(getattr(self, name)) for name in _PARTS},
            "likelihood": self.likelihood,
            "variance": self.variance,
            "kl_weight": self.kl_weight,
            "entanglement_weight": self.entanglement_weight,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "VariationalAutoencoder":
        """Creates a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            A model with the same configuration and weights of its own.
        """
        deserialize = functools.partial(
            keras.saving.deserialize_keras_object, custom_objects=custom_objects
        )
        return cls(**{**config, **{name: deserialize(config[name]) for name in _PARTS}})
