"""Models that an earlier version saved."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "saved_models"
spec = importlib.util.spec_from_file_location("write", FOLDER / "write.py")
write = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write)


@pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
    reason="Keras does not read what later versions of it wrote",
)
@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("name", write.NAMES)
@pytest.mark.filterwarnings("ignore:Log-densities of model")
def test_saved_model_computes_and_learns_what_it_did(name):
    """Compares outputs, inverse, density and the next training step with those of then.

    `tests/saved_models/write.py` made the models, trained them on TensorFlow, saved them, and wrote
    beside each what it computed then: a conditional flow with an encoder of the context and a
    conditional base, a flow trained on pairs, and one of all couplings and autoregressive splines
    by gyoza 1.0.0; later, a flow in continuous time, and densities of images and of other layers.
    These files are here to stay as they are. New ones may be added beside them.
    """
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    if name == "couplings" and keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # XLA takes longest to compile this one
    tolerance = 1e-5 if keras.backend.backend() == "tensorflow" else 1e-3
    with np.load(FOLDER / f"{name}.npz") as expected:
        computed = dict(write.compute(model, name))
        assert computed
        assert computed.keys() <= expected.keys()
        for key, value in computed.items():
            np.testing.assert_allclose(
                write.to_numpy(value), expected[key], tolerance, tolerance, err_msg=key
            )


# Loads the models of a folder, and prints what Keras has to say against that.
LOAD = """
import pathlib, sys, warnings
import keras, numpy as np
import gyoza
folder = pathlib.Path(sys.argv[1])
given = dict(np.load(folder / "given.npz"))
for path in sorted(folder.glob("*.keras")):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model = keras.saving.load_model(path)
    for warning in found:
        if warning.category is UserWarning:
            print(path.name, warning.message)
    context = [given["context_c"]] if path.stem == "context" else []
    log_prob = model.log_prob(given[path.stem + "_x"], *context)
    found = keras.ops.convert_to_numpy(log_prob)
    np.testing.assert_allclose(found, given[path.stem + "_expected"], 1e-4, 1e-4)
    iterations = keras.ops.convert_to_numpy(model.optimizer.iterations)
    assert iterations == 2, iterations
    print(path.stem)
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_models_load_on_all_backends_without_warnings(backend, tmp_path):
    pytest.importorskip(backend)
    given = {}
    for name in write.NAMES:
        model, x = write.make_trained(name), write.get_data(name)["x"]
        model.save(tmp_path / f"{name}.keras")
        x, context = (x["inputs"], [x["context"]]) if isinstance(x, dict) else (x, [])
        x = x[0] if isinstance(x, tuple) else x
        given[f"{name}_x"] = x
        if context:
            given[f"{name}_c"] = context[0]
        given[f"{name}_expected"] = write.to_numpy(model.log_prob(x, *context))
    np.savez(tmp_path / "given.npz", **given)
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert process.stdout.splitlines() == sorted(write.NAMES), process
