"""Activation normalisation: its formula and its data-dependent start."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    scale, shift = random.uniform(0.1, 10, size=(2, 1, 4, 3))
    return (random.normal(size=(50, 4, 3)) * scale + shift).astype("float32")


def test_weights_can_be_assigned_before_the_first_call_and_give_the_formula(data):
    layer = ActivationNormalization([3], [2])
    location, scale = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 4.0])
    layer._location_.assign(location)
    layer._scale_.assign(scale)
    outputs, log_det = layer(data)
    np.testing.assert_allclose(to_numpy(outputs), (data - location) / scale, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det), np.full(50, -4 * np.log(scale).sum()), rtol=1e-6)
    shaped = layer._prepare_variables_for_computation_(ops.convert_to_tensor(data))
    assert [tuple(weight.shape) for weight in shaped] == [(1, 1, 3), (1, 1, 3)]


@pytest.mark.parametrize("axes", [[1], [2], [1, 2]])
def test_adapted_outputs_have_mean_0_and_variance_1(data, axes):
    layer = ActivationNormalization(axes=axes)
    layer.adapt(data, batch_size=7)
    outputs = to_numpy(layer(data)[0])
    rest = tuple(axis for axis in range(3) if axis not in axes)
    np.testing.assert_allclose(outputs.mean(axis=rest), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=rest), 1, rtol=1e-5)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = self.data[10 * index : 10 * index + 10]
        return (part[:5], part[5:]), np.zeros(len(part) // 2)


def test_adaptation_takes_arrays_tensors_pairs_and_data_sets_alike(data):
    tf = pytest.importorskip("tensorflow")
    sources = {
        "tensor": ops.convert_to_tensor(data),
        "pair": (data[:20], data[20:]),
        "tf.data": tf.data.Dataset.from_tensor_slices((data, np.zeros(50))).batch(8),
        "PyDataset": Batches(data),
        "generator": (data[i : i + 10] for i in range(0, 50, 10)),
    }
    expected = ActivationNormalization()
    expected.adapt(data)
    for name, source in sources.items():
        layer = ActivationNormalization()
        layer.adapt(source)
        for received, weight in zip(layer.weights, expected.weights, strict=True):
            np.testing.assert_allclose(
                to_numpy(received), to_numpy(weight), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_constant_dimensions_keep_their_scale(data):
    data[:, 1, 2] = 7.0
    layer = ActivationNormalization()
    layer.adapt(data)
    assert to_numpy(layer._scale_)[1, 2] == 1
    assert np.all(np.isfinite(to_numpy(layer(data)[0])))


def test_data_far_from_zero_are_normalised_without_cancellation():
    data = (1e4 + np.random.default_rng(0).normal(size=(1000, 1))).astype("float32")
    layer = ActivationNormalization()
    layer.adapt(data, batch_size=100)
    np.testing.assert_allclose(to_numpy(layer._scale_), data.astype("float64").std(), rtol=1e-6)


def test_every_layer_of_a_model_is_adapted_to_what_it_sees(data):
    model = FlowModel([ActivationNormalization(axes=[1]), ActivationNormalization(axes=[2])])
    model.adapt(data, batch_size=16)
    outputs = to_numpy(model(data)[0])
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=(0, 1)), 1, rtol=1e-5)
    assert not np.allclose(to_numpy(model._flow_layers_[0]._scale_), 1)


def test_adaptation_survives_saving_and_is_not_repeated(data, tmp_path):
    model = FlowModel([ActivationNormalization()])
    model.adapt(data)
    expected = to_numpy(model(data)[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded(100 * data)
    np.testing.assert_array_equal(to_numpy(loaded(data)[0]), expected)


def test_failed_adaptation_leaves_the_weights_unchanged(data):
    layer = ActivationNormalization()
    layer.adapt(data)
    before = layer.get_weights()
    broken = data.copy()
    broken[-1, 0, 0] = np.nan
    for bad, error, message in (
        (broken, ValueError, "`data` should be finite"),
        (data[:0], ValueError, "`data` should hold at least one instance"),
        (data.astype(int), TypeError, "`data` should be floating-point"),
    ):
        with pytest.raises(error, match=message):
            layer.adapt(bad)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_scale_stays_positive_under_training(data):
    model = FlowModel([ActivationNormalization()])
    model.compile(keras.optimizers.SGD(10.0), loss=[lambda _, z: ops.mean(z, axis=-1), None])
    model.fit(data, np.zeros([50, 1]), epochs=3, verbose=0)
    assert np.all(to_numpy(model._flow_layers_[0]._scale_) > 0)
