"""Tests of the figures of training, and of what the package imports."""

import importlib
import sys

import keras
import numpy as np
import pytest

from gyoza.plotting import training_curves

HISTORY = {"loss": [3.0, 2.0, 1.5], "val_loss": [2.5, 2.2, 2.1], "rate": [0.1, 0.5, 0.4]}


def test_curves_and_optimum(ax):
    assert training_curves(HISTORY, optimum=1.0, ax=ax) is ax
    train, validation, optimum = ax.lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 3.0], [2, 2.0], [3, 1.5]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1, 2.5], [2, 2.2], [3, 2.1]])
    assert set(optimum.get_ydata()) == {1.0}
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["training", "validation", "optimum"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")


def test_another_metric_and_several_optima():
    ax = training_curves(HISTORY, {"bound": 0.9, "goal": 0.8}, metric="rate")
    assert [line.get_label() for line in ax.lines] == ["training", "bound", "goal"]
    assert ax.lines[1].get_linestyle() != ax.lines[2].get_linestyle()
    assert ax.get_ylabel() == "rate"


def test_history_of_keras():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(loss="mse")
    x = np.ones((4, 1), "float32")
    history = model.fit(x, x, epochs=2, verbose=0)
    (line,) = training_curves(history).lines
    np.testing.assert_array_equal(line.get_ydata(), history.history["loss"])


def test_unknown_metric_raises(ax):
    with pytest.raises(ValueError, match=r"one of \['loss', 'rate', 'val_loss'\].*'los'"):
        training_curves(HISTORY, metric="los", ax=ax)


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "gyoza.plotting")
    with pytest.raises(ImportError, match=r'matplotlib.*pip install "gyoza\[plotting\]"'):
        importlib.import_module("gyoza.plotting")
