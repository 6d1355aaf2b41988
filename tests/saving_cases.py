"""Models that are saved by processes that are killed while they do so.

`python tests/saving_cases.py PATH KILLS` has forks of one process save a model over its file again
and again, and kills each at a random moment. It prints what was wrong, and how often a kill left a
file that was not complete.

Each process first reads what the one before it has left. On TensorFlow and JAX, forks of a process
that has computed something may hang, so that it only imports; on PyTorch, tests fork themselves.
"""

import itertools
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import keras
import numpy as np

from gyoza.modelling import conditioners, flow_layers


def make_model():
    network = conditioners.MLP([64, 64])
    layers = [
        flow_layers.UniformDequantization(8),
        flow_layers.ActivationNormalization(),
        flow_layers.AffineCoupling(conditioner=network),
    ]
    model = flow_layers.FlowModel(layers)
    model.build((None, 4))
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    return model


def list_variables(model, path):
    """Returns the variables that a file has; that of weights has none of the optimizer."""
    return [*model.variables, *(model.optimizer.variables if path.suffix == ".keras" else ())]


def save(model, path, number):
    """Saves a model all of whose numbers are the same."""
    for variable in list_variables(model, path):
        variable.assign(np.full(variable.shape, number))
    model.save(path) if path.suffix == ".keras" else model.save_weights(path)


def load(path):
    """Returns the model in a file, and its numbers."""
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
    else:
        model = make_model()
        model.load_weights(path)
    values = [keras.ops.convert_to_numpy(variable) for variable in list_variables(model, path)]
    return model, np.unique(np.concatenate([value.ravel() for value in values]).astype("int64"))


def save_in_process(path, number, delay=None):
    """Reads a file, if it is there, and saves over it in a process of its own.

    Args:
        path: The file.
        number: The number that is saved first; each has one more than that before it.
        delay: Seconds after the first one at which the process is killed. If omitted, it saves one.

    Returns:
        The numbers that it has read, and the last that it is known to have saved.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            model, found = load(path) if path.exists() else (make_model(), [])
            os.write(writer, (" ".join(map(str, found)) + "\n").encode())
            for value in itertools.count(number) if delay is not None else [number]:
                save(model, path, value)
                os.write(writer, f"{value}\n".encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = {*map(int, lines.readline().split())}
        saved = [*map(int, lines.readline().split())]  # none if it has failed
        if delay is not None:
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
        saved += map(int, lines)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status == (0 if delay is None else -signal.SIGKILL), status
    return found, saved[-1]


def kill_while_saving(path, kill_count):
    """Returns what was wrong after kills, and how many left a file that was not complete."""
    generator = random.Random(0)
    wrong, unfinished_count = [], 0
    _, last = save_in_process(path, 1)
    for k in range(kill_count + 1):
        delay = generator.uniform(0.0, 0.1) if k < kill_count else None
        found, saved = save_in_process(path, last + 2, delay)
        # The process before was killed while it saved the next number, or has told of it too late.
        if found not in ({last}, {last + 1}):
            wrong.append((k, last, found))
        last = saved
        unfinished_count += len([*path.parent.iterdir()]) > 1
    return wrong, unfinished_count


if __name__ == "__main__":
    keras.utils.set_random_seed(0)  # imports TensorFlow on all backends, and so before any fork
    path, kill_count = sys.argv[1:]
    print(*kill_while_saving(pathlib.Path(path), int(kill_count)), sep=" | ")
