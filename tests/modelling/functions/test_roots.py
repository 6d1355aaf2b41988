"""Roots are found wherever they are, and each for itself."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.tangents import tanh_and_slope

# Far closer to zero than the ends of the bracket, and not.
ROOTS = [1e-25, -3e-8, 0.7, -2e4, 1e20, -1e-30]


def bend(x, roots):
    """A function that is flat but for the surroundings of its root, where secants lead nowhere."""
    bent, slope = tanh_and_slope(x / roots - 1)
    sign = ops.where(roots > 0, ops.ones_like(roots), -ops.ones_like(roots))
    return sign * bent, sign * slope / roots


def solve(roots, dtype="float32", reach=1e30):
    roots = ops.convert_to_tensor(roots, dtype=dtype)
    ends = reach * ops.ones_like(roots)
    return find_root(bend, -ends, ends, [roots])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_roots_of_all_magnitudes_are_found_to_the_last_digits(dtype):
    found = to_numpy(jit(lambda: solve(ROOTS, dtype))())
    np.testing.assert_allclose(found, ROOTS, rtol=4 * np.finfo(dtype).eps)


def test_no_root_depends_on_others():
    together = to_numpy(solve([*ROOTS, np.nan]))
    alone = [to_numpy(solve([root]))[0] for root in ROOTS]
    np.testing.assert_array_equal(together[:-1], alone)
    assert np.isnan(together[-1])


def test_a_bracket_without_a_root_gives_its_nearer_end():
    np.testing.assert_array_equal(to_numpy(solve([3.0, -3.0], reach=2.0)), [2.0, -2.0])


def test_infinite_brackets_are_as_wide_as_numbers_are():
    ends = ops.convert_to_tensor([np.inf], dtype="float32")
    roots = ops.convert_to_tensor([0.3], dtype="float32")
    np.testing.assert_allclose(to_numpy(find_root(bend, -ends, ends, [roots])), [0.3], rtol=1e-6)


def test_values_that_rounding_hides_end_the_search():
    steps = []

    def equation(x):
        steps.append(x)
        return x - 1e-20, ops.ones_like(x)

    ends = ops.convert_to_tensor([1.0], dtype="float32")
    (found,) = to_numpy(find_root(equation, -ends, 2 * ends, magnitudes=ends))
    assert np.abs(found) < 1e-6
    assert len(steps) < 12 or keras.backend.backend() == "jax"


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a loop is traced once there")
def test_rounding_errors_of_large_terms_end_the_search():
    steps = []

    def equation(x):
        steps.append(x)
        return (x + 4.0) - 4.0 + 1e-7, ops.ones_like(x)  # in steps of 2e-7 and more

    ends = ops.convert_to_tensor([1.0], dtype="float32")
    (found,) = to_numpy(find_root(equation, -ends, 2 * ends, magnitudes=4 * ends))
    assert np.abs(found) < 1e-6
    assert len(steps) < 12


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a loop is traced once there")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "reach", "most"),
    [
        (lambda x: 3.0 * x - 1.0, 6.0, 8),
        (lambda x: x**3 - 2.0, 6.0, 14),
        (lambda x: ops.exp(x) - 3.0, 6.0, 14),
        (lambda x: 3.0 - ops.exp(-x), 6.0, 14),
        (lambda x: ops.exp(x) - ops.exp(-x) - 100.0, 20.0, 18),
        (lambda x: x + 3.0 * ops.tanh(5.0 * x) - 2.0, 6.0, 18),
    ],
)
def test_few_evaluations_suffice_where_functions_are_smooth(function, reach, most, dtype):
    evaluated = []

    def equation(x):
        evaluated.append(x)
        return function(x), ops.ones_like(x)

    ends = ops.convert_to_tensor([reach], dtype=dtype)
    found = find_root(equation, -ends, 1.4 * ends)
    digit = 4 * float(np.finfo(dtype).eps) * ops.abs(found)
    assert to_numpy(function(found - digit)) < 0.0 < to_numpy(function(found + digit))
    assert len(evaluated) <= most


def test_derivatives_are_finite_where_values_are_not():
    target = ops.convert_to_tensor([np.inf, 2.0], dtype="float32")

    def invert(target):
        def equation(x, target):
            return x - target, ops.ones_like(x)

        ends = ops.full_like(target, 1e3)
        return find_root(equation, -ends, ends, [target])

    found, pullback = vjp(invert, [target])
    np.testing.assert_allclose(to_numpy(found), [1e3, 2.0])
    np.testing.assert_allclose(to_numpy(pullback(ops.ones_like(found))[0]), [0.0, 1.0])


def test_slopes_can_be_computed_where_they_are_needed_alone():
    calls = []

    def equation(x, target):
        def compute_slopes():
            calls.append(None)
            return 3 * x**2

        return x**3 - target, compute_slopes

    target = ops.convert_to_tensor([8.0, 27.0], dtype="float32")
    found, pullback = vjp(
        lambda target: find_root(equation, 0 * target, 1 + target, [target]), [target]
    )
    np.testing.assert_allclose(to_numpy(found), [2.0, 3.0], rtol=1e-6)
    gradients = to_numpy(pullback(ops.ones_like(found))[0])
    np.testing.assert_allclose(gradients, [1 / 12, 1 / 27], rtol=1e-5)
    assert len(calls) == 1
