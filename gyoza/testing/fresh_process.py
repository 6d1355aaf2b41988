"""A second Python process, in which saved models are loaded and run.

Run as a module, it reads one request a line from standard input, as JSON, and answers each with one
line on standard output.
"""

import atexit
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from gyoza.typing import Tensor

__all__ = ["find_fault", "load_and_run"]

_ANSWER = "gyoza-fresh-process:"


@functools.cache
def _start() -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gyoza.testing.fresh_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    atexit.register(process.kill)
    return process


def find_fault(cls: type, is_imported: bool) -> str:
    """Returns why an object of a class cannot be loaded in another process, or "".

    Args:
        cls: The class.
        is_imported: Whether another process imports it, and then tells whether it is registered.
    """
    import keras

    if is_imported and (cls.__module__ == "__main__" or "<locals>" in cls.__qualname__):
        return (
            "The class should be defined at the top of a module, not in a script or function, "
            "so that another process can import it. Or pass `fresh_process=False`."
        )
    name = keras.saving.get_registered_name(cls)
    if not is_imported and keras.saving.get_registered_object(name) is not cls:
        return (
            "The class should be registered with Keras, or saved models will not load: put "
            "`@keras.saving.register_keras_serializable(package=…)` above it."
        )
    return ""


def load_and_run(model: Any, arrays: Sequence[Tensor]) -> Mapping[str, Any]:
    """Saves a flow model, and loads it in another process, without custom objects.

    The process knows the classes that are registered with Keras here, through their modules. It is
    started at the first call and serves all later ones.

    Args:
        model: The built flow model.
        arrays: Inputs for it and, if it is conditional, their context.

    Returns:
        What the loaded model computes: `outputs`, `log_det` and `reconstructed_inputs`.

    Raises:
        RuntimeError: If the model cannot be loaded or run, with the traceback.
    """
    import keras
    import numpy as np

    classes = keras.saving.get_custom_objects().values()
    with tempfile.TemporaryDirectory() as folder:
        files = {"model": "model.keras", "inputs": "inputs.npz", "outputs": "outputs.npz"}
        paths = {key: str(pathlib.Path(folder, name)) for key, name in files.items()}
        modules = sorted({cls.__module__ for cls in classes} - {"__main__"})
        model.save(paths["model"])
        np.savez(paths["inputs"], *arrays)
        problem = _ask({**paths, "modules": modules})
        if problem:
            raise RuntimeError(problem)
        return dict(np.load(paths["outputs"]))


def _ask(request: dict[str, Any]) -> str:
    """Returns the answer of the other process: nothing, or the traceback of what went wrong."""
    process = _start()
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("The second process should have pipes.")
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith(_ANSWER):
            return json.loads(line[len(_ANSWER) :])
    _start.cache_clear()
    return f"The process ended with exit code {process.wait()}."


def _answer(request: dict[str, Any]) -> str:
    import keras
    import numpy as np

    from gyoza.backend import jit

    try:
        for module in request["modules"]:
            importlib.import_module(module)
        model = keras.saving.load_model(request["model"])

        def run(inputs: Tensor, *context: Tensor) -> dict[str, Any]:
            outputs, log_det = model(inputs, *context)
            return {
                "outputs": outputs,
                "log_det": log_det,
                "reconstructed_inputs": model.invert(outputs, *context),
            }

        if keras.backend.backend() == "jax":  # which would compile each operation by itself
            run = jit(run)
        arrays = run(*map(keras.ops.convert_to_tensor, np.load(request["inputs"]).values()))
        np.savez(
            request["outputs"],
            **{name: keras.ops.convert_to_numpy(array) for name, array in arrays.items()},
        )
    except Exception:  # whatever it is, the other process has to know
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    for request_line in sys.stdin:
        print(_ANSWER + json.dumps(_answer(json.loads(request_line))), flush=True)
