"""The code in the README, which the landing page includes, runs, and does what it says."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Runs all code, in a folder for the file that it writes, and returns its variables."""
    readme = pathlib.Path(__file__).parents[1] / "README.md"
    code = "".join(re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL))
    code = re.sub(r"(epochs=\d+)", r"\1, verbose=0", code)
    names = {"folder": tmp_path_factory.mktemp("readme")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(names["folder"])
        exec(code, names)
    return names


def test_ten_lines_learn_and_save_the_density(names):
    x, log_prob = names["x"], ops.convert_to_numpy(names["log_prob"])
    normal = stats.multivariate_normal(x.mean(axis=0), np.cov(x.T))
    assert log_prob.mean() > normal.logpdf(x).mean() + 0.5
    assert names["samples"].shape == (1000, 2)
    loaded = keras.saving.load_model(names["folder"] / "moons.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded.log_prob(x)), log_prob, atol=1e-5)


def test_seeing_inside_finds_and_exchanges_the_concepts(names):
    model, z, z_edited = names["model"], names["z"], names["z_edited"]
    again = ops.convert_to_numpy(model.invert(z))
    np.testing.assert_allclose(again, names["hidden"], atol=1e-5)
    correlations = np.abs(np.corrcoef(z.T, names["labels"].T)[:6, 6:])
    assert correlations.argmax(axis=0).tolist() == [4, 5]
    assert np.all(correlations.max(axis=0) > 0.85), correlations
    hidden_edited = ops.convert_to_numpy(names["hidden_edited"])
    z_again, _ = model.predict(hidden_edited, verbose=0)
    np.testing.assert_allclose(z_again, z_edited, atol=1e-4)
