"""Conditioners: what they compute, and what they refuse."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import AdditiveCoupling


def test_mlp_is_the_composition_of_its_layers():
    mlp = MLP([3], activation="tanh", output_size=2)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    mlp.build(x.shape)
    random = np.random.default_rng(1)
    kernels = [random.normal(size=weight.shape) for weight in mlp.weights]
    mlp.set_weights(kernels)
    expected = np.tanh(x @ kernels[0] + kernels[1]) @ kernels[2] + kernels[3]
    np.testing.assert_allclose(ops.convert_to_numpy(mlp(x)), expected, rtol=1e-5)


def test_new_mlp_makes_a_coupling_the_identity():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    outputs, _ = AdditiveCoupling(compute_coupling_parameters=MLP([8]))(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs), x)


def test_mlp_in_a_coupling_has_no_weights_for_what_is_masked():
    layer = AdditiveCoupling(compute_coupling_parameters=MLP([8]))
    layer(np.ones([2, 7], "float32"))
    assert [tuple(weight.shape) for weight in layer.weights] == [(4, 8), (8,), (8, 3), (3,)]


def test_bad_input():
    with pytest.raises(ValueError, match="`hidden_sizes` should be positive"):
        MLP([8, 0])
    with pytest.raises(ValueError, match="should be given `output_size`"):
        MLP([8])(np.ones([2, 3], "float32"))
    mlp = MLP([8])
    AdditiveCoupling(compute_coupling_parameters=mlp)(np.ones([2, 4], "float32"))
    with pytest.raises(ValueError, match="should have 3 outputs"):
        AdditiveCoupling(compute_coupling_parameters=mlp)(np.ones([2, 6], "float32"))
