"""What tests of flow matching share: known velocities, and data."""

import keras
import numpy as np

from gyoza.modelling.conditioners import OptionalContext


def compute_slope(time, deviation):
    """The slope of velocities of straight paths from standard normal to normal points."""
    variance = (1.0 - time) ** 2 + (deviation * time) ** 2
    return (deviation**2 * time - (1.0 - time)) / variance


@keras.saving.register_keras_serializable(package="gyoza_tests")
class GaussianVelocity(keras.Layer):
    """The velocity of straight paths from standard normal points to normal data, on average."""

    def __init__(self, mean=2.0, deviation=0.5, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.deviation = mean, deviation

    def call(self, inputs):
        x, time = inputs
        return self.mean + compute_slope(time, self.deviation) * (x - time * self.mean)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}


def normal(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


def normal_log_prob(x, mean, deviation):
    z = (x[:, 0] - mean) / deviation
    return -0.5 * z**2 - np.log(deviation * np.sqrt(2.0 * np.pi))


def make_labelled_data(count):
    labels = np.arange(count)[:, None] % 2
    x = normal(count, 2) * 0.3 + np.array([10.0, 5.0]) + 4.0 * labels * np.array([1.0, 0.0])
    return {"inputs": x.astype("float32"), "context": labels}


def make_encoder(rate=0.2):
    encoder = keras.Sequential([keras.layers.Embedding(2, 4), keras.layers.Flatten()])
    return OptionalContext(encoder, rate, seed=0)
