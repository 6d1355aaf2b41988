"""How tests compile models of which they only ask what they learn."""

import keras

__all__ = ["JIT_COMPILE"]

# XLA, which flows are compiled by unless told otherwise, takes longest to start on TensorFlow.
# Without it, JAX would run one operation after the other.
JIT_COMPILE = keras.backend.backend() == "jax"
