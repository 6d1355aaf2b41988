"""Plans of transport, by SciPy's assignment and by a closed form."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.optimize import linear_sum_assignment

from gyoza.modelling.functions import compute_transport_plan, draw_sources


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def compute_plan(*arguments, **options):
    tensors = [ops.convert_to_tensor(argument) for argument in arguments]
    return to_numpy(compute_transport_plan(*tensors, **options))


@pytest.mark.parametrize("shape", [(128, 2), (64, 4, 4), (32, 64)])
def test_plans_cost_little_more_than_the_best_assignment(shape):
    x, y = normal(*shape), 3.0 * np.sign(normal(*shape, seed=1)) + 0.3 * normal(*shape, seed=2)
    log_plan = compute_plan(x, y)
    plan = np.exp(log_plan)
    np.testing.assert_allclose(plan.sum(axis=0), 1.0, atol=1e-4)
    assert np.abs(plan.sum(axis=1) - 1.0).mean() < 0.05
    flat_x, flat_y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    cost = np.sum((flat_x[:, None] - flat_y) ** 2, axis=-1)
    best = cost[linear_sum_assignment(cost)].mean()
    assert (plan * cost).sum() / len(x) == pytest.approx(best, rel=0.1)
    chosen = to_numpy(draw_sources(ops.convert_to_tensor(log_plan), seed=0))
    assert cost[chosen, np.arange(len(x))].mean() == pytest.approx(best, rel=0.2)


def test_two_points_have_a_closed_form():
    # By symmetry, all scales are equal: p / (1 - p) = exp((c_01 - c_00) / (epsilon mean c)). Apart
    # from their means, the points are the same, with costs of 0 and 1.
    x = np.array([[0.0], [1.0]], "float32")
    odds = np.exp(1.0 / (0.7 * 0.5))
    p = odds / (1.0 + odds)
    plan = np.exp(compute_plan(x, x + 30.0, entropy=0.7))
    np.testing.assert_allclose(plan, [[p, 1.0 - p], [1.0 - p, p]], atol=1e-4)


def test_plans_in_float64_have_sums_to_the_last_digit():
    x, y = (ops.convert_to_tensor(normal(5, 2, seed=k), dtype="float64") for k in range(2))
    plan = np.exp(to_numpy(compute_transport_plan(x, y, entropy=0.7, iteration_count=100)))
    np.testing.assert_allclose(plan.sum(axis=1), 1.0, rtol=1e-12)


def test_sources_are_drawn_by_their_probabilities():
    p = np.array([[0.7, 0.1], [0.3, 0.9]], "float32")
    log_plan = ops.convert_to_tensor(np.log(np.repeat(p, 4000, axis=1)))
    chosen = to_numpy(draw_sources(log_plan, seed=0)).reshape(2, 4000)
    np.testing.assert_allclose(chosen.mean(axis=1), [0.3, 0.9], atol=0.03)
    np.testing.assert_array_equal(to_numpy(draw_sources(log_plan, seed=0)).reshape(2, 4000), chosen)


def test_pairs_that_are_not_allowed_have_no_part():
    groups = np.arange(32) % 3
    is_allowed = groups[:, None] == groups
    plan = np.exp(compute_plan(normal(32, 2), normal(32, 2, seed=1), is_allowed))
    np.testing.assert_array_equal(plan[~is_allowed], 0.0)
    np.testing.assert_allclose(plan.sum(axis=0), 1.0, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_points_that_are_not_finite_leave_others_alone(value):
    x, y = normal(16, 2), normal(16, 2, seed=1)
    y[3] = value
    plan = np.exp(compute_plan(x, y))
    assert np.isfinite(plan).all()
    np.testing.assert_allclose(plan.sum(axis=0), 1.0, atol=1e-4)


def test_equal_points_are_coupled_somehow():
    plan = np.exp(compute_plan(np.ones([4, 2], "float32"), np.ones([4, 2], "float32")))
    np.testing.assert_allclose(plan, 0.25, rtol=1e-5)


@pytest.mark.compiled_by("tensorflow")
def test_a_single_pair_has_all():
    np.testing.assert_array_equal(compute_plan(normal(1, 2), normal(1, 2, seed=1)), [[0.0]])


@pytest.mark.compiled_by("tensorflow")
def test_places_of_both_groups_make_no_difference():
    x, y = (np.round(64.0 * normal(8, 2, seed=k)) / 64.0 for k in range(2))
    far = np.array([4096.0, -4096.0], "float32")
    plans = [np.exp(compute_plan(x, points, entropy=0.5)) for points in (y, y + far)]
    np.testing.assert_allclose(*plans, atol=1e-2)
