"""Networks within layers are run as Keras runs them where somebody follows or changes that."""

import keras
import numpy as np
import pytest
from keras import ops

from gyoza.backend import list_interceptors
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.flow_layers import AffineCoupling, ContinuousFlow

X = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")


def make_coupling():
    network = MLP([3])
    return AffineCoupling(network), network


def make_continuous():
    network = VelocityMLP([3])
    return ContinuousFlow(network, solver="euler", step_count=2), network


makers = pytest.mark.parametrize("make", [make_coupling, make_continuous])


@makers
def test_recomputation_of_a_network_or_of_its_layers_is_kept(make):
    _, network = make()
    assert not any(list_interceptors(network))
    with keras.RematScope(mode="full"):
        layer, network = make()
        layer(X)
    assert all(any(list_interceptors(part)) for part in [network, *network.dense_layers])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@makers
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("within", [False, True])
def test_hooks_of_a_network_and_of_its_layers_are_run(make, kind, within):
    layer, network = make()
    layer(X)
    expected = ops.convert_to_numpy(layer(X)[0])
    seen = []
    observed = network.dense_layers[0] if within else network
    handle = getattr(observed, kind)(lambda module, *tensors: seen.append(module))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(X)[0]), expected, rtol=1e-6)
    count = len(seen)
    assert count > 0
    handle.remove()
    layer(X)
    assert len(seen) == count


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@makers
def test_hooks_can_change_what_a_network_computes(make):
    layer, network = make()
    layer(X)
    unchanged = ops.convert_to_numpy(layer(X)[0])
    network.register_forward_hook(lambda module, inputs, outputs: outputs + 1.0)
    assert np.abs(ops.convert_to_numpy(layer(X)[0]) - unchanged).max() > 0.1
