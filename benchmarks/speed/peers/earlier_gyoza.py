"""The library published as gyoza 0.2.2: flows of TensorFlow's Keras models.

Its `fit` takes eager steps, and fails without validation data. The variant `"eager"` takes the
same steps without `fit`; `"compiled"` passes them through `tf.function`, which the library does not
do by itself and which its loss for pairs does not allow.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from gyoza.modelling import data_iterators, flow_layers, masks
from speed.cells import Cell, Work, make_batches
from speed.peers.tensorflow_peers import (
    make_likelihood_work,
    make_mlp,
    make_reflections_work,
    make_training,
)

__all__ = ["PACKAGES", "make"]

PACKAGES = ["gyoza", "tensorflow", "tf-keras"]


def make(cell: Cell, variant: str) -> Work | None:
    transform = _keep_eager if variant == "eager" else tf.function
    if cell.kind == "reflections":
        layer = flow_layers.Reflection([cell.size], [1], reflection_count=cell.depth)
        return make_reflections_work(
            cell, layer, layer.invert, layer.trainable_variables, transform
        )
    if cell.kind == "pairs" and variant == "eager":
        return _make_pairs(cell)
    if cell.kind not in ("additive", "affine"):
        return None
    layers = _make_affine(cell) if cell.kind == "affine" else _make_additive(cell)
    model = flow_layers.SequentialFlowNetwork(layers)

    def log_prob(x: tf.Tensor) -> tf.Tensor:
        squares = tf.reduce_sum(model(x) ** 2, axis=1)
        constant = cell.size * math.log(2 * math.pi)
        return model.compute_jacobian_determinant(x) - 0.5 * (squares + constant)

    def sample() -> tf.Tensor:
        return model.invert(tf.random.normal([cell.batch, *cell.shape]))

    return make_likelihood_work(
        cell, log_prob, sample, lambda: model.trainable_variables, transform
    )


def _keep_eager(function: Callable) -> Callable:
    return function


def _make_additive(cell: Cell) -> list[flow_layers.FlowLayer]:
    where = {"shape": [cell.size], "axes": [1]}
    return [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.ActivationNormalization(**where),
            flow_layers.AdditiveCoupling(
                **where,
                compute_coupling_parameters=make_mlp(cell.hidden, cell.size),
                mask=masks.Heaviside(**where),
            ),
            flow_layers.Heaviside(**where),
        )
    ]


def _make_affine(cell: Cell) -> list[flow_layers.FlowLayer]:
    where = {"shape": [cell.size], "axes": [1]}
    return [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.AffineCoupling(
                **where,
                compute_coupling_parameters=_ScaleAndShift(cell),
                mask=masks.Heaviside(**where),
            ),
            flow_layers.Heaviside(**where),
        )
    ]


class _ScaleAndShift(tf.keras.Model):
    """An MLP whose outputs come as the list that `AffineCoupling` asks for.

    Outputs for the half that conditions are zero, since the layer's log-determinant adds them.
    """

    def __init__(self, cell: Cell):
        super().__init__()
        self._mlp = make_mlp(cell.hidden, cell.size)

    def call(self, x: tf.Tensor) -> list[tf.Tensor]:
        log_scale, shift = tf.split(self._mlp(x), 2, axis=1)
        zeros = tf.zeros_like(shift)
        return [tf.concat([half, zeros], axis=1) for half in (tf.tanh(log_scale), shift)]


def _make_pairs(cell: Cell) -> Work:
    model = flow_layers.SupervisedFactorNetwork(
        _make_additive(cell), dimensions_per_factor=[32, 16, 16]
    )
    model.compile(tf.keras.optimizers.Adam(1e-3))  # as `fit` wants it
    x = make_batches(cell).reshape(-1, cell.size)
    labels = np.random.default_rng(1).integers(4, size=[len(x), 2])
    pairs = data_iterators.volatile_factorized_pair_iterator(
        x, labels, _compare, cell.batch, minimum_similarity=1
    )
    model(tf.constant(x[: cell.batch]))
    variables = model.trainable_variables
    return Work(
        make_training(model.compute_loss, variables, pairs, _keep_eager),
        weight_count=sum(int(np.prod(variable.shape)) for variable in variables),
    )


def _compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns 1 for each factor in which two instances have the same class, and 0 for residuals."""
    return np.concatenate([np.zeros([len(first), 1]), first == second], axis=1)
