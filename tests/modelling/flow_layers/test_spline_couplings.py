"""Spline couplings: which dimensions they map by which parameters, and how exactly."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.integrate import trapezoid

from gyoza.backend import vjp
from gyoza.modelling.conditioners import MLP, Conditioner
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    FlowModel,
    HeavisidePermutation,
    LULinear,
    Permutation,
)
from gyoza.modelling.flow_layers.spline_couplings import (
    CircularSplineCoupling,
    RationalQuadraticSplineCoupling,
)
from gyoza.modelling.functions.splines import circular_spline, rational_quadratic_spline
from gyoza.modelling.masks import CheckerBoardMask, Mask
from gyoza.testing.functions import compile_on_jax as fast

pytestmark = pytest.mark.usefixtures("without_xla")

SPLINES = {
    RationalQuadraticSplineCoupling: rational_quadratic_spline,
    CircularSplineCoupling: circular_spline,
}
BOTH = pytest.mark.parametrize("layer_class", SPLINES)


def randomise(layer, scale=1.0):
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape) / np.sqrt(weight.shape[0]))


CASES = {
    "vector": ({"bound": 4.0}, [5]),
    "channels": ({"axes": [3], "bin_count": 4}, [2, 2, 4]),
    "checkerboard": ({"mask": CheckerBoardMask(axes=[1, 2])}, [2, 3, 2]),
}


@pytest.mark.parametrize(
    ("layer_class", "case"),
    [
        (layer_class, case)
        for layer_class in SPLINES
        for case in CASES
        # What it does with masks it shares with the other, which also embeds what is kept.
        if (layer_class, case) != (RationalQuadraticSplineCoupling, "checkerboard")
    ],
)
def test_contract(layer_class, case, check_contract):
    arguments, input_shape = CASES[case]
    layer = layer_class(conditioner=MLP([8]), **arguments)
    # Neither dtypes nor saving depend on the axes: one case is enough.
    check_contract(layer, input_shape, tolerance=1e-4, is_further_layout=case != "vector")


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_new_layer_is_exactly_the_identity(layer_class, dtype):
    x = np.random.default_rng(0).uniform(-7, 7, size=(100, 6)).astype(dtype)
    layer = layer_class(conditioner=MLP([8], dtype=dtype), dtype=dtype)
    layer.build(x.shape)

    @fast
    def run(x):
        return *layer(x), layer.invert(x)

    outputs, log_det, inputs = map(to_numpy, run(ops.convert_to_tensor(x, dtype=dtype)))
    np.testing.assert_array_equal(outputs, x)
    np.testing.assert_array_equal(log_det, 0.0)
    np.testing.assert_array_equal(inputs, x)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Enumerating(Conditioner):
    """A conditioner that returns 0, 0.01, 0.02, ..., plus the sum of what it is given."""

    def call(self, inputs):
        numbers = 0.01 * ops.arange(self.output_size, dtype=self.compute_dtype)
        return ops.sum(inputs, axis=-1, keepdims=True) + numbers


@BOTH
def test_changed_dimensions_are_mapped_by_their_own_parameters_and_options(layer_class):
    options = {
        "bound": 3.0,
        "minimum_bin_width": 0.02,
        "minimum_bin_height": 0.01,
        "minimum_slope": 0.1,
    }
    layer = layer_class(conditioner=Enumerating(), bin_count=4, **options)
    x = np.array([[0.3, -1.2, 2.0, 0.5, 0.7]], "float32")  # the last three are kept
    kept = x[0, 2:]
    if layer_class is CircularSplineCoupling:
        kept = np.concatenate([np.cos(kept * np.pi / 3.0), np.sin(kept * np.pi / 3.0)])
    count = layer.parameter_count
    numbers = (kept.sum() + 0.01 * np.arange(2 * count)).reshape(count, 2).T.astype("float32")
    expected, log_slopes = fast(lambda *v: SPLINES[layer_class](*v, **options))(
        ops.convert_to_tensor(x[0, :2]),
        *(ops.convert_to_tensor(part) for part in np.split(numbers, [4, 8], axis=1)),
    )
    outputs, log_det = fast(layer)(ops.convert_to_tensor(x))
    np.testing.assert_allclose(to_numpy(outputs)[0, :2], to_numpy(expected), rtol=1e-5)
    np.testing.assert_array_equal(to_numpy(outputs)[0, 2:], x[0, 2:])
    np.testing.assert_allclose(to_numpy(log_det), [to_numpy(log_slopes).sum()], rtol=1e-4)


@BOTH
def test_documented_methods_agree_with_call(layer_class):
    layer = layer_class(conditioner=MLP([8]))
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    layer.build(x.shape)
    randomise(layer)

    @fast
    def run(x):
        _, changed, parameters = layer._split(x, None)
        coupled = layer._couple_(changed, parameters)
        return *layer(x), coupled, layer.compute_log_stretch(changed, parameters)

    outputs, log_det, coupled, log_derivative = map(to_numpy, run(ops.convert_to_tensor(x)))
    np.testing.assert_allclose(coupled, outputs[:, :2], rtol=1e-6)
    np.testing.assert_allclose(log_derivative.sum(axis=1), log_det, atol=1e-6)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_round_trip_of_eight_layers(layer_class, dtype, tolerance):
    layers = []
    for _ in range(8):
        conditioner = MLP([16], dtype=dtype)
        layers.append(layer_class(conditioner=conditioner, dtype=dtype))
        layers.append(HeavisidePermutation(dtype=dtype))
    model = FlowModel(layers, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(1000, 6)).astype(dtype)
    model.build(x.shape)
    # Larger weights make chaos: then even a perfect inverse could not undo the rounding of outputs.
    randomise(model, scale=0.4)
    outputs, log_det = model(x)
    assert np.mean(np.abs(to_numpy(outputs) - x)) > 0.1
    assert np.std(to_numpy(log_det)) > 0.5
    np.testing.assert_allclose(to_numpy(model.invert(outputs)), x, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_in_the_tails(dtype):
    layer = RationalQuadraticSplineCoupling(conditioner=MLP([8], dtype=dtype), dtype=dtype)
    x = np.array([[1000.0, -1000.0, 0.1, 0.2], [-5.0, 5.0, 0.3, -0.4]], dtype)
    layer.build(x.shape)
    randomise(layer)

    def run(x, *values):
        with keras.StatelessScope(state_mapping=list(zip(layer.weights, values, strict=True))):
            return layer(x)

    @fast
    def differentiate(*primals):
        results, pullback = vjp(run, primals)
        return results, pullback(tuple(map(ops.ones_like, results)))

    primals = [ops.convert_to_tensor(x, dtype=dtype), *(weight.value for weight in layer.weights)]
    (outputs, log_det), gradients = differentiate(*primals)
    np.testing.assert_array_equal(to_numpy(outputs), x)
    np.testing.assert_array_equal(to_numpy(log_det), 0.0)
    np.testing.assert_array_equal(to_numpy(gradients[0]), 1.0)
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(to_numpy(gradient), 0.0)


def test_circular_coupling_does_not_tell_coordinates_of_the_same_point_apart():
    layer = CircularSplineCoupling(conditioner=MLP([8]), bound=2.0)
    x = np.random.default_rng(0).uniform(-2, 2, size=(50, 4)).astype("float32")
    layer.build(x.shape)
    randomise(layer)
    turns = np.array([1.0, 0.0, -1.0, 2.0], "float32") * 4.0
    run = fast(layer)
    outputs, log_det = map(to_numpy, run(ops.convert_to_tensor(x)))
    outputs_there, log_det_there = map(to_numpy, run(ops.convert_to_tensor(x + turns)))
    assert np.std(log_det) > 0.1
    np.testing.assert_allclose(outputs_there, outputs + turns, atol=1e-4)
    np.testing.assert_allclose(log_det_there, log_det, atol=1e-4)


def test_volume_over_the_interval_is_kept():
    # A density on the interval stays one: the slopes integrate to the interval's length.
    layer = RationalQuadraticSplineCoupling(
        conditioner=MLP([8]), mask=Mask(axes=[1], shape=[2], mask=[0, 1]), bound=2.0
    )
    x = np.stack([np.linspace(-2, 2, 40001), np.full(40001, 0.7)], axis=1).astype("float32")
    layer.build(x.shape)
    randomise(layer)
    slopes = np.exp(to_numpy(fast(layer)(ops.convert_to_tensor(x))[1]))
    assert np.max(np.abs(slopes - 1.0)) > 0.5
    np.testing.assert_allclose(trapezoid(slopes, x[:, 0]), 4.0, rtol=1e-3)


@BOTH
def test_network_in_full_shape_returns_parameters_along_a_last_axis(layer_class):
    def network(x):
        return ops.stack([0.1 * (i + 1) * ops.flip(x, axis=-1) for i in range(count)], axis=-1)

    mask = Mask(axes=[1], shape=[2], mask=[0, 1])
    layer = layer_class(conditioner=network, mask=mask, bin_count=2)
    count = layer.parameter_count
    numbers = (0.1 * (np.arange(count) + 1) * 3.0).reshape(1, count).astype("float32")
    expected, _ = fast(lambda *v: SPLINES[layer_class](*v, bound=layer.bound))(
        ops.convert_to_tensor(np.array([0.5], "float32")),
        *(ops.convert_to_tensor(part) for part in np.split(numbers, [2, 4], axis=1)),
    )
    outputs, _ = fast(layer)(ops.convert_to_tensor(np.array([[0.5, 3.0]], "float32")))
    np.testing.assert_allclose(to_numpy(outputs)[0, 0], to_numpy(expected)[0], rtol=1e-5)


@BOTH
def test_any_batch_size(layer_class):
    inputs = keras.Input([4])
    outputs, log_det = layer_class(conditioner=MLP([8]))(inputs)
    model = keras.Model(inputs, [outputs, log_det])
    x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    outputs, log_det = model.predict(x, batch_size=3, verbose=0)
    np.testing.assert_array_equal(outputs, x)
    assert log_det.shape == (7,)


@BOTH
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"bin_count": 1}, "Received: bin_count=1"),
        ({"bound": -1.0}, "Received: bound=-1.0"),
        ({"minimum_bin_width": 0.5}, "`minimum_bin_width`"),
        ({"minimum_bin_height": 0.5}, "`minimum_bin_height`"),
        ({"minimum_slope": 0.0}, "`minimum_slope`"),
    ],
)
def test_bad_options(layer_class, option, message):
    with pytest.raises(ValueError, match=message):
        layer_class(conditioner=MLP([8]), **option)


def make_angles_and_price(permute=False):
    """Makes a flow of two angles (dimensions 0 and 2) and a price between them, with its layers."""
    kinds = [
        (CircularSplineCoupling, [0, 1, 1]),
        (AffineCoupling, [1, 0, 1]),
        (CircularSplineCoupling, [1, 1, 0]),
        (RationalQuadraticSplineCoupling, [1, 0, 1]),
    ]
    layers = []
    for kind, mask in kinds:
        if permute and len(layers) == 2:
            layers.append(Permutation(permutation=[1, 2, 0]))
        mask = np.array(mask)[[1, 2, 0]] if permute and len(layers) > 2 else mask
        layers.append(kind(conditioner=MLP([4]), mask=Mask([1], [3], mask)))
    model = FlowModel([*layers, LULinear()])
    model.build((None, 3))
    randomise(model)
    return model, layers


@pytest.mark.parametrize("permute", [False, True])
def test_angles_and_prices_go_together(permute):
    model, layers = make_angles_and_price(permute)
    x = np.random.default_rng(0).uniform(-2, 2, size=(20, 3)).astype("float32")
    turned, raised = x.copy(), x.copy()
    turned[:, 0] += 2 * np.pi
    turned[:, 2] -= 4 * np.pi
    raised[:, 1] += 2 * np.pi
    run = fast(lambda x: FlowModel.call(model, x)[1])
    log_det, there, apart = (to_numpy(run(ops.convert_to_tensor(v))) for v in (x, turned, raised))
    np.testing.assert_allclose(there, log_det, atol=1e-4)
    change = to_numpy(layers[0](raised)[1]) - to_numpy(layers[0](x)[1])
    assert np.abs(change).max() > 0.01
    assert np.abs(apart - log_det).max() > 0.01


def test_copies_know_what_is_periodic():
    model, layers = make_angles_and_price()
    clone = FlowModel.from_config(model.get_config())
    clone.build((None, 3))
    clone.set_weights(model.get_weights())
    x = np.random.default_rng(0).uniform(-2, 2, size=(4, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(clone(x)[1]), to_numpy(model(x)[1]), atol=1e-5)
    network = layers[0]._compute_coupling_parameters_
    assert network.get_config()["periods"] == [None, 2 * np.pi]


def test_periods_can_be_given():
    mlp = MLP([4], periods=[None, 24.0])
    layer = AffineCoupling(conditioner=mlp, mask=Mask([1], [3], [1, 1, 0]))
    layer.build((None, 3))
    randomise(layer)
    x = np.array([[0.5, 3.0, 1.0], [0.5, 27.0, 1.0], [24.5, 3.0, 1.0]], "float32")
    outputs = to_numpy(layer(x)[0])[:, 2]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4)
    assert abs(outputs[2] - outputs[0]) > 0.01
    with pytest.raises(ValueError, match="`periods` should be positive"):
        MLP([4], periods=[0.0])


def test_unknown_arguments_are_named_before_a_missing_network():
    with pytest.raises(ValueError, match="bins"):
        RationalQuadraticSplineCoupling(bins=4)
    with pytest.raises(TypeError, match="`compute_coupling_parameters` should be"):
        RationalQuadraticSplineCoupling(bin_count=4)
