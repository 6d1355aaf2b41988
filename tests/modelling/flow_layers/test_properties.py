"""What every flow layer promises for any finite numbers and for weights of any size."""

import functools
import math
from typing import NamedTuple

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import vjp
from gyoza.modelling import flow_layers, transforms
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.testing.copies import copy_layer, move_weights
from gyoza.testing.functions import compile_on_jax

BACKEND = keras.backend.backend()


def network():
    return MLP([8], "tanh")


# A layer of each class, with the shape of its inputs and, if it is not all numbers, the interval
# that they lie in.
CASES = {
    "AdditiveCoupling": (lambda c: c(compute_coupling_parameters=network()), [3]),
    "AffineCoupling": (lambda c: c(compute_coupling_parameters=network()), [3]),
    "VolumePreservingCoupling": (lambda c: c(compute_coupling_parameters=network()), [4]),
    "RationalQuadraticSplineCoupling": (lambda c: c(compute_coupling_parameters=network()), [3]),
    "CircularSplineCoupling": (lambda c: c(compute_coupling_parameters=network()), [3]),
    "MixtureLogisticCoupling": (lambda c: c(compute_coupling_parameters=network()), [3]),
    "MaskedAffine": (lambda c: c(), [3]),
    "MaskedRationalQuadraticSpline": (lambda c: c(), [3]),
    "BlockNeuralAutoregressive": (lambda c: c(hidden_sizes=[3]), [2]),
    "Inverse": (lambda c: c(flow_layers.LULinear()), [3]),
    "ActivationNormalization": (lambda c: c(), [3]),
    "BatchNormalization": (lambda c: c(), [3]),
    "Reflection": (lambda c: c(reflection_count=2), [3]),
    "Orthogonal": (lambda c: c(), [3]),
    "Permutation": (lambda c: c(permutation=[2, 0, 1]), [3]),
    "ShufflePermutation": (lambda c: c(seed=0), [3]),
    "HeavisidePermutation": (lambda c: c(), [3]),
    "CheckerBoardPermutation": (lambda c: c(), [3]),
    "LULinear": (lambda c: c(), [3]),
    "InvertibleConvolution": (lambda c: c(), [2, 1, 3]),
    "TriangularAffine": (lambda c: c(), [3]),
    "LinearMap": (lambda c: c(), [3]),
    "PrincipalRotation": (lambda c: c(), [3]),
    "PairAxes": (lambda c: c({"residual": 2, "shape": 1}), [3]),
    "Affine": (lambda c: c(scale=[2.0, -0.5, 3.0], shift=1.0), [3]),
    "Standardize": (lambda c: c(location=[1.0, -2.0], scale=[3.0, 0.5]), [2]),
    "YeoJohnson": (lambda c: c(), [3]),
    "Softplus": (lambda c: c(), [3]),
    "Sigmoid": (lambda c: c(low=-1.0), [3]),
    "Logit": (lambda c: c(), [3], (0.0, 1.0)),
    "Tanh": (lambda c: c(), [3]),
    "Arctanh": (lambda c: c(), [3], (-1.0, 1.0)),
    "Elementwise": (lambda c: c(transformer=transforms.RationalQuadraticTransform(4)), [3]),
    "MixtureGaussianization": (lambda c: c(component_count=4), [3]),
    "Planar": (lambda c: c(), [3]),
    "Radial": (lambda c: c(), [3]),
    "Sylvester": (lambda c: c(column_count=2), [3]),
    "Residual": (lambda c: c(hidden_sizes=[4]), [3]),
    "ContinuousFlow": (lambda c: c(VelocityMLP([4], "tanh"), step_count=4), [2]),
    "Flatten": (lambda c: c(), [2, 1, 3]),
    "Reshape": (lambda c: c([3, 2]), [2, 3]),
    "Squeeze": (lambda c: c(), [2, 2, 1]),
    "Unsqueeze": (lambda c: c(), [1, 1, 4]),
    "HaarDownsampling": (lambda c: c(), [2, 2, 1]),
    "FactorOut": (lambda c: c(flow_layers.Reflection()), [5]),
}

