"""What every flow layer promises for any finite numbers and for weights of any size."""

import math
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from layer_cases import (
    BACKEND,
    CASES,
    CHECKED,
    DISCRETE,
    EVERY,
    LONG,
    SLOW,
    WITHOUT_CASE,
    Twins,
    fit,
    keep,
    make_twins,
    network,
)

from gyoza.backend import forget_gradients
from gyoza.modelling import flow_layers, transforms


def test_every_layer_has_a_case():
    assert {*CASES, *DISCRETE} == set(flow_layers.__all__) - WITHOUT_CASE


def check_range(twins, method, x):
    """What can be represented is computed: there is no NaN or infinity without need."""
    results = twins.run(twins.layer, method, x)
    are_finite = fit(*results, limit=np.inf)
    if not np.all(are_finite):
        assert np.all(are_finite | ~fit(*twins.run(twins.exact, method, x)))
    return results


def check_rows(twins, x, hostile):
    """No row depends on others, whatever they hold, and all without NaN are in range."""
    other = x.copy()
    other[::2] = hostile[: len(other[::2])]
    outputs, log_det = check_range(twins, "__call__", x)
    others, other_log_det = twins.there(other)
    np.testing.assert_array_equal(others[1::2], outputs[1::2])
    np.testing.assert_array_equal(other_log_det[1::2], log_det[1::2])
    y = keep(outputs, fit(outputs))
    other = y.copy()
    other[::2] = hostile[: len(other[::2])].reshape(other[::2].shape)
    inputs, log_det = check_range(twins, "invert_and_log_det", y)
    others, other_log_det = twins.back(other)
    np.testing.assert_array_equal(others[1::2], inputs[1::2])
    np.testing.assert_array_equal(other_log_det[1::2], log_det[1::2])


def check_gradients(twins, x, of_weights=False, limit=1e15):
    """Gradients are finite where they are in range with some room for what is on the way."""
    outputs, _ = twins.there(x)
    for method, inputs in (("__call__", x), ("invert_and_log_det", keep(outputs, fit(outputs)))):
        _, (of_x, *others) = twins.run(twins.layer, method, inputs, gradients=True)
        are_finite = fit(of_x, limit=np.inf)
        if all(np.all(np.isfinite(gradient)) for gradient in (of_x, *others)):
            continue
        results, wanted = twins.run(twins.exact, method, inputs, gradients=True)
        assert np.all(are_finite | ~fit(*results, wanted[0], limit=limit))
        if of_weights:
            for gradient, other in zip(others, wanted[1:], strict=True):
                assert np.all(np.isfinite(gradient)) or np.any(np.abs(other) > limit)


def check_round_trip(twins, x, tolerance):
    """Inverses are mapped back, or are as near to the inputs as those that are."""
    outputs, _ = twins.there(x, exact=True)
    inputs, log_det = twins.back(outputs, exact=True)
    again, again_log_det = twins.there(inputs, exact=True)
    gap = np.abs(inputs - x) / (1 + np.abs(x))
    outer_gap = np.abs(again - outputs) / (1 + np.abs(outputs))
    assert np.all(np.minimum(gap, outer_gap.reshape(gap.shape)) < tolerance)
    error = np.abs(log_det - again_log_det) / (1 + np.abs(log_det))
    assert np.all(error < tolerance)


def check_log_det(twins, x, tolerance):
    """The log-determinants are those of the Jacobian matrix by automatic differentiation."""
    jacobian, log_det = twins.differentiate(x)
    expected = np.linalg.slogdet(jacobian)[1]
    seen = np.isfinite(expected)  # otherwise, slopes are below all numbers
    error = np.abs(log_det - expected)[seen] / (1 + np.abs(expected[seen]))
    assert np.all(error < tolerance)


class Case(NamedTuple):
    """What is drawn for each layer: by how much its weights are multiplied, and its inputs."""

    factor: float
    seed: int
    magnitudes: tuple
    count: int

    def check(self, name, is_long=True):
        twins, random = make_twins(name), np.random.default_rng(self.seed)
        twins.set_weights(self.factor, self.seed)
        ordinary = twins.draw(random, self.count, [1.0, 3.0, 0.0])
        extreme = twins.draw(random, self.count, self.magnitudes)
        outputs, _ = check_range(twins, "__call__", extreme)
        check_range(twins, "invert_and_log_det", keep(outputs, fit(outputs)))
        hostile = twins.draw(random, self.count, [np.nan, np.inf, 1e30, 1e3])
        check_rows(twins, ordinary, hostile)
        check_gradients(twins, ordinary[:16], of_weights=True)
        if is_long:
            check_gradients(twins, extreme[:64])
        if self.factor <= CONDITIONED.get(name, math.inf):
            check_round_trip(twins, ordinary, TOLERANCES.get(name, 1e-9))
            check_log_det(twins, ordinary[:8], TOLERANCES.get(name, 1e-5))


