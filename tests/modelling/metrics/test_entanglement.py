"""The metric of entanglement over several batches."""

import keras
import numpy as np
import pytest

from gyoza.modelling.metrics import Entanglement


def test_batches_add_up_to_the_mean_over_all_vectors():
    z = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    products = np.abs(z[:, :, None] * z[:, None])[:, *np.triu_indices(3, 1)].mean(axis=1)
    metric = Entanglement()
    for batch in (z[:7], z[7:]):
        metric.update_state(np.zeros([len(batch)]), batch)
    assert float(metric.result()) == pytest.approx(products.mean(), rel=1e-5)
    metric.reset_state()
    weights = np.arange(10.0)
    metric.update_state(None, z, sample_weight=weights)
    assert float(metric.result()) == pytest.approx(np.average(products, weights=weights), rel=1e-5)


def test_model_is_compiled_and_saved_with_it(tmp_path):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    model.compile("adam", loss="mse", metrics=[Entanglement()])
    x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    results = model.evaluate(x, x[:, :2], verbose=0, return_dict=True)
    a, b = model.predict(x, verbose=0).T
    assert results["entanglement"] == pytest.approx(np.abs(a * b).mean(), rel=1e-5)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.evaluate(x, x[:, :2], verbose=0, return_dict=True) == pytest.approx(results)
