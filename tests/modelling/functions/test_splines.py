"""Rational-quadratic splines: their formula, autodiff, and the places where they break."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.special import log_softmax

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.splines import (
    check_spline,
    circular_spline,
    rational_quadratic_spline,
)
from gyoza.testing.functions import compile_on_jax as fast

BOUND = 5.0
SIZE = 1000  # of most inputs: other shapes would be compiled anew
SLOPE_COUNTS = {rational_quadratic_spline: -1, circular_spline: 0}
BOTH = pytest.mark.parametrize("spline", SLOPE_COUNTS, ids=lambda spline: spline.__name__)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def tensor(x, dtype="float64"):
    return ops.convert_to_tensor(x, dtype=dtype)


def eager(function):
    return function


def under_xla(function):
    return jit(function, xla=True)


@functools.cache
def evaluation(spline, inverse=False, compiler=fast):
    """Compiled once for all tests whose inputs have the same shape."""
    return compiler(lambda x, *v: spline(x, *v, bound=BOUND, inverse=inverse))


@functools.cache
def differentiation(spline, inverse):
    @fast
    def run(weights, *primals):
        results, pullback = vjp(lambda x, *v: spline(x, *v, bound=BOUND, inverse=inverse), primals)
        cotangents = [w * ops.ones_like(y) for w, y in zip(weights, results, strict=True)]
        return results, pullback(tuple(cotangents))

    return run


def evaluate(spline, x, parameters, inverse=False):
    """Returns the values of a spline and the logarithms of its slopes."""
    return evaluation(spline, inverse)(x, *parameters)


def differentiate(spline, x, parameters, inverse=False, weights=(1.0, 1.0)):
    """Returns what `evaluate` returns, and the gradients of its weighted sum by all arguments."""
    weights = [ops.cast(weight, x.dtype) for weight in weights]
    return differentiation(spline, inverse)(weights, x, *parameters)


def parameters(spline, size, bin_count=8, scale=1.0, dtype="float64", seed=0):
    random = np.random.default_rng(seed)
    counts = bin_count, bin_count, bin_count + SLOPE_COUNTS[spline]
    return [tensor(scale * random.normal(size=(size, count)), dtype) for count in counts]


def knots_of(parameters, minimum=1e-3):
    """The knots by the paper's text: fractions of the interval by a softmax, with a least one."""
    fractions = np.exp(log_softmax(to_numpy(parameters).astype("float64"), axis=-1))
    fractions = minimum + (1 - minimum * fractions.shape[-1]) * fractions
    return BOUND * (2 * np.insert(np.cumsum(fractions, axis=-1), 0, 0, axis=-1) - 1)


def slopes_of(parameters, minimum=1e-3):
    offset = np.log(np.exp(1 - minimum) - 1)
    return minimum + np.log1p(np.exp(to_numpy(parameters).astype("float64") + offset))


