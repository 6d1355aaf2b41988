"""Exported flows, in a process without gyoza, beside those that were exported."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza import applications
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowMatchingModel,
    FlowModel,
    LULinear,
    Residual,
    UniformDequantization,
)

BACKEND = keras.backend.backend()
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[7, 3]).astype("float32")
CONTEXT = RANDOM.normal(size=[7, 2]).astype("float32")

# Loads a SavedModel and, if there is one, a LiteRT file, and runs all that they have.
FRESH = """
import sys
sys.modules["gyoza"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
folder = sys.argv[1]
given = dict(np.load(folder + "/given.npz"))
x, context = given["x"], [given["context"]] if "context" in given else []
model = tf.saved_model.load(folder + "/saved")
found = {}
for n in (1, 7):
    c = [context[0][:n]] if context else []
    inputs = {"inputs": x[:n], "context": c[0]} if context else x[:n]
    z, log_det = model.serve(inputs)
    found[f"call_{n}"], found[f"log_det_{n}"] = model.call(inputs)[0], log_det
    found[f"log_prob_{n}"] = model.log_prob(x[:n], *c)
    found[f"invert_{n}"] = model.invert(z, *c)
    if "with_lite" in given:
        lite = tf.lite.Interpreter(folder + "/file.tflite").get_signature_runner()
        named = {"inputs": x[:n], "context": c[0]} if context else {"inputs": x[:n]}
        found[f"lite_{n}"] = lite(**named)["output_0"]
if hasattr(model, "sample"):
    found["sample_1"] = model.sample(5, 3, *(c[:1] for c in context))
    found["sample_7"] = model.sample(7, 3, *context)
found["names"] = sorted(model.signatures)
np.savez(folder + "/found.npz", **found)
"""


def move(model):
    """Moves weights from where they start, so that all of them matter."""
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(to_numpy(weight) + 0.05 * random.normal(size=weight.shape))


def run_fresh(folder, x, context=None, **given):
    """Returns what a process computes that has neither gyoza nor Keras."""
    if context is not None:
        given["context"] = context
    np.savez(folder / "given.npz", x=x, **given)
    code = [sys.executable, "-c", FRESH, str(folder)]
    process = subprocess.run(code, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with np.load(folder / "found.npz") as found:
        return dict(found)


def check(found, model, x, *context):
    """Compares with what the model itself computes."""
    for n in (1, 7):
        c = [values[:n] for values in context]
        z, log_det = model(x[:n], *c)
        expected = {
            "call": z,
            "log_det": log_det,
            "log_prob": model.log_prob(x[:n], *c),
            "lite": model.log_prob(x[:n], *c),
            "invert": model.invert(z, *c),
        }
        for name, value in expected.items():
            if f"{name}_{n}" in found:
                given = found[f"{name}_{n}"]
                np.testing.assert_allclose(given, to_numpy(value), 1e-4, 1e-4, err_msg=name)
    assert {"serve", "call", "log_prob", "invert", "serving_default"} <= {*found["names"]}
    if "sample_1" in found:
        for count, name in ((5, "sample_1"), (7, "sample_7")):
            c = [values[: count if count == 7 else 1] for values in context]
            expected = to_numpy(model.sample(count, 3, *c))
            np.testing.assert_allclose(found[name], expected, 1e-4, 1e-4)


def make_conditional():
    layers = [ActivationNormalization(), AffineCoupling(compute_coupling_parameters=MLP([4]))]
    base = DiagonalNormal(context_network=MLP([3]))
    model = FlowModel(layers, base, context_encoder=keras.layers.Dense(2))
    model.adapt({"inputs": X, "context": CONTEXT})
    model.log_prob(X, CONTEXT)
    move(model)
    return model


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX does the same for longer")
def test_conditional_flows_run_without_gyoza(tmp_path):
    model = make_conditional()
    model.export(tmp_path / "saved", verbose=False)
    model.export(tmp_path / "file.tflite", "litert", verbose=False, endpoint="log_prob")
    found = run_fresh(tmp_path, X, CONTEXT, with_lite=True)
    check(found, model, X, CONTEXT)
    assert {"sample_1", "sample_7", "lite_1", "lite_7"} <= {*found}


@pytest.mark.skipif(BACKEND != "jax", reason="the samples of TensorFlow are compared above")
def test_files_of_jax_have_all_but_samples(tmp_path):
    import tensorflow as tf

    model = FlowModel([ActivationNormalization()])
    model.adapt(X)
    model.export(tmp_path, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    assert {*exported.signatures} == {"serve", "serving_default", "call", "log_prob", "invert"}
    for n in (1, 7):
        expected = to_numpy(model.log_prob(X[:n]))
        np.testing.assert_allclose(exported.log_prob(X[:n]), expected, 1e-5, 1e-5)
    model = FlowModel([LULinear()])
    model(X)
    with pytest.raises(ValueError, match="could not run 'invert' as JAX writes it"):
        model.export(tmp_path, verbose=False)


def make_flow(name):
    if name == "FlowMatching":
        return FlowMatchingModel(VelocityMLP([8]), step_count=4)
    if name == "memory-efficient":
        networks = [MLP([4]), MLP([4])]
        layers = [AffineCoupling(compute_coupling_parameters=network) for network in networks]
        return FlowModel(layers, memory_efficient=True)
    options = {} if name in ("Glow", "GaussianizationFlow") else {"hidden_sizes": [8]}
    if name not in ("FFJORD", "Glow"):
        options["layer_count"] = 2
    return getattr(applications, name)(**options)


FLOWS = [
    "RealNVP",
    "NICE",
    "NeuralSplineFlow",
    "MAF",
    "IAF",
    "GaussianizationFlow",
    "ResidualFlow",
    "FFJORD",
    "FlowMatching",
    "memory-efficient",
    "Glow",
    "conditional",
]


# TensorFlow has no LAPACK for what JAX has written.
if BACKEND == "jax":
    solving = {"NeuralSplineFlow", "ResidualFlow", "Glow", "GaussianizationFlow"}
    FLOWS = [name for name in FLOWS if name not in solving]


@pytest.mark.long
@pytest.mark.skipif(BACKEND == "torch", reason="Keras writes no SavedModel there")
@pytest.mark.parametrize("name", FLOWS)
def test_all_flows_run_without_gyoza(name, tmp_path):
    x = X if name != "Glow" else RANDOM.normal(size=[7, 8, 8, 1]).astype("float32")
    context = [CONTEXT] if name == "conditional" else []
    if context:
        model = make_conditional()
    else:
        model = make_flow(name)
        model.adapt(x)
        model.log_prob(x)
        move(model)
    model.export(tmp_path / "saved", verbose=False)
    check(run_fresh(tmp_path, x, *context), getattr(model, "flow", model), x, *context)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="other files have no samples")
def test_seeds_choose_the_samples_and_noise_is_drawn_anew(tmp_path):
    import tensorflow as tf

    model = FlowModel([UniformDequantization(4), ActivationNormalization()])
    x = np.zeros([7, 2], "float32")
    model(x)
    model.export(tmp_path, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    samples = [exported.sample(3, seed).numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])
    assert not np.array_equal(exported.call(x)[0], exported.call(x)[0])  # it draws noise


def test_errors_say_what_can_be_exported(tmp_path):
    model = FlowModel([ActivationNormalization()])
    with pytest.raises(ValueError, match="should be built before it is exported"):
        model.export(tmp_path)
    model(X)
    with pytest.raises(ValueError, match=r"`endpoint` should be one of .*'invert'.*'sample'"):
        model.export(tmp_path / "file.onnx", "onnx", endpoint="sample")
    with pytest.raises(ValueError, match="a SavedModel has all of them"):
        model.export(tmp_path, endpoint="call")
    if BACKEND == "torch":
        with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow.*'torch'"):
            model.export(tmp_path)


def import_onnx():
    """Skips a test without the packages that Keras needs to write ONNX."""
    pytest.importorskip("onnx")
    if BACKEND != "torch":
        pytest.importorskip("tf2onnx" if BACKEND == "tensorflow" else "jax2onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("endpoint", ["call", "log_prob", "invert"])
def test_onnx_runs_flows(endpoint, tmp_path):
    onnxruntime = import_onnx()
    path = tmp_path / "file.onnx"
    model = make_conditional()
    model.export(str(path), "onnx", verbose=False, endpoint=endpoint)
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    assert names == ["outputs" if endpoint == "invert" else "inputs", "context"]
    for n in (1, 7):
        found = session.run(None, {names[0]: X[:n], "context": CONTEXT[:n]})
        run = model if endpoint == "call" else getattr(model, endpoint)
        expected = keras.tree.flatten(run(X[:n], CONTEXT[:n]))
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, to_numpy(other), 1e-4, 1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others write other operations")
def test_onnx_runs_or_names_what_its_converter_leaves(tmp_path):
    onnxruntime = import_onnx()
    path = tmp_path / "file.onnx"
    flow = applications.NICE(layer_count=2, hidden_sizes=[8])  # its logistic base has a log1p
    flow(X)
    flow.export(str(path), "onnx", verbose=False, endpoint="log_prob")
    (found,) = onnxruntime.InferenceSession(path).run(None, {"inputs": X})
    np.testing.assert_allclose(found, to_numpy(flow.log_prob(X)), 1e-4, 1e-4)
    flow = FlowModel([Residual(hidden_sizes=[8])])
    flow(X)
    with pytest.raises(ValueError, match="it has no MatrixSolve"):
        flow.export(str(path), "onnx", verbose=False, endpoint="invert")
    assert not path.exists()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others write other operations")
def test_operations_that_onnx_lacks_are_written_by_others(tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    exporting = importlib.import_module("gyoza.modelling.flow_layers.exporting")
    make = onnx.helper.make_node
    nodes = [make("Log1p", ["x"], ["y"]), make("Expm1", ["y"], ["z"])]
    values = [onnx.helper.make_tensor_value_info(name, 1, [None]) for name in "xyz"]
    graph = onnx.helper.make_graph(nodes, "graph", [values[0]], values[1:])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    assert exporting._expand(model.graph, onnx) == set()
    x = np.array([-0.5, 0.0, 2.0], "float32")
    y, z = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y, np.log1p(x), atol=1e-6)
    np.testing.assert_allclose(z, x, atol=1e-6)
