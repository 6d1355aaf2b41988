import keras
import numpy as np
import pytest

from gyoza.backend import draw_normal, draw_uniform

BACKEND = keras.backend.backend()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("draw", "expected"), [(draw_uniform, keras.random.uniform), (draw_normal, keras.random.normal)]
)
def test_random_numbers_are_those_of_keras(draw, expected, dtype):
    if BACKEND == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 unless told otherwise")
    ours, keras_own = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    for seeds in [(7, 7), (2**31, 2**31), (ours, keras_own), (ours, keras_own)]:
        drawn = keras.ops.convert_to_numpy(draw((4, 5), dtype, seeds[0]))
        assert drawn.dtype == dtype
        np.testing.assert_array_equal(
            drawn, keras.ops.convert_to_numpy(expected((4, 5), dtype=dtype, seed=seeds[1]))
        )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="as TensorFlow's XLA draws them")
@pytest.mark.parametrize("draw", [draw_uniform, draw_normal])
def test_keys_of_random_numbers_are_derived_once(draw):
    import tensorflow as tf

    # Within the loop over numbers, XLA repeats this operation for each of them.
    graph = tf.function(lambda: draw((4, 5), "float32", 0)).get_concrete_function().graph
    assert "StatelessRandomGetKeyCounter" not in {op.type for op in graph.get_operations()}
