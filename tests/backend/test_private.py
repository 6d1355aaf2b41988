import ast
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import gyoza
from gyoza.backend import (
    get_random_states,
    isolate,
    jit,
    jit_batches,
    private,
    set_random_states,
    trace_once,
)
from gyoza.interpretation import split_network
from gyoza.modelling import conditioners, metrics
from gyoza.modelling.flow_layers import ActivationNormalization, AffineCoupling, FlowModel

BACKEND = keras.backend.backend()
NAMES = [name for name, backends in private.PRIVATE_NAMES.items() if BACKEND in backends]
# Each alone, those of all backends where that is quick, and all of them. Without XLA, what is for
# XLA is not missed.
CASES = {
    name: [name]
    for name in NAMES
    if BACKEND == "torch" or "torch" not in private.PRIVATE_NAMES[name]
}
CASES["all"] = NAMES
if BACKEND == "tensorflow":
    CASES["all but for XLA"] = [name for name in NAMES if name != "_resolve_auto_jit_compile"]
X = np.random.default_rng(0).normal(size=[64, 2]).astype("float32")


def take_away(monkeypatch, taken):
    """Does to gyoza what a release of Keras does that has no such names any more."""
    has = private._has
    monkeypatch.setattr(
        private, "_has", lambda owner, *names: not {*taken} & {*names} and has(owner, *names)
    )
    for name in taken:
        hook = "__setattr__" if name == "_jax_state" else name
        if hook in vars(private.KerasHooks):
            monkeypatch.delattr(private.KerasHooks, hook)
    # It was looked for when gyoza was imported.
    for module in (conditioners.base, conditioners.dense):
        monkeypatch.setattr(module, "list_interceptors", private.find_interceptors())


def use_all(directory):
    """Trains, evaluates, saves and samples a flow, splits a network, and keeps random states."""
    keras.utils.set_random_seed(0)
    layers = [
        ActivationNormalization(),
        AffineCoupling(conditioner=conditioners.MLP([3])),
    ]
    model = FlowModel(layers, memory_efficient=True)
    model.compile("sgd", metrics=[metrics.BitsPerDimension()])
    history = model.fit(X, batch_size=32, shuffle=False, verbose=0)
    evaluated = model.evaluate(X, batch_size=32, verbose=0)
    set_random_states(get_random_states())
    model.save(directory / "flow.keras")
    model = keras.saving.load_model(directory / "flow.keras")
    assert model.sample(3).shape == (3, 2)
    x = keras.Input([2])
    hidden = keras.layers.Dense(3, name="hidden")(x)
    head, tail = split_network(keras.Model(x, keras.layers.Dense(2)(ops.tanh(hidden))), "hidden")
    results = [
        *history.history["loss"],
        evaluated,
        model.log_prob(X),
        model.sample(3, seed=1),
        tail(head(X)),
        jit_batches(trace_once(ops.square))(model, ops.convert_to_tensor(X)),
        jit(lambda x: isolate(ops.square)(x))(ops.convert_to_tensor(X)),
    ]
    return [ops.convert_to_numpy(value) for value in results]


@pytest.fixture(scope="module")
def asked():
    """The names that were looked for."""
    return set()


@pytest.fixture(scope="module")
def expected(asked, tmp_path_factory):
    has = private._has
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            private, "_has", lambda owner, *names: asked.update(names) or has(owner, *names)
        )
        private.find_interceptors()
        return use_all(tmp_path_factory.mktemp("expected"))


def test_all_private_names_are_needed(expected, asked):
    hooks = vars(private.KerasHooks).keys() | {"_jax_state", "KerasSaveable"}
    assert asked == {*NAMES} - hooks


@pytest.mark.parametrize("case", CASES)
def test_private_names_can_be_done_without(case, expected, tmp_path, monkeypatch):
    take_away(monkeypatch, CASES[case])
    for value, given in zip(expected, use_all(tmp_path), strict=True):
        np.testing.assert_allclose(given, value, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="once is enough, where it takes least time")
def test_the_name_of_a_base_class_can_be_done_without(tmp_path):
    code = """
import pathlib, sys
from keras.src.saving import keras_saveable
name = keras_saveable.KerasSaveable
del keras_saveable.KerasSaveable
from test_private import private, use_all
assert private.Saveable.__base__ is object
keras_saveable.KerasSaveable = name  # Keras itself needs it
use_all(pathlib.Path(sys.argv[1]))
"""
    folder = pathlib.Path(__file__).parent
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def list_modules():
    root = pathlib.Path(gyoza.__file__).parent
    return {path: path.read_text() for path in root.rglob("*.py") if path.name != "private.py"}


def test_no_other_module_has_private_names():
    names = [name for name in private.PRIVATE_NAMES if name.startswith("_")]
    pattern = rf"\b({'|'.join(names)}|\w+\.(_?src|python|compiler)\.\w+)\b"
    found = {path.name: re.findall(pattern, text) for path, text in list_modules().items()}
    assert not {name: matches for name, matches in found.items() if matches}


def test_no_other_module_uses_private_attributes_of_others():
    used, own = set(), set()
    for text in list_modules().values():
        nodes = [*ast.walk(ast.parse(text))]
        formatted = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
        parts_of_texts = {id(part) for parts in formatted for part in parts}
        for node in nodes:
            if id(node) in parts_of_texts:
                continue
            if isinstance(node, ast.Attribute):
                (used if isinstance(node.ctx, ast.Load) else own).add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
    assert not {name for name in used - own if re.fullmatch(r"_[a-z]\w*", name)}
