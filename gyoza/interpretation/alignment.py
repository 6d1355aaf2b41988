"""Training of flows by the answers that a network gives after an exchange of factors."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.data.pairs.base import PairSource, to_instances
from gyoza.interpretation.factor_sizes import name_factors
from gyoza.interpretation.latents import check_parts, check_sizes, get_flow_shape
from gyoza.interpretation.parts import create_variables
from gyoza.modelling.factors import index_factors
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.freezing import TrainsPart, leave_out
from gyoza.modelling.functions.checks import check_number_not_negative
from gyoza.modelling.functions.tensors import mean
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.training import PreparesCallbacks
from gyoza.typing import Data, Tensor, Tensors

__all__ = ["SwapTraining", "SwapPairs"]


@keras.saving.register_keras_serializable(package="gyoza")
class SwapTraining(PreparesCallbacks, TrainsPart, keras.Model):
    r"""Trains a flow through the frozen tail of a network, by its answers after a swap of factors.

    The flow :math:`T` maps hidden representations :math:`a` and :math:`b` to factors. One of them,
    :math:`F`, is exchanged, and the tail :math:`g` runs the rest of the network:

    .. math::
        y = g\left(T^{-1}(z)\right), \qquad
        z_i = \begin{cases} T(b)_i & \text{dimension } i \text{ belongs to factor } F \\
        T(a)_i & \text{otherwise.} \end{cases}

    Called on `(a, b, factor)`, the model returns these answers. It is compiled with any Keras loss
    and fitted to the answers that the exchange should lead to: that of `b` if the factor determines
    the answer, and that of `a` otherwise, as :class:`SwapPairs` provides them:

    .. code-block:: python

        model = SwapTraining(flow, tail, dimensions_per_factor)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(SwapPairs(hidden, answers, dimensions_per_factor, "digit"))

    This is distributed alignment search; the published case has an orthogonal layer as the flow.
    Only the flow is trained. The tail runs in inference mode, and its weights are listed among the
    non-trainable ones although their own `trainable` is left as it is.

    A flow that is trained by answers alone need not find factors of the data, and one that is
    flexible enough may reach the right answers through representations that no data have. To keep
    it close to the data, a `likelihood_weight` adds the likelihood of both instances to the loss.
    Judge the result on held-out data, and compare it with a network that has learnt nothing.

    Args:
        flow: The flow :math:`T`, built, with latent vectors `[batch, n]`.
        tail: The Keras model :math:`g`, built, from hidden representations to outputs.
        dimensions_per_factor: See :class:`Interpreter`.
        likelihood_weight: The weight :math:`\lambda` of the
            :class:`~gyoza.modelling.losses.SupervisedFactorLoss` of the pair :math:`(a, b)`, in
            nats, that is added to the loss. The two are taken to be independent, so that no factor
            correlates, unless correlations are given as a fourth input.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        TypeError: If the flow is not a `FlowModel`, the tail is not a Keras layer, or sizes are not
            integers.
        ValueError: If flow or tail are not built, the sizes do not sum to the number of latent
            dimensions, `likelihood_weight` is negative, or inputs do not have the right shapes.

    Example:
        The tail reads the first dimension, which a rotation finds:

        >>> from gyoza import interpretation
        >>> from gyoza.modelling import flow_layers
        >>> tail = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False)])
        >>> tail.set_weights([np.array([[1.0], [0.0]])])
        >>> flow = flow_layers.FlowModel([flow_layers.Orthogonal([2])])
        >>> flow.build((None, 2))
        >>> model = interpretation.SwapTraining(flow, tail, {"residual": 1, "read": 1})
        >>> hidden = np.random.default_rng(0).normal(size=[256, 2]).astype("float32")
        >>> pairs = interpretation.SwapPairs(
        ...     hidden, hidden[:, :1], model.dimensions_per_factor, "read", batch_size=32, seed=0
        ... )
        >>> model.compile(keras.optimizers.Adam(0.05), "mse")
        >>> history = model.fit(pairs, epochs=10, verbose=0)
        >>> history.history["loss"][-1] < 0.01
        True

    References:
        - Geiger, A., Wu, Z., Potts, C., Icard, T. & Goodman, N. D. (2024). "Finding alignments
          between interpretable causal variables and distributed neural representations."
          `arXiv:2303.02536 <https://arxiv.org/abs/2303.02536>`_
        - Sutter, D., Minder, J., Hofmann, T. & Pimentel, T. (2025). "The non-linear representation
          dilemma: Is causal abstraction enough for mechanistic interpretability?"
          `arXiv:2507.08802 <https://arxiv.org/abs/2507.08802>`_
    """

    def __init__(
        self,
        flow: FlowModel,
        tail: keras.Layer,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        likelihood_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_parts(flow, tail=tail)
        self.dimensions_per_factor = name_factors(dimensions_per_factor)
        check_sizes(flow, self.dimensions_per_factor)
        self.flow, self.tail = flow, tail
        self.likelihood_weight = check_number_not_negative("likelihood_weight", likelihood_weight)
        self.built = True

    @property
    def _untrained(self) -> list[keras.Layer]:
        """The weights of the tail."""
        return leave_out(self.tail.weights, self.flow.weights)

    def call(self, inputs: Tensors, training: bool | None = None) -> Tensors:
        """Exchanges a factor, and runs the rest of the network.

        Args:
            inputs: The tensors `(a, b, factor)`: hidden representations `a` and `b`, `[batch,
                ...]`, and what `a` gets from `b`: the index of a factor, `[batch]` or `[batch, 1]`,
                or 1 for factors that are exchanged and 0 for all others, `[batch, factor count]`.
                With a `likelihood_weight`, there may be a fourth tensor: the correlation of the
                pair in each factor, `[batch, factor count]`.
            training: Whether the flow is being trained.

        Returns:
            The outputs of the tail. They are NaN, and so is the loss, if there is no factor with
            the given index, since compiled code cannot raise an error.
        """
        if len(inputs) not in (3, 4):
            raise ValueError(
                "Inputs should be `(a, b, factor)` or `(a, b, factor, correlation)`. "
                f"Received: {len(inputs)} inputs"
            )
        a, b, factor, *others = inputs
        both = ops.concatenate([a, b], axis=0)
        z, log_det = self.flow(
            ops.reshape(both, (-1, *get_flow_shape(self.flow)[1:])), training=training
        )
        z_a, z_b = ops.split(z, 2, axis=0)
        if self.likelihood_weight > 0.0:
            self.add_loss(self._compute_likelihood_loss(z_a, z_b, log_det, *others))
        factor = ops.convert_to_tensor(factor)
        z = ops.where(self._find_exchanged(factor), self._choose_givers(z_b), z_a)
        if _holds_indices(factor):
            factors = ops.arange(len(self.dimensions_per_factor), dtype=factor.dtype)
            is_known = ops.any(ops.reshape(factor, (-1, 1)) == factors, axis=1, keepdims=True)
            z = ops.where(is_known, z, np.nan)
        hidden = self.flow.invert(z)
        return self.tail(ops.reshape(hidden, ops.shape(a)), training=False)

    def fit(self, x: Data = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the flow; see `keras.Model.fit`.

        Args:
            x: A source such as :class:`SwapPairs`, or anything else that Keras takes.
            *args: Further arguments of `keras.Model.fit`.
            **kwargs: Likewise.

        Returns:
            The `keras.callbacks.History`.
        """
        if self.compiled and isinstance(x, keras.utils.PyDataset):
            (a, *_), y, *_ = x[0]
            outputs = self.tail(ops.convert_to_tensor(a[:1]), training=False)
            create_variables(self, keras.tree.map_structure(lambda values: values[:1], y), outputs)
        return super().fit(x, *args, **kwargs)

    def _choose_givers(self, z_b: Tensor) -> Tensor:
        """Returns the latent vectors that each instance `a` gets a factor from."""
        return z_b

    def _find_exchanged(self, factor: Tensor) -> Tensor:
        """Returns which latent dimensions are exchanged, `[batch, n]`."""
        sizes = list(self.dimensions_per_factor.values())
        factors = index_factors(sizes)
        if _holds_indices(factor):
            factors = ops.convert_to_tensor(factors, dtype=factor.dtype)
            return ops.reshape(factor, (-1, 1)) == factors
        if len(factor.shape) != 2 or factor.shape[1] != len(sizes):
            raise ValueError(
                "`factor` should be the index of a factor, [batch], or hold 1 for each factor that "
                f"is exchanged, [batch, {len(sizes)}]. Received: factor.shape={factor.shape}"
            )
        return ops.take(factor, factors, axis=1) > 0

    def _compute_likelihood_loss(
        self, z_a: Tensor, z_b: Tensor, log_det: Tensor, correlations: Tensor | None = None
    ) -> Tensor:
        sizes = list(self.dimensions_per_factor.values())
        if correlations is None:
            correlations = ops.zeros((ops.shape(z_a)[0], len(sizes)), dtype=log_det.dtype)
        of_pairs = ops.concatenate(
            [
                ops.cast(z_a, log_det.dtype),
                ops.cast(z_b, log_det.dtype),
                *ops.split(log_det[:, None], 2, axis=0),
            ],
            axis=1,
        )
        losses = SupervisedFactorLoss(sizes, reduction=None)(correlations, of_pairs)
        return self.likelihood_weight * mean(losses)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` creates an equal model."""
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
            "tail": keras.saving.serialize_keras_object(self.tail),
            "dimensions_per_factor": dict(self.dimensions_per_factor),
            "likelihood_weight": self.likelihood_weight,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "SwapTraining":
        """Creates a model from what `get_config` returned.

        Args:
            config: The configuration.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            A model with the same configuration and weights of its own.
        """
        config = dict(config)
        for name in ("flow", "tail"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


class SwapPairs(PairSource):
    """Pairs for :class:`SwapTraining`: an exchange of one factor, and the answer it should lead to.

    Every instance is the first one, `a`, of one pair per epoch, and gets a factor from another one,
    `b`, drawn at random. In half of the pairs, this is the factor that determines the answer, which
    should become that of `b`. In the other half, it is one of the remaining factors, each with the
    same probability, and the answer should stay that of `a`.

    Args:
        hidden: Hidden representations, `[N, ...]`.
        answers: Their answers, `[N, ...]`, as the compiled loss expects them: labels, or the
            answers of the network itself.
        dimensions_per_factor: See :class:`Interpreter`.
        factor: The name of the factor that determines the answers.
        batch_size: The number of pairs in a batch.
        shuffle: Whether to draw new pairs, in a new order, after every epoch.
        seed: Integer that determines the pairs of every epoch. Drawn if omitted.
        **kwargs: Arguments of `keras.utils.PyDataset`.

    Raises:
        TypeError: If sizes are not integers.
        ValueError: If there are not as many answers as representations, or fewer than two; or if
            `factor` is not the name of a factor, or is the only one that has dimensions.

    Example:

        >>> from gyoza import interpretation
        >>> hidden = np.arange(4.0)[:, None]
        >>> pairs = interpretation.SwapPairs(
        ...     hidden, 10.0 * hidden[:, 0], {"residual": 1, "size": 1}, "size", seed=1
        ... )
        >>> (a, b, factor), answers = pairs[0]
        >>> np.concatenate([a, b, factor, answers[:, None]], axis=1)
        array([[ 0.,  1.,  0.,  1., 10.],
               [ 1.,  2.,  0.,  1., 20.],
               [ 2.,  1.,  1.,  0., 20.],
               [ 3.,  2.,  0.,  1., 20.]])
    """

    def __init__(
        self,
        hidden: Tensor,
        answers: Tensor,
        dimensions_per_factor: Mapping[str, int] | Iterable[int],
        factor: str,
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        sizes = name_factors(dimensions_per_factor)
        hidden, answers = to_instances(hidden), np.asarray(answers)
        if answers.shape[:1] != hidden.shape[:1]:
            raise ValueError(
                f"`answers` should hold one for each of the {len(hidden)} representations. "
                f"Received: answers.shape={answers.shape}"
            )
        self._others = [
            index for index, name in enumerate(sizes) if name != factor and sizes[name] > 0
        ]
        if not sizes.get(factor) or not self._others:
            raise ValueError(
                "`factor` should be the name of a factor that has dimensions, and not the only "
                f"one. Received: factor={factor!r}, dimensions_per_factor={sizes}"
            )
        self._determining = list(sizes).index(factor)
        self._hidden, self._answers = hidden, answers
        targets = np.eye(len(sizes), dtype="float32")
        super().__init__(np.arange(len(hidden)), targets, batch_size, shuffle, seed, **kwargs)
        self.set_epoch(0)

    def _draw_partners(
        self, rng: np.random.Generator, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(first)
        second = (first + rng.integers(1, count, size=count)) % count
        others = rng.choice(self._others, size=count)
        return second, np.where(rng.random(count) < 0.5, self._determining, others)

    def __getitem__(self, index: int) -> tuple[Tensors, np.ndarray]:
        """Returns a batch of the current epoch.

        Args:
            index: Position of the batch in the epoch.

        Returns:
            `((a, b, factor), answers)`, where `a` and `b` have shape `[batch, ...]`, `factor` is 1
            for the factor that is exchanged and 0 for all others, `[batch, factor count]`, and
            `answers` has shape `[batch, ...]`.

        Raises:
            IndexError: If there is no such batch.
        """
        (first, second), factor = super().__getitem__(index)
        giver = np.where(factor[:, self._determining] > 0.0, second, first)
        return (self._hidden[first], self._hidden[second], factor), self._answers[giver]


def _holds_indices(factor: Tensor) -> bool:
    """Returns whether a tensor holds indices of factors, and not a flag for each factor."""
    return len(factor.shape) == 1 or factor.shape[1] == 1
