"""What the TensorFlow libraries share: Adam steps and measurements around their functions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from speed.cells import Cell, Work, make_batches
from speed.memory import get_counter

__all__ = [
    "get_batches",
    "make_likelihood_work",
    "make_mlp",
    "make_reflections_work",
    "make_training",
]


def make_likelihood_work(
    cell: Cell,
    log_prob: Callable[[tf.Tensor], tf.Tensor],
    sample: Callable[[], tf.Tensor],
    list_variables: Callable[[], Sequence[tf.Variable]],
    transform: Callable = tf.function,
) -> Work:
    """Makes work of functions that use variables.

    Args:
        cell: The cell.
        log_prob: Returns log-densities for a batch, and builds the variables when first called.
        sample: Returns a batch of samples.
        list_variables: Lists what is trained.
        transform: What each function passes through, such as `tf.function`.

    Returns:
        The work.
    """
    batches = get_batches(cell)
    log_prob(batches[0])
    train = make_training(
        lambda batch: -tf.reduce_mean(log_prob(batch)), list_variables(), batches, transform
    )
    transformed_log_prob, transformed_sample = transform(log_prob), transform(sample)
    return Work(
        train,
        lambda: transformed_log_prob(batches[0]).numpy(),
        lambda: transformed_sample().numpy(),
        _count(list_variables()),
        get_counter("tensorflow"),
    )


def make_training(
    compute_loss: Callable[[Any], tf.Tensor],
    variables: Sequence[tf.Variable],
    batches: Any,
    transform: Callable = tf.function,
) -> Callable[[int], np.ndarray]:
    """Makes the function that takes Adam steps on `batches`, in turn or from an iterator."""
    optimizer = tf.keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @transform
    def step(batch):
        with tf.GradientTape() as tape:
            loss = compute_loss(batch)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def train(steps: int) -> np.ndarray:
        for index in range(steps):
            batch = batches[index % len(batches)] if isinstance(batches, list) else next(batches)
            loss = step(batch)
        return loss.numpy()

    return train


def make_reflections_work(
    cell: Cell,
    forward: Callable[[tf.Tensor], tf.Tensor],
    inverse: Callable[[tf.Tensor], tf.Tensor],
    variables: Sequence[tf.Variable],
    transform: Callable = tf.function,
) -> Work:
    """Makes work of reflections; `forward` and `inverse` take a batch."""
    batches = get_batches(cell)
    cotangents = batches[-1]

    @transform
    def step(batch):
        with tf.GradientTape() as tape:
            tape.watch(batch)
            outputs = forward(batch)
        return outputs, tape.gradient(outputs, [batch, *variables], cotangents)

    forward, inverse = transform(forward), transform(inverse)

    def train(steps: int) -> list[np.ndarray]:
        for index in range(steps):
            _, gradients = step(batches[index % len(batches)])
        return [gradient.numpy() for gradient in gradients]

    return Work(
        train,
        lambda: forward(batches[0]).numpy(),
        lambda: inverse(batches[0]).numpy(),
        _count(variables),
        get_counter("tensorflow"),
    )


def get_batches(cell: Cell) -> list[tf.Tensor]:
    return [tf.constant(batch) for batch in make_batches(cell)]


def make_mlp(hidden: Sequence[int], output_size: int) -> tf.keras.Sequential:
    """Makes dense layers, with the last ones' kernel small so that couplings start mild."""
    small = tf.keras.initializers.VarianceScaling(1e-4, "fan_avg", "uniform")
    layers = [tf.keras.layers.Dense(units, activation="relu") for units in hidden]
    return tf.keras.Sequential(
        [*layers, tf.keras.layers.Dense(output_size, kernel_initializer=small)]
    )


def _count(variables: Sequence[tf.Variable]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)
