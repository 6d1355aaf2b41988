"""The code in the README runs, and does what it says."""

import pathlib
import re

import numpy as np
from keras import ops
from scipy import stats


def test_code_runs_and_finds_the_concepts_and_the_density():
    readme = pathlib.Path(__file__).parents[1] / "README.md"
    code = "".join(re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL))
    names = {}
    exec(re.sub(r"(epochs=\d+)", r"\1, verbose=0", code), names)
    again = ops.convert_to_numpy(names["model"].invert(names["z"]))
    np.testing.assert_allclose(again, names["x"], atol=1e-5)
    correlations = np.abs(np.corrcoef(names["z"].T, names["labels"].T)[:6, 6:])
    assert correlations.argmax(axis=0).tolist() == [4, 5]
    assert np.all(correlations.max(axis=0) > 0.75), correlations
    x = names["x"]
    normal = stats.multivariate_normal(x.mean(axis=0), np.cov(x.T))
    assert ops.convert_to_numpy(names["log_prob"]).mean() > normal.logpdf(x).mean()
    assert names["samples"].shape == (1000, 6)
