"""The translations in the guide for people who come from other libraries.

Sections of `docs/coming_from.md` are run, each in a process of its own. Those of libraries that are
not installed are skipped.
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
    for section in re.split(r"^##+ ", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
}
# Where the same networks are used: the module, and the number of flows that are compared.
SAME = {
    "zuko": ("zuko", 3),
    "nflows": ("nflows", 1),
    "normflows": ("normflows", 1),
    "FrEIA": ("FrEIA", 1),
    "TensorFlow Probability": ("tensorflow_probability", 1),
    "BayesFlow": ("bayesflow", 1),
}
ANEW = {"MAF and NSF of zuko": "zuko", "Layers of nflows": "nflows"}
COMPARISON = """
import keras, numpy as np
def compare(*values):
    theirs, ours = (np.array(keras.ops.convert_to_numpy(value)) for value in values)
    assert theirs.std() > 0.1 and len(theirs) == 5
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    compare.count += 1
compare.count = 0
"""
DATA = """
import keras, numpy as np, torch
keras.utils.set_random_seed(0)
torch.manual_seed(0)
random = np.random.default_rng(0)
def draw(count):
    c = random.uniform(-1.0, 1.0, size=[count, 1])
    noise = random.normal(size=[count, 2])
    x = np.concatenate([c + 0.3 * noise[:, :1], noise[:, :1] ** 2 + 0.3 * noise[:, 1:]], axis=1)
    return x.astype("float32"), c.astype("float32")
(x, c), (x_test, c_test) = draw(2000), draw(2000)
"""
LIKELIHOODS = """
their_mean, our_mean = their_log_prob.numpy().mean(), np.mean(our_log_prob)
joint = np.concatenate([x, c], axis=1)
covariance = np.cov(joint.T)
normal = -1.0 - np.log(2 * np.pi) - 0.5 * np.log(np.linalg.det(covariance) / covariance[2, 2])
assert their_mean > normal + 0.3
assert our_mean > their_mean - 0.1
assert sorted(our_samples.shape) == sorted(their_samples.shape) == [2, 10, 2000]
"""


def run(code, backend, folder):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def skip_without(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize("title", SAME)
def test_translation_computes_the_same(title, tmp_path):
    module, count = SAME[title]
    code = "\n".join(SECTIONS[title]).replace("print(", "compare(")
    assert code.count("compare(") == count
    skip_without(module)
    own = [name for name in ("torch", "tensorflow") if f"import {name} " in code.replace("\n", " ")]
    backend = own[0] if own else os.environ.get("KERAS_BACKEND", "tensorflow")
    run(f"{COMPARISON}\n{code}\nassert compare.count == {count}", backend, tmp_path)


@pytest.mark.parametrize("title", ANEW)
def test_flow_written_anew_is_as_likely(title, tmp_path):
    """Held-out data are as likely as by the original, and more so than by a normal distribution."""
    theirs, ours, *others = SECTIONS[title]
    skip_without(ANEW[title])
    code = "\n".join([DATA, theirs, ours, LIKELIHOODS, *others])
    code = code.replace("epochs=20", "epochs=20, verbose=0")
    run(code, os.environ.get("KERAS_BACKEND", "tensorflow"), tmp_path)
