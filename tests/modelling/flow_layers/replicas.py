"""Trains models on one and on two devices of TensorFlow, in a process of its own.

It prints, as JSON, the largest differences between the two. As `replicas.py arrays`, it trains on
arrays, and prints samples that replicas draw, too; as `replicas.py sources`, on sources of pairs.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from gyoza.callbacks import ResumableTraining
from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    DisentanglingFlowModel,
    FlowModel,
    VariationalModel,
)
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.metrics import BitsPerDimension

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(2.0, 3.0, size=(32, 4)).astype("float32")
WEIGHTS = RANDOM.uniform(0.0, 3.0, size=32).astype("float32")
CORRELATIONS = np.tile(np.array([[0.0, 0.9]], "float32"), (16, 1))


def make_layers():
    network = keras.layers.Dense(4, kernel_regularizer="l2")
    coupling = AdditiveCoupling(conditioner=network)
    return [
        ActivationNormalization(),
        coupling,
        AffineCoupling(conditioner=MLP([4])),
    ]


def make_autoencoder():
    """Makes a model whose random numbers are too small to matter."""
    inputs = keras.Input([4])
    log_variances = keras.layers.Dense(
        2, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-60.0)
    )
    encoder = keras.Model(inputs, [keras.layers.Dense(2)(inputs), log_variances(inputs)])
    decoder = keras.layers.Dense(4, kernel_regularizer="l2")
    return VariationalAutoencoder(encoder, decoder, likelihood="normal")


def train(
    strategy, make, x, y=None, sample_weight=None, methods=False, adapts=None, **compile_options
):
    """Trains a model, and returns all numbers that should not depend on the devices.

    Those of `log_prob` and `sample` are among them if there are to be `methods`. A model that
    `adapts`, `"within"` or `"outside"` of the scope of the strategy, is built when it does.
    """
    keras.utils.set_random_seed(0)
    data = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": 8, "verbose": 0}
    if isinstance(x, keras.utils.PyDataset):
        x.set_epoch(0)
        data["batch_size"] = None
    with strategy.scope():
        model = make()
        if adapts is None:
            model.build((None, 4))
        if adapts == "within":
            model.adapt(x)
        # Keras leaves out XLA on several devices, and it takes longest to compile.
        model.compile(keras.optimizers.SGD(1e-3), jit_compile=False, **compile_options)
    if adapts == "outside":
        model.adapt(x)
    history = model.fit(**data, shuffle=False, epochs=2).history
    evaluated = model.evaluate(**data, return_dict=True)
    numbers = [*history.values(), *evaluated.values(), *model.get_weights()]
    if methods:
        numbers += [model.log_prob(X), model.sample(3, seed=1)]
    return [keras.ops.convert_to_numpy(value) for value in numbers]


def compare(*args, **kwargs):
    """Returns the largest relative difference between training on one and on two devices."""
    one, two = (train(strategy, *args, **kwargs) for strategy in (ONE, TWO))
    differences = (np.abs(a - b) / (1.0 + np.abs(a)) for a, b in zip(one, two, strict=True))
    return max(float(np.max(difference)) for difference in differences)


def draw():
    """Returns what two replicas draw, and how far a loss under a strategy is off."""
    with TWO.scope():
        flow = FlowModel([ActivationNormalization([2])])
        flow.build((None, 2))
        # Target and flow are the same normal distribution, so that all samples have one loss.
        model = VariationalModel(flow, lambda x: -0.5 * keras.ops.sum(x**2, axis=-1))
        model.compile(keras.optimizers.SGD(0.0))
    loss = model.evaluate(batch_size=8, steps=2, verbose=0)
    drawn = TWO.run(tf.function(lambda: flow.base_distribution.sample(2)))
    drawn = [np.asarray(part).tolist() for part in TWO.experimental_local_results(drawn)]
    return drawn, abs(loss + np.log(2.0 * np.pi))


def find_error():
    """Returns why training on two devices cannot be resumed."""
    with TWO.scope():
        flow = FlowModel([ActivationNormalization([4])])
        flow.compile("sgd")
    try:
        flow.fit(X, callbacks=[ResumableTraining("backup")], verbose=0)
    except ValueError as error:
        return str(error)


cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
ONE, TWO = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
factors = SupervisedFactorLoss([2, 2])


def compare_on_arrays():
    samples, variational = draw()
    return {
        "likelihood": compare(
            lambda: FlowModel(make_layers()),
            X,
            sample_weight=WEIGHTS,
            methods=True,
            metrics=[BitsPerDimension()],
        ),
        "memory_efficient": compare(
            lambda: FlowModel(make_layers(), memory_efficient=True), X, adapts="outside"
        ),
        "pairs": compare(
            lambda: DisentanglingFlowModel(make_layers()),
            (X[:16], X[16:]),
            CORRELATIONS,
            loss=factors,
        ),
        "autoencoder": compare(make_autoencoder, X, sample_weight=WEIGHTS),
        "variational": variational,
        "samples": samples,
        "error": find_error(),
    }


def compare_on_sources():
    labels, values = np.arange(32) % 2, RANDOM.normal(size=32)
    options = {"methods": True, "adapts": "within", "loss": factors}
    return {
        type(source).__name__: compare(
            lambda: DisentanglingFlowModel(make_layers()), source, **options
        )
        for source in (
            CategoricalPairs(X, labels, 8, seed=0),
            ContinuousPairs(X, values, 0.9, 8, seed=0),
        )
    }


print(json.dumps({"arrays": compare_on_arrays, "sources": compare_on_sources}[sys.argv[1]]()))
