"""Mixture-of-logistics couplings: their transform, how they start, and that components separate."""

import numpy as np
import pytest
import scipy.stats
from keras.ops import convert_to_numpy as to_numpy
from scipy.integrate import trapezoid

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.flow_layers.logistic_couplings import MixtureLogisticCoupling
from gyoza.modelling.masks import CheckerBoardMask, Mask

pytestmark = pytest.mark.usefixtures("without_xla")


def randomise(layer, scale=1.0):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))


def first_given_second(**options):
    """Makes a layer that changes the first of two dimensions."""
    mask = Mask(axes=[1], shape=[2], mask=[0, 1])
    dtype = options.get("dtype", "float32")
    return MixtureLogisticCoupling(conditioner=MLP([8], "tanh", dtype=dtype), mask=mask, **options)


CASES = {
    "vector": ({"component_count": 3}, [5]),
    "checkerboard": (
        {
            "mask": CheckerBoardMask(axes=[1, 2]),
            "component_count": 2,
            "log_scale_bound": None,
            "location_spread": 1.0,
        },
        [2, 2, 1],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    arguments, input_shape = CASES[name]
    layer = MixtureLogisticCoupling(conditioner=MLP([4], activation="tanh"), **arguments)
    # Neither dtypes nor saving depend on the axes: one case is enough.
    check_contract(layer, input_shape, tolerance=1e-4, is_further_layout=name != "vector")


@pytest.mark.parametrize("component_count", [2, 8])
def test_a_new_layer_is_nearly_the_identity(component_count):
    layer = first_given_second(component_count=component_count)
    x = np.stack([np.linspace(-20, 20, 401), np.zeros(401)], axis=1).astype("float32")
    outputs, log_det = layer(x)
    gaps = np.abs(to_numpy(outputs) - x)
    slope_gaps = np.abs(np.exp(to_numpy(log_det)) - 1.0)
    assert 0.01 < np.max(gaps) < 0.05
    assert 0.005 < np.max(slope_gaps) < 0.03


def test_with_one_component_a_new_layer_is_the_identity():
    layer = first_given_second(component_count=1)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), x, atol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), 0.0, atol=1e-6)


def test_components_differ_from_the_first_step_on_and_find_two_modes():
    random = np.random.default_rng(0)
    signs = random.choice([-1.0, 1.0], size=(500, 1))
    x = signs * [[2.0, 0.0]] + random.normal(size=(500, 2)) * [[0.3, 1.0]]
    model = FlowModel([first_given_second(component_count=4)])
    model.compile("adam")
    model.optimizer.learning_rate = 0.01
    model.train_on_batch(x.astype("float32"))
    bias = to_numpy(model._flow_layers_[0]._compute_coupling_parameters_.weights[-1])
    locations, raw_log_scales = bias[6:10], bias[10:14]
    assert len(np.unique(locations)) > 1 or len(np.unique(raw_log_scales)) > 1
    model.fit(x.astype("float32"), epochs=15, batch_size=50, verbose=0)
    # The negative log-likelihood of the best normal density, and of the two modes themselves.
    noise = 0.5 * np.log(2 * np.pi * np.e)
    normal, modes = (2 * noise + gain for gain in (0.5 * np.log(4.09), np.log(0.3) + np.log(2.0)))
    assert model.evaluate(x.astype("float32"), verbose=0) < 0.5 * (normal + modes)


def test_volume_is_kept():
    # The logistic density, pulled back through the layer, integrates to one.
    layer = first_given_second(component_count=4)
    x = np.stack([np.linspace(-40, 40, 4001), np.full(4001, 0.5)], axis=1).astype("float32")
    layer(x[:1])
    randomise(layer, 0.7)
    outputs, log_det = map(to_numpy, layer(x))
    density = np.exp(scipy.stats.logistic.logpdf(outputs[:, 0]) + log_det)
    assert np.std(log_det) > 0.1
    np.testing.assert_allclose(trapezoid(density, x[:, 0]), 1.0, atol=1e-3)


def test_documented_methods_agree_with_call():
    layer = MixtureLogisticCoupling(conditioner=MLP([8]), component_count=2)
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    layer(x)
    randomise(layer, 0.3)
    outputs, log_det = layer(x)
    changed, kept = x[:, :2], x[:, 2:]
    parameters = to_numpy(layer._compute_coupling_parameters_(kept)).reshape(20, 8, 2)
    parameters = parameters.swapaxes(1, 2)
    np.testing.assert_allclose(
        to_numpy(layer._couple_(changed, parameters)), to_numpy(outputs)[:, :2], rtol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(layer.compute_log_stretch(changed, parameters)).sum(axis=1),
        to_numpy(log_det),
        rtol=1e-4,
        atol=1e-5,
    )
    # The affine part comes last: a shift and a log-scale of its own.
    parameters[..., :2] = 0.0
    bent = to_numpy(layer._couple_(changed, parameters))
    parameters[..., :2] = 0.1, 5.0
    scale = np.exp(3.0 * np.tanh(0.1 / 3.0))
    np.testing.assert_allclose(
        to_numpy(layer._couple_(changed, parameters)), bent * scale + 5.0, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"component_count": 0}, "Received: component_count=0"),
        ({"component_count": 2.0}, "Received: component_count=2.0"),
        ({"location_spread": 0.0}, "Received: location_spread=0.0"),
        ({"log_scale_bound": -1.0}, "Received: log_scale_bound=-1.0"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        MixtureLogisticCoupling(conditioner=MLP([8]), **option)