def paper_spline(x, x_knots, y_knots, slopes):
    """Equations (4) and (5) of Durkan et al. (2019), for one number."""
    k = np.searchsorted(x_knots, x, side="right") - 1
    s = (y_knots[k + 1] - y_knots[k]) / (x_knots[k + 1] - x_knots[k])
    xi = (x - x_knots[k]) / (x_knots[k + 1] - x_knots[k])
    denominator = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
    y = y_knots[k] + (y_knots[k + 1] - y_knots[k]) * (s * xi**2 + slopes[k] * xi * (1 - xi)) / (
        denominator
    )
    slope = (
        s**2
        * (slopes[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[k] * (1 - xi) ** 2)
        / (denominator**2)
    )
    return y, np.log(slope)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_values_and_slopes_are_those_of_the_paper(spline, dtype, tolerance):
    x = np.random.default_rng(1).uniform(-BOUND, BOUND, SIZE).astype(dtype)
    widths, heights, slopes = parameters(spline, SIZE, dtype=dtype)
    y, log_slope = evaluate(spline, tensor(x, dtype), [widths, heights, slopes])
    inner = slopes_of(slopes)
    if spline is circular_spline:
        knot_slopes = np.concatenate([inner, inner[:, :1]], axis=1)
    else:
        knot_slopes = np.pad(inner, ((0, 0), (1, 1)), constant_values=1.0)
    expected = [
        paper_spline(*row)
        for row in zip(x, knots_of(widths), knots_of(heights), knot_slopes, strict=True)
    ]
    expected_y, expected_log_slope = np.transpose(expected)
    assert np.ptp(expected_log_slope) > 3.0
    np.testing.assert_allclose(to_numpy(y), expected_y, rtol=0, atol=5 * tolerance)
    np.testing.assert_allclose(to_numpy(log_slope), expected_log_slope, rtol=0, atol=50 * tolerance)


@BOTH
@pytest.mark.parametrize("inverse", [False, True])
def test_log_slopes_are_those_of_autodiff(spline, inverse):
    x = tensor(np.random.default_rng(1).uniform(-6, 6, SIZE))
    (_, log_slope), gradients = differentiate(
        spline, x, parameters(spline, SIZE), inverse, weights=(1.0, 0.0)
    )
    np.testing.assert_allclose(to_numpy(log_slope), np.log(to_numpy(gradients[0])), atol=1e-10)


@BOTH
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_round_trip(spline, scale):
    x = tensor(np.random.default_rng(1).uniform(-8, 8, SIZE))
    arguments = parameters(spline, SIZE, scale=scale)
    y, log_slope = evaluate(spline, x, arguments)
    inverse, log_slope_back = evaluate(spline, y, arguments, inverse=True)
    np.testing.assert_allclose(to_numpy(inverse), to_numpy(x), atol=1e-10)
    np.testing.assert_allclose(to_numpy(log_slope_back), -to_numpy(log_slope), atol=1e-7)


@BOTH
def test_inverse_in_float32_is_as_good_as_its_rounding(spline):
    # With scale 4 there are bins a thousand times as steep as others, in which the textbook root
    # cancels. What remains is the rounding of coordinates, times the slope.
    y = np.random.default_rng(1).uniform(-BOUND, BOUND, SIZE).astype("float32")
    exact = [to_numpy(v) for v in parameters(spline, SIZE, scale=4.0, dtype="float32")]
    narrow, wide = [tensor(v, "float32") for v in exact], [tensor(v) for v in exact]
    x, log_slope = evaluate(spline, tensor(y, "float32"), narrow, inverse=True)
    expected, expected_log_slope = evaluate(spline, tensor(y), wide, inverse=True)
    rounding = 2e-6 * (1.0 + np.exp(to_numpy(expected_log_slope)))
    error = np.abs(to_numpy(x) - to_numpy(expected))
    assert np.all(error < np.maximum(rounding, 1e-5)), np.max(error / rounding)
    assert np.all(np.isfinite(to_numpy(log_slope)))


@BOTH
def test_spline_is_strictly_monotonic(spline):
    size = 20001
    x = np.linspace(-6.0, 6.0, size)
    run = fast(lambda x, *v: spline(x, *(ops.repeat(one, size, axis=0) for one in v), bound=BOUND))
    for seed in range(3):
        arguments = parameters(spline, 1, scale=3.0, seed=seed)
        y, log_slopes = map(to_numpy, run(tensor(x), *arguments))
        assert np.all(np.diff(y) > 0.0)
        # Nor does it jump at knots or ends: no step is longer than the largest slope allows.
        assert np.max(np.diff(y)) < 1.5 * np.exp(np.max(log_slopes)) * (x[1] - x[0])


@BOTH
@DTYPES
@pytest.mark.parametrize("compiler", [eager, under_xla])
def test_zero_parameters_give_exactly_the_identity(spline, dtype, compiler):
    x = np.random.default_rng(1).uniform(-20, 20, SIZE)
    x[:17] = np.linspace(-5, 5, 17)
    x = tensor(x, dtype)
    arguments = parameters(spline, SIZE, scale=0.0, dtype=dtype)
    for inverse in (False, True):
        y, log_slope = evaluation(spline, inverse, compiler)(x, *arguments)
        np.testing.assert_array_equal(to_numpy(y), to_numpy(x))
        np.testing.assert_array_equal(to_numpy(log_slope), 0.0)


@BOTH
def test_training_can_start_from_the_identity(spline):
    arguments = parameters(spline, SIZE, scale=0.0)
    x = tensor(np.random.default_rng(1).uniform(-5, 5, SIZE))
    for gradient in differentiate(spline, x, arguments, weights=(1.0, 0.0))[1][1:]:
        assert np.all(np.any(to_numpy(gradient) != 0.0, axis=0))


@pytest.mark.parametrize("slope", [0.3, 0.8])
def test_inverses_in_bins_without_a_bend_are_linear(slope):
    # Of two bins of equal widths, the first one has this slope at both of its knots, too.
    share = (slope / 2 - 1e-3) / (1 - 2e-3)
    heights = [[np.log(share / (1 - share)), 0.0]]
    slopes = np.full([1, 2], np.log(1 + np.expm1(slope - 1) / -np.expm1(1e-3 - 1)))
    y = np.linspace(-BOUND, -BOUND + slope * BOUND, 12)[1:-1]
    parameters = [tensor(v) for v in (np.zeros([1, 2]), heights, slopes)]
    x, log_slope = circular_spline(tensor(y), *parameters, bound=BOUND, inverse=True)
    np.testing.assert_allclose(to_numpy(x), (y + BOUND) / slope - BOUND, atol=1e-12)
    np.testing.assert_allclose(to_numpy(log_slope), -np.log(slope), atol=1e-12)


@BOTH
@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(6, 1), (2, 1, 3)])
def test_axes_of_length_1_make_no_difference(spline, inverse, shape):
    x, arguments = tensor(np.random.default_rng(1).uniform(-3, 3, 6)), parameters(spline, 6)
    placed = [ops.reshape(v, (*shape, v.shape[-1])) for v in arguments]
    found = spline(ops.reshape(x, shape), *placed, inverse=inverse)
    for one, expected in zip(found, spline(x, *arguments, inverse=inverse), strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(expected).reshape(shape))


