"""Trains a model in one of several processes of JAX, which share its batches or its weights.

Run as `processes.py FOLDER RANK COUNT PORT`. It writes, into the folder, all numbers that should
not depend on the number of processes.
"""

import sys

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import ActivationNormalization, AffineCoupling, FlowModel

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


def train(x, batch_size):
    """Returns losses and weights after two epochs."""
    keras.utils.set_random_seed(0)
    coupling = AffineCoupling(compute_coupling_parameters=MLP([4]))
    model = FlowModel([ActivationNormalization(), coupling])
    model.build((None, 4))
    model.adapt(X)
    model.compile(keras.optimizers.SGD(1e-2))
    history = model.fit(x, batch_size=batch_size, epochs=2, shuffle=False, verbose=0).history
    return [np.asarray(history["loss"]), *(gather(w.value) for w in model.weights)]


def gather(value):
    """Returns a whole tensor, of which this process may have a part."""
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


# A process has its share of each batch, or all of it where the weights are split.
share = X.reshape(-1, count, BATCH_SIZE // count, 4)[:, rank].reshape(-1, 4)
for name, make, inputs, size in (
    ("batches", split_batches, share, BATCH_SIZE // count),
    ("weights", split_weights, X, BATCH_SIZE),
):
    if count > 1:
        keras.distribution.set_distribution(make())
    np.savez(f"{folder}/{name}_{rank}_of_{count}.npz", *train(inputs, size))