# No layers of their own, or with random outputs, which have tests of their own.
WITHOUT_CASE = {
    *("FlowLayer", "ConditionalFlowLayer", "Coupling", "ElementwiseCoupling"),
    *("FlowModel", "DisentanglingFlowModel", "VariationalModel", "FlowMatchingModel"),
    *("MaskedAutoregressive", "UniformDequantization", "VariationalDequantization"),
    *("ArgmaxDequantization", "Columns", "FlowDistribution"),
}


LONG = pytest.mark.long
# Those that solve most equations, or call a network most often.
SLOW = {
    *("ContinuousFlow", "BlockNeuralAutoregressive", "MaskedRationalQuadraticSpline"),
    *("Sylvester", "MixtureLogisticCoupling"),
}
# JAX compiles each of them for long: those stand for all that solve equations or could overflow.
CHECKED = [name for name in CASES if name not in SLOW]
if BACKEND == "jax":
    CHECKED = ["Planar", "Radial", "YeoJohnson"]


def test_every_layer_has_a_case():
    assert set(CASES) == set(flow_layers.__all__) - WITHOUT_CASE


class Twins:
    """A layer in float32 or less, and one in float64 with equal weights."""

    def __init__(self, name, dtype="float32", cases=CASES):
        make, shape, *bounds = cases[name]
        layer = make(getattr(flow_layers, name))
        self.shape = shape
        self.bounds = bounds[0] if bounds else (-math.inf, math.inf)
        self.layer, self.exact = (copy_layer(layer, policy) for policy in (dtype, "float64"))
        for twin in (self.layer, self.exact):
            twin(ops.full([1, *shape], 0.5, dtype=twin.compute_dtype))
        self.values = [to_numpy(weight) for weight in self.layer.weights]
        self.compiled = {}

    def set_weights(self, factor, seed=0):
        """Makes weights random, and then `factor` times as large."""
        self.layer.set_weights(self.values)
        move_weights(self.layer, np.random.default_rng(seed))
        for weight in self.layer.trainable_weights:
            value = ops.convert_to_tensor(factor * to_numpy(weight), dtype=weight.dtype)
            weight.assign(value if weight.constraint is None else weight.constraint(value))
        self.exact.set_weights([to_numpy(weight) for weight in self.layer.weights])

    def run(self, layer, method, x, gradients=False):
        """Returns what a method of one of both computes, and gradients of the sum, as arrays."""
        key = layer.compute_dtype, method, gradients

        def compute(x, *values):
            mapping = zip(layer.trainable_weights, values, strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)):
                return getattr(layer, method)(x)

        def differentiate(*primals):
            outputs, pullback = vjp(compute, primals)
            return outputs, pullback(tuple(map(ops.ones_like, outputs)))

        if key not in self.compiled:
            self.compiled[key] = compile_on_jax(differentiate if gradients else compute)
        x = ops.convert_to_tensor(x, dtype=layer.compute_dtype)
        results = self.compiled[key](x, *(w.value for w in layer.trainable_weights))
        return keras.tree.map_structure(lambda y: to_numpy(ops.cast(y, "float64")), results)

    def there(self, x, exact=False):
        return self.run(self.exact if exact else self.layer, "__call__", x)

    def back(self, y, exact=False):
        return self.run(self.exact if exact else self.layer, "invert_and_log_det", y)

    def draw(self, random, count, magnitudes):
        """Draws rows, each of one magnitude. Zero stands for rows of equal entries."""
        chosen = random.choice(magnitudes, size=(count, *(1 for _ in self.shape)))
        x = random.normal(size=(count, *self.shape))
        x = np.where(chosen == 0, x.reshape(count, -1)[:, :1].reshape(chosen.shape), x * chosen)
        low, high = self.bounds
        if low > -math.inf:
            x = low + (high - low) * (0.01 + 0.98 / (1 + np.exp(-np.clip(x, -30, 30))))
        return x.astype("float32")


@functools.cache
def make_twins(name, dtype="float32"):
    return Twins(name, dtype)


