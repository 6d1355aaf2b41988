"""gyoza, as its users train it: by `compile` and `fit`."""

import functools
import random
import time
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza import backend
from gyoza.data import CategoricalPairs
from gyoza.modelling import conditioners, flow_layers, losses
from gyoza.modelling.training import fit
from speed.cells import TOLERANCE, Cell, Seconds, Work, make_batches, make_velocity_weights
from speed.keras_clock import time_steps
from speed.memory import get_counter

__all__ = ["PACKAGES", "make"]

_BACKEND = keras.backend.backend()
PACKAGES = ["gyoza", "keras", _BACKEND]


def make(cell: Cell, variant: str) -> Work | None:
    """Makes the work of a cell; variants are `"default"`, `"memory-efficient"` and `"mixed"`."""
    if variant == "mixed":
        keras.config.set_dtype_policy("mixed_bfloat16")
    random.seed(0)  # for Keras' weights; its own function would import TensorFlow on any backend
    if cell.kind == "reflections":
        return _make_reflections(cell)
    if cell.kind == "adaptive":
        return _make_adaptive(cell)
    if cell.kind == "continuous":
        velocity = conditioners.VelocityMLP(cell.hidden)
        model = flow_layers.FlowMatchingModel(velocity, solver="rk4", step_count=cell.depth)
    else:
        layers = _LAYERS[cell.kind](cell)
        if cell.kind == "pairs":
            return _make_pairs(cell, layers)
        model = flow_layers.FlowModel(layers, memory_efficient=variant == "memory-efficient")
    model.compile("adam")
    batches = make_batches(cell)
    x = batches.reshape(-1, *cell.shape)

    @functools.lru_cache(maxsize=2)
    def repeat(steps: int) -> np.ndarray:
        return np.concatenate([x] * (-(-steps // len(batches))))[: steps * cell.batch]

    def train(steps: int) -> Seconds:
        return _time_steps(model, repeat(steps), cell.measures_memory, batch_size=cell.batch)

    model.build((None, *cell.shape))
    batch = ops.convert_to_tensor(batches[0])

    def log_prob() -> None:
        with backend.forget_gradients():
            _wait(model.log_prob(batch, batch_size=cell.batch))

    def sample() -> None:
        with backend.forget_gradients():
            _wait(model.sample(cell.batch, batch_size=cell.batch))

    return Work(
        train,
        log_prob,
        sample,
        sum(int(np.prod(weight.shape)) for weight in model.trainable_variables),
        get_counter(_BACKEND),
        cell.batch * _count_products(model, cell),
        _measure_matrix_rate,
    )


def _time_steps(model: keras.Model, *args: Any, **kwargs: Any) -> Seconds:
    """Times the first step as users wait for it, and all others as those of a long training."""
    seconds = time_steps(model, *args, **kwargs)
    fit.LEAST_STEPS_FOR_XLA = 0
    return seconds


def _count_products(model: keras.Model, cell: Cell) -> int:
    """Returns how often the weights of matrices and convolutions are used for an instance."""
    sizes = (int(np.prod(w.shape)) for w in model.trainable_variables if len(w.shape) > 1)
    position_count = cell.size // (4 * cell.shape[-1]) if cell.kind == "glow" else 1  # squeezed
    return position_count * sum(sizes)


def _measure_matrix_rate(size: int = 4096) -> float:
    """Returns how many operations in a second products of two matrices take, at the best."""
    values = ops.convert_to_tensor(np.random.default_rng(0).normal(size=[size, size]))
    matrix = ops.cast(values, keras.config.dtype_policy().compute_dtype)
    multiply = backend.jit(lambda x: ops.matmul(x, matrix) / size, xla=True)

    def measure(count: int) -> float:
        x = multiply(matrix)
        _wait(x)
        start = time.perf_counter()
        for _ in range(count):
            x = multiply(x)
        _wait(x)
        return (time.perf_counter() - start) / count

    measure(1)  # compiles it
    count = max(1, min(100, int(0.1 / measure(1))))
    return 2.0 * size**3 / min(measure(count) for _ in range(3))


def _additive(cell: Cell) -> list:
    return [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.ActivationNormalization(),
            flow_layers.AdditiveCoupling(conditioner=conditioners.MLP(cell.hidden)),
            flow_layers.HeavisidePermutation(),
        )
    ]


def _affine(cell: Cell) -> list:
    return [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.AffineCoupling(conditioner=conditioners.MLP(cell.hidden)),
            flow_layers.HeavisidePermutation(),
        )
    ]


def _spline(cell: Cell) -> list:
    return [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.RationalQuadraticSplineCoupling(conditioner=conditioners.MLP(cell.hidden)),
            flow_layers.HeavisidePermutation(),
        )
    ]


