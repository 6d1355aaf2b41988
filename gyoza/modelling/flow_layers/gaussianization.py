"""Gaussianization flows: each dimension made normal by itself, between rotations."""

import statistics
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.adaptation import check_finite_rows, choose_scales, is_left_alone
from gyoza.modelling.batches import iterate_inputs
from gyoza.modelling.flow_layers.transforming import option
from gyoza.modelling.flow_layers.univariate import Elementwise
from gyoza.modelling.functions.initializers import given_values
from gyoza.modelling.transforms import GaussianizationTransform
from gyoza.typing import Data, Tensor

__all__ = ["MixtureGaussianization"]

# The scale of a component, as a fraction of the distance to the nearest other one, that makes
# outputs for normal, Laplacian, exponential and two-peaked data most nearly normal.
_OVERLAP = 0.6


@keras.saving.register_keras_serializable(package="gyoza")
class MixtureGaussianization(Elementwise):
    r"""Makes each dimension normal by the distribution function of a mixture of logistics.

    .. math::
        y_i = \Phi^{-1}(F_i(x_i)), \qquad
        F_i(x) = \sum_{k=1}^K w_{ik} \, \sigma \left( \frac{x - l_{ik}}{s_{ik}} \right), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_i \ln \frac{F_i'(x_i)}{\varphi(y_i)},

    where :math:`\sigma` is the logistic function, and :math:`\Phi` and :math:`\varphi` are
    distribution function and density of the standard normal distribution; see
    :class:`~gyoza.modelling.transforms.GaussianizationTransform`. If dimension :math:`i` of the
    data has the distribution function :math:`F_i`, its outputs are standard normal. This layer and
    :class:`Orthogonal`, in turn, are a Gaussianization flow. A new layer is fitted to standard
    normal data and hence almost the identity; :meth:`adapt` fits it to other data.

    All is computed from log-odds, in at least float32, so that values, log-determinants and
    gradients are finite and exact in the far tails, too. Logarithms of scales beyond ±80 count as
    ±80. The forward direction costs :math:`K` exponentials and logarithms per dimension. The
    inverse solves an equation for each dimension, in a compiled loop of such steps: about 8 on
    average, some 25 (float32) or 55 (float64) until the last one of a batch is done.

    What the inverse returns is mapped to its argument, to the last digits. But where components are
    far apart in units of their scales, nearly all numbers between them have the same output in
    float32, and any of them can be the inverse: its log-determinants are those at the number
    returned.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        component_count: The number of components of each mixture, :math:`K`, at least 2.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `component_count` is below 2.

    Attributes:
        locations: The weight :math:`l`, `[dimension_count, K]`.
        log_scales: The weight :math:`\ln s`, `[dimension_count, K]`.
        logits: The weight `[dimension_count, K]` of which a softmax makes :math:`w`.

    Example:

        >>> random = np.random.default_rng(0)
        >>> data = np.exp(random.normal(size=[1000, 2])).astype("float32")
        >>> layer = gyoza.modelling.flow_layers.MixtureGaussianization()
        >>> layer.adapt(data)
        >>> outputs = keras.ops.convert_to_numpy(layer(data)[0])
        >>> bool(np.all(np.abs(outputs.mean(0)) < 0.1) and np.all(np.abs(outputs.std(0) - 1) < 0.1))
        True

    References:
        - Meng, C., Song, Y., Song, J. & Ermon, S. (2020). "Gaussianization flows."
          `arXiv:2003.01941 <https://arxiv.org/abs/2003.01941>`_
    """

    component_count = option("component_count")

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        component_count: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, axes, GaussianizationTransform(component_count), **kwargs)

    def create_weights(self) -> None:
        """Creates mixtures that are nearly standard normal."""
        quantiles = _normal_quantiles(self._levels())
        locations = np.broadcast_to(quantiles, (self.dimension_count, self.component_count))
        scales = _choose_scales(locations, deviations=np.ones(self.dimension_count))
        self.locations, self.log_scales, self.logits = (
            self.add_weight(
                shape=values.shape,
                initializer=given_values(values),
                autocast=False,
                name=name,
            )
            for name, values in (
                ("locations", locations),
                ("log_scales", np.log(scales)),
                ("logits", np.zeros_like(scales)),
            )
        )

    def _levels(self) -> np.ndarray:
        return (np.arange(self.component_count) + 0.5) / self.component_count

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Fits the mixtures to `data`, such that outputs for `data` are nearly standard normal.

        The components of each dimension are placed at its quantiles, with equal weights. The scale
        of each is in proportion to the distance to the nearest other one, at least 1% of the
        standard deviation, which counts as 1 for a dimension that is constant in `data`. What was
        adapted is saved and loaded with the weights, and happens again only if this method is
        called again. A frozen layer is left as it is, with a warning. Another one says which
        dimensions cannot be resolved in the layer's dtype.

        Args:
            data: The inputs: an array `[instances, ...]`, or a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or another iterable of batches, whose inputs are
                taken (a pair of inputs counts as two batches). They are held in memory.
            batch_size: Number of instances in which an array is processed.

        Raises:
            TypeError: If `data` are not floating-point numbers.
            ValueError: If `data` is empty, or not finite; the weights are unchanged then.
        """
        if is_left_alone(self):
            return
        batches = list(iterate_inputs(data, batch_size))
        if not batches:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        x = np.concatenate(batches).astype("float64")
        check_finite_rows(self.name, x)
        if not self.built:
            self.build((None, *x.shape[1:]))
        rest = [axis for axis in range(x.ndim) if axis not in self._axes_]
        vectors = x.transpose(*rest, *self._axes_).reshape(-1, self.dimension_count)
        locations = np.quantile(vectors, self._levels(), axis=0).T
        deviations = choose_scales(
            self,
            vectors.mean(axis=0),
            vectors.std(axis=0),
            vectors.min(axis=0) == vectors.max(axis=0),
            batches[0].dtype,
        )
        self.locations.assign(locations)
        self.log_scales.assign(np.log(_choose_scales(locations, deviations)))
        self.logits.assign(np.zeros_like(locations))

    def expand_parameters(self, vectors: Tensor) -> Tensor:
        """Returns the parameters, `[dimension_count, 3 K]`, in `log_det_dtype`."""
        weights = self.logits, self.locations, self.log_scales
        return ops.concatenate([ops.cast(w, self.log_det_dtype) for w in weights], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        del config["transformer"]
        return {**config, "component_count": self.component_count}


def _normal_quantiles(levels: np.ndarray) -> np.ndarray:
    return np.array([statistics.NormalDist().inv_cdf(level) for level in levels])


def _choose_scales(locations: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Chooses scales of components with ascending locations, `[dimension_count, K]`.

    Args:
        locations: The locations, `[dimension_count, K]`.
        deviations: The standard deviations of the data, positive, `[dimension_count]`.
    """
    gaps = np.pad(np.diff(locations, axis=1), ((0, 0), (1, 1)), constant_values=np.inf)
    nearest = np.minimum(gaps[:, :-1], gaps[:, 1:])
    return np.maximum(_OVERLAP * nearest, 0.01 * deviations[:, np.newaxis])