@BOTH
@pytest.mark.compiled_by("tensorflow")
def test_splines_map_forwards_on_their_usual_intervals_unless_told(spline):
    bound = 5.0 if spline is rational_quadratic_spline else np.pi
    x, arguments = np.array([-0.9, 0.1, 0.9, 1.1]) * bound, parameters(spline, 4)
    for found, expected in zip(
        spline(tensor(x), *arguments),
        spline(tensor(x), *arguments, bound=bound, inverse=False),
        strict=True,
    ):
        np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))


def test_intervals_may_be_short():
    check_spline(8, 1e-3, 1e-3, 1e-3, 1e-3)


@DTYPES
@pytest.mark.parametrize("inverse", [False, True])
def test_batch_in_the_tails_passes_unchanged_with_finite_gradients(dtype, inverse):
    x = tensor(np.resize([-1000.0, -5.0, 5.0, 1000.0, -1e30, 1e30], SIZE), dtype)
    arguments = parameters(rational_quadratic_spline, SIZE, scale=3.0, dtype=dtype)
    (y, log_slope), gradients = differentiate(
        rational_quadratic_spline, x, arguments, inverse=inverse
    )
    np.testing.assert_array_equal(to_numpy(y), to_numpy(x))
    np.testing.assert_array_equal(to_numpy(log_slope), 0.0)
    gradients = [to_numpy(gradient) for gradient in gradients]
    np.testing.assert_array_equal(gradients[0], 1.0)
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, 0.0)


