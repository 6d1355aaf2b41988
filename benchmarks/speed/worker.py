"""Times one cell with one library, in this process, and prints the figures as JSON."""

import argparse
import functools
import importlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from typing import Any

from speed.cells import CELLS, Seconds
from speed.memory import measure_step, read_process_memory

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", help="module in speed.peers")
    parser.add_argument("variant", help="row of that module")
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="number of measurements")
    arguments = parser.parse_args()
    started = float(os.environ["SPEED_STARTED"])
    peer = importlib.import_module(f"speed.peers.{arguments.peer}")
    cell = CELLS[arguments.cell]
    work = peer.make(cell, arguments.variant)
    if work is None:
        print(json.dumps({"missing": True}))
        return
    work.train(1)
    figures = {"first_step_s": time.time() - started, "weight_count": work.weight_count}
    functions = {"log_prob": work.log_prob, "sample": work.sample}
    functions = {name: _repeat(each) for name, each in functions.items() if each is not None}
    if not cell.measures_memory:
        for name, function in functions.items():
            figures[f"first_{name}_s"] = _clock(function, 1)
    if cell.measures_memory:  # a step takes seconds
        work.train(1)  # as in a long training, for which the first was compiled too quickly
        figures["train_s"] = [_clock(work.train, 1)]
    else:
        figures["train_s"] = _time(work.train, arguments.seconds, arguments.repeats)
        for name, function in functions.items():
            figures[f"{name}_s"] = _time(function, arguments.seconds, arguments.repeats)
    figures["peak_mib"] = read_process_memory("VmHWM") / 2**20
    if cell.measures_memory:  # in the end, since profilers take memory, too
        figures["step_mib"] = measure_step(functools.partial(work.train, 1), work.count_memory)
    if cell.is_large and work.measure_rate is not None:
        # A product is a multiplication and an addition, and a step takes three such passes.
        figures |= {"step_flop": 6 * work.product_count, "matrix_rate": work.measure_rate()}
    figures["versions"] = {name: _get_version(name) for name in peer.PACKAGES}
    print(json.dumps(figures))


def _get_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a package that was not installed, but found
        return importlib.import_module(name).__version__


def _repeat(function: Callable[[], None]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            function()

    return run


def _time(run: Callable[[int], Any], seconds: float, repeats: int) -> list[float]:
    """Returns the seconds that one of `count` runs takes, `repeats` times."""
    run(1)  # whatever is compiled on the way, is now
    count, spent = 1, 0.0
    while True:
        spent = _clock(run, count)
        if spent >= 0.5 * seconds:
            break
        count *= 2 if spent <= 0 else min(8, max(2, int(0.7 * seconds / spent)))
    count = max(1, round(count * seconds / spent))
    return [_clock(run, count) / count for _ in range(repeats)]


def _clock(run: Callable[[int], Any], count: int) -> float:
    start = time.perf_counter()
    result = run(count)
    return result if isinstance(result, Seconds) else time.perf_counter() - start


if __name__ == "__main__":
    main()
