"""Layers that fill the gaps between integers with noise, so that densities can be fitted."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import draw_normal, draw_uniform
from gyoza.modelling.axes import from_vectors, to_vectors
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.logistic import logistic_log_density
from gyoza.modelling.functions.normal import standard_normal_log_density
from gyoza.modelling.functions.tensors import clip, floor, larger, smaller
from gyoza.modelling.seeds import SeedGenerator
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["UniformDequantization", "VariationalDequantization", "ArgmaxDequantization"]

# The distance from 1 to the next number, where it is not that of float32.
_PRECISIONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_PRECISION = 2.0**-23
# Up to which numbers rounding never results in another integer, where there are no bounds.
_UNBOUNDED = 2**14


@keras.saving.register_keras_serializable(package="gyoza")
class UniformDequantization(FlowLayer):
    r"""Makes integers continuous by adding uniform noise, which `invert` removes.

    With :math:`n` integers :math:`x_i` from 0 to :math:`L - 1` per instance,

    .. math::
        y_i = \frac{x_i + u_i}{L}, \qquad u_i \sim \mathcal{U}(0, 1), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -n \ln L.

    A density can fit integers infinitely well, with meaningless spikes. With noise it cannot: the
    log-likelihood of a model that starts with this layer is, on average over the noise, a lower
    bound on the log-likelihood of the integers,

    .. math::
        \mathbb{E}_u \left[ \ln p \! \left( \frac{x + u}{L} \right) - n \ln L \right] \le \ln P(x).

    Every call draws new noise, so that `log_prob` differs from call to call; its mean over several
    calls comes closer to the left-hand side. The inverse, :math:`x_i = \lfloor L y_i \rfloor`, is
    exact, and samples of a model are integers from 0 to :math:`L - 1`: numbers outside
    :math:`[0, 1)` are moved to the nearest of these. Noise is kept away from 0 and 1 by the
    precision of the dtype, so that rounding never results in another integer.

    Where integers have no bounds, `levels` is `None`: the layer then only adds noise,
    :math:`y_i = x_i + u_i`, with log-determinants of 0, and takes negative integers, too.

    Integers are given as floating-point numbers. A NumPy array with other values raises an error;
    in tensors, whose values cannot be checked, such values make the log-determinant NaN.

    Args:
        levels: The number of integers, :math:`L`, at least 2: 256 for images with 8 bits. `None`
            for integers without bounds, which are exact up to 16384 in float32.
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        seed: Non-negative integer that makes the sequence of noise reproducible. If omitted, it is
            drawn from Python's generator, which `keras.utils.set_random_seed` seeds.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `levels` or `seed` is out of range, if there are too many levels for the
            dtype to tell them apart, or if the layer is called on a NumPy array with values other
            than integers from 0 to `levels - 1`.

    Attributes:
        seed_generator: The `keras.random.SeedGenerator` that noise is drawn with. On JAX, a
            function that you compile with `jax.jit` yourself needs `keras.StatelessScope`, because
            the state of the generator cannot be updated there.

    Example:

        >>> layer = gyoza.modelling.flow_layers.UniformDequantization(levels=4, seed=0)
        >>> outputs, log_det = layer(np.array([[0.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(log_det).round(4)  # -2 ln 4
        array([-2.7726], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs))
        array([[0., 3.]], dtype=float32)

    References:
        - Uria, B., Murray, I. & Larochelle, H. (2013). "RNADE: The real-valued neural
          autoregressive density-estimator." `arXiv:1306.0186 <https://arxiv.org/abs/1306.0186>`_
        - Theis, L., van den Oord, A. & Bethge, M. (2016). "A note on the evaluation of generative
          models." `arXiv:1511.01844 <https://arxiv.org/abs/1511.01844>`_
    """

    def __init__(
        self,
        levels: int | None = None,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.levels = None if levels is None else check_integer("levels", levels, minimum=2)
        self.seed = None if seed is None else check_integer("seed", seed)
        self.seed_generator = SeedGenerator(self.seed)
        # Rounding moves an output by less than this, in units of the inputs.
        most = _UNBOUNDED if self.levels is None else self.levels
        self._margin = most * _PRECISIONS.get(self.compute_dtype, _PRECISION)
        if self._margin >= 0.5:
            raise ValueError(
                "`levels` should be few enough for the dtype to tell them apart. Received: "
                f"levels={levels}, dtype={self.compute_dtype}"
            )

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Checks NumPy arrays, then runs `call`. The values of tensors may be unknown."""
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "f":
            is_level = inputs == np.floor(inputs)
            bounds = ""
            if self.levels is not None:
                is_level &= (inputs >= 0) & (inputs < self.levels)
                bounds = f" from 0 to {self.levels - 1}"
            if not np.all(is_level):
                raise ValueError(
                    f"The inputs of '{self.name}' should be integers{bounds}, as floating-point "
                    f"numbers. Received: {inputs[~is_level][0]}, among others"
                )
        return super().__call__(inputs, *args, **kwargs)

    def draw_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draws noise for integers.

        Args:
            x: Vectors of integers in `log_det_dtype`, `[batch, ..., dimension_count]`.

        Returns:
            The pair of noise between 0 and 1, in the shape of `x`, and the logarithms of its
            density, `[batch]`, or 0.
        """
        return draw_uniform(ops.shape(x), x.dtype, self.seed_generator), 0.0

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Adds noise.

        Args:
            inputs: Integers from 0 to `levels - 1`, as a floating-point tensor, `[batch, ...]`.

        Returns:
            The pair of outputs between 0 and 1, in the shape of `inputs`, and contributions to the
            log-likelihood, `[batch]`.
        """
        x = ops.cast(to_vectors(inputs, self._axes_, self._shape_), self.log_det_dtype)
        noise, log_density = self.draw_noise(x)
        noise = clip(noise, self._margin, 1.0 - self._margin)
        levels = self.levels or 1
        outputs = from_vectors((x + noise) / levels, self._axes_, self._shape_)
        is_level = x == floor(x)
        if self.levels is not None:
            is_level = is_level & (x >= 0.0) & (x < levels)
        log_slopes = ops.where(is_level, ops.zeros_like(x), math.nan) - math.log(levels)
        log_det = self.sum_log_det(inputs, log_slopes) - log_density
        return ops.cast(outputs, inputs.dtype), log_det

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Removes the noise; see :meth:`FlowLayer.inverse_transform`."""
        x = floor(ops.cast(outputs, self.log_det_dtype) * (self.levels or 1))
        if self.levels is not None:
            x = ops.clip(x, 0.0, self.levels - 1.0)
        return ops.cast(x, outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "levels": self.levels, "seed": self.seed}


@keras.saving.register_keras_serializable(package="gyoza")
class VariationalDequantization(UniformDequantization):
    r"""A :class:`UniformDequantization` whose noise is drawn from a flow that is also trained.

    .. math::
        y_i = \frac{x_i + u_i}{L}, \qquad u = \sigma(v), \qquad v \sim q(v | x), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = -n \ln L - \ln q(u | x).

    The density then need not be flat between integers, and the mean log-likelihood,

    .. math::
        \mathbb{E}_u \left[ \ln p \! \left( \frac{x + u}{L} \right) - n \ln L - \ln q(u | x) \right]
        \le \ln P(x),

    is a tighter bound. `fit` trains both flows together.

    Args:
        levels: See :class:`UniformDequantization`.
        noise_flow: The distribution :math:`q(v | x)`: a
            :class:`~gyoza.modelling.flow_layers.FlowModel`, usually a conditional one. Its
            instances are the vectors that this layer transforms, `[batch, dimension count]`, or,
            if some axes are not transformed, keep those: with `axes=[3]`, they are images. Its
            context, if it takes one, has the same shape, and holds :math:`(2 x_i + 1) / L - 1`,
            numbers between -1 and 1. With a :class:`~gyoza.modelling.distributions.Logistic` base
            distribution, a flow that is the identity makes noise uniform.
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`.
        seed: See :class:`UniformDequantization`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `noise_flow` is not a flow model.
        ValueError: See :class:`UniformDequantization`.

    Attributes:
        seed_generator: See :class:`UniformDequantization`.

    Example:

        >>> from gyoza.modelling import conditioners, distributions, flow_layers
        >>> coupling = flow_layers.AffineCoupling(conditioner=conditioners.MLP([16]))
        >>> noise_flow = flow_layers.FlowModel([coupling], distributions.Logistic())
        >>> layer = flow_layers.VariationalDequantization(levels=4, noise_flow=noise_flow, seed=0)
        >>> outputs, log_det = layer(np.array([[0.0, 3.0]], "float32"))
        >>> keras.ops.convert_to_numpy(layer.invert(outputs))
        array([[0., 3.]], dtype=float32)

    References:
        - Ho, J., Chen, X., Srinivas, A., Duan, Y. & Abbeel, P. (2019). "Flow++: Improving
          flow-based generative models with variational dequantization and architecture design."
          `arXiv:1902.00275 <https://arxiv.org/abs/1902.00275>`_
    """

    def __init__(
        self,
        levels: int,
        noise_flow: keras.Layer,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not (isinstance(noise_flow, Invertible) and hasattr(noise_flow, "sample_and_log_prob")):
            raise TypeError(
                "`noise_flow` should be a `FlowModel`. "
                f"Received: noise_flow={noise_flow} (of type {type(noise_flow)})"
            )
        levels = check_integer("levels", levels, minimum=2)
        super().__init__(levels, shape=shape, axes=axes, seed=seed, **kwargs)
        self.levels: int = levels
        self.noise_flow: keras.Layer = noise_flow

    def build(self, input_shape: Shape | None = None) -> None:
        """Builds the flow of the noise, once the shape of the inputs is known."""
        super().build(input_shape)
        if input_shape is not None:
            rest = [length for axis, length in enumerate(input_shape) if axis not in self._axes_]
            self._build_noise_flow((None, *rest[1:], self.dimension_count))

    def _build_noise_flow(self, shape: Shape) -> None:
        vectors = keras.KerasTensor(shape, self.log_det_dtype)
        self.noise_flow(vectors, **self._as_context(vectors))

    def _as_context(self, x: Tensor) -> dict[str, Any]:
        return {"context": x} if self.noise_flow.accepts_context else {}

    def draw_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draws noise from the flow; see :meth:`UniformDequantization.draw_noise`."""
        count = ops.shape(x)[0]
        if not (isinstance(count, int) or ops.is_tensor(count)):
            # Keras infers shapes on JAX with a symbol for the batch size.
            return super().draw_noise(x)
        if not self.noise_flow.built:
            self._build_noise_flow((None, *x.shape[1:]))
        context = (2.0 * x + 1.0) / self.levels - 1.0
        v, log_density = self.noise_flow.sample_and_log_prob(
            count, seed=self.seed_generator, **self._as_context(context)
        )
        v = ops.cast(v, x.dtype)
        log_slopes = self.sum_log_det(v, logistic_log_density(v))
        log_density = ops.cast(log_density, x.dtype) - log_slopes
        return ops.sigmoid(v), log_density

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        noise_flow = keras.saving.serialize_keras_object(self.noise_flow)
        return {**super().get_config(), "noise_flow": noise_flow}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VariationalDequantization":
        """Creates an equal layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        noise_flow = keras.saving.deserialize_keras_object(config["noise_flow"])
        return cls(**{**config, "noise_flow": noise_flow})


@keras.saving.register_keras_serializable(package="gyoza")
class ArgmaxDequantization(FlowLayer):
    r"""Makes categories continuous: the largest entry of an output says which one it is.

    Inputs are one-hot vectors :math:`x` of :math:`n` categories. Outputs are drawn from a normal
    distribution, and their largest entry is moved to the place of the category:

    .. math::
        y \sim q(y | x) = n \prod_{i=1}^n \mathcal{N}(y_i | 0, 1) \quad \text{where} \quad
        \arg \max_i y_i = \arg \max_i x_i, \\
        \log \left| \det \frac{\partial y}{\partial x} \right| = -\ln q(y | x).

    The log-likelihood of a model that starts with this layer is, on average over the noise, a lower
    bound on that of the categories, as with :class:`UniformDequantization`:

    .. math::
        \mathbb{E}_q \left[ \ln p(y) - \ln q(y | x) \right] \le \ln P(x).

    The bound is exact where the flow does not change the noise otherwise than by the probabilities
    of categories: where they are equally likely, a flow that is the identity has it already, with
    :math:`\ln P(x) = -\ln n`. The inverse is exact, and every sample of a model is a category.

    No category is nearer to another one, unlike those that are numbered for
    :class:`UniformDequantization`. That takes as many dimensions as there are categories, and
    likelihoods are usually lower after the same training; see :class:`gyoza.data.Table`.

    Args:
        shape: See :class:`FlowLayer`.
        axes: See :class:`FlowLayer`. The entries of a one-hot vector are along these axes.
        seed: See :class:`UniformDequantization`.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If `seed` is out of range, or the layer is called on a NumPy array with other
            vectors. In tensors, whose values cannot be checked, these make the log-determinant NaN.

    Attributes:
        seed_generator: See :class:`UniformDequantization`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.ArgmaxDequantization(seed=0)
        >>> x = np.array([[0.0, 1.0, 0.0]], "float32")
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs))
        array([[0., 1., 0.]], dtype=float32)
        >>> model = gyoza.modelling.flow_layers.FlowModel([layer])
        >>> keras.ops.convert_to_numpy(model.log_prob(x)).round(4)  # -ln 3
        array([-1.0986], dtype=float32)

    References:
        - Hoogeboom, E., Nielsen, D., Jaini, P., Forré, P. & Welling, M. (2021). "Argmax flows and
          multinomial diffusion: Learning categorical distributions." `arXiv:2102.05379
          <https://arxiv.org/abs/2102.05379>`_
    """

    def __init__(
        self,
        shape: Iterable[int] | None = None,
        axes: Iterable[int] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape=shape, axes=axes, **kwargs)
        self.seed = None if seed is None else check_integer("seed", seed)
        self.seed_generator = SeedGenerator(self.seed)

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensors:
        """Checks NumPy arrays, then runs `call`. The values of tensors may be unknown."""
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "f":
            axes = tuple(self._axes_ or range(1, inputs.ndim))
            is_code = np.all((inputs == 0) | (inputs == 1), axis=axes) & (inputs.sum(axes) == 1)
            if not np.all(is_code):
                raise ValueError(
                    f"The inputs of '{self.name}' should be one-hot vectors, with a 1 at the place "
                    f"of the category. Received: {np.sum(~is_code)} others, the first one at index "
                    f"{np.argwhere(~is_code)[0].tolist()}"
                )
        return super().__call__(inputs, *args, **kwargs)

    def transform(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Draws vectors whose largest entry is at the place of the category."""
        x = ops.cast(inputs, self.log_det_dtype)
        noise = draw_normal(ops.shape(x), x.dtype, self.seed_generator)
        is_largest = self._find_largest(noise)
        largest = ops.sum(is_largest * noise, axis=-1, keepdims=True)
        at_place = ops.sum(x * noise, axis=-1, keepdims=True)
        outputs = ops.where(is_largest > 0.5, at_place, noise)
        # So that rounding never makes another entry as large.
        margin = 2.0 * _PRECISIONS.get(self.compute_dtype, _PRECISION)
        others = largest - margin * larger(ops.abs(largest), 1.0)
        outputs = ops.where(x > 0.5, largest, smaller(outputs, others))
        outputs = ops.cast(outputs, inputs.dtype)
        log_densities = standard_normal_log_density(ops.cast(outputs, x.dtype))
        log_density = math.log(self.dimension_count) + ops.sum(log_densities, axis=-1)
        is_code = ops.all((x == 0.0) | (x == 1.0), axis=-1) & (ops.sum(x, axis=-1) == 1.0)
        return outputs, ops.where(is_code, -log_density, math.nan)

    def inverse_transform(self, outputs: Tensor) -> Tensor:
        """Finds the categories; see :meth:`FlowLayer.inverse_transform`. Those of NaN are NaN."""
        is_lost = ops.any(ops.isnan(outputs), axis=-1, keepdims=True)
        return ops.where(is_lost, math.nan, self._find_largest(outputs))

    def _find_largest(self, x: Tensor) -> Tensor:
        """Returns 1 at the place of the largest entry of each vector, and 0 elsewhere.

        There may be no vectors, of which `ops.max` would not take the maximum.
        """
        return ops.one_hot(ops.argmax(x, axis=-1), self.dimension_count, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "seed": self.seed}