def _maf(cell: Cell) -> list:
    return [
        flow_layers.MaskedAffine(
            conditioner=conditioners.MADE(cell.hidden, order=("natural", "reversed")[index % 2])
        )
        for index in range(cell.depth)
    ]


def _glow(cell: Cell) -> list:
    steps = [
        layer
        for _ in range(cell.depth)
        for layer in (
            flow_layers.ActivationNormalization(axes=[3]),
            flow_layers.InvertibleConvolution(),
            flow_layers.AffineCoupling(
                axes=[3],
                conditioner=conditioners.ResNet(cell.hidden[0], block_count=0),
            ),
        )
    ]
    return [flow_layers.Squeeze(), *steps]


_LAYERS = {
    "additive": _additive,
    "affine": _affine,
    "spline": _spline,
    "maf": _maf,
    "glow": _glow,
    "pairs": _additive,
}


def _make_pairs(cell: Cell, layers: list) -> Work:
    model = flow_layers.DisentanglingFlowModel(layers)
    model.compile("adam", loss=losses.SupervisedFactorLoss([32, 16, 16]))
    x = make_batches(cell).reshape(-1, cell.size)
    labels = np.random.default_rng(1).integers(4, size=[len(x), 2])

    @functools.lru_cache(maxsize=2)
    def make_source(steps: int) -> CategoricalPairs:
        count = steps * cell.batch
        index = np.arange(count) % len(x)
        return CategoricalPairs(x[index], labels[index], cell.batch, correlation=0.975, seed=0)

    def train(steps: int) -> Seconds:
        return _time_steps(model, make_source(steps))

    model.build((None, *cell.shape))
    weights = model.trainable_variables
    count = sum(int(np.prod(weight.shape)) for weight in weights)
    return Work(train, weight_count=count, count_memory=get_counter(_BACKEND))


def _make_reflections(cell: Cell) -> Work:
    layer = flow_layers.Reflection(shape=cell.shape, reflection_count=cell.depth)
    x, cotangents = (ops.convert_to_tensor(batch) for batch in make_batches(cell, 2))
    normals = ops.convert_to_tensor(layer._reflection_normals_)

    def run(x, normals):
        with keras.StatelessScope(state_mapping=[(layer._reflection_normals_, normals)]):
            return layer(x)[0]

    def step(x, normals, cotangents):
        _, pull_back = backend.vjp(run, [x, normals])
        return pull_back(cotangents)

    def invert(x, normals):
        with keras.StatelessScope(state_mapping=[(layer._reflection_normals_, normals)]):
            return layer.invert(x)

    step, forward, inverse = (backend.jit(function, xla=True) for function in (step, run, invert))

    def train(steps: int) -> None:
        for _ in range(steps):
            gradients = step(x, normals, cotangents)
        _wait(gradients[0])

    return Work(
        train,
        lambda: _wait(forward(x, normals)),
        lambda: _wait(inverse(x, normals)),
        cell.depth * cell.size,
        get_counter(_BACKEND),
    )


def _make_adaptive(cell: Cell) -> Work:
    velocity = conditioners.VelocityMLP(cell.hidden)
    layer = flow_layers.ContinuousFlow(velocity, solver="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    model = flow_layers.FlowModel([layer])
    model.build((None, *cell.shape))
    velocity.set_weights(make_velocity_weights(cell))
    batch = ops.convert_to_tensor(make_batches(cell)[0])

    def sample(count: int) -> None:
        with backend.forget_gradients():
            for _ in range(count):
                _wait(model.sample(cell.batch))

    def log_prob() -> None:
        with backend.forget_gradients():
            _wait(model.log_prob(batch))

    return Work(sample, log_prob, weight_count=model.count_params())


def _wait(x) -> None:
    """Returns when a tensor is computed."""
    if _BACKEND == "jax":
        x.block_until_ready()
    elif x.device != "cpu":
        ops.convert_to_numpy(x)
