"""Metrics of densities."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.flow_layers import ActivationNormalization, Flatten, FlowModel
from gyoza.modelling.metrics import BitsPerDimension, NegativeLogLikelihood

X = np.random.default_rng(0).normal(size=(10, 2, 3)).astype("float32")


def test_metrics_are_means_of_log_densities():
    log_prob, weights = np.linspace(-6.0, -1.0, 10), np.arange(10.0)
    for weight, expected in (
        (None, -log_prob.mean()),
        (weights, -np.average(log_prob, weights=weights)),
    ):
        metrics = NegativeLogLikelihood(), BitsPerDimension()
        for metric in metrics:
            for part in (slice(0, 7), slice(7, 10)):
                metric.update_state(
                    X[part], log_prob[part], None if weight is None else weight[part]
                )
        assert float(metrics[0].result()) == pytest.approx(expected, rel=1e-5)
        assert float(metrics[1].result()) == pytest.approx(expected / 6 / np.log(2.0), rel=1e-5)


def test_fit_and_evaluate_show_them():
    model = FlowModel([Flatten(), ActivationNormalization()])
    model.compile("adam", metrics=[NegativeLogLikelihood(), BitsPerDimension(name="bits")])
    history = model.fit(X, validation_data=(X,), verbose=0, batch_size=4).history
    names = {"loss", "negative_log_likelihood", "bits"}
    assert set(history) == names | {f"val_{name}" for name in names}
    results = model.evaluate(X, verbose=0, batch_size=4, return_dict=True)
    expected = -ops.convert_to_numpy(model.log_prob(X)).mean()
    assert results["loss"] == pytest.approx(expected, rel=1e-4)
    assert results["negative_log_likelihood"] == pytest.approx(expected, rel=1e-4)
    assert results["bits"] == pytest.approx(expected / 6 / np.log(2.0), rel=1e-4)
