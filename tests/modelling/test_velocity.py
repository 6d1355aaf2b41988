"""Velocities are functions of points and times through the features that their docstring names."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import VelocityMLP


def make(**options):
    """Returns a velocity that is not zero."""
    keras.utils.set_random_seed(0)
    velocity = VelocityMLP([8], **options)
    velocity.build([(None, 2), (None, 1)])
    velocity.dense_layers[-1].kernel.assign(np.random.default_rng(0).normal(size=[8, 2]))
    return velocity


def draw():
    random = np.random.default_rng(1)
    return random.normal(size=[5, 2]), random.uniform(size=[5, 1])


def run(velocity, x, time):
    return to_numpy(velocity([x.astype("float32"), time.astype("float32")]))


def test_features_of_points_repeat_after_eight_and_the_finest_after_one():
    x, time = draw()
    velocity = make(frequency_count=0, point_frequency_count=4)
    kernel = to_numpy(velocity.dense_layers[0].kernel).copy()
    assert kernel.shape == (2 + 2 * 2 * 4 + 1, 8)
    kernel[:2] = 0.0  # of the points themselves
    velocity.dense_layers[0].kernel.assign(kernel)
    expected = run(velocity, x, time)
    np.testing.assert_allclose(run(velocity, x + 8.0, time), expected, atol=1e-4)
    assert np.all(np.abs(run(velocity, x + 1.0, time) - expected).max(axis=1) > 0.01)
    is_finest = np.arange(16) % 4 == 3
    kernel[2:-1][~is_finest] = 0.0
    velocity.dense_layers[0].kernel.assign(kernel)
    expected = run(velocity, x, time)
    np.testing.assert_allclose(run(velocity, x + 1.0, time), expected, atol=1e-4)
    assert np.all(np.abs(run(velocity, x + 0.5, time) - expected).max(axis=1) > 0.01)


@pytest.mark.parametrize("options", [{}, {"frequency_count": 0}, {"point_frequency_count": 2}])
def test_a_velocity_is_made_again_from_its_configuration(options):
    x, time = draw()
    velocity = make(**options)
    again = VelocityMLP.from_config(velocity.get_config())
    again.build([(None, 2), (None, 1)])
    again.set_weights(velocity.get_weights())
    np.testing.assert_array_equal(run(again, x, time), run(velocity, x, time))


def test_a_number_of_frequencies_is_not_negative():
    with pytest.raises(ValueError, match=r"`point_frequency_count` should be .* Received: "):
        VelocityMLP([8], point_frequency_count=-1)


def test_an_empty_batch_has_empty_velocities():
    parts = [np.zeros([0, 3, 2], "float32"), np.zeros([0, 1], "float32")]
    assert VelocityMLP([8], point_frequency_count=2)(parts).shape == (0, 3, 2)


def test_points_need_their_times():
    for inputs in (np.zeros([4, 3], "float32"), [np.zeros([4, 3], "float32")]):
        with pytest.raises(ValueError, match=r"should be given the list \[x, time\]"):
            VelocityMLP([8])(inputs)
