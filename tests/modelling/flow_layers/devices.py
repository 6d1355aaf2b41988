"""Trains models on one and on two devices of JAX, in a process of its own.

It prints, as JSON, the largest differences from one device.
"""

import json
import os

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
)

import keras
import numpy as np

from gyoza.data import CategoricalPairs
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    DisentanglingFlowModel,
    FlowModel,
)
from gyoza.modelling.losses import SupervisedFactorLoss

X = np.random.default_rng(0).normal(2.0, 3.0, size=(32, 4)).astype("float32")


def make_layers():
    return [ActivationNormalization(), AffineCoupling(conditioner=MLP([4]))]


def split_batches():
    return keras.distribution.DataParallel()


def split_weights():
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def train(model, x, **options):
    """Trains a model, and returns all numbers that should not depend on the devices."""
    model.build((None, 4))
    model.adapt(x)
    model.compile(keras.optimizers.SGD(1e-3), **options)
    # Keras would shuffle batches by numbers of which it draws others before.
    batch_size = 8 if isinstance(x, np.ndarray) else None
    history = model.fit(x, batch_size=batch_size, shuffle=False, verbose=0).history
    numbers = [*history["loss"], *model.get_weights(), model.log_prob(X), model.sample(3, seed=1)]
    return [keras.ops.convert_to_numpy(value) for value in numbers]


def train_on_arrays():
    return train(FlowModel(make_layers(), memory_efficient=True), X)


def train_on_pairs():
    pairs = CategoricalPairs(X, np.arange(32)[:, None] % 2, 8, seed=0)
    loss = SupervisedFactorLoss([2, 2])
    return train(DisentanglingFlowModel(make_layers()), pairs, loss=loss)


def run(train, distribution):
    """Runs a training with weights and batches distributed, and returns what it returns."""
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(distribution)
    results = train()
    keras.distribution.set_distribution(None)
    return results


def compare(a, b):
    """Returns the largest relative difference."""
    differences = (np.abs(x - y) / (1.0 + np.abs(x)) for x, y in zip(a, b, strict=True))
    return max(float(np.max(difference)) for difference in differences)


results = {}
for training in (train_on_arrays, train_on_pairs):
    expected = run(training, None)
    for make in (split_batches, split_weights):
        key = f"{training.__name__}, {make.__name__}"
        results[key] = compare(expected, run(training, make()))
print(json.dumps(results))
