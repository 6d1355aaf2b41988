"""TensorFlow's own operations: reflections in a plain sequential loop."""

import tensorflow as tf

from speed.cells import Cell, Work
from speed.peers.tensorflow_peers import make_reflections_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["tensorflow"]


def make(cell: Cell, variant: str) -> Work | None:
    del variant
    if cell.kind != "reflections":
        return None
    normals = tf.Variable(tf.random.normal([cell.depth, cell.size]))

    def forward(x: tf.Tensor) -> tf.Tensor:
        return _reflect(x, normals)

    def inverse(x: tf.Tensor) -> tf.Tensor:
        return _reflect(x, normals[::-1])

    return make_reflections_work(
        cell, forward, inverse, [normals], lambda function: tf.function(function, jit_compile=True)
    )


def _reflect(x: tf.Tensor, normals: tf.Tensor) -> tf.Tensor:
    normals = tf.linalg.normalize(normals, axis=1)[0]
    for index in tf.range(normals.shape[0]):
        v = normals[index]
        x = x - 2 * tf.linalg.matvec(x, v)[:, None] * v
    return x
