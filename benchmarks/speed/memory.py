"""How much memory a step takes."""

import ctypes
import gc
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

__all__ = ["get_counter", "measure_step", "read_process_memory"]

_STATUS = pathlib.Path("/proc/self/status")
_Counter = Callable[[], tuple[int, int]]


def get_counter(framework: str) -> _Counter | None:
    """Returns a function that reads what a framework's allocator counts.

    Args:
        framework: `"tensorflow"`, `"jax"` or `"torch"`.

    Returns:
        A function that returns the bytes in use and the most there were since its last call. `None`
        where the allocator does not count, on processors with JAX, which returns memory to the
        system after each step, so that it can be seen from outside; the others do not.
    """
    if framework == "torch":
        import torch

        if not torch.cuda.is_available():
            return _make_profiler()

        def count() -> tuple[int, int]:
            counts = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return counts

    elif framework == "jax":
        import jax

        device = jax.devices()[0]
        if not device.memory_stats():
            return None

        def count() -> tuple[int, int]:  # of the whole process, since it cannot be told to forget
            counts = device.memory_stats()
            return counts["bytes_in_use"], counts["peak_bytes_in_use"]

    else:
        import tensorflow as tf

        device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"

        def count() -> tuple[int, int]:
            counts = tf.config.experimental.get_memory_info(device)
            tf.config.experimental.reset_memory_stats(device)
            return counts["current"], counts["peak"]

    return count


def _make_profiler() -> _Counter:
    """Returns a counter for PyTorch on processors, where only its profiler sees what is taken."""
    from torch.autograd.profiler import profile

    running: list[profile] = []

    def count() -> tuple[int, int]:
        if not running:
            running.append(profile(profile_memory=True).__enter__())
            return 0, 0
        profiler = running.pop()
        profiler.__exit__(None, None, None)
        events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
        sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        return sum(sizes), max(itertools.accumulate(sizes, initial=0))

    return count


def measure_step(run: Callable[[], Any], count: _Counter | None) -> float:
    """Returns by how much the memory in use grows during a step, in MiB."""
    gc.collect()
    if count is not None:
        before, _ = count()
        run()
        return (count()[1] - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = read_process_memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5", "ascii")  # forgets the peak so far
    run()
    return (read_process_memory("VmHWM") - before) / 2**20


def read_process_memory(name: str) -> int:
    """Returns a figure of this process in bytes: `VmRSS` is memory in use now, `VmHWM` its peak."""
    lines = _STATUS.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024
