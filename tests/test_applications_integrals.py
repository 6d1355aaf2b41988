"""Densities of ready-made flows are densities: they integrate to one."""

import functools

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza import applications
from gyoza.testing.copies import move_weights

pytestmark = pytest.mark.usefixtures("without_xla")

FLOWS = {
    "NICE": lambda: applications.NICE(2, [8]),
    "RealNVP": lambda: applications.RealNVP(2, [8]),
    "MAF": lambda: applications.MAF(2, [8]),
    "IAF": lambda: applications.IAF(2, [8]),
    "NeuralSplineFlow": lambda: applications.NeuralSplineFlow(2, [8]),
    "NeuralSplineFlow, autoregressive": lambda: applications.NeuralSplineFlow(
        2, [8], autoregressive=True
    ),
    "GaussianizationFlow": lambda: applications.GaussianizationFlow(2, 8),
    "ResidualFlow": lambda: applications.ResidualFlow(2, [8]),
    "FlowMatching": lambda: applications.FlowMatching([8]),
    "FFJORD": lambda: applications.FFJORD([8]),
    "InterpretationNetwork": lambda: applications.InterpretationNetwork(2, [8]),
}


def test_every_application_has_a_case():
    names = {name.split(",")[0] for name in FLOWS}
    assert names | {"Glow"} == set(applications.__all__)  # which takes images, of 2×2 at least


@functools.cache
def make_flow(name, dimension_count):
    """Makes a flow with random weights that is adapted to skewed, dependent data."""
    keras.utils.set_random_seed(0)
    model = FLOWS[name]()
    x = np.random.default_rng(0).normal(size=(512, dimension_count))
    x[:, -1] += 0.5 * x[:, 0] ** 2
    x = x.astype("float32")
    model.adapt(x)
    flow = getattr(model, "flow", model)
    flow(x[:2])
    move_weights(flow, np.random.default_rng(1))
    return flow


def integrate(flow, dimension_count):
    """Adds densities on a grid up to where next to nothing is left, found by samples."""
    samples = to_numpy(flow.sample(2000, seed=0))
    low, high = np.quantile(samples, [0.001, 0.999], axis=0)
    low, high = low - 1.5 * (high - low), high + 1.5 * (high - low)
    count = 4001 if dimension_count == 1 else 301
    axes = [np.linspace(*ends, count) for ends in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dimension_count)
    log_prob = to_numpy(flow.log_prob(points.astype("float32"), batch_size=20000))
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    return np.sum(np.exp(log_prob.astype("float64"))) * cell


@pytest.mark.long
@pytest.mark.parametrize("dimension_count", [1, 2])
@pytest.mark.parametrize("name", FLOWS)
def test_densities_integrate_to_one(name, dimension_count):
    flow = make_flow(name, dimension_count)
    assert integrate(flow, dimension_count) == pytest.approx(1.0, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("dimension_count", [1, 2])
@pytest.mark.parametrize("name", FLOWS)
def test_densities_of_samples_are_densities_of_the_same_numbers_as_data(name, dimension_count):
    flow = make_flow(name, dimension_count)
    samples, log_prob = flow.sample_and_log_prob(1000, seed=0)
    tolerance = 1e-2 if name in ("FlowMatching", "FFJORD") else 1e-3  # of their solver
    np.testing.assert_allclose(
        to_numpy(flow.log_prob(samples)), to_numpy(log_prob), rtol=tolerance, atol=tolerance
    )
