"""Models that an earlier version saved."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "saved_models"
spec = importlib.util.spec_from_file_location("write", FOLDER / "write.py")
write = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write)


@pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
    reason="Keras does not read what later versions of it wrote",
)
@pytest.mark.parametrize("name", write.NAMES)
def test_saved_model_computes_and_learns_what_it_did(name):
    """Compares outputs, inverse, density and the next training step with those of gyoza 1.0.0.

    `tests/saved_models/write.py` made the models, trained them on TensorFlow, saved them, and wrote
    beside each what it computed then: a conditional flow with an encoder of the context and a
    conditional base, a flow trained on pairs, and one of all couplings and autoregressive splines.
    These files are here to stay as they are. New ones may be added beside them.
    """
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    tolerance = 1e-5 if keras.backend.backend() == "tensorflow" else 1e-3
    with np.load(FOLDER / f"{name}.npz") as expected:
        computed = dict(write.compute(model, name))
        assert computed.keys() == expected.keys()
        for key, value in computed.items():
            np.testing.assert_allclose(
                write.to_numpy(value), expected[key], tolerance, tolerance, err_msg=key
            )