def fit(*arrays, limit=1e37):
    """Returns which rows are finite and, as the limit says, in the range of float32."""
    rows = [np.abs(array.reshape(len(array), -1)) < limit for array in arrays]
    return np.all([np.all(row, axis=1) for row in rows], axis=0)


def keep(y, rows):
    """Replaces other rows by numbers that all layers can invert."""
    return np.where(rows.reshape(-1, *(1 for _ in y.shape[1:])), y, 0.5)


def check_range(twins, method, x):
    """What can be represented is computed: there is no NaN or infinity without need."""
    results = twins.run(twins.layer, method, x)
    are_finite = fit(*results, limit=np.inf)
    if not np.all(are_finite):
        assert np.all(are_finite | ~fit(*twins.run(twins.exact, method, x)))
    return results


def check_rows(twins, x, hostile):
    """No row depends on others, whatever they hold."""
    x, other = x.astype("float64"), x.astype("float64")
    other[::2] = hostile[: len(other[::2])]
    (outputs, log_det), (others, other_log_det) = twins.there(x), twins.there(other)
    np.testing.assert_array_equal(others[1::2], outputs[1::2])
    np.testing.assert_array_equal(other_log_det[1::2], log_det[1::2])
    y = keep(outputs, fit(outputs))
    other = y.copy()
    other[::2] = hostile[: len(other[::2])].reshape(other[::2].shape)
    (inputs, log_det), (others, other_log_det) = twins.back(y), twins.back(other)
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
    size = x[0].size
    x = ops.convert_to_tensor(x, dtype="float64")
    outputs, pullback = vjp(lambda x: twins.exact(x)[0], [x])
    units = np.eye(size).reshape(size, 1, *outputs.shape[1:]) + np.zeros([1, *outputs.shape])
    rows = [to_numpy(pullback(ops.convert_to_tensor(unit))[0]) for unit in units]
    jacobian = np.stack([row.reshape(len(row), size) for row in rows], axis=1)
    expected = np.linalg.slogdet(jacobian)[1]
    log_det = to_numpy(twins.exact(x)[1])
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
            if BACKEND != "jax":
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


# Quick on PyTorch alone.
EVERY = [
    name if name in CHECKED and BACKEND == "torch" else pytest.param(name, marks=LONG)
    for name in CASES
]


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
        if name in ("MaskedAffine", "MaskedRationalQuadraticSpline"):
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


# Not those whose cost grows with the square of the number of dimensions or faster, or whose
# log-determinants are random then.
NOT_WIDE = {
    *("MaskedAffine", "MaskedRationalQuadraticSpline", "BlockNeuralAutoregressive", "Inverse"),
    *("Orthogonal", "LULinear", "InvertibleConvolution", "TriangularAffine", "LinearMap"),
    *("PrincipalRotation", "Residual", "ContinuousFlow"),
}
WIDE = {
    **{
        name: (make, {1: [4096], 2: [64, 64], 3: [32, 32, 4]}[len(shape)], *bounds)
        for name, (make, shape, *bounds) in CASES.items()
        if name not in NOT_WIDE
    },
    "Permutation": (lambda c: c(permutation=np.roll(np.arange(4096), 5)), [4096]),
    "PairAxes": (lambda c: c({"residual": 4000, "shape": 96}), [4096]),
    "Affine": (lambda c: c(scale=np.linspace(-2.0, 2.0, 4096), shift=1.0), [4096]),
    "Standardize": (lambda c: c(location=np.ones(4096), scale=np.full(4096, 0.1)), [4096]),
    "Reshape": (lambda c: c([4096]), [64, 64]),
}


@LONG
@pytest.mark.parametrize("name", WIDE)
def test_four_thousand_dimensions(name):
    twins, random = Twins(name, cases=WIDE), np.random.default_rng(0)
    twins.set_weights(1.0)
    x = twins.draw(random, 4, [1.0, 3.0, 0.0])
    check_range(twins, "__call__", x)
    check_rows(twins, x, twins.draw(random, 4, [np.nan, 1e30]))
    check_gradients(twins, x, of_weights=True)
    check_round_trip(twins, x, 1e-8)
