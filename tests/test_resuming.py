"""Training that was interrupted and goes on."""

import errno
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from gyoza.callbacks import ResumableTraining, backups
from gyoza.callbacks.data_order import check_order
from gyoza.data import CategoricalPairs
from gyoza.interpretation import SwapTraining
from gyoza.modelling import flow_layers
from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.flow_layers import ActivationNormalization, FlowModel

BACKEND = keras.backend.backend()
CASES = pathlib.Path(__file__).parent / "resuming_cases.py"
X = np.random.default_rng(0).normal(2.0, size=(40, 4)).astype("float32")


class InterruptionError(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Fails after some batches, counts those that were trained on, and spends random numbers."""

    def __init__(self, batch_count=None):
        super().__init__()
        self.left = batch_count

    def on_train_batch_end(self, batch, logs=None):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise InterruptionError

    def get_state(self):
        return None

    def set_state(self, state):
        """Does not fail once more."""

    def on_epoch_begin(self, epoch, logs=None):
        np.random.uniform()  # noqa: NPY002
        keras.random.uniform(())


def make_model(layers=None, optimizer="sgd"):
    model = FlowModel(layers or [ActivationNormalization()])
    optimizer = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.1}})
    model.compile(optimizer, run_eagerly=True)
    return model


def train_arrays(**arguments):
    layers = [flow_layers.UniformDequantization(8), ActivationNormalization()]
    model = make_model(layers=layers, optimizer="adam")
    arguments = {"x": np.clip(np.round(X), 0.0, 7.0), "batch_size": 8} | arguments
    return model, model.fit(epochs=3, verbose=0, **arguments)


def make_stream(is_infinite):
    data = tf.data.Dataset.from_tensor_slices(X)
    if is_infinite:
        data = data.shuffle(40, seed=3).repeat()
    return data.batch(8)


def train_stream(is_infinite, **arguments):
    arguments = {"x": make_stream(is_infinite), **arguments}
    if is_infinite:
        arguments["steps_per_epoch"] = 4
    model = make_model()
    return model, model.fit(epochs=3, verbose=0, **arguments)


TRAININGS = {
    "arrays": train_arrays,
    "tf.data": lambda **arguments: train_stream(False, **arguments),
    "tf.data without end": lambda **arguments: train_stream(True, **arguments),
}


def interrupt(train, folder, batch_count, save_freq="epoch", callbacks=list):
    """Trains, fails after some batches, and trains again, as in another process."""

    def make(interruption):
        return [ResumableTraining(folder, save_freq), *callbacks(), interruption]

    keras.utils.set_random_seed(1)
    with pytest.raises(InterruptionError):
        train(callbacks=make(Interrupt(batch_count)))
    keras.utils.set_random_seed(1)
    return train(callbacks=make(Interrupt()))


def assert_equal(resumed, expected):
    """Raises an error unless all variables and the history are equal."""
    assert resumed[1].epoch == expected[1].epoch
    assert resumed[1].history == expected[1].history
    models = resumed[0], expected[0]
    both = ([*model.variables, *model.optimizer.variables] for model in models)
    for given, variable in zip(*both, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(given.value), ops.convert_to_numpy(variable.value)
        )


@pytest.mark.parametrize(
    ("kind", "save_freq"),
    [
        ("arrays", "epoch"),
        ("arrays", 3),
        ("tf.data", 3),
        ("tf.data without end", "epoch"),
    ],
)
def test_an_interruption_makes_no_difference(kind, save_freq, tmp_path):
    keras.utils.set_random_seed(1)
    callbacks = [Interrupt()]
    if kind == "tf.data without end":  # of which a look at the first batch changes the others
        callbacks.append(ResumableTraining(tmp_path))
    expected = TRAININGS[kind](callbacks=callbacks)
    resumed = interrupt(TRAININGS[kind], tmp_path, 8, save_freq)
    assert_equal(resumed, expected)
    assert not tmp_path.exists()


class OwnState(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.state, self.counts, self.label = object(), np.zeros(2), "first"

    def on_epoch_end(self, epoch, logs=None):
        self.counts[0] += 1.0
        self.label = ("epoch", epoch, {3: np.float32(0.5)})


def test_other_callbacks_go_on_where_they_were(tmp_path):
    own = []

    def make_callbacks():
        own.append(OwnState())
        return [
            own[-1],
            keras.callbacks.EarlyStopping("loss", min_delta=9.0, patience=1),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9.0),
        ]

    keras.utils.set_random_seed(1)
    expected = train_arrays(callbacks=[*make_callbacks(), Interrupt()])
    assert len(expected[1].epoch) == 2
    assert float(expected[0].optimizer.learning_rate) < 0.1
    assert_equal(interrupt(train_arrays, tmp_path, 8, callbacks=make_callbacks), expected)
    np.testing.assert_array_equal(own[-1].counts, [2.0, 0.0])
    assert own[-1].label == ("epoch", 1, {3: np.float32(0.5)})


def test_training_that_has_ended_is_not_gone_on_with(tmp_path):
    def train():
        stopping = keras.callbacks.EarlyStopping("loss", min_delta=9.0, patience=1)
        resumable = ResumableTraining(tmp_path, delete_checkpoint=False)
        return train_arrays(callbacks=[resumable, stopping])

    keras.utils.set_random_seed(1)
    expected = train()
    assert len(expected[1].epoch) == 2
    assert_equal(train(), expected)


def fail_to_write(monkeypatch, code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_leaves_the_last_backup_and_goes_on_training(tmp_path, monkeypatch):
    class FillDisk(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                fail_to_write(monkeypatch, errno.ENOSPC)

    keras.utils.set_random_seed(1)
    with pytest.warns(RuntimeWarning, match="left as it is: .*No space left"):
        train_arrays(callbacks=[ResumableTraining(tmp_path, delete_checkpoint=False), FillDisk()])
    assert [path.name for path in tmp_path.iterdir()] == ["training.npz"]
    assert backups.read_backup(tmp_path / "training.npz")["epoch"] == 1


def test_a_backup_that_cannot_be_written_at_first_raises(tmp_path, monkeypatch):
    fail_to_write(monkeypatch, errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        train_arrays(callbacks=[ResumableTraining(tmp_path / "a" / "b")])


def test_states_are_written_as_they_are(tmp_path):
    state = {
        "numbers": [1, -2.5, float("inf"), 2**70, True, None],
        3: (np.arange(6).reshape(2, 3), np.float32(0.1), "ä"),
        "more": {"empty": np.zeros((0, 2), "int8"), "half": np.ones((), "float16")},
        "other": np.array([1.5, 2.5]).astype(ops.convert_to_numpy(ops.ones(1, "bfloat16")).dtype),
        "texts": np.array(["a", "bc"]),
    }
    path = tmp_path / "state"
    assert backups.read_backup(path) is None
    backups.write_backup(path, state)
    received = backups.read_backup(path)
    assert backups.to_fingerprint(received) == backups.to_fingerprint(state)
    assert received["numbers"] == state["numbers"]
    assert isinstance(received[3], tuple)
    assert received["other"].dtype == state["other"].dtype
    np.testing.assert_array_equal(received[3][0], state[3][0])


def test_what_a_kill_leaves_is_removed_with_the_backup(tmp_path):
    path = tmp_path / "backup" / "state"
    path.parent.mkdir()
    backups.write_backup(path, {"epoch": 1})
    path.with_name(".new-state").write_bytes(b"half")
    assert backups.read_backup(path) == {"epoch": 1}
    backups.remove_backup(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"x"])
def test_a_damaged_file_raises(damage, tmp_path):
    path = tmp_path / "training.npz"
    backups.write_backup(path, {"a": np.arange(100.0)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"remove it to start again. Received: .*training\.npz"):
        train_arrays(callbacks=[ResumableTraining(tmp_path)])


def test_objects_of_python_are_rejected(tmp_path):
    np.savez(tmp_path / "training.npz", state=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        train_arrays(callbacks=[ResumableTraining(tmp_path)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X[:32]}, r"shapes of the data: \['float32 \[40, 4\]'\]. Received: .*32"),
        ({"x": X + 1.0}, "checksum of data"),
        ({"batch_size": 4}, "batch size: 8. Received: batch size: 4"),
        ({"model": {"optimizer": "adam"}}, "class of the optimizer: SGD. Received: .*Adam"),
        (
            {"model": {"layers": [flow_layers.TriangularAffine()]}},
            "classes of layers: .*'ActivationNormalization'.* Received: .*'TriangularAffine'",
        ),
    ],
)
def test_backups_of_other_trainings_raise(change, message, tmp_path):
    make_model().fit(X, batch_size=8, verbose=0, callbacks=[ResumableTraining(tmp_path, 3, False)])
    arguments = {"x": X, "batch_size": 8, "epochs": 2, **change}
    model = make_model(**arguments.pop("model", {}))
    with pytest.raises(ValueError, match=message):
        model.fit(callbacks=[ResumableTraining(tmp_path, 3)], verbose=0, **arguments)


class Shuffled(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[:8]

    def on_epoch_end(self):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (X for _ in range(3))}, "arrays, a `keras.utils.PyDataset` or .* Received: x=<gen"),
        ({"x": Shuffled()}, "`get_state`.* Received: a Shuffled"),
        ({"x": X, "validation_data": Shuffled()}, "`get_state`.* Received: a Shuffled"),
        ({"x": X, "steps_per_epoch": 2}, "Received: steps_per_epoch=2"),
        ({"x": make_stream(True).take(100)}, "whose first batch differed"),
    ],
)
def test_data_in_an_order_that_cannot_be_repeated_raise(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_model().fit(callbacks=[ResumableTraining(tmp_path)], verbose=0, **arguments)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others shuffle by NumPy, or their own state")
def test_orders_of_tensorflow_need_a_seed():
    keras.utils.set_random_seed(1)
    check_order({"x": X})
    tf.random.set_seed(None)
    check_order({"x": X, "shuffle": False})
    with pytest.raises(ValueError, match=r"after a call of `keras.utils.set_random_seed`"):
        check_order({"x": X})


def test_several_workers_warn():
    source = CategoricalPairs(X, np.arange(40) % 2, workers=2)
    with pytest.warns(UserWarning, match="Received: workers=2"):
        check_order({"x": source})


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"at least 1. Received: save_freq=0"):
        ResumableTraining(tmp_path, save_freq=0)
    with pytest.raises(ValueError, match=r"Received: save_freq='batch'"):
        ResumableTraining(tmp_path, save_freq="batch")
    with pytest.raises(ValueError, match=r"path of a folder. Received: backup_dir=''"):
        ResumableTraining("")
    with pytest.raises(ValueError, match=r"one `ResumableTraining`"):
        train_arrays(callbacks=[ResumableTraining(tmp_path), ResumableTraining(tmp_path)])
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"one of gyoza's.* Received: a Sequential"):
        model.fit(X, X[:, :1], callbacks=[ResumableTraining(tmp_path)], verbose=0)


def make_autoencoder():
    inputs = keras.Input([4])
    hidden = [keras.layers.Dense(2)(inputs) for _ in range(2)]
    decoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    return VariationalAutoencoder(keras.Model(inputs, hidden), decoder)


def make_swaps():
    tail = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    flow = FlowModel([ActivationNormalization()])
    flow.build((None, 4))
    return SwapTraining(flow, tail, [2, 2])


def make_variational():
    flow = FlowModel([ActivationNormalization()])
    flow.build((None, 2))
    return flow_layers.VariationalModel(flow, lambda x: -0.5 * ops.sum(x**2, axis=-1))


OTHERS = {  # one on each backend
    "tensorflow": (make_autoencoder, {"x": np.tanh(X) ** 2}),
    "jax": (make_variational, {"steps_per_epoch": 5}),
    "torch": (make_swaps, {"x": (X, X[::-1], np.arange(40) % 2), "y": X[:, :1]}),
}


def test_other_models_of_gyoza_can_be_resumed(tmp_path):
    make, arguments = OTHERS[BACKEND]

    def train(callbacks):
        model = make()
        model.built or model(X)
        loss = {"loss": "mse"} if make is make_swaps else {}
        model.compile("adam", run_eagerly=True, **loss)
        options = {"batch_size": 8, "epochs": 2, "verbose": 0, "callbacks": callbacks}
        return model, model.fit(**arguments, **options)

    keras.utils.set_random_seed(1)
    expected = train([Interrupt()])
    assert_equal(interrupt(train, tmp_path, 8, save_freq=2), expected)


def kill(case, folder, kill_count, epoch_count):
    """Returns what `resuming_cases.py` prints: the number of kills, and what was not equal."""
    arguments = [case, folder, kill_count, 0, epoch_count]
    run = subprocess.run(
        [sys.executable, CASES, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.skipif(BACKEND != "jax", reason="each process compiles anew, which takes longer")
def test_training_that_is_killed_ends_as_if_it_had_not_been(tmp_path):
    assert kill("short noise", tmp_path, 5, 20) == "5 | []"


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        "arrays",
        "arrays in order",
        "short pairs",
        "within epochs",
        "within epochs, several steps",
        "categorical pairs",
        "continuous pairs",
        "dequantisation",
        "memory efficient",
    ],
)
def test_training_that_is_killed_often_ends_as_if_it_had_not_been(case, tmp_path):
    kill_count = 2 if BACKEND == "torch" else 4  # with JAX and TensorFlow, 72 in all
    assert kill(case, tmp_path, kill_count, 30) == f"{kill_count} | []"
