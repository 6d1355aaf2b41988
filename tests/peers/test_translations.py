"""The translations in the guide for people who come from other libraries compute the same numbers.

Each section of `docs/coming_from.md` whose code ends with `print(theirs, ours)` is run in a process
of its own, on the backend of its library, or on the current one where it has several. Sections of
libraries that are not installed are skipped.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "coming_from.md"
SECTIONS = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in re.split(r"^## ", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
}
MODULES = {
    "zuko": "zuko",
    "nflows": "nflows",
    "normflows": "normflows",
    "FrEIA": "FrEIA",
    "TensorFlow Probability": "tensorflow_probability",
    "BayesFlow": "bayesflow",
}
COMPARISON = """
import keras, numpy as np
def compare(*values):
    theirs, ours = (np.array(keras.ops.convert_to_numpy(value)) for value in values)
    assert theirs.std() > 0.1 and len(theirs) == 5
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    compare.done = True
"""


def test_each_library_has_a_section():
    assert all(len(SECTIONS[title]) == 1 for title in MODULES)


@pytest.mark.parametrize("title", MODULES)
def test_translation_computes_the_same(title):
    if importlib.util.find_spec(MODULES[title]) is None:
        pytest.skip(f"{MODULES[title]} is not installed")
    code = SECTIONS[title][0].replace("print(", "compare(")
    own = [name for name in ("torch", "tensorflow") if f"import {name} " in code.replace("\n", " ")]
    backend = own[0] if own else os.environ.get("KERAS_BACKEND", "tensorflow")
    result = subprocess.run(
        [sys.executable, "-c", f"{COMPARISON}\n{code}\nassert compare.done"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
