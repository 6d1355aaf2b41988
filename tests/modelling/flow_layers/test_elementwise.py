"""Elementwise layers: closed forms, tails, and what lies outside their support."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special, stats

from gyoza.backend import vjp
from gyoza.modelling.flow_layers import (
    Affine,
    Arctanh,
    FlowModel,
    Inverse,
    Logit,
    Sigmoid,
    Softplus,
    Standardize,
    Tanh,
    YeoJohnson,
)
from gyoza.testing.functions import compile_on_jax as fast


def uniform(low, high, shape):
    return np.random.default_rng(0).uniform(low, high, size=(4, *shape)).astype("float32")


CASES = {
    "affine-vector": (Affine(scale=[2.0, -0.5, 3.0], shift=1.0), [3], None),
    "affine-channels": (Affine([2], [3], scale=0.5, shift=[1.0, -2.0]), [2, 3, 2], None),
    "standardize-vector": (Standardize(location=[1.0, -2.0], scale=[3.0, 0.5]), [2], None),
    "standardize-channels": (Standardize(axes=[3], location=0.5, scale=[2, 3]), [2, 2, 2], None),
    "softplus-vector": (Softplus(), [4], None),
    "softplus-image": (Softplus(axes=[3]), [2, 3, 2], None),
    "sigmoid-vector": (Sigmoid(), [4], None),
    "sigmoid-image": (Sigmoid(low=-2.0, high=0.5), [2, 3, 2], None),
    "logit-vector": (Logit(), [4], uniform(0.05, 0.95, [4])),
    "logit-image": (Logit(low=-1.0, high=2.0, alpha=0.05), [2, 3, 2], uniform(-1, 2, [2, 3, 2])),
    "tanh-vector": (Tanh(), [4], None),
    "tanh-image": (Tanh([3, 2], [2, 3]), [2, 3, 2], None),
    "arctanh-vector": (Arctanh(), [4], uniform(-0.9, 0.9, [4])),
    "arctanh-image": (Arctanh(), [2, 3, 2], uniform(-0.9, 0.9, [2, 3, 2])),
    "yeo-johnson-vector": (YeoJohnson(), [5], None),
    "yeo-johnson-channels": (YeoJohnson([2], [3]), [2, 3, 2], None),
    "model": (
        FlowModel([Logit(high=2.0, alpha=0.1), YeoJohnson(), Tanh(), Affine(scale=3.0)]),
        [3],
        uniform(0.5, 1.5, [3]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape, inputs = CASES[name]
    # Neither dtypes nor saving depend on the axes: one case of each layer is enough.
    check_contract(layer, input_shape, inputs=inputs, is_further_layout=len(input_shape) > 1)


GRID = np.concatenate([-np.logspace(3, -3, 25), [0.0], np.logspace(-3, 3, 25)])
CLOSED_FORMS = {
    "affine": (
        Affine(scale=-2.0, shift=3.0),
        lambda x: 3 - 2 * x,
        lambda x: np.log(2.0) + 0 * x,
    ),
    "softplus": (Softplus(), lambda x: np.logaddexp(0, x), special.log_expit),
    "sigmoid": (
        Sigmoid(low=-1.0, high=4.0),
        lambda x: -1 + 5 * special.expit(x),
        lambda x: np.log(5) + special.log_expit(x) + special.log_expit(-x),
    ),
    "tanh": (
        Tanh(),
        np.tanh,
        lambda x: np.log(4) + special.log_expit(2 * x) + special.log_expit(-2 * x),
    ),
    "yeo-johnson": (YeoJohnson(), lambda x: x, lambda x: 0 * x),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_closed_forms_hold_in_the_tails(name, dtype):
    layer, function, log_derivative = CLOSED_FORMS[name]
    layer = type(layer).from_config({**layer.get_config(), "dtype": dtype})
    x = GRID.astype(dtype)[:, None]
    outputs, log_det = map(to_numpy, fast(layer)(ops.convert_to_tensor(x, dtype=dtype)))
    # PyTorch's softplus drops what is below 2e-9.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"atol": 3e-9, "rtol": 1e-9}
    np.testing.assert_allclose(outputs, function(x.astype("float64")), **tolerance)
    np.testing.assert_allclose(log_det, log_derivative(x.astype("float64"))[:, 0], **tolerance)


@pytest.mark.parametrize("layer", [Softplus(), Sigmoid(), Tanh(), YeoJohnson(), Logit(high=2e3)])
def test_gradients_are_finite_in_the_tails(layer):
    x = np.abs(GRID) + 1e-3 if isinstance(layer, Logit) else GRID
    x = ops.convert_to_tensor(x[:, None].astype("float32"))
    layer.build(x.shape)

    @fast
    def differentiate(x):
        (outputs, log_det), pullback = vjp(lambda x: layer(x), [x])
        return pullback((ops.ones_like(outputs), ops.ones_like(log_det)))[0]

    assert np.all(np.isfinite(to_numpy(differentiate(x))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("back", "there", "bounds"), [(Arctanh, Tanh, {}), (Logit, Sigmoid, {"low": -1.0, "high": 4.0})]
)
def test_inverses_are_as_exact_as_the_layers_of_the_same_formula(back, there, bounds, dtype):
    layers = Inverse(back(dtype=dtype, **bounds), dtype=dtype), there(dtype=dtype, **bounds)
    x = ops.convert_to_tensor(GRID[:, None], dtype=dtype)
    found, expected = [], []
    for layer, results in zip(layers, (found, expected), strict=True):
        layer.build(x.shape)

        @fast
        def differentiate(x, layer=layer):
            (outputs, log_det), pullback = vjp(lambda x: layer(x), [x])
            return outputs, log_det, pullback((ops.ones_like(outputs), ops.ones_like(log_det)))[0]

        results += map(to_numpy, differentiate(x))
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, right, rtol=1e-6, atol=1e-6)


INVERSES = {
    "softplus": (Softplus(), np.logspace(-30, 3, 34)),
    "sigmoid": (Sigmoid(low=0.0, high=1e3), np.logspace(-30, 2.9, 34)),
    "sigmoid-upper": (Sigmoid(low=-1e3, high=0.0), -np.logspace(-30, 2.9, 34)),
    "tanh": (Tanh(), np.concatenate([np.logspace(-6, -0.001, 20), -np.logspace(-6, -0.001, 20)])),
    "yeo-johnson": (YeoJohnson(), GRID),
}


@pytest.mark.parametrize("name", INVERSES)
def test_inverses_are_exact_next_to_the_ends_of_the_interval(name):
    layer, y = INVERSES[name]
    y = y.astype("float32")[:, None]
    layer.build(y.shape)
    inputs = fast(layer.invert)(ops.convert_to_tensor(y))
    assert np.all(np.isfinite(to_numpy(inputs)))
    np.testing.assert_allclose(to_numpy(fast(layer)(inputs)[0]), y, rtol=1e-5, atol=1e-36)


def test_known_values():
    assert to_numpy(Sigmoid()(np.array([[0.0]], "float32"))[0]) == 0.5
    np.testing.assert_allclose(
        to_numpy(Logit()(np.array([[0.25, 0.5, 0.75]], "float32"))[0]),
        [[-np.log(3), 0, np.log(3)]],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        to_numpy(Arctanh()(np.array([[0.5]], "float32"))[0]), [[np.log(3) / 2]], rtol=1e-6
    )


def test_logit_inverts_sigmoid_and_arctanh_inverts_tanh():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    for there, back in (
        (Sigmoid(low=-1.0, high=3.0), Logit(low=-1.0, high=3.0)),
        (Tanh(), Arctanh()),
    ):
        y, log_det = fast(there)(ops.convert_to_tensor(x))
        inputs, inverse_log_det = fast(back)(y)
        np.testing.assert_allclose(to_numpy(inputs), x, atol=1e-5)
        np.testing.assert_allclose(to_numpy(inverse_log_det), -to_numpy(log_det), atol=1e-5)
        np.testing.assert_allclose(
            to_numpy(fast(back.invert)(ops.convert_to_tensor(x))), to_numpy(y), atol=1e-6
        )


def test_logit_squeezes_by_alpha():
    layer = Logit(low=10.0, high=20.0, alpha=0.05)
    x = np.array([[10.0, 12.0, 20.0]], "float32")
    outputs, log_det = map(to_numpy, layer(x))
    u = 0.05 + 0.9 * (x - 10) / 10
    np.testing.assert_allclose(outputs, special.logit(u), rtol=1e-5)
    np.testing.assert_allclose(log_det, np.log(0.09 / (u * (1 - u))).sum(), rtol=1e-5)
    ends = to_numpy(layer.invert(np.array([[-100.0, 0.0, 100.0]], "float32")))
    margin = 10 * 0.05 / 0.9
    np.testing.assert_allclose(ends, [[10 - margin, 15, 20 + margin]], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_logistic_data_have_the_uniform_density_in_data_units(alpha):
    """The density of uniform data is a constant, whatever the layer does with them."""
    layer = Logit(high=4.0, alpha=alpha)
    x = np.linspace(0.1, 3.9, 20, dtype="float32")[:, None]
    z, log_det = map(to_numpy, layer(x))
    log_prob = stats.logistic.logpdf(z)[:, 0] + log_det
    np.testing.assert_allclose(log_prob, np.log((1 - 2 * alpha) / 4), rtol=1e-4)


OUTSIDE = {
    "logit": (Logit(low=1.0, high=2.0), "call", [0.5, 1.0, 2.0, 2.5], [np.nan, -np.inf, np.inf]),
    "arctanh": (Arctanh(), "call", [-1.5, -1.0, 1.0, 1.5], [np.nan, -np.inf, np.inf]),
    "softplus": (Softplus(), "invert", [-1.0, 0.0], [np.nan, -np.inf]),
    "sigmoid": (Sigmoid(), "invert", [-0.5, 0.0, 1.0, 1.5], [np.nan, -np.inf, np.inf]),
    "tanh": (Tanh(), "invert", [-1.5, -1.0, 1.0, 1.5], [np.nan, -np.inf, np.inf]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_outside_the_support(name):
    layer, method, values, expected = OUTSIDE[name]
    layer.build((None, 1))
    function = layer.invert if method == "invert" else lambda x: layer(x)[0]
    for value in values if method == "call" else []:
        with pytest.raises(ValueError, match=r"should be above .* and below .*Received: values"):
            layer(np.array([[value]], "float32"))
    received = to_numpy(function(ops.convert_to_tensor(values, dtype="float32")[:, None]))[:, 0]
    np.testing.assert_array_equal(received, [*expected, np.nan][: len(values)])
    assert np.isnan(to_numpy(function(np.array([[np.nan]], "float32"))))


def test_bounds_belong_to_the_support_of_a_squeezed_logit():
    layer = Logit(low=0.1, high=0.7, alpha=0.05)
    bounds = np.array([[0.1, 0.7]], "float32")  # next to the bounds in float64, outside and inside
    np.testing.assert_allclose(to_numpy(layer(bounds)[0]), [[-2.944439, 2.944439]], rtol=1e-5)
    with pytest.raises(ValueError, match=r"should be from 0.1 to 0.7. Received: values from 0.0"):
        layer(np.array([[0.0, 0.5]], "float32"))


def test_a_logit_with_alpha_next_to_its_bounds_in_compiled_code():
    layer = Logit(alpha=0.25)
    x = ops.convert_to_tensor([[-0.25], [1.25], [-1.0]], dtype="float32")
    np.testing.assert_allclose(
        to_numpy(layer(x)[0])[:, 0], special.logit([0.125, 0.875, np.nan]), rtol=1e-5
    )


POWERS = [-1.0, 0.0, 1e-6, 1e-3, 0.5, 1.0, 1.5, 1.99999, 2.0, 3.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", POWERS)
def test_yeo_johnson_gives_the_values_of_scipy(power, dtype):
    layer = YeoJohnson([1], dtype=dtype)
    layer.power.assign([power])
    power = float(to_numpy(layer.power)[0])
    x = GRID.astype(dtype)
    outputs, log_det = map(to_numpy, layer(x[:, None]))
    rtol = 3e-5 if dtype == "float32" else 1e-12
    expected = stats.yeojohnson(x.astype("float64"), lmbda=power)
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=rtol)
    np.testing.assert_allclose(
        log_det, np.sign(x) * (power - 1) * np.log1p(np.abs(x)), rtol=rtol, atol=1e-6
    )
    if 0 <= power <= 2:
        # The root of a large power loses digits, and so does a logarithm of large numbers.
        np.testing.assert_allclose(
            to_numpy(layer.invert(outputs))[:, 0], x, rtol=1e-4 if dtype == "float32" else 1e-11
        )


@pytest.mark.parametrize("power", [-0.5, 2.5])
def test_yeo_johnson_with_powers_beyond_0_and_2_reaches_only_some_numbers(power):
    layer = YeoJohnson([1])
    layer.power.assign([power])
    sign = np.sign(1 - power)
    y = (sign * np.array([[1.9], [2.1]])).astype("float32")
    inputs = to_numpy(layer.invert(y))[:, 0]
    assert np.isnan(inputs[1])
    np.testing.assert_allclose(to_numpy(layer(inputs[:1, None])[0]), y[:1], rtol=1e-4)


@functools.cache
def derivative_by_the_power():
    """Returns a function of events, a power and cotangents; it is compiled once for all powers."""
    layer = YeoJohnson([1], dtype="float64")

    @fast
    def differentiate(x, power, cotangents):
        def run(power):
            with keras.StatelessScope(state_mapping=[(layer.power, power)]):
                return layer(x)[0]

        return vjp(run, [power])[1](cotangents)[0]

    return differentiate


@pytest.mark.parametrize("power", POWERS)
def test_derivatives_by_the_power_are_exact(power):
    """Against central differences of scipy's values, on both sides of zero."""
    if keras.backend.standardize_dtype(ops.ones((), "float64").dtype) != "float64":
        pytest.skip("float64 is not enabled")
    x = np.array([-20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0])
    for i in range(len(x)):
        arguments = x[:, None], [power], np.eye(len(x))[:, i : i + 1]
        received = derivative_by_the_power()(
            *(ops.convert_to_tensor(argument, dtype="float64") for argument in arguments)
        )
        step = 1e-4
        low, high = (stats.yeojohnson(x[i : i + 1], lmbda=power + s)[0] for s in (-step, step))
        np.testing.assert_allclose(
            to_numpy(received), (high - low) / (2 * step), rtol=1e-5, atol=1e-10
        )


