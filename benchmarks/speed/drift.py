"""How the gradients of memory-efficient models depart from exact ones, against depth.

Run `python -m speed.drift` in `benchmarks/`. Each block begins with a normalisation, adapted to
data, and has random weights, as large as they are after training, in all layers of its network.
Gradients in float32, of an ordinary model and of a
memory-efficient one, are compared with those of an ordinary model in float64: the norm of the
difference by the norm of the gradient, of all weights together.
"""

import argparse
import pathlib

import keras
import numpy as np
from keras import ops

from gyoza import backend
from gyoza.modelling import conditioners, flow_layers

__all__ = ["main"]

_DEPTHS = (4, 8, 16, 32, 64, 128)
_SIZE = 32
_BATCH = 128
_SCALE = 0.4  # of weights, times the root of their number of inputs


def _make_affine(dtype: str) -> list:
    network = conditioners.MLP([64], dtype=dtype)
    return [flow_layers.AffineCoupling(conditioner=network, dtype=dtype)]


def _make_spline(dtype: str) -> list:
    network = conditioners.MLP([64], dtype=dtype)
    return [flow_layers.RationalQuadraticSplineCoupling(conditioner=network, dtype=dtype)]


def _make_reflected(dtype: str) -> list:
    return [flow_layers.Reflection(reflection_count=8, dtype=dtype), *_make_affine(dtype)]


_BLOCKS = {
    "affine couplings": _make_affine,
    "affine couplings and reflections": _make_reflected,
    "spline couplings": _make_spline,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, help="file for the table")
    parser.add_argument("--depths", type=int, nargs="+", default=_DEPTHS)
    arguments = parser.parse_args()
    depths = arguments.depths
    lines = [
        "| blocks | gradients | " + " | ".join(f"depth {depth}" for depth in depths) + " |",
        "|---|---|" + "--:|" * len(depths),
    ]
    for name, make_block in _BLOCKS.items():
        errors = np.array([_compare(make_block, depth) for depth in depths])
        for column, kind in enumerate(("ordinary", "memory-efficient")):
            listed = " | ".join(f"{error:.1e}" for error in errors[:, column])
            lines.append(f"| {name} | {kind} | {listed} |")
            print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", "utf-8")


def _compare(make_block, depth: int) -> tuple[float, float]:
    """Returns the errors of gradients, stored and recomputed, in float32."""
    x = np.random.default_rng(0).normal(size=(_BATCH, _SIZE))
    model = _make_model(make_block, depth, "float64", False)
    random = np.random.default_rng(1)
    for weight in model.trainable_variables:
        if len(weight.shape) == 2 and "kernel" in weight.name:
            values = random.normal(size=weight.shape) * _SCALE / np.sqrt(weight.shape[0])
            weight.assign(values.astype("float32"))
    model.adapt(x)
    values = [ops.convert_to_numpy(v).astype("float32") for v in model.trainable_variables]
    exact = _differentiate(model, values, x)
    errors = []
    for memory_efficient in (False, True):
        model = _make_model(make_block, depth, "float32", memory_efficient)
        gradient = _differentiate(model, values, x)
        errors.append(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    return tuple(errors)


def _make_model(
    make_block, depth: int, dtype: str, memory_efficient: bool
) -> flow_layers.FlowModel:
    layers = []
    for _ in range(depth):
        layers += [flow_layers.ActivationNormalization(dtype=dtype), *make_block(dtype)]
        layers.append(flow_layers.HeavisidePermutation(dtype=dtype))
    model = flow_layers.FlowModel(layers, memory_efficient=memory_efficient, dtype=dtype)
    model.build((None, _SIZE))
    return model


def _differentiate(model: flow_layers.FlowModel, values: list, x: np.ndarray) -> np.ndarray:
    """Returns the gradient of the likelihood with respect to all weights, as one vector."""
    variables = model.trainable_variables
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

    def loss(*values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            z, log_det = model(ops.convert_to_tensor(x, dtype=model.compute_dtype))
        return ops.sum(0.5 * ops.sum(z * z, axis=-1) - log_det)

    value, pull_back = backend.vjp(loss, [ops.convert_to_tensor(v) for v in variables])
    gradients = pull_back(ops.ones_like(value))
    return np.concatenate([ops.convert_to_numpy(g).ravel().astype("float64") for g in gradients])


if __name__ == "__main__":
    main()
