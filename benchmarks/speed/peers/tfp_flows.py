"""TensorFlow Probability: its bijectors, with networks of Keras 2 (tf-keras)."""

import functools

import tensorflow as tf
import tensorflow_probability as tfp

from speed.cells import Cell, Work
from speed.peers.tensorflow_peers import make_likelihood_work, make_mlp, make_reflections_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["tensorflow-probability", "tensorflow", "tf-keras"]
_BIN_COUNT, _BOUND = 8, 5.0
tfb, tfd = tfp.bijectors, tfp.distributions


def make(cell: Cell, variant: str) -> Work | None:
    transform = functools.partial(tf.function, jit_compile=variant == "compiled")
    if cell.kind == "reflections":
        return _make_reflections(cell, transform)
    if cell.kind == "glow":
        bijector, size = _make_glow(cell), (cell.size,)
        networks = [bijector]
    elif cell.kind in _LAYERS:
        pairs = [_LAYERS[cell.kind](index, cell) for index in range(cell.depth)]
        networks = [network for network, _ in pairs]
        bijector, size = tfb.Chain([layer for _, layer in pairs]), cell.shape
    else:
        return None
    flow = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(size)), bijector)

    def list_variables() -> list[tf.Variable]:
        return [variable for network in networks for variable in network.trainable_variables]

    return make_likelihood_work(
        cell, flow.log_prob, lambda: flow.sample(cell.batch), list_variables, transform
    )


def _make_affine(index: int, cell: Cell) -> tuple:
    half = cell.size // 2
    network = make_mlp(cell.hidden, 2 * half)

    def compute(x: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        shift, log_scale = tf.split(network(x), 2, axis=-1)
        return shift, tf.tanh(log_scale)

    masked = half if index % 2 == 0 else -half
    return network, tfb.RealNVP(num_masked=masked, shift_and_log_scale_fn=compute)


def _make_spline(index: int, cell: Cell) -> tuple:
    half = cell.size // 2
    network = make_mlp(cell.hidden, half * (3 * _BIN_COUNT - 1))

    def make_bijector(x: tf.Tensor, size: int) -> tfb.RationalQuadraticSpline:
        params = tf.reshape(network(x), [-1, half, 3 * _BIN_COUNT - 1])
        widths, heights, slopes = tf.split(params, [_BIN_COUNT, _BIN_COUNT, _BIN_COUNT - 1], -1)
        return tfb.RationalQuadraticSpline(
            _make_bins(widths), _make_bins(heights), tf.math.softplus(slopes) + 1e-3, -_BOUND
        )

    masked = half if index % 2 == 0 else -half
    return network, tfb.RealNVP(num_masked=masked, bijector_fn=make_bijector)


def _make_bins(params: tf.Tensor) -> tf.Tensor:
    smallest = 1e-3
    return tf.math.softmax(params) * (2 * _BOUND - _BIN_COUNT * smallest) + smallest


def _make_autoregressive(index: int, cell: Cell) -> tuple:
    network = tfb.AutoregressiveNetwork(
        params=2,
        event_shape=cell.shape,
        hidden_units=list(cell.hidden),
        activation="relu",
        input_order=("left-to-right", "right-to-left")[index % 2],
    )
    return network, tfb.MaskedAutoregressiveFlow(network)


def _make_glow(cell: Cell) -> tfb.Glow:
    return tfb.Glow(
        cell.shape,
        num_glow_blocks=1,
        num_steps_per_block=cell.depth,
        coupling_bijector_fn=functools.partial(_make_convolutions, cell.hidden[0]),
    )


def _make_convolutions(width: int, input_shape: tuple[int, ...]) -> tf.keras.Sequential:
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input(input_shape),
            tf.keras.layers.Conv2D(width, 3, padding="same", activation="relu"),
            tf.keras.layers.Conv2D(width, 1, activation="relu"),
            tf.keras.layers.Conv2D(
                2 * input_shape[-1], 3, padding="same", kernel_initializer="zeros"
            ),
        ]
    )


_LAYERS = {"affine": _make_affine, "spline": _make_spline, "maf": _make_autoregressive}


def _normalize(normals: tf.Variable) -> tf.Tensor:
    return tf.linalg.normalize(normals, axis=1)[0]


def _make_reflections(cell: Cell, transform: functools.partial) -> Work:
    normals = tf.Variable(tf.random.normal([cell.depth, cell.size]))

    def make_chain() -> tfb.Chain:
        return tfb.Chain([tfb.Householder(normal) for normal in tf.unstack(_normalize(normals))])

    def forward(x: tf.Tensor) -> tf.Tensor:
        return make_chain().forward(x)

    def inverse(x: tf.Tensor) -> tf.Tensor:
        return make_chain().inverse(x)

    return make_reflections_work(cell, forward, inverse, [normals], transform)
