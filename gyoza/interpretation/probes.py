"""Small networks that read factors from hidden representations, and so judge exchanges."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from gyoza.interpretation.instances import Instances
from gyoza.interpretation.latents import slice_factors
from gyoza.interpretation.parts import create_variables, run_in_batches
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.metrics.codes import is_categorical

__all__ = ["JIT_COMPILE", "train_probe", "judge_exchanges"]

JIT_COMPILE = "auto" if keras.config.backend() == "jax" else False
"""Training takes a minute, which XLA would double; on JAX, Keras would otherwise run eagerly."""

_WIDTH, _EPOCH_COUNT, _LEAST_STEP_COUNT, _BATCH_SIZE = 256, 15, 20, 256
_EXCHANGE_COUNT = 2000
"""The number of held-out exchanges of each factor that are judged."""


def train_probe(instances: Instances, deviations: np.ndarray, seed: int) -> keras.Model:
    """Trains a small network that reads all factors.

    It sees the axes at their own relative scales, as the rest of the network does.

    Args:
        instances: Principal coordinates of variance 1, and their labels.
        deviations: The standard deviation along each principal axis.
        seed: Seed of weights and noise.

    Returns:
        The network, with one output for each factor: logits of classes, or a number.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(instances.values.shape[1:])
    variances = np.mean(deviations**2) / deviations**2
    x = layers.Normalization(mean=np.zeros_like(deviations), variance=variances)(inputs)
    x = layers.GaussianNoise(0.2)(x)
    for _ in range(2):
        x = layers.Dropout(0.2)(layers.Dense(_WIDTH, activation="gelu")(x))
    counts = [int(c.max()) + 1 if is_categorical(c) else 1 for c in instances.columns]
    probe = keras.Model(inputs, [layers.Dense(count)(x) for count in counts])
    # A small data set is repeated, since each epoch has a cost of its own.
    steps_per_epoch = -(-len(instances.values) // _BATCH_SIZE)
    copies = -(-_LEAST_STEP_COUNT // steps_per_epoch)
    step_count = copies * steps_per_epoch * _EPOCH_COUNT
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, step_count)
    probe.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        [
            keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            if is_categorical(column)
            else keras.losses.MeanSquaredError()
            for column in instances.columns
        ],
        jit_compile=JIT_COMPILE,
    )
    x, *y = (np.concatenate(copies * [a]) for a in (instances.values, *instances.columns))
    create_variables(probe, [column[:1] for column in y], probe(x[:1]))
    probe.fit(x, y, _BATCH_SIZE, _EPOCH_COUNT, verbose=0)
    return probe


def judge_exchanges(
    flow: FlowModel | None, judge: keras.Model, x: Instances, sizes: Mapping[str, int], seed: int
) -> np.ndarray:
    """Scores exchanges of each factor between random pairs of instances.

    Args:
        flow: The flow that maps instances to factors, or `None` to leave them unchanged.
        judge: A probe that reads the factors; see :func:`train_probe`.
        x: The instances.
        sizes: The sizes of the factors by name, the residual one first.
        seed: Seed of the pairs.

    Returns:
        The scores, `[pairs, 1 + K, K]`; see :class:`~gyoza.interpretation.FitReport`.
    """
    a, b = np.random.default_rng(seed).integers(len(x.values), size=[2, _EXCHANGE_COUNT])
    scores = np.empty([len(a), len(sizes), len(x.columns)])
    for row, block in enumerate(slice_factors(sizes).values()):
        values = x.values[a] if flow is None else _exchange(flow, x.values[a], x.values[b], block)
        readings = judge.predict(values, batch_size=1024, verbose=0)
        readings = readings if isinstance(readings, list) else [readings]
        for k, (reading, column) in enumerate(zip(readings, x.columns, strict=True)):
            wanted = column[b if flow is not None and row == 1 + k else a]
            is_finite = np.isfinite(reading).all(axis=1)  # others count as wrong
            if is_categorical(column):
                right = np.where(is_finite, reading.argmax(axis=-1) == wanted, 0.0)
                scores[:, row, k] = np.where(column[a] != column[b], right, np.nan)
            else:
                scores[:, row, k] = np.where(is_finite, 1.0 - (reading[:, 0] - wanted) ** 2, -1.0)
    return scores


def _exchange(flow: FlowModel, a: np.ndarray, b: np.ndarray, block: slice) -> np.ndarray:
    """Returns instances `a` with one block of the latent vectors of `b`."""
    z, z_b = (run_in_batches(lambda batch: flow(batch)[0], x, 4096) for x in (a, b))
    z[:, block] = z_b[:, block]
    return run_in_batches(flow.invert, z, 4096)