MAGNITUDES = [1e3, 1e6, 1e30, 1e-40, 1.0, 0.0]

CASES_TO_DRAW = strategies.builds(
    Case,
    factor=strategies.sampled_from([1.0, 10.0, 100.0]),
    seed=strategies.integers(0, 2**16),
    magnitudes=strategies.lists(strategies.sampled_from(MAGNITUDES), min_size=1).map(tuple),
    count=strategies.just(4096),
)

# Up to which factor matrices can be inverted, or so few steps follow the equation, at all.
CONDITIONED = {
    **dict.fromkeys(["Inverse", "LULinear", "InvertibleConvolution", "TriangularAffine"], 10.0),
    "BlockNeuralAutoregressive": 10.0,
    "ContinuousFlow": 1.0,
}
TOLERANCES = {"ContinuousFlow": 1e-2}


@pytest.mark.parametrize("name", CHECKED)
def test_large_weights_and_numbers(name):
    Case(100.0, 1, tuple(MAGNITUDES), 16).check(name, is_long=False)


@LONG
@pytest.mark.parametrize("name", CASES)
def test_any_weights_and_numbers(name):
    # A case takes seconds: a million rows in all do without looking for a simpler one that fails.
    @hypothesis.settings(
        derandomize=True,
        max_examples=6,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(CASES_TO_DRAW)
    def check(case):
        case.check(name)

    check()


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=LONG)])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision(name, dtype):
    """Results of ordinary numbers have its errors, and those of larger ones are finite."""
    twins, random = Twins(name, dtype), np.random.default_rng(0)
    tolerance = 32 * {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    twins.set_weights(1.0)
    for scale in (1.0, 100.0):
        x = twins.draw(random, 32, [1.0, 3.0, 0.0]) * (1.0 if twins.bounds[0] > -np.inf else scale)
        x = to_numpy(ops.cast(ops.convert_to_tensor(x, dtype=dtype), "float64"))
        outputs, log_det = twins.there(x)
        expected, exact_log_det = twins.there(x, exact=True)
        assert np.all(fit(outputs, log_det) | ~fit(expected, limit=6e4))
        y = keep(outputs, fit(outputs))
        inputs, _ = twins.back(y)
        if name.startswith("Masked"):
            continue  # their networks enlarge errors from one dimension to the next
        assert np.all(fit(inputs) | ~fit(twins.back(y, exact=True)[0], limit=6e4))
        if scale == 1.0:
            assert np.all(np.abs(outputs - expected) < tolerance * (1 + np.abs(expected)))
            assert np.all(np.abs(log_det - exact_log_det) < tolerance * (1 + np.abs(exact_log_det)))
            gap = np.abs(inputs - x) / (1 + np.abs(x))
            again, _ = twins.there(inputs, exact=True)
            outer_gap = np.abs(again - outputs) / (1 + np.abs(outputs))
            assert np.all(np.minimum(gap, outer_gap.reshape(gap.shape)) < tolerance)


@pytest.mark.parametrize("name", EVERY)
def test_one_row(name):
    """A row by itself is mapped as it is among others."""
    twins = make_twins(name)
    twins.set_weights(1.0)
    x = twins.draw(np.random.default_rng(0), 3, [1.0, 3.0])
    results = twins.there(x, exact=True)
    among_others = results + twins.back(results[0], exact=True)
    alone = twins.there(x[1:2], exact=True) + twins.back(results[0][1:2], exact=True)
    for one, all_of_them in zip(alone, among_others, strict=True):
        np.testing.assert_allclose(one, all_of_them[1:2], rtol=1e-9, atol=1e-9)
    outputs, _ = check_range(twins, "__call__", x[1:2])
    check_range(twins, "invert_and_log_det", outputs)
    check_gradients(twins, x[1:2], of_weights=True)


@LONG
@pytest.mark.parametrize("name", CASES)
def test_a_million_rows(name):
    """In one batch, and again where every other row is hostile. A tenth, where that takes long."""
    twins, random = make_twins(name), np.random.default_rng(0)
    twins.set_weights(1.0)
    takes_long = name in {*SLOW, "MaskedAffine", "MixtureGaussianization", "Residual"}
    count = 10**5 if takes_long else 10**6
    x = twins.draw(random, count, [1.0, 3.0, 0.0, 1e3, 1e6])
    with forget_gradients():
        check_rows(twins, x, twins.draw(random, count // 2, [np.nan, np.inf, 1e30, 1e3]))


@pytest.mark.parametrize("name", EVERY)
def test_empty_batches(name):
    twins = make_twins(name)
    x = np.zeros([0, *twins.shape], "float32")
    outputs, log_det = twins.there(x)
    inputs, inverse_log_det = twins.back(outputs)
    assert log_det.shape == inverse_log_det.shape == (0,)
    assert outputs.shape == (0, *twins.there(np.full([1, *twins.shape], 0.5))[0].shape[1:])
    assert inputs.shape == x.shape
    _, (of_x, *others) = twins.run(twins.layer, "__call__", x, gradients=True)
    assert of_x.shape == x.shape
    assert all(np.all(gradient == 0.0) for gradient in others)


# The same layers for axes of length 1. Others halve axes, which then have a length of 2 in `CASES`.
NARROW = {
    **{
        name: (make, [1] * len(shape), *bounds)
        for name, (make, shape, *bounds) in CASES.items()
        if name not in ("Squeeze", "Unsqueeze", "HaarDownsampling")
    },
    "MaskedAutoregressive": (
        lambda c: c(transformer=transforms.LogisticMixtureTransform(4)),
        [1],
    ),
    "Columns": (lambda c: c({0: flow_layers.Softplus()}), [1]),
    "Permutation": (lambda c: c(permutation=[0]), [1]),
    "PairAxes": (lambda c: c({"residual": 1}), [1]),
    "Affine": (lambda c: c(scale=[-0.5], shift=1.0), [1]),
    "Standardize": (lambda c: c(location=[1.0], scale=[3.0]), [1]),
    "Sylvester": (lambda c: c(column_count=1), [1]),
    "Reshape": (lambda c: c([1]), [1, 1]),
    "FactorOut": (lambda c: c(flow_layers.Reflection()), [2]),
}


@pytest.mark.parametrize(
    "name",
    [name if BACKEND == "torch" else pytest.param(name, marks=LONG) for name in NARROW],
)
def test_axes_of_length_one(name):
    twins = Twins(name, cases=NARROW)
    twins.set_weights(1.0)
    x = twins.draw(np.random.default_rng(0), 8, [1.0, 3.0])
    check_range(twins, "__call__", x)
    check_gradients(twins, x, of_weights=True)
    check_round_trip(twins, x, TOLERANCES.get(name, 1e-9))
    check_log_det(twins, x, TOLERANCES.get(name, 1e-5))


# Those whose cost grows with the square of the number of dimensions or faster, or whose
# log-determinants are random from 33 dimensions on.
COSTLY = {
    *("MaskedAutoregressive", "MaskedAffine", "MaskedRationalQuadraticSpline", "Inverse"),
    *("Orthogonal", "LULinear", "InvertibleConvolution", "TriangularAffine", "LinearMap"),
    *("PrincipalRotation", "Residual", "ContinuousFlow", "BlockNeuralAutoregressive"),
}
WIDE = {
    **{
        name: (make, {1: [4096], 2: [64, 64], 3: [32, 32, 4]}[len(shape)], *bounds)
        for name, (make, shape, *bounds) in CASES.items()
    },
    **{name: (CASES[name][0], [31] if len(CASES[name][1]) == 1 else [2, 1, 31]) for name in COSTLY},
    "MaskedAutoregressive": (NARROW["MaskedAutoregressive"][0], [31]),
    "Columns": (
        lambda c: c(
            {
                0: flow_layers.Softplus(),
                tuple(range(4095, 7, -2)): flow_layers.AffineCoupling(conditioner=network()),
            }
        ),
        [4096],
    ),
    "Permutation": (lambda c: c(permutation=np.roll(np.arange(4096), 5)), [4096]),
    "PairAxes": (lambda c: c({"residual": 4000, "shape": 96}), [4096]),
    "Affine": (lambda c: c(scale=np.linspace(-2.0, 2.0, 4096), shift=1.0), [4096]),
    "Standardize": (lambda c: c(location=np.ones(4096), scale=np.full(4096, 0.1)), [4096]),
    "Reshape": (lambda c: c([4096]), [64, 64]),
}


@LONG
@pytest.mark.parametrize("name", WIDE)
def test_many_dimensions(name):
    """There are 4096, or 31 if they cost much."""
    twins, random = Twins(name, cases=WIDE), np.random.default_rng(0)
    twins.set_weights(1.0)
    x = twins.draw(random, 4, [1.0, 3.0, 0.0])
    check_range(twins, "__call__", x)
    check_rows(twins, x, twins.draw(random, 4, [np.nan, 1e30]))
    check_gradients(twins, x, of_weights=True)
    check_round_trip(twins, x, TOLERANCES.get(name, 1e-8))
