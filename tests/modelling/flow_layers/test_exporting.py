"""Exported flows, in a process without gyoza, beside those that were exported."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza import applications
from gyoza.modelling import flow_layers
from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowMatchingModel,
    FlowModel,
    LULinear,
    Residual,
    ShufflePermutation,
    UniformDequantization,
)

BACKEND = keras.backend.backend()
# Keras writes it from version 3.13 on.
HAS_LITE = "litert" in keras.Model.export.__doc__
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[7, 3]).astype("float32")
CONTEXT = RANDOM.normal(size=[7, 2]).astype("float32")

ENDPOINTS = ("call", "log_prob", "invert")

# Runs all files in a folder: a SavedModel, or others that are named after their endpoints.
FRESH = """
import pathlib, sys
for name in ("gyoza", "keras", "jax", "torch"):
    sys.modules[name] = None
import numpy as np

folder = pathlib.Path(sys.argv[1])
given = dict(np.load(folder / "given.npz"))
context = [given["context"]] if "context" in given else []
found, endpoints = {}, {}

def load_onnx(path):
    sys.modules["tensorflow"] = None
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    names = [one.name for one in session.get_inputs()]
    return lambda *values: session.run(None, dict(zip(names, values, strict=True)))

def load_lite(path):
    import tensorflow as tf
    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    names = ["outputs" if path.stem == "invert" else "inputs", "context"]
    return lambda *values: [output for _, output in sorted(run(**dict(zip(names, values))).items())]

for path in folder.iterdir():
    if path.suffix in (".onnx", ".tflite"):
        load = load_onnx if path.suffix == ".onnx" else load_lite
        endpoints[path.suffix[1:], path.stem] = load(path)
if (folder / "saved").exists():
    import tensorflow as tf
    model = tf.saved_model.load(folder / "saved")
    found["names"] = sorted(model.signatures)
    for name in ("log_prob", "invert"):
        endpoints["saved", name] = getattr(model, name)
    for name in ("call", "serve"):
        run = getattr(model, name)
        endpoints["saved", name] = (
            lambda x, c=None, run=run: run(x if c is None else {"inputs": x, "context": c})
        )
    if hasattr(model, "sample"):
        found["sample_1"] = model.sample(5, 3, *(c[:1] for c in context))
        found["sample_7"] = model.sample(7, 3, *context)
for (kind, endpoint), run in endpoints.items():
    values = given["z" if endpoint == "invert" else "x"]
    for n in (1, 7):
        outputs = run(values[:n], *(c[:n] for c in context))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        found |= {f"{kind} {endpoint} {n} {k}": output for k, output in enumerate(outputs)}
