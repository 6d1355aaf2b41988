"""Trainings that are killed and run again, each in a process of its own.

`python tests/resuming_cases.py CASE FOLDER KILLS SEED EPOCHS` trains a model without interruption,
and then once more with `ResumableTraining`, killed at random moments and started again until it
ends. It prints how often it was killed, and what of the weights and the history is not equal.

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
from gyoza.modelling.training import fit

fit.LEAST_STEPS_FOR_XLA = 0  # as in all tests
# Keras runs single steps on PyTorch.
SEVERAL = 1 if keras.backend.backend() == "torch" else 3
CASES = {
    "arrays": {},
    "arrays in order": {"shuffle": False},
    "within epochs": {"save_freq": 3},
    "within epochs, several steps": {"save_freq": 5, "steps_per_execution": SEVERAL},
    "categorical pairs": {"data": "categorical"},
    "continuous pairs": {"data": "continuous", "save_freq": 5},
    "dequantisation": {"has_noise": True},
    "memory efficient": {"memory_efficient": True, "steps_per_execution": SEVERAL},
    "short pairs": {"data": "categorical", "block_count": 0, "save_freq": 3, "run_eagerly": True},
    "short noise": {"has_noise": True, "block_count": 0, "save_freq": 3},
}


class Death(keras.callbacks.Callback):
    """Has the system kill the process some epochs after its start, and a fraction of one later."""

    def __init__(self, epochs, fraction):
        super().__init__()
        self.left, self.fraction = epochs, fraction

    def get_state(self):
        return None  # it is another moment in each process

    def set_state(self, state):
        """Keeps its own moment."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if self.left == 0:
            # Nothing handles the signal, so that it ends the process wherever that is. Time of the
            # processor does not pass while others use it.
            duration = self.fraction * (time.process_time() - self.start)
            signal.setitimer(signal.ITIMER_PROF, max(duration, 1e-6))


def make_layers(has_noise, block_count):
    layers = [flow_layers.UniformDequantization(32)] if has_noise else []
    layers.append(flow_layers.ActivationNormalization())
    for _ in range(block_count):
        network = conditioners.MLP([16])
        layers += [
            flow_layers.AffineCoupling(conditioner=network),
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
    moment=None,
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
    callbacks = [stopping, plateau]
    if moment is not None:
        callbacks.append(Death(*moment))
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


def run_process(folder, case, epochs, **options):
    """Trains in a process of its own, and returns its exit code, or minus the signal it died of."""
    folder.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            train(folder, epochs, **CASES[case], **options)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(case, folder, kill_count, seed, epochs):
    """Returns how often training was killed, and what was not equal in the end."""
    reference, killed = (pathlib.Path(folder) / name for name in ("reference", "killed"))
    generator = random.Random(seed)
    assert run_process(reference, case, epochs, can_resume=False) == 0
    expected = np.load(reference / "result.npz")
    # The first epoch takes longest, and is not what to kill others by.
    most = max(2, len(expected["loss"]) // (2 * kill_count))
    left, wrong, has_ended = kill_count, set(), False
    while left or not has_ended:
        moment = (generator.randint(2, most), generator.random()) if left else None
        status = run_process(killed, case, epochs, moment=moment)
        assert status in (0, -signal.SIGPROF), status
        has_ended = status == 0  # maybe before its moment came, where an epoch took long
        if has_ended:
            result = np.load(killed / "result.npz")
            assert set(result) == set(expected)
            wrong |= {name for name in result if not np.array_equal(result[name], expected[name])}
            assert not (killed / "backup").exists()
        left -= not has_ended
    return kill_count, sorted(wrong)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)  # imports TensorFlow on all backends, and so before any fork
    case, folder, kill_count, seed, epochs = sys.argv[1:]
    print(*run(case, folder, int(kill_count), int(seed), int(epochs)), sep=" | ")
