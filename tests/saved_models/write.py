"""Writes models beside it, and what they compute, as `tests/test_saved_models.py` says.

It is given the names of new ones, those that are to be written.
"""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import jit
from gyoza.modelling.conditioners import MADE, MLP, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    BatchNormalization,
    BlockNeuralAutoregressive,
    CircularSplineCoupling,
    DisentanglingFlowModel,
    FactorOut,
    Flatten,
    FlowMatchingModel,
    FlowModel,
    HaarDownsampling,
    HeavisidePermutation,
    Inverse,
    InvertibleConvolution,
    LULinear,
    MaskedAffine,
    MaskedRationalQuadraticSpline,
    MixtureGaussianization,
    MixtureLogisticCoupling,
    Orthogonal,
    Planar,
    Radial,
    RationalQuadraticSplineCoupling,
    Reflection,
    Residual,
    ShufflePermutation,
    Squeeze,
    Standardize,
    Sylvester,
    TriangularAffine,
    VolumePreservingCoupling,
    YeoJohnson,
)
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.masks import CheckerBoardMask

FOLDER = Path(__file__).parent
NAMES = ["context", "pairs", "couplings", "matching", "images", "others"]
# Those of which only densities are compared.
DENSITIES = ["images", "others"]


def make(name: str) -> FlowModel:
    """Makes the model `name`."""
    if name == "context":
        layers = [
            ActivationNormalization(),
            AffineCoupling(compute_coupling_parameters=MLP([4])),
            ShufflePermutation(seed=1),
            MaskedAffine(conditioner=MADE([4])),
        ]
        base = DiagonalNormal(context_network=MLP([3], activation="tanh"))
        return FlowModel(
            layers, base_distribution=base, context_encoder=keras.layers.Dense(2, "tanh")
        )
    if name == "pairs":
        layers = [
            ActivationNormalization(),
            AffineCoupling(compute_coupling_parameters=MLP([4]), log_scale_bound=1.0),
            HeavisidePermutation(),
            AdditiveCoupling(compute_coupling_parameters=MLP([4])),
            LULinear(),
            Orthogonal(),
        ]
        return DisentanglingFlowModel(layers)
    if name == "matching":
        return FlowMatchingModel(VelocityMLP([4]), step_count=2, seed=1)
    if name == "images":
        layers = [
            Squeeze(),
            BatchNormalization(axes=[3]),
            InvertibleConvolution(seed=1),
            FactorOut(FlowModel([HaarDownsampling(), Flatten(), Reflection(reflection_count=2)])),
        ]
        return FlowModel(layers)
    if name == "others":
        layers = [
            Standardize(),
            YeoJohnson(),
            Planar(),
            Radial(),
            Sylvester(),
            TriangularAffine(),
            Residual(hidden_sizes=[4], seed=1),
            BlockNeuralAutoregressive(),
        ]
        return FlowModel(layers)
    last = keras.layers.Dense(3, kernel_initializer="zeros")
    layers = [
        CircularSplineCoupling(compute_coupling_parameters=MLP([]), bin_count=3),
        AdditiveCoupling(compute_coupling_parameters=keras.Sequential([last])),
        AffineCoupling(compute_coupling_parameters=MLP([]), mask=CheckerBoardMask([1], [3])),
        VolumePreservingCoupling(compute_coupling_parameters=MLP([])),
        HeavisidePermutation(),
        RationalQuadraticSplineCoupling(compute_coupling_parameters=MLP([]), bin_count=3),
        Inverse(MixtureLogisticCoupling(compute_coupling_parameters=MLP([]), component_count=2)),
        MaskedRationalQuadraticSpline(conditioner=MADE([4], order=[2, 0, 1]), bin_count=3),
        MixtureGaussianization(component_count=2),
    ]
    return FlowModel(layers)


def get_data(name: str) -> dict[str, Any]:
    """Returns what is passed to `fit`: eight rows of three numbers, with what belongs to them."""
    random = np.random.default_rng(0)
    x, other, context = random.uniform(-2, 2, [3, 8, 3]).astype("float32")
    if name == "context":
        return {"x": {"inputs": x, "context": context}}
    if name == "images":
        return {"x": random.uniform(-2, 2, [4, 4, 4, 1]).astype("float32")}
    if name == "pairs":
        return {"x": (x, other), "y": np.tile(np.array([[0.0, 0.9]], "float32"), [8, 1])}
    return {"x": x}


def make_trained(name: str) -> FlowModel:
    """Makes the model `name`, moves its weights from where they start, and trains it for a step."""
    model, data = make(name), get_data(name)
    model.adapt(data["x"])
    model.compile(
        keras.optimizers.Adam(0.01),
        loss=SupervisedFactorLoss([1, 2]) if name == "pairs" else None,
    )
    model.fit(**data, shuffle=False, verbose=0)
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign_add(random.normal(0, 0.2, weight.shape).astype(weight.dtype))
    model.fit(**data, shuffle=False, verbose=0)
    return model


def compute(model: FlowModel, name: str) -> Iterator[tuple[str, Any]]:
    """Computes what should not change, the next training step last."""
    data = get_data(name)
    x, context = data["x"], {}
    if name == "context":
        x, context = x["inputs"], {"context": x["context"]}
    if name == "pairs":
        yield "pairs", model(x)
        x = x[0]
    if name in DENSITIES:
        yield "log_prob", jit(model.log_prob)(ops.convert_to_tensor(x))
        return
    outputs, log_det = getattr(model, "flow", model)(x, **context)
    yield "outputs", outputs
    yield "log_det", log_det
    yield "inputs", model.invert(outputs, **context)
    yield "log_prob", model.log_prob(x, **context)
    if name == "matching" and keras.backend.backend() != "tensorflow":
        return  # where other random numbers are drawn
    yield "training_loss", model.fit(**data, shuffle=False, verbose=0).history["loss"]
    yield "next_log_prob", model.log_prob(x, **context)


def to_numpy(value: Any) -> np.ndarray:
    """Turns what `compute` yields into an array."""
    return ops.convert_to_numpy(value)


def compress(path: Path) -> None:
    """Packs a saved model again: Keras does not compress, and most of it is empty."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, part in parts.items():
            file.writestr(name, part)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    for name in sys.argv[1:]:
        model = make_trained(name)
        model.save(FOLDER / f"{name}.keras")
        compress(FOLDER / f"{name}.keras")
        values = {key: to_numpy(value) for key, value in compute(model, name)}
        np.savez_compressed(FOLDER / f"{name}.npz", **values)