def test_infinite_inputs_stay_and_nan_is_not_hidden():
    x = tensor(np.resize([np.inf, -np.inf, np.nan], SIZE), "float32")
    arguments = parameters(rational_quadratic_spline, SIZE, dtype="float32")
    y, _ = evaluate(rational_quadratic_spline, x, arguments)
    np.testing.assert_array_equal(to_numpy(y), to_numpy(x))


@BOTH
@DTYPES
@pytest.mark.parametrize("inverse", [False, True])
def test_on_knots_slopes_are_those_of_the_parameters_and_gradients_are_finite(
    spline, dtype, inverse
):
    one = parameters(spline, 1, scale=2.0, dtype=dtype)
    x_knots, y_knots = knots_of(one[0])[0], knots_of(one[1])[0]
    start, stop = (y_knots, x_knots) if inverse else (x_knots, y_knots)
    start, stop = np.resize(start, SIZE), np.resize(stop, SIZE)
    arguments = [tensor(np.repeat(to_numpy(v), SIZE, axis=0), dtype) for v in one]
    (y, log_slope), gradients = differentiate(
        spline, tensor(start, dtype), arguments, inverse=inverse
    )
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(to_numpy(y), stop, atol=tolerance)
    expected = np.log(slopes_of(one[2])[0])
    if spline is circular_spline:
        expected = np.append(expected, expected[0])
    else:
        expected = np.pad(expected, 1)
    expected = np.resize(-expected if inverse else expected, SIZE)
    np.testing.assert_allclose(to_numpy(log_slope), expected, atol=20 * tolerance)
    for gradient in gradients:
        assert np.all(np.isfinite(to_numpy(gradient)))


@BOTH
@DTYPES
@pytest.mark.parametrize("inverse", [False, True])
def test_huge_parameters_give_finite_values_and_gradients(spline, dtype, inverse):
    x = tensor(np.linspace(-5.5, 5.5, SIZE), dtype)
    arguments = parameters(spline, SIZE, scale=1000.0, dtype=dtype)
    results, gradients = differentiate(spline, x, arguments, inverse=inverse)
    for array in (*results, *gradients):
        assert np.all(np.isfinite(to_numpy(array)))


@pytest.mark.parametrize(
    ("parameter", "slope"), [(-1e4, 1e-3), (0.0, 1.0), (1e4, 1e4 + 1e-3 + np.log(np.e**0.999 - 1))]
)
def test_slope_goes_from_its_minimum_through_one_to_a_linear_function(parameter, slope):
    arguments = parameters(rational_quadratic_spline, 1, bin_count=2, scale=0.0)
    arguments[2] = ops.full_like(arguments[2], parameter)
    log_slope = evaluate(rational_quadratic_spline, tensor([0.0]), arguments)[1]
    np.testing.assert_allclose(np.exp(to_numpy(log_slope)), [slope], rtol=1e-9)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(name):
    x = ops.cast(tensor(np.linspace(-4, 4, SIZE), "float32"), name)
    arguments = [ops.cast(v, name) for v in parameters(rational_quadratic_spline, SIZE)]
    y, log_slope = evaluate(rational_quadratic_spline, x, arguments)
    expected, expected_log_slope = evaluate(
        rational_quadratic_spline,
        ops.cast(x, "float32"),
        [ops.cast(v, "float32") for v in arguments],
    )
    assert keras.backend.standardize_dtype(y.dtype) == name
    # But for the last digit, as the compiler may order operations otherwise.
    rounding = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[name]
    y, expected = (to_numpy(ops.cast(values, "float32")) for values in (y, expected))
    np.testing.assert_allclose(y, expected, rtol=1.01 * rounding, atol=1e-6)
    np.testing.assert_allclose(to_numpy(log_slope), to_numpy(expected_log_slope), atol=1e-5)


