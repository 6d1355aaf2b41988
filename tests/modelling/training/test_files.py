"""Files: what they hold, that they are written as a whole, and that loading them is safe."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from saving_cases import kill_while_saving

from gyoza.modelling.conditioners import MLP, OptionalContext, VelocityMLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowMatchingModel,
    FlowModel,
    UniformDequantization,
)
from gyoza.modelling.flow_layers.invertible import Inversion
from gyoza.modelling.seeds import SeedGenerator
from gyoza.modelling.training import write_atomically

BACKEND = keras.backend.backend()
CASES = pathlib.Path(__file__).parents[2] / "saving_cases.py"
NAMES = ["model.keras", "model.weights.h5"]
# Another process takes long to start, and one is enough in the short run.
LONG_ELSEWHERE = [] if BACKEND == "tensorflow" else [pytest.mark.long]
X = np.random.default_rng(0).integers(0, 8, size=[64, 2]).astype("float32")
CONTEXT = np.random.default_rng(1).normal(size=[64, 1]).astype("float32")


def make_random_flow():
    """Makes a flow that draws noise, with dropout of Keras's own, and trains it a little."""
    network = keras.Sequential(
        [
            keras.layers.Dense(8, "relu"),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(4),
            keras.layers.Reshape([2, 2]),
        ]
    )
    layers = [
        UniformDequantization(8),
        ActivationNormalization(),
        AffineCoupling(conditioner=network),
    ]
    model = FlowModel(layers)
    model.compile("adam")
    train(model, steps=2)
    return model


