"""How long training steps take on two devices, and what a formula makes of one device's times.

Run `python -m speed.devices` in `benchmarks/`, with JAX installed and nothing else running. A
device is a process of JAX with a core of its own. Two of them share each batch of the affine flow
W2, and exchange gradients by sockets. The time of the start and that of an instance are taken from
two batch sizes on one device, that of the exchange from the smallest batch on two. All other times
of two devices are then predicted.
"""

import json
import math
import os
import socket
import statistics
import subprocess
import sys

_BATCH_SIZES = (128, 512, 2048, 8192)
_INSTANCES = 16_384  # in each epoch; the fastest of several epochs counts
_EPOCHS = 5


def measure(rank: int, count: int, port: int) -> None:
    """Prints, by the first process, seconds of a step for each batch size."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, rank)
    import keras
    import numpy as np

    from gyoza.modelling import conditioners, flow_layers
    from speed.cells import CELLS
    from speed.keras_clock import time_steps

    cell = CELLS["W2"]
    keras.utils.set_random_seed(0)  # the same weights in each process
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    model = flow_layers.FlowModel(
        [
            layer
            for _ in range(cell.depth)
            for layer in (
                flow_layers.AffineCoupling(conditioners.MLP(cell.hidden)),
                flow_layers.HeavisidePermutation(),
            )
        ]
    )
    model.compile("adam")
    x = np.random.default_rng(rank).standard_normal((_INSTANCES // count, *cell.shape), "float32")
    seconds = {}
    for batch_size in _BATCH_SIZES:
        options = {"one_by_one": True, "batch_size": batch_size // count, "shuffle": False}
        time_steps(model, x, **options)  # compiles
        epochs = [time_steps(model, x, **options) for _ in range(_EPOCHS)]
        seconds[batch_size] = min(epochs) * batch_size / _INSTANCES
    if rank == 0:
        weights = sum(math.prod(weight.shape) for weight in model.trainable_variables)
        print(json.dumps({"weights": weights, "seconds": list(seconds.values())}))


def run(count: int) -> dict:
    """Returns what `count` processes measure."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "speed.devices"]
    processes = [
        subprocess.Popen([*command, str(rank), str(count), port], stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    printed = [process.communicate()[0] for process in processes]
    # Gloo prints, too.
    return json.loads(next(line for line in printed[0].splitlines() if line.startswith("{")))


def main() -> None:
    """Prints the measured and the predicted times of two devices as a table."""
    if len(sys.argv) > 1:
        measure(*map(int, sys.argv[1:]))
        return
    rounds = [(run(1), run(2)) for _ in range(3)]
    alone, pair = (
        [statistics.median(times) for times in zip(*seconds, strict=True)]
        for seconds in zip(*[[part["seconds"] for part in parts] for parts in rounds], strict=True)
    )
    sizes = _BATCH_SIZES
    b = (alone[-1] - alone[0]) / (sizes[-1] - sizes[0])
    a = alone[0] - b * sizes[0]
    exchange = pair[0] - a - b * sizes[0] / 2
    weights = rounds[0][0]["weights"]
    print(f"a: {1e3 * a:.2f} ms, b: {1e6 * b:.1f} µs; exchange of {weights} weights: ", end="")
    print(f"{1e3 * exchange:.2f} ms, {4e-9 * weights / exchange:.2f} GB/s\n")
    print("| batch | one device | two, measured | two, predicted | times as fast |")
    print("|--:|--:|--:|--:|--:|")
    for size, one, two in zip(sizes, alone, pair, strict=True):
        predicted = a + b * size / 2 + exchange
        cells = (f"{1e3 * seconds:.1f} ms" for seconds in (one, two, predicted))
        print(f"| {size} | {' | '.join(cells)} | {one / two:.2f} |")


if __name__ == "__main__":
    main()
