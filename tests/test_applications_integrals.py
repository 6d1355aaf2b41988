"""Densities of ready-made flows are densities: they integrate to one."""

import functools
import math

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
    "Glow": lambda: applications.Glow(scale_count=1, step_count=2, width=4),
}

# Glow takes images, of an even number of rows and columns.
SHAPES = {name: [[1], [2]] if name != "Glow" else [[2, 2, 1]] for name in FLOWS}
EVERY = pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in FLOWS for shape in SHAPES[name]], ids=str
)
# How many points grids have along an axis, and how many standard deviations they reach from the
# mean.
GRIDS = {1: (4001, 12.0), 2: (501, 10.0), 4: (25, 7.0)}


def test_every_application_has_a_case():
    assert {name.split(",")[0] for name in FLOWS} == set(applications.__all__)


def test_glow_takes_no_smaller_images():
    for shape in ([1, 2, 1], [2, 1, 1], [1, 1, 2]):
        with pytest.raises(ValueError, match="should have even height and width"):
            FLOWS["Glow"]()(np.zeros([1, *shape], "float32"))


@functools.cache
def make_flow(name, shape):
    """Makes a flow with random weights that is adapted to skewed, dependent data."""
    keras.utils.set_random_seed(0)
    model = FLOWS[name]()
    x = np.random.default_rng(0).normal(size=(512, math.prod(shape)))
    x[:, -1] += 0.5 * x[:, 0] ** 2
    x = x.reshape(-1, *shape).astype("float32")
    model.adapt(x)
    flow = getattr(model, "flow", model)
    flow(x[:2])
    move_weights(flow, np.random.default_rng(1))
    return flow


def integrate(flow, shape):
    """Adds densities on a grid up to where next to nothing is left, found by samples.

    Its axes are those in which samples are uncorrelated, with a variance of one.
    """
    samples = to_numpy(flow.sample(2000, seed=0)).reshape(2000, -1).astype("float64")
    count, end = GRIDS[samples.shape[1]]
    axis = np.linspace(-end, end, count)
    grid = np.stack(np.meshgrid(*[axis] * samples.shape[1], indexing="ij"), axis=-1)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(samples.T)))
    points = grid.reshape(-1, samples.shape[1]) @ factor.T + samples.mean(axis=0)
    points = points.reshape(-1, *shape).astype("float32")
    log_prob = to_numpy(flow.log_prob(points, batch_size=20000))
    cell = np.prod((axis[1] - axis[0]) * np.diag(factor))
    return np.sum(np.exp(log_prob.astype("float64"))) * cell


@pytest.mark.long
@EVERY
def test_densities_integrate_to_one(name, shape):
    flow = make_flow(name, tuple(shape))
    assert integrate(flow, shape) == pytest.approx(1.0, abs=0.01)


@pytest.mark.long
@EVERY
def test_densities_of_samples_are_densities_of_the_same_numbers_as_data(name, shape):
    flow = make_flow(name, tuple(shape))
    samples, log_prob = flow.sample_and_log_prob(1000, seed=0)
    tolerance = 1e-2 if name in ("FlowMatching", "FFJORD") else 1e-3  # of their solver
    np.testing.assert_allclose(
        to_numpy(flow.log_prob(samples)), to_numpy(log_prob), rtol=tolerance, atol=tolerance
    )
