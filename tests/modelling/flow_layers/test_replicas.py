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


def test_two_devices_train_as_one_does_and_draw_different_samples():
    # Devices must be made before anything else, so it is another process that trains on two.
    script = Path(__file__).parent / "replicas.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads(run.stdout.splitlines()[-1])
    first, second = map(np.asarray, results.pop("samples"))
    assert np.all(first != second)
    assert len(results) == 5
    # Memory-efficient models compute activations anew, with other rounding errors.
    assert max(results.values()) < 1e-4, results
