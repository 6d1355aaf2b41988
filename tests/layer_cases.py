"""A layer of each class, and what is done with it to see what it promises."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import vjp
from gyoza.modelling import distributions, flow_layers, transforms
from gyoza.modelling.conditioners import MADE, MLP, VelocityMLP
from gyoza.testing.copies import copy_layer, move_weights
from gyoza.testing.functions import compile_on_jax

BACKEND = keras.backend.backend()
LONG = pytest.mark.long


def network():
    return MLP([8], "tanh")


# A layer of each class, with the shape of its inputs and, if it is not all numbers, the interval
# that they lie in.
CASES = {
    "AdditiveCoupling": (lambda c: c(conditioner=network()), [3]),
    "AffineCoupling": (lambda c: c(conditioner=network()), [3]),
    "VolumePreservingCoupling": (lambda c: c(conditioner=network()), [4]),
    "RationalQuadraticSplineCoupling": (lambda c: c(conditioner=network()), [3]),
    "CircularSplineCoupling": (lambda c: c(conditioner=network()), [3]),
    "MixtureLogisticCoupling": (lambda c: c(conditioner=network()), [3]),
    "MaskedAutoregressive": (
        lambda c: c(
            conditioner=MADE([8], "tanh", order=[2, 0, 1]),
            transformer=transforms.LogisticMixtureTransform(4),
        ),
        [3],
    ),
    "MaskedAffine": (lambda c: c(), [3]),
    "MaskedRationalQuadraticSpline": (lambda c: c(), [3]),
    "BlockNeuralAutoregressive": (lambda c: c(hidden_sizes=[3]), [2]),
    "Inverse": (lambda c: c(flow_layers.LULinear()), [3]),
    "Columns": (
        lambda c: c(
            {
                0: flow_layers.Softplus(),
                (3, 1): flow_layers.AffineCoupling(conditioner=network()),
            }
        ),
        [4],
    ),
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


def noise_flow():
    coupling = flow_layers.AffineCoupling(conditioner=network())
    return flow_layers.FlowModel([coupling], distributions.Logistic())


# A layer of each class that draws its outputs, with the shape of its inputs, and the number of
# integers from 0 that these can be, or `None` for one-hot vectors. Nothing is between integers:
# there is no Jacobian matrix to compare log-determinants with. Nor are log-densities of samples
# those of the same numbers as data: both are bounds, and differ from call to call.
DISCRETE = {
    "UniformDequantization": (lambda c: c(16, seed=0), [3], 16),
    "VariationalDequantization": (lambda c: c(4, noise_flow(), seed=0), [3], 4),
    "ArgmaxDequantization": (lambda c: c(seed=0), [3], None),
}

# Base classes that compute nothing, and models, which have tests of their own.
WITHOUT_CASE = {
    *("FlowLayer", "ConditionalFlowLayer", "Coupling", "ElementwiseCoupling"),
    *("FlowModel", "DisentanglingFlowModel", "VariationalModel", "FlowMatchingModel"),
    "FlowDistribution",
}

# Those that solve most equations, or call a network most often.
SLOW = {
    *("ContinuousFlow", "BlockNeuralAutoregressive", "MaskedRationalQuadraticSpline"),
    *("Sylvester", "MixtureLogisticCoupling", "MaskedAutoregressive"),
}
# JAX compiles each of them for long: those stand for all that solve equations or could overflow.
CHECKED = [name for name in CASES if name not in SLOW]
if BACKEND == "jax":
    CHECKED = ["Planar", "Radial", "YeoJohnson"]
# Quick on PyTorch alone.
EVERY = [
    name if name in CHECKED and BACKEND == "torch" else pytest.param(name, marks=LONG)
    for name in CASES
]


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

    def differentiate(self, x):
        """Returns the Jacobian matrix of each row in float64, and its log-determinant there."""
        size = x[0].size

        def compute(x, *values):
            mapping = zip(self.exact.trainable_weights, values, strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)):
                (outputs, log_det), pullback = vjp(self.exact, [x])
                nothing = ops.zeros_like(log_det)
                units = np.eye(size).reshape(size, 1, *outputs.shape[1:])
                units = (ops.convert_to_tensor(unit) + ops.zeros_like(outputs) for unit in units)
                return log_det, [pullback((unit, nothing))[0] for unit in units]

        if "Jacobian" not in self.compiled:
            self.compiled["Jacobian"] = compile_on_jax(compute)
        x = ops.convert_to_tensor(x, dtype="float64")
        values = (weight.value for weight in self.exact.trainable_weights)
        log_det, rows = self.compiled["Jacobian"](x, *values)
        rows = [to_numpy(row).reshape(len(x), size) for row in rows]
        return np.stack(rows, axis=1), to_numpy(log_det)

    def there(self, x, exact=False):
        return self.run(self.exact if exact else self.layer, "__call__", x)

    def back(self, y, exact=False):
        return self.run(self.exact if exact else self.layer, "invert_and_log_det", y)

    def draw(self, random, count, magnitudes):
        """Draws rows, each of one magnitude. Zero stands for rows of equal numbers."""
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