def test_circular_spline_maps_the_circle_to_itself():
    arguments = parameters(circular_spline, SIZE, scale=2.0)
    x = np.random.default_rng(1).uniform(-BOUND, BOUND, SIZE)

    def run(x):
        return map(to_numpy, evaluate(circular_spline, tensor(x), arguments))

    y, log_slope = run(x)
    for turns in (-3, 1):
        y_there, log_slope_there = run(x + 2 * BOUND * turns)
        np.testing.assert_allclose(y_there, y + 2 * BOUND * turns, atol=1e-9)
        np.testing.assert_allclose(log_slope_there, log_slope, atol=1e-9)
    # Smooth where the ends meet, and not with slope 1 there, as with linear tails.
    ends = np.stack([np.full(SIZE, BOUND - 1e-12), np.full(SIZE, -BOUND)])
    (_, upper), (_, lower) = map(run, ends)
    np.testing.assert_allclose(upper, lower, atol=1e-5)
    assert np.std(upper) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bin_count": 1}, "`bin_count`.*Received: bin_count=1"),
        ({"bin_count": 2.5}, "`bin_count`.*Received: bin_count=2.5"),
        ({"bin_count": 4.0}, "`bin_count`.*Received: bin_count=4.0"),
        ({"bin_count": "4"}, "`bin_count`.*Received: bin_count='4'"),
        ({"bin_count": None}, "`bin_count`.*Received: bin_count=None"),
        ({"bound": "5"}, "`bound`.*Received: bound='5'"),
        ({"minimum_slope": None}, "`minimum_slope`.*Received: minimum_slope=None"),
        ({"bound": 0.0}, "`bound`.*Received: bound=0.0"),
        ({"bound": np.inf}, "`bound`.*Received: bound=inf"),
        ({"minimum_bin_width": 0.125}, "`minimum_bin_width`.*bin_count=8"),
        ({"minimum_bin_height": 0.0}, "`minimum_bin_height`.*bin_count=8"),
        ({"minimum_slope": 1.0}, "`minimum_slope`.*Received: minimum_slope=1.0"),
    ],
)
def test_bad_options(change, message):
    options = {
        "bin_count": 8,
        "bound": 5.0,
        "minimum_bin_width": 1e-3,
        "minimum_bin_height": 1e-3,
        "minimum_slope": 1e-3,
    }
    check_spline(**options)
    with pytest.raises(ValueError, match=message):
        check_spline(**{**options, **change})


@pytest.mark.parametrize(
    ("spline", "counts"),
    [
        (rational_quadratic_spline, (8, 8, 8)),
        (rational_quadratic_spline, (8, 7, 7)),
        (circular_spline, (8, 8, 7)),
    ],
)
def test_bad_numbers_of_parameters(spline, counts):
    with pytest.raises(ValueError, match="`heights` and `slopes` should have lengths of 8 and"):
        spline(tensor([0.0]), *(tensor(np.zeros([1, count])) for count in counts))


@BOTH
def test_log_slopes_in_the_smallest_bins_keep_most_digits_in_float32(spline):
    random, size = np.random.default_rng(0), 20000
    x = random.uniform(-5, 5, size=size).astype("float32")
    counts = (8, 8, 8 + SLOPE_COUNTS[spline])
    parameters = [(30 * random.normal(size=(size, n))).astype("float32") for n in counts]
    exact, rounded = (
        to_numpy(evaluation(spline)(*(tensor(v, dtype) for v in (x, *parameters)))[1])
        for dtype in ("float64", "float32")
    )
    error = np.abs(rounded - exact)
    assert np.median(error) < 2e-6
    assert np.quantile(error, 0.99) < 1e-4


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="`vmap` is PyTorch's")
def test_numbers_are_mapped_alike_by_vmap():
    import torch

    random = np.random.default_rng(0)
    shapes = [5, 3], [5, 3, 4], [5, 3, 4], [5, 3, 3]
    tensors = [torch.tensor(random.normal(size=shape)) for shape in shapes]
    expected = rational_quadratic_spline(*tensors)
    torch.testing.assert_close(torch.func.vmap(rational_quadratic_spline)(*tensors), expected)
