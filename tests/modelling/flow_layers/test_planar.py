"""Planar, radial and Sylvester layers: their formulas, and inverses for all weights."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.flow_layers import Planar, Radial, Sylvester
from gyoza.modelling.functions.roots import find_root
from gyoza.testing.functions import compile_on_jax as fast

CASES = {
    "planar": (Planar(), [3]),
    "radial-axes": (Radial(axes=[2]), [2, 3]),
    "sylvester": (Sylvester(column_count=2), [3]),
}


@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    check_contract(*CASES[name])


@pytest.mark.parametrize("layer", [Planar, Radial, Sylvester])
def test_new_layer_is_the_identity(layer):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    outputs, log_det = jit(layer(shape=[4]))(ops.convert_to_tensor(x))
    np.testing.assert_allclose(to_numpy(outputs), x, atol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), 0, atol=1e-6)


def test_planar_has_the_formula_of_the_paper_where_its_constraint_is_met():
    layer = Planar(shape=[3])
    w, v, b = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.2, 2.0]), 0.7
    for weight, value in ((layer.normal, w), (layer.direction, v), (layer.bias, b)):
        weight.assign(value)
    strength = 0.999 * (np.log1p(np.exp(w @ v) * (np.e - 1)) - 1)
    u = v + (strength - w @ v) * w / (w @ w)
    x = np.random.default_rng(0).normal(size=(6, 3))
    outputs, log_det = layer(x.astype("float32"))
    bent = np.tanh(x @ w + b)
    np.testing.assert_allclose(to_numpy(outputs), x + np.outer(bent, u), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        to_numpy(log_det), np.log1p((1 - bent**2) * (w @ u)), rtol=1e-4, atol=1e-5
    )


def test_radial_has_the_formula_of_the_paper():
    layer = Radial(shape=[2])
    centre, radius, parameter = np.array([1.0, -0.5]), 0.3, -2.0
    layer.centre.assign(centre)
    layer.log_radius.assign(np.log(radius))
    layer.strength.assign(parameter)
    beta = 0.999 * (np.log1p(np.exp(parameter) * (np.e - 1)) - 1) * radius
    x = np.random.default_rng(0).normal(size=(6, 2))
    r = np.linalg.norm(x - centre, axis=1)
    h = 1 / (radius + r)
    outputs, log_det = layer(x.astype("float32"))
    expected = x + beta * h[:, np.newaxis] * (x - centre)
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=1e-5, atol=1e-6)
    expected = np.log1p(beta * h) + np.log1p(beta * h - beta * r * h**2)
    np.testing.assert_allclose(to_numpy(log_det), expected, rtol=1e-4, atol=1e-5)


def test_sylvester_moves_points_in_the_space_of_its_columns_only():
    layer = Sylvester(shape=[5], column_count=2)
    random = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(20, 5)).astype("float32")
    change = to_numpy(jit(layer)(ops.convert_to_tensor(x))[0]) - x
    assert np.linalg.matrix_rank(change, tol=1e-4) == 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "scale"), [(Planar, 10.0), (Sylvester, 3.0)])
def test_inverses_are_right_for_extreme_weights_and_inputs(kind, scale, seed):
    random = np.random.default_rng(seed)
    x = np.concatenate([random.normal(size=(40, 3)), 1000 * random.normal(size=(10, 3))])
    layer = kind(shape=[3], dtype="float64")
    for weight in layer.weights:
        weight.assign(scale * random.normal(size=weight.shape))
    y, log_det = jit(layer)(ops.convert_to_tensor(x, dtype="float64"))
    assert np.all(np.isfinite(to_numpy(log_det)))
    assert np.max(np.abs(to_numpy(y) - x)) > 1
    np.testing.assert_allclose(to_numpy(jit(layer.invert)(y)), x, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("strength", [-30.0, -1.0, 30.0])
def test_inverse_of_radial_is_right_near_and_far_from_a_strong_centre(strength):
    layer = Radial(shape=[3], dtype="float64")
    for weight, value in ((layer.log_radius, np.log(2.0)), (layer.strength, strength)):
        weight.assign(value)
    directions = np.random.default_rng(0).normal(size=(9, 3))
    x = to_numpy(layer.centre) + directions * np.logspace(-6, 4, 9)[:, np.newaxis]
    y, log_det = jit(layer)(ops.convert_to_tensor(x, dtype="float64"))
    assert np.max(np.abs(to_numpy(y) - x)) > 0.5
    assert np.all(np.isfinite(to_numpy(log_det)))
    np.testing.assert_allclose(to_numpy(jit(layer.invert)(y)), x, rtol=1e-9, atol=1e-9)


def test_centre_of_radial_has_finite_gradients():
    layer = Radial(shape=[2])
    layer.strength.assign(1.0)
    x = ops.convert_to_tensor(to_numpy(layer.centre)[np.newaxis])
    for function in (layer, lambda y: (layer.invert(y), ops.zeros([1]))):

        @fast
        def differentiate(x, function=function):
            outputs, pullback = vjp(function, [x])
            return pullback(tuple(ops.ones_like(output) for output in outputs))[0]

        assert np.all(np.isfinite(to_numpy(differentiate(x))))


def test_radial_layers_map_the_largest_numbers_back():
    layer = Radial(shape=[2])
    layer.strength.assign(3.0)
    layer.log_radius.assign(-100.0)  # counts as -40
    x = np.array([[1e30, -2e30], [1e-30, 0.0], [-1e-12, 1e18]], "float32")
    x = x + to_numpy(layer.centre)
    outputs, log_det = map(to_numpy, layer(x))
    assert np.all(np.isfinite(log_det))
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1.5, 4])
def test_bad_column_count(count):
    with pytest.raises(ValueError, match="`column_count` should be"):
        Sylvester(shape=[3], column_count=count)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_roots_and_their_derivatives_are_those_of_the_inverse_function(dtype):
    roots = np.array([-3.0, -1e-3, 0.0, 0.5, 40.0])

    def equation(x, target, factor):
        return x + factor * x**3 - target, 1 + 3 * factor * x**2

    target = ops.convert_to_tensor(roots + 2 * roots**3, dtype=dtype)
    factor = ops.convert_to_tensor(2.0, dtype=dtype)

    @jit
    def run(target, factor):
        bound = ops.full_like(target, 1e3)
        found, pullback = vjp(
            lambda *parameters: find_root(equation, -bound, bound, parameters), [target, factor]
        )
        return found, *pullback(ops.ones_like(found))

    found, by_target, by_factor = map(to_numpy, run(target, factor))
    slopes = 1 + 6 * roots**2
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(found, roots, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(by_target, 1 / slopes, rtol=tolerance)
    np.testing.assert_allclose(by_factor, np.sum(-(roots**3) / slopes), rtol=tolerance)


def test_roots_at_the_ends_of_the_bracket_are_found():
    ends = ops.convert_to_tensor(np.array([2.0, -1.0], "float32"))
    found = find_root(lambda x: (x - ends, ops.ones_like(x)), ends, ops.abs(ends) + 1)
    np.testing.assert_allclose(to_numpy(found), to_numpy(ends))
    found = find_root(lambda x: (x - ends, ops.ones_like(x)), ends, ends)
    np.testing.assert_allclose(to_numpy(found), to_numpy(ends))