def test_the_slope_at_zero_is_one():
    layer = YeoJohnson([1])
    layer.power.assign([0.3])

    @fast
    def slopes(x):
        return [
            vjp(function, [x])[1](ops.ones_like(x))[0]
            for function in (lambda x: layer(x)[0], layer.invert)
        ]

    np.testing.assert_array_equal(list(map(to_numpy, slopes(ops.zeros([1, 1])))), 1)


def test_training_keeps_powers_between_0_and_2():
    model = FlowModel([YeoJohnson([2])])
    model.compile(keras.optimizers.SGD(10.0), loss=[lambda _, z: ops.mean(z, axis=-1), None])
    x = np.array([[3.0, -3.0]], "float32")
    model.fit(x, np.zeros([1, 1]), epochs=3, verbose=0)
    np.testing.assert_array_equal(to_numpy(model._flow_layers_[0].power), [0.0, 0.0])
    assert np.all(np.isfinite(to_numpy(model(x)[0])))


def test_standardize_measures_data_and_is_not_trained(tmp_path):
    data = (np.random.default_rng(0).normal(size=(50, 4, 3)) * [1, 10, 100] + 7).astype("float32")
    layer = Standardize(axes=[2])
    model = FlowModel([layer])
    model.adapt(data)
    outputs, log_det = map(to_numpy, model(data))
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=(0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(log_det, -4 * np.log(data.std(axis=(0, 1))).sum(), rtol=1e-5)
    assert model.trainable_weights == []
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(data)[0]), outputs)