np.savez(folder / "found.npz", **found)
"""


def move(model):
    """Moves weights from where they start, so that all of them matter."""
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(to_numpy(weight) + 0.05 * random.normal(size=weight.shape))


def run_fresh(folder, model, x, *context):
    """Returns what a process computes that has neither gyoza nor Keras."""
    given = dict(zip(["context"], context, strict=False))
    np.savez(folder / "given.npz", x=x, z=to_numpy(model(x, *context)[0]), **given)
    code = [sys.executable, "-c", FRESH, str(folder)]
    process = subprocess.run(code, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with np.load(folder / "found.npz") as found:
        return dict(found)


def check(found, kind, endpoints, model, x, *context):
    """Compares endpoints of files of one kind with what the model itself computes."""
    for n in (1, 7):
        c = [values[:n] for values in context]
        z, log_det = model(x[:n], *c)
        expected = {
            "call": [z, log_det],
            "serve": [z, log_det],
            "log_prob": [model.log_prob(x[:n], *c)],
            "invert": [model.invert(z, *c)],
        }
        for endpoint in endpoints:
            assert f"{kind} {endpoint} {n} {len(expected[endpoint])}" not in found
            for k, value in enumerate(expected[endpoint]):
                given = found[f"{kind} {endpoint} {n} {k}"]
                np.testing.assert_allclose(given, to_numpy(value), 1e-4, 1e-4, err_msg=endpoint)


def check_saved(found, model, x, *context):
    """Compares the endpoints of a SavedModel, also its samples, if it has them."""
    check(found, "saved", ["serve", *ENDPOINTS], model, x, *context)
    assert {"serve", *ENDPOINTS, "serving_default"} <= {*found["names"]}
    if "sample_1" in found:
        for count, name in ((5, "sample_1"), (7, "sample_7")):
            c = [values[: count if count == 7 else 1] for values in context]
            expected = to_numpy(model.sample(count, 3, *c))
            np.testing.assert_allclose(found[name], expected, 1e-4, 1e-4)


def make_conditional():
    layers = [ActivationNormalization(), AffineCoupling(conditioner=MLP([4]))]
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
    if HAS_LITE:
        model.export(tmp_path / "log_prob.tflite", "litert", verbose=False, endpoint="log_prob")
    found = run_fresh(tmp_path, model, X, CONTEXT)
    check_saved(found, model, X, CONTEXT)
    if HAS_LITE:
        check(found, "tflite", ["log_prob"], model, X, CONTEXT)
    assert "sample_7" in found


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
        layers = [AffineCoupling(conditioner=network) for network in networks]
        return FlowModel(layers, memory_efficient=True)
    if name in COUPLINGS:
        first, second = (getattr(flow_layers, name)(conditioner=MLP([4])) for _ in range(2))
        return FlowModel([ActivationNormalization(), first, ShufflePermutation(), second])
    if name == "InterpretationNetwork":
        return applications.InterpretationNetwork(block_count=2, hidden_sizes=[8])
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
    "InterpretationNetwork",
    "conditional",
]


# TensorFlow has no LAPACK for what JAX has written.
UNSAVED = {
    "NeuralSplineFlow",
    "ResidualFlow",
    "Glow",
    "GaussianizationFlow",
    "InterpretationNetwork",
}
UNSAVED = UNSAVED if BACKEND == "jax" else set()


def prepare(name):
    """Returns a flow whose weights are not those it starts with, and what it is run on."""
    if name == "conditional":
        return make_conditional(), X, CONTEXT
    x = X if name != "Glow" else RANDOM.normal(size=[7, 8, 8, 1]).astype("float32")
    model = make_flow(name)
    model.adapt(x)
    model.log_prob(x)
    move(model)
    return model, x


@pytest.mark.long
@pytest.mark.skipif(BACKEND == "torch", reason="Keras writes no SavedModel there")
@pytest.mark.parametrize("name", [name for name in FLOWS if name not in UNSAVED])
def test_all_flows_run_without_gyoza(name, tmp_path):
    model, *given = prepare(name)
    model.export(tmp_path / "saved", verbose=False)
    flow = getattr(model, "flow", model)
    check_saved(run_fresh(tmp_path, flow, *given), flow, *given)


COUPLINGS = [
    "AdditiveCoupling",
    "AffineCoupling",
    "VolumePreservingCoupling",
    "RationalQuadraticSplineCoupling",
    "CircularSplineCoupling",
    "MixtureLogisticCoupling",
]
IN_LITE = ["NICE", "NeuralSplineFlow", "MAF", "IAF", "InterpretationNetwork"]


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "tensorflow" or not HAS_LITE, reason="TensorFlow writes LiteRT")
@pytest.mark.parametrize("name", COUPLINGS + IN_LITE)
def test_lite_runs_couplings_and_autoregressive_flows(name, tmp_path):
    """Couplings with normalisation before, and a permutation between them."""
    model, *given = prepare(name)
    for endpoint in ENDPOINTS:
        path = tmp_path / f"{endpoint}.tflite"
        model.export(path, "litert", verbose=False, endpoint=endpoint)
    check(run_fresh(tmp_path, model, *given), "tflite", ENDPOINTS, model, *given)


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


def check_onnx(folder, endpoints, model, *given):
    """Writes endpoints to ONNX, and compares them with those of the flow itself."""
    for endpoint in endpoints:
        path = str(folder / f"{endpoint}.onnx")
        model.export(path, "onnx", verbose=False, endpoint=endpoint)
    flow = getattr(model, "flow", model)
    check(run_fresh(folder, flow, *given), "onnx", endpoints, flow, *given)


def test_onnx_runs_without_gyoza(tmp_path):
    import_onnx()
    check_onnx(tmp_path, ENDPOINTS, make_conditional(), X, CONTEXT)


# Couplings, and one direction of autoregressive flows, on every backend.
IN_ONNX = {
    "RealNVP": ENDPOINTS,
    "NICE": ENDPOINTS,
    "MAF": ("call", "log_prob"),
    "IAF": ("invert",),
}
if BACKEND == "jax":
    IN_ONNX |= {"GaussianizationFlow": ENDPOINTS, "memory-efficient": ENDPOINTS}
elif BACKEND == "tensorflow":
    lacking = {"FFJORD": (), "FlowMatching": (), "ResidualFlow": ("call", "log_prob")}
    IN_ONNX = {name: ENDPOINTS for name in FLOWS if name != "conditional"} | lacking


@pytest.mark.long
@pytest.mark.parametrize("name", IN_ONNX)
def test_onnx_runs_all_flows_or_names_what_it_lacks(name, tmp_path):
    import_onnx()
    model, *given = prepare(name)
    check_onnx(tmp_path, IN_ONNX[name], model, *given)
    path = tmp_path / "file.onnx"
    for endpoint in {*ENDPOINTS}.difference(IN_ONNX[name]) if BACKEND == "tensorflow" else ():
        with pytest.raises(ValueError, match="ONNX cannot express all operations of the model: it"):
            model.export(str(path), "onnx", verbose=False, endpoint=endpoint)
        assert not path.exists()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others write other operations")
def test_onnx_runs_or_names_what_its_converter_leaves(tmp_path):
    import_onnx()
    flow = applications.NICE(layer_count=2, hidden_sizes=[8])  # its logistic base has a log1p
    flow(X)
    check_onnx(tmp_path, ["log_prob"], flow, X)
    path = tmp_path / "file.onnx"
    flow = FlowModel([Residual(hidden_sizes=[8])])
    flow(X)
    with pytest.raises(ValueError, match="it has no MatrixSolve"):
        flow.export(str(path), "onnx", verbose=False, endpoint="invert")
    assert not path.exists()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others write other operations")
def test_onnx_chooses_among_numbers_that_are_not_finite(tmp_path):
    """Chooses by `where`, which the converter writes as c x + y (1 - c), also in a loop."""
    import_onnx()

    def halve(x):
        condition = x > 1.0
        return ops.where(condition, 0.5 * x, ops.log(ops.where(condition, -1.0, x)))

    class Halve(keras.Model):
        def call(self, x):
            x = halve(x)
            return ops.while_loop(lambda x: ops.any(x > 1.0), lambda x: (halve(x),), (x,))[0]

    x = np.array([[0.5, 1.0, 1.5, 4.0]], "float32")
    model = Halve()
    expected = to_numpy(model(x))
    path = tmp_path / "file.onnx"
    spec = keras.InputSpec(shape=(None, 4), dtype="float32", name="x")
    model.export(str(path), "onnx", verbose=False, input_signature=[spec])
    exporting = importlib.import_module("gyoza.modelling.flow_layers.exporting")
    exporting._finish_onnx(path)
    onnxruntime = pytest.importorskip("onnxruntime")
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, 1e-6)


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
