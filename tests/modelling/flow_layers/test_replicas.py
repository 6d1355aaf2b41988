"""Training on several devices by `tf.distribute`."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="`tf.distribute` is TensorFlow's"
)


@pytest.fixture(scope="module")
def results():
    """What a process with two devices found, as devices must be made before anything else."""
    script = Path(__file__).parent / "replicas.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="`tf.distribute` is TensorFlow's"
)
@pytest.mark.parametrize(
    "case", ["likelihood", "memory_efficient", "pairs", "autoencoder", "variational"]
)
def test_two_devices_train_as_one_does(results, case):
    assert results[case] < 1e-5


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="`tf.distribute` is TensorFlow's"
)
def test_two_devices_draw_different_samples(results):
    first, second = map(np.asarray, results["samples"])
    assert np.all(first != second)
