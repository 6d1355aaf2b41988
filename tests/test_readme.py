"""The code in the README runs, and does what it says."""

import pathlib
import re

import numpy as np
from keras import ops


def test_code_runs_and_finds_the_concepts():
    readme = pathlib.Path(__file__).parents[1] / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    names = {}
    exec(code.replace("epochs=40", "epochs=40, verbose=0"), names)
    again = ops.convert_to_numpy(names["model"].invert(names["z"]))
    np.testing.assert_allclose(again, names["x"], atol=1e-5)
    correlations = np.abs(np.corrcoef(names["z"].T, names["labels"].T)[:6, 6:])
    assert correlations.argmax(axis=0).tolist() == [4, 5]
    assert np.all(correlations.max(axis=0) > 0.75), correlations
