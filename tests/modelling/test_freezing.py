"""Frozen layers stay frozen in all copies."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import flatten_layers
from gyoza.modelling.conditioners import MADE, MLP, ResNet
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    FlowLayer,
    FlowModel,
    Inverse,
    MaskedAffine,
)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Late(FlowLayer):
    """A layer of a user, which makes a sublayer when it is built."""

    def build(self, input_shape):
        super().build(input_shape)
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 1))

    def call(self, inputs):
        shift = self.dense(ops.ones_like(inputs[:, :1]))
        return inputs + shift, ops.zeros_like(inputs[:, 0])

    def invert(self, outputs):
        return outputs - self.dense(ops.ones_like(outputs[:, :1]))


def make_model():
    """Makes a model of which the second coupling's network and the last layer are not frozen."""
    mlp = MLP([4])
    layers = [
        ActivationNormalization(),
        AffineCoupling(conditioner=MLP([4])),
        AffineCoupling(conditioner=mlp),
        FlowModel([Inverse(MaskedAffine(conditioner=MADE([4])))]),
        Late(),
        MaskedAffine(conditioner=MADE([4])),
    ]
    base = DiagonalNormal(context_network=MLP([4]))
    model = FlowModel(layers, base_distribution=base)
    model({"inputs": np.zeros([2, 3], "float32"), "context": np.zeros([2, 2], "float32")})
    for layer in (layers[0], layers[1], layers[3], layers[4], base):
        layer.trainable = False
    mlp.trainable = False
    return model


def copy_model(model, way, path):
    if way == "load":
        model.save(path / "model.keras")
        return keras.models.load_model(path / "model.keras")
    if way == "config":
        clone = type(model).from_config(model.get_config())
        clone.build_from_config(model.get_build_config())
        return clone
    return copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("way", ["load", "deepcopy", "pickle", "config"])
def test_copies_train_what_the_original_trains(way, tmp_path):
    model = make_model()
    clone = copy_model(model, way, tmp_path)
    assert 0 < len(model.trainable_weights) < len(model.weights) // 2
    trained = [weight.trainable for weight in model.weights]
    assert [weight.trainable for weight in clone.weights] == trained
    assert len(clone.trainable_weights) == len(model.trainable_weights)


def test_training_a_copy_changes_nothing_that_is_frozen(tmp_path):
    model = copy_model(make_model(), "load", tmp_path)
    model.compile(keras.optimizers.SGD(0.1))
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    x = np.random.default_rng(0).normal(size=[8, 3]).astype("float32")
    model.fit({"inputs": x, "context": x[:, :2]}, verbose=0)
    changed = [
        not np.array_equal(ops.convert_to_numpy(weight), value)
        for weight, value in zip(model.weights, before, strict=True)
    ]
    assert any(changed)
    assert not any(
        is_changed and not weight.trainable
        for is_changed, weight in zip(changed, model.weights, strict=True)
    )


def test_networks_of_layers_that_are_made_frozen_are_frozen():
    layer = AdditiveCoupling(axes=[3], conditioner=ResNet(4, 1), trainable=False)
    model = FlowModel([layer, ActivationNormalization()])
    model.build((None, 4, 4, 2))
    assert len(model.trainable_weights) == 2


@pytest.mark.parametrize("way", ["load", "deepcopy"])
def test_parts_of_a_network_stay_frozen(way, tmp_path):
    mlp = MLP([4, 4])
    model = FlowModel([AffineCoupling(conditioner=mlp)])
    model.build((None, 3))
    parts = [part for part in flatten_layers(mlp, include_self=False) if part.weights]
    parts[0].trainable = False
    clone = copy_model(model, way, tmp_path)
    trained = [weight.trainable for weight in model.weights]
    assert [weight.trainable for weight in clone.weights] == trained
    assert trained.count(False) == len(parts[0].weights)
