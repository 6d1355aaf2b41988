"""Trains a model in one of several processes of JAX, which share its batches or its weights.

Run as `processes.py FOLDER RANK COUNT PORT`. It writes, into the folder, all numbers that should
not depend on the number of processes.
"""

import sys

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from gyoza.data import CategoricalPairs
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    DisentanglingFlowModel,
    FlowModel,
)
from gyoza.modelling.losses import SupervisedFactorLoss

folder, rank, count, port = sys.argv[1], *map(int, sys.argv[2:])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, rank)

X = np.random.default_rng(0).normal(2.0, 3.0, size=(32, 4)).astype("float32")
BATCH_SIZE = 8


def split_batches():
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def split_weights():
    mesh = keras.distribution.DeviceMesh((1, count), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
    )


class Share(keras.utils.PyDataset):
    """The share of a process in the batches of a source of pairs."""

    def __init__(self, source, rows):
        super().__init__()
        self.source, self.rows = source, rows

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return keras.tree.map_structure(lambda array: array[self.rows], self.source[index])

    def on_epoch_end(self):
        self.source.on_epoch_end()


def train_on_arrays(rows):
    """Trains on some rows of each batch."""
    x = X.reshape(-1, BATCH_SIZE, 4)[:, rows]
    return train(FlowModel, X, x.reshape(-1, 4), x.shape[1])


def train_on_pairs(rows):
    """Trains on some rows of each batch of pairs, and adapts to all pairs of the first epoch."""
    source = CategoricalPairs(X, np.arange(len(X)) % 2, BATCH_SIZE, seed=0)
    loss = SupervisedFactorLoss([2, 2])
    return train(DisentanglingFlowModel, source, Share(source, rows), loss=loss)


def train(make, everything, x, batch_size=None, **options):
    """Returns losses, weights, densities and samples after two epochs."""
    keras.utils.set_random_seed(0)
    coupling = AffineCoupling(conditioner=MLP([4]))
    model = make([ActivationNormalization(), coupling])
    model.build((None, 4))
    model.adapt(everything)
    model.compile(keras.optimizers.SGD(1e-2), **options)
    history = model.fit(x, batch_size=batch_size, epochs=2, shuffle=False, verbose=0).history
    weights = [gather(weight.value) for weight in model.weights]
    return [
        np.asarray(history["loss"]),
        *weights,
        gather(model.log_prob(X)),
        gather(model.sample(3, seed=1)),
    ]


def gather(value):
    """Returns a whole tensor, of which this process may have a part."""
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


# A process has its share of each batch, or all of it where the weights are split.
size = BATCH_SIZE // count
for name, make, rows in (
    ("batches", split_batches, slice(rank * size, (rank + 1) * size)),
    ("weights", split_weights, slice(None)),
):
    if count > 1:
        keras.distribution.set_distribution(make())
    for data, train_on in (("arrays", train_on_arrays), ("pairs", train_on_pairs)):
        np.savez(f"{folder}/{name}_{data}_{rank}_of_{count}.npz", *train_on(rows))
