"""What a flow of each layer promises: its samples have the density that it states."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from layer_cases import EVERY, make_twins

from gyoza.modelling.flow_layers import FlowModel, Inverse
from gyoza.testing.copies import copy_layer

pytestmark = pytest.mark.usefixtures("without_xla")

# Their outputs have bounds. So have the latents of their flows, by a flow that undoes them.
BOUNDED = {"Softplus", "Sigmoid", "Tanh", "Columns"}


@pytest.mark.parametrize("name", EVERY)
def test_samples_have_the_density_that_they_come_with(name):
    twins = make_twins(name)
    twins.set_weights(1.0)
    base = None
    if name in BOUNDED:
        base = FlowModel([Inverse(copy_layer(twins.exact, "float64"))], dtype="float64")
    model = FlowModel([twins.exact], base, dtype="float64")
    model.build((None, *twins.shape))
    samples, log_prob = map(to_numpy, model.sample_and_log_prob(64, seed=0))
    assert samples.shape == (64, *twins.shape)
    assert np.all(np.isfinite(samples))
    assert np.all(np.isfinite(log_prob))
    np.testing.assert_array_equal(to_numpy(model.sample(64, seed=0)), samples)
    tolerance = 1e-2 if name == "ContinuousFlow" else 1e-8  # of its four steps
    expected = to_numpy(model.log_prob(samples))
    np.testing.assert_allclose(log_prob, expected, rtol=tolerance, atol=tolerance)
