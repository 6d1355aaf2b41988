"""Warnings of data that a density cannot fit."""

import warnings

import numpy as np
import pytest
from flow_matching_data import normal

from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowMatchingModel,
    FlowModel,
    UniformDequantization,
)
from gyoza.modelling.flow_layers.discrete import find_discrete

pytestmark = pytest.mark.usefixtures("without_xla")


def test_discrete_dimensions_are_found():
    x = normal(1000, 4)
    x[:, 1], x[:, 3] = x[:, 1].round(1), 2.0
    assert find_discrete(x).tolist() == [1]
    assert find_discrete(x[:99]).tolist() == []
    pixels = np.random.default_rng(0).integers(256, size=[5000, 2, 2])
    assert find_discrete(pixels / 255.0).tolist() == [0, 1, 2, 3]
    assert find_discrete(normal(100_000, 1)).tolist() == []


@pytest.mark.parametrize(
    "make",
    [lambda: FlowMatchingModel(VelocityMLP([4])), lambda: FlowModel([ActivationNormalization()])],
)
def test_discrete_data_are_warned_of_once(make):
    x = np.random.default_rng(0).integers(8, size=[200, 2]).astype("float32")
    model = make()
    model.compile("sgd")
    message = rf"Model '{model.name}.*in dimensions 0, 1\. A density can"
    with pytest.warns(UserWarning, match=message):
        model.adapt(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, verbose=0)


def test_no_other_data_are_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = np.random.default_rng(0).integers(8, size=[200, 2]).astype("float32")
        for data, layers in ((normal(200, 2), None), (x, [UniformDequantization(8)])):
            model = FlowMatchingModel(VelocityMLP([4]), layers)
            model.compile("sgd")
            model.adapt(data)
            model.fit(data, verbose=0)