def test_standardize_takes_numbers_or_arrays():
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    outputs, log_det = map(to_numpy, Standardize([2], location=[1, 2], scale=4)(x))
    np.testing.assert_allclose(outputs, (x - [1, 2]) / 4, rtol=1e-5)
    np.testing.assert_allclose(log_det, -2 * np.log(4), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(scale=0.0), "`scale` should be finite and not zero. Received: scale=0.0"),
        (lambda: Affine(scale=[1.0, np.inf]), "`scale` should be finite"),
        (lambda: Affine(shift=np.nan), "`shift` should be finite. Received: shift=nan"),
        (lambda: Affine([3], scale=[1.0, 2.0]), r"`scale` should be one number, or have the shape"),
        (lambda: Affine([3], shift=[[1.0]]), r"`shift` should be one number.*shape \(1, 1\)"),
        (lambda: Standardize(scale=[1.0, 0.0]), "`scale` should be positive"),
        (lambda: Standardize(scale=[1.0, np.inf]), "`scale` should be finite"),
        (lambda: Standardize(location=[np.nan]), "`location` should be finite"),
        (lambda: Standardize([3], location=[1.0]), r"`location` should be one number"),
        (lambda: Sigmoid(low=1.0, high=1.0), "`low` should be below `high`"),
        (lambda: Logit(high=np.inf), "both should be finite. Received: low=0.0, high=inf"),
        (lambda: Logit(alpha=0.5), "`alpha` should be at least 0 and below 0.5. Received: alpha=0"),
        (lambda: Logit(alpha=-0.1), "`alpha` should be"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
