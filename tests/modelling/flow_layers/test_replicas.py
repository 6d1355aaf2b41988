"""Training on several devices, by `tf.distribute` and by `keras.distribution`."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()


def run(name, *arguments):
    """Runs a script in a process of its own, since devices must be made before anything else."""
    script = Path(__file__).parent / name
    run = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(BACKEND != "jax", reason="Keras distributes on JAX alone")
def test_batches_and_weights_can_be_split_between_devices():
    results = run("devices.py")
    assert len(results) == 4
    assert max(results.values()) < 1e-5, results


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "jax", reason="Keras distributes on JAX alone")
def test_batches_and_weights_can_be_split_between_processes(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(Path(__file__).parent / "processes.py"), str(tmp_path)]
    alone = subprocess.Popen([*command, "0", "1", port])
    pair = [subprocess.Popen([*command, str(rank), "2", port]) for rank in range(2)]
    try:
        assert [process.wait(timeout=300) for process in (alone, *pair)] == [0, 0, 0]
    finally:
        for process in (alone, *pair):
            process.kill()
    for name in ("batches_arrays", "batches_pairs", "weights_arrays", "weights_pairs"):
        expected = np.load(tmp_path / f"{name}_0_of_1.npz")
        for rank in range(2):
            found = np.load(tmp_path / f"{name}_{rank}_of_2.npz")
            assert len(found.files) == len(expected.files) == 9
            for key in expected.files:
                np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.distribute` is TensorFlow's")
def test_two_devices_train_as_one_does_and_draw_different_samples():
    results = run("replicas.py", "arrays")
    first, second = map(np.asarray, results.pop("samples"))
    assert np.all(first != second)
    assert "BackupAndRestore" in results.pop("error")
    assert len(results) == 5
    # Memory-efficient models compute activations anew, with other rounding errors.
    assert max(results.values()) < 1e-4, results


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.distribute` is TensorFlow's")
def test_two_devices_adapt_to_and_train_on_pair_sources_as_one_does():
    results = run("replicas.py", "sources")
    assert results.keys() == {"CategoricalPairs", "ContinuousPairs"}
    assert max(results.values()) < 1e-4, results
