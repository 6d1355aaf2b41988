"""Trainings that are killed and run again, each in a process of its own.

`python tests/resuming_cases.py CASE FOLDER KILLS SEED` trains a model without interruption, and
then once more with `ResumableTraining`, killing it at random moments and starting it again until it
ends. It prints how often it was killed, and whether the weights and the history are equal.

All processes are forks of one that has imported everything and computed nothing.
"""

import os
import pathlib
import random
import signal
import sys
import time
import traceback

from xla_flags import XLA_FLAGS

os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)

import keras
import numpy as np

from gyoza.callbacks import ResumableTraining
from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.modelling import conditioners, flow_layers, losses

CASES = {
    "arrays": {},
    "arrays in order": {"shuffle": False},
    "within epochs": {"save_freq": 3},
    "within epochs, several steps": {"save_freq": 5, "steps_per_execution": 3},
    "categorical pairs": {"data": "categorical"},
    "continuous pairs": {"data": "continuous", "save_freq": 5},
    "dequantisation": {"has_noise": True},
    "memory efficient": {"memory_efficient": True, "steps_per_execution": 3},
    "short pairs": {"data": "categorical", "block_count": 0, "save_freq": 3, "run_eagerly": True},
    "short noise": {"has_noise": True, "block_count": 0, "save_freq": 3},
}


class Mark(keras.callbacks.Callback):
    """Lets a file grow by a byte with each epoch, so that it can be known when to kill."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with self.path.open("ab") as file:
            file.write(b".")


def make_layers(has_noise, block_count):
    layers = [flow_layers.UniformDequantization(32)] if has_noise else []
    layers.append(flow_layers.ActivationNormalization())
    for _ in range(block_count):
        network = conditioners.MLP([16])
        layers += [
            flow_layers.AffineCoupling(compute_coupling_parameters=network),
            flow_layers.ShufflePermutation(),
            flow_layers.ActivationNormalization(),
        ]
    return layers


def train(
    folder,
    epochs,
    *,
    data="arrays",
    has_noise=False,
    block_count=2,
    shuffle=True,
    steps_per_execution=1,
    run_eagerly=False,
    save_freq="epoch",
    can_resume=True,
    **options,
):
    """Trains a model, as a script of a user does, and writes weights and history."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=(200, 2))
    factors = generator.normal(size=(200, 2))
    x = labels @ generator.normal(size=(2, 4)) + generator.normal(size=(200, 4))
    if has_noise:
        x = np.clip(np.round(4 * x) + 16, 0, 31)
    x = x.astype("float32")
    arguments = {"x": x, "batch_size": 32, "shuffle": shuffle, "validation_data": x[:50]}
    loss, model_type = None, flow_layers.FlowModel
    if data != "arrays":
        arguments = {
            name: CategoricalPairs(x, labels, batch_size=32, seed=seed)
            if data == "categorical"
            else ContinuousPairs(x, factors, [0.9, 0.5], batch_size=32, seed=seed)
            for name, seed in (("x", None), ("validation_data", 2))
        }
        loss, model_type = (
            losses.SupervisedFactorLoss([2, 1, 1]),
            flow_layers.DisentanglingFlowModel,
        )
    model = model_type(make_layers(has_noise, block_count), **options)
    model.compile(
        keras.optimizers.Adam(0.01),
        loss=loss,
        steps_per_execution=steps_per_execution,
        run_eagerly=run_eagerly,
    )
    stopping = keras.callbacks.EarlyStopping(patience=epochs // 2, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.9)
    callbacks = [stopping, plateau, Mark(folder / "mark")]
    if can_resume:
        callbacks.insert(0, ResumableTraining(folder / "backup", save_freq))
    history = model.fit(epochs=epochs, callbacks=callbacks, verbose=0, **arguments)
    logs = {name: np.array(values) for name, values in history.history.items()}
    weights = {f"weight {k}": value for k, value in enumerate(model.get_weights())}
    weights |= {
        f"state {k}": keras.ops.convert_to_numpy(variable.value)
        for k, variable in enumerate([*model.variables, *model.optimizer.variables])
    }
    np.savez(folder / "result.npz", **logs, **weights)


def start(folder, case, epochs, **options):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mark").write_bytes(b"")
    process = os.fork()
    if process == 0:
        code = 1
        try:
            train(folder, epochs, **CASES[case], **options)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return process


def wait(process, mark=None, epochs=0, fraction=0.0):
    """Waits until a process ends, or has trained for some epochs and a fraction of one.

    Returns:
        The exit status of the process, or `None` if it has not ended.
    """
    times = [time.monotonic()]
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        if mark is not None and mark.stat().st_size >= len(times):
            times.append(time.monotonic())
        if len(times) > epochs > 0:
            time.sleep(fraction * (times[-1] - times[-2]))
            return None
        time.sleep(0.0005)


def run(case, folder, kill_count, seed, epochs):
    """Returns how often training was killed, and what was not equal in the end."""
    folder = pathlib.Path(folder)
    generator = random.Random(seed)
    assert wait(start(folder / "reference", case, epochs, can_resume=False)) == 0
    # The first epoch takes longest, and is not what to kill others by.
    most = max(2, (folder / "reference" / "mark").stat().st_size // (2 * kill_count))
    moments = [(generator.randint(2, most), generator.random()) for _ in range(kill_count)]
    for moment in moments:
        process = start(folder / "killed", case, epochs)
        assert wait(process, folder / "killed" / "mark", *moment) is None
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert wait(start(folder / "killed", case, epochs)) == 0
    results = [np.load(folder / name / "result.npz") for name in ("reference", "killed")]
    assert set(results[0]) == set(results[1])
    wrong = [name for name in results[0] if not np.array_equal(*(r[name] for r in results))]
    assert not (folder / "killed" / "backup").exists()
    return kill_count, wrong


if __name__ == "__main__":
    case, folder, kill_count, seed, epochs = sys.argv[1:]
    print(*run(case, folder, int(kill_count), int(seed), int(epochs)), sep=" | ")
