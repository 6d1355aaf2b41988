"""Batch normalisation as a flow: batches in training, moving averages in inference."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.flow_layers import BatchNormalization, FlowModel


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return (random.normal(size=(60, 2, 3)) * [0.5, 2.0, 5.0] + [1.0, -3.0, 0.0]).astype("float32")


@pytest.mark.parametrize(("axes", "shape"), [(None, [3]), ([2], [3, 2])])
def test_contract(axes, shape, check_contract):
    check_contract(BatchNormalization(axes=axes), shape, is_further_layout=axes is not None)


def test_training_normalises_by_the_batch(data):
    layer = BatchNormalization(axes=[2], epsilon=1e-6)
    outputs, log_det = layer(data, training=True)
    outputs, variance = to_numpy(outputs), data.var(axis=(0, 1))
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=(0, 1)), 1, rtol=1e-5)
    # Two positions share each scale.
    np.testing.assert_allclose(
        to_numpy(log_det), 2 * -0.5 * np.log(variance + 1e-6).sum(), rtol=1e-5
    )


def test_scale_and_shift_come_after_the_normalisation(data):
    layer = BatchNormalization(axes=[2])
    plain, log_det = layer(data, training=True)
    layer.log_scale.assign([0.5, 0.0, -1.0])
    layer.shift.assign([1.0, 2.0, 3.0])
    outputs, scaled_log_det = layer(data, training=True)
    np.testing.assert_allclose(
        to_numpy(outputs), to_numpy(plain) * np.exp([0.5, 0.0, -1.0]) + [1, 2, 3], atol=1e-5
    )
    np.testing.assert_allclose(to_numpy(scaled_log_det - log_det), 2 * -0.5, rtol=1e-4)


def test_inference_uses_the_averages_that_training_moves(data):
    layer = BatchNormalization(axes=[2], momentum=0.5)
    for _ in range(20):
        layer(data, training=True)
    np.testing.assert_allclose(to_numpy(layer.moving_mean), data.mean(axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(to_numpy(layer.moving_variance), data.var(axis=(0, 1)), rtol=1e-4)
    before = layer.get_weights()
    for expected, received in zip(layer(data, training=True), layer(data[:1]), strict=True):
        np.testing.assert_allclose(to_numpy(received), to_numpy(expected)[:1], atol=1e-3)
    outputs, _ = layer(data)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), data, atol=1e-5)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-4)


def test_frozen_layer_stays_in_inference(data):
    layer = BatchNormalization()
    layer.trainable = False
    outputs, _ = layer(data, training=True)
    np.testing.assert_array_equal(to_numpy(outputs), to_numpy(layer(data)[0]))
    np.testing.assert_array_equal(to_numpy(layer.moving_mean), np.zeros([2, 3]))


def test_fit_moves_the_averages_and_maximises_the_likelihood(data):
    data = data.reshape(60, 6)
    model = FlowModel([BatchNormalization(momentum=0.5)])
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(data, batch_size=60, epochs=20, verbose=0)
    layer = model._flow_layers_[0]
    np.testing.assert_allclose(to_numpy(layer.moving_mean), data.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(to_numpy(layer.moving_variance), data.var(axis=0), rtol=1e-3)
    entropy = 6 * 0.5 * np.log(2 * np.pi * np.e) + 0.5 * np.log(data.var(axis=0)).sum()
    assert history.history["loss"][-1] == pytest.approx(entropy, abs=0.02)
    assert model.evaluate(data, verbose=0) == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "name"), [({"momentum": 1.5}, "momentum"), ({"epsilon": 0.0}, "epsilon")]
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` should be"):
        BatchNormalization(**arguments)