def train(model, steps=10):
    """Takes steps of training, and returns their losses and the weights that come out."""
    history = model.fit(X, batch_size=32, epochs=steps // 2, shuffle=False, verbose=0)
    return [np.asarray(history.history["loss"]), *model.get_weights()]


def assert_equal(given, expected):
    for value, other in zip(given, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(value), to_numpy(other))


def test_loaded_models_take_the_same_next_steps(tmp_path):
    model = make_random_flow()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal([loaded.sample(3)], [model.sample(3)])
    expected = train(model)
    assert_equal(train(loaded), expected)
    # The states are those of the weights' file, too; the optimizer is none of its business.
    loaded.load_weights(tmp_path / "model.weights.h5")
    states = [variable for variable in loaded.variables if "seed" in variable.path]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    others = [variable for variable in loaded.variables if "seed" in variable.path]
    assert len(states) == 3
    assert_equal(states, others)


def test_models_that_have_not_been_trained_load_without_warnings(tmp_path):
    model = FlowModel([ActivationNormalization([2])])
    model.build((None, 2))
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras.saving.load_model(tmp_path / "model.keras")


FRESH = """
import resource, sys
import keras, numpy as np
folder = sys.argv[1]
ALLOWED = "marshal.loads", "marshal.load", "marshal.dumps"  # imports
def forbid(event, args):
    if event.split(".")[0] in ("socket", "urllib", "pickle", "marshal"):
        if event not in ALLOWED:
            raise RuntimeError(event)
try:
    keras.saving.load_model(folder + "/model.keras")
except TypeError as error:
    print("import gyoza" in str(error), flush=True)
sys.addaudithook(forbid)
import gyoza
# As the other process, since masks of Keras's dropout depend on XLA.
gyoza.modelling.training.fit.LEAST_STEPS_FOR_XLA = 0
model = keras.saving.load_model(folder + "/model.keras")
x = np.load(folder + "/x.npy")
history = model.fit(x, batch_size=32, epochs=5, shuffle=False, verbose=0)
np.savez(folder + "/given.npz", history.history["loss"], *model.get_weights())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for save, name in ((model.save, "/model.keras"), (model.save_weights, "/model.weights.h5")):
    try:
        save(folder + name)
    except OSError as error:
        print("file too large" in str(error).lower(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sizes of files are limited as on Linux")
@pytest.mark.parametrize("backend", [pytest.param(BACKEND, marks=LONG_ELSEWHERE)])
def test_a_fresh_process_goes_on_without_network_and_keeps_files_on_a_full_disk(backend, tmp_path):
    model = make_random_flow()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    np.save(tmp_path / "x.npy", X)
    names = ["model.keras", "model.weights.h5"]
    old = [(tmp_path / name).read_bytes() for name in names]
    process = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path)], capture_output=True, text=True
    )
    assert process.stdout.splitlines() == ["True"] * 3, process
    with np.load(tmp_path / "given.npz") as given:
        assert_equal(given.values(), train(model))
    assert [(tmp_path / name).read_bytes() for name in names] == old
    assert {path.name for path in tmp_path.iterdir()} == {*names, "x.npy", "given.npz"}


def test_flow_matching_goes_on_alike_where_context_is_dropped(tmp_path):
    encoder = OptionalContext(keras.layers.Dense(4), rate=0.5)
    model = FlowMatchingModel(VelocityMLP([8]), context_encoder=encoder, coupling="optimal")
    model.compile("adam")
    data = {"inputs": X, "context": CONTEXT}
    model.fit(data, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [m.fit(data, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert losses[0] == losses[1]
    assert_equal(loaded.get_weights(), model.get_weights())


@pytest.mark.parametrize("state", [(5, 3), (-7, 2), (2**31 + 5, 1)])
def test_states_of_other_backends_keep_their_bits(state):
    generator = SeedGenerator(0)
    generator.load_own_variables({"state": np.asarray(state)})
    loaded = to_numpy(generator.state).astype("int64")
    np.testing.assert_array_equal(loaded % 2**32, np.asarray(state) % 2**32)
    generator.load_own_variables({})  # as in files that have none
    np.testing.assert_array_equal(to_numpy(generator.state).astype("int64"), loaded)


@keras.saving.register_keras_serializable(package="tests")
class FullDisk(keras.layers.Dense):
    """A layer at which the disk is full, once that is so."""

    is_full = False

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if FullDisk.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", NAMES)
def test_old_files_outlive_a_failure(name, tmp_path, monkeypatch):
    network = keras.Sequential([FullDisk(4), keras.layers.Reshape([2, 2])])
    model = FlowModel([AffineCoupling(conditioner=network)])
    model.build((None, 2))
    save = model.save if name.endswith("keras") else model.save_weights
    save(tmp_path / name)
    old = (tmp_path / name).read_bytes()
    monkeypatch.setattr(FullDisk, "is_full", True)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == [name]
    monkeypatch.setattr(FullDisk, "is_full", False)
    model.set_weights([weight + 1.0 for weight in model.get_weights()])
    save(tmp_path / name)
    assert (tmp_path / name).read_bytes() != old


def test_files_are_written_through_links_with_the_permissions_of_the_old_ones(tmp_path):
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "file", tmp_path / "link"
    link.symlink_to(file)
    for text in ("old", "new"):
        with write_atomically(link) as path:
            assert path.parent == file.parent
            path.write_text(text)
        assert file.read_text() == text
        file.chmod(0o640)
    assert link.is_symlink()
    with write_atomically(link) as path:
        path.write_text("newer")
    assert file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "absent" / "file") as path:
        path.write_text("")


def kill_in_folder(folder, name, kill_count, monkeypatch):
    """Kills processes that save a file, which is then all that is there; see `saving_cases.py`."""
    path = folder / "models" / name
    path.parent.mkdir()
    if BACKEND == "torch":
        monkeypatch.setattr(tempfile, "tempdir", str(folder))  # where Keras leaves empty folders
        wrong, unfinished_count = kill_while_saving(path, kill_count)
    else:
        process = subprocess.run(
            [sys.executable, CASES, path, str(kill_count)],
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        assert process.returncode == 0, process.stderr
        wrong, unfinished_count = map(json.loads, process.stdout.split(" | "))
    assert wrong == []
    assert unfinished_count >= kill_count / 4  # or it would be killed between files
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.skipif(BACKEND != "torch", reason="others make a model anew in each process")
@pytest.mark.skipif(os.name != "posix", reason="processes are forked")
def test_kills_leave_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    kill_in_folder(tmp_path, "model.keras", 3, monkeypatch)


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="processes are forked")
@pytest.mark.parametrize("name", NAMES)
def test_many_kills_leave_the_old_file_or_the_new_one(name, tmp_path, monkeypatch):
    kill_count = {"torch": 100, "tensorflow": 20, "jax": 5}[BACKEND]
    kill_in_folder(tmp_path, name, kill_count, monkeypatch)


@contextlib.contextmanager
def without_rights():
    """Does without the rights of root, who can write anywhere, if that is who runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
def test_old_files_outlive_a_folder_that_cannot_be_written(tmp_path):
    model = FlowModel([ActivationNormalization([2])])
    model.build((None, 2))
    path = tmp_path / "model.keras"
    model.save(path)
    old = path.read_bytes()
    tmp_path.chmod(0o500)
    try:
        with without_rights(), pytest.raises(PermissionError):
            model.save(path)
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == old


def change(path, replace):
    """Replaces the configuration in a `.keras` file."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["config.json"] = json.dumps(replace(json.loads(parts["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)


def make_lambda(touched):
    code = f"__import__('pathlib').Path({touched!r}).touch()"
    function = eval(f"lambda x: {code}")
    return keras.layers.Lambda(function).get_config()["function"]


# Each is a function of a path, and names code that would make a file there.
CRAFTED = {
    "lambda": make_lambda,
    "lambda layer": lambda touched: {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "run", "function": make_lambda(touched), "arguments": {}},
        "registered_name": None,
    },
    "function": lambda touched: {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "system",
    },
    "class": lambda touched: {
        "module": "subprocess",
        "class_name": "Popen",
        "config": {"args": ["touch", touched]},
        "registered_name": None,
    },
    "class of gyoza": lambda touched: {
        "module": "pathlib",
        "class_name": "Path",
        "config": {"args": [touched]},
        "registered_name": "gyoza>Path",
    },
    "name": lambda touched: "os.system",
    "downloads": lambda touched: {
        "module": "keras.utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "get_file",
    },
}
PLACES = {
    "layer": lambda config: config["flow_layers"],
    "network": lambda config: config["flow_layers"][0]["config"],
    "base": lambda config: config,
    "encoder": lambda config: config,
}
KEYS = {
    "layer": 0,
    "network": "compute_coupling_parameters",
    "base": "base_distribution",
    "encoder": "context_encoder",
}


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    model = FlowModel([AffineCoupling(conditioner=MLP([]))])
    model.build((None, 2))
    path = tmp_path_factory.mktemp("small") / "model.keras"
    model.save(path)
    return path.read_bytes()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the code is that of all backends")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("crafted", CRAFTED)
def test_loading_runs_no_code_of_the_file(crafted, place, small_file, tmp_path):
    path, touched = tmp_path / "model.keras", tmp_path / "touched"
    path.write_bytes(small_file)

    def craft(config):
        PLACES[place](config["config"])[KEYS[place]] = CRAFTED[crafted](str(touched))
        return config

    change(path, craft)
    with pytest.raises((TypeError, ValueError)):
        keras.saving.load_model(path)
    assert not touched.exists()


def test_files_name_no_other_methods_to_be_run():
    layer = ActivationNormalization([2])
    config = Inversion(layer).get_config()
    assert isinstance(Inversion.from_config(config), Inversion)
    with pytest.raises(ValueError, match=r"`method` should be one of .* method='save_own_v"):
        Inversion.from_config({**config, "method": "save_own_variables"})
