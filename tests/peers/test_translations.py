"""The translations in the guide for people who come from other libraries.

Sections of `docs/coming_from.md` are run, each in a process of its own, and that of gyoza 0.2 in
two, as both are imported as `gyoza`. Those of libraries that are not installed are skipped.
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
# For the chain of TensorFlow Probability: four columns without a context, and training. What its
# coupling creates is known to the tape alone.
COLUMNS = """
x, x_test = x.reshape(1000, 4), x_test.reshape(1000, 4)
"""
TRAINING = """
import tf_keras
keras.utils.set_random_seed(0)
batches = tf.data.Dataset.from_tensor_slices(x).shuffle(1000).batch(100)
optimizer = tf_keras.optimizers.Adam(1e-3)
for epoch in range(20):
    for rows in batches:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(theirs.log_prob(rows))
        weights = tape.watched_variables()
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
assert len(weights) == 12
ours.adapt(x)
ours.compile(keras.optimizers.Adam(1e-3))
ours.fit(x, batch_size=100, epochs=20, verbose=0)
their_mean, our_mean = (np.mean(flow.log_prob(x_test)) for flow in (theirs, ours))
covariance = np.cov(x.T)
normal = -2.0 * (1.0 + np.log(2 * np.pi)) - 0.5 * np.log(np.linalg.det(covariance))
assert their_mean > normal + 0.2
assert our_mean > their_mean - 0.1
assert ours.sample(7).shape == theirs.sample(7).shape == (7, 4)
"""
# For the workflow of BayesFlow: the posterior of a normal prior and normal noise.
SIMULATIONS = """
import keras, numpy as np
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
theta = random.normal(size=[2000, 2]).astype("float32")
data = (theta + 0.5 * random.normal(size=[2000, 2])).astype("float32")
observed = np.array([1.0, -0.5], "float32")
"""
POSTERIORS = """
for samples in (their_posterior[0], posterior):
    samples = keras.ops.convert_to_numpy(samples)
    assert samples.shape == (1000, 2)
    np.testing.assert_allclose(samples.mean(axis=0), 0.8 * observed, atol=0.15)
    np.testing.assert_allclose(samples.std(axis=0), np.sqrt(0.2), atol=0.1)
"""
# Where `make test-peers` puts gyoza 0.2, which runs with the Keras 2 of TensorFlow.
EARLIER = Path(sys.prefix) / "gyoza-0.2"
NETWORKS = """
import keras, numpy as np
keras.utils.set_random_seed(0)
hidden, last = (lambda: keras.layers.Dense(8, "tanh")), (lambda: keras.layers.Dense(4))
networks = [keras.Sequential([keras.Input([4]), hidden(), last()]) for _ in range(2)]
x = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")
"""
WRITE = """
assert not hasattr(gyoza, "__version__")
np.savez("theirs.npz", z=z, log_det=log_det, normals=layers[-1].get_weights()[0])
"""
COMPARE = """
theirs = np.load("theirs.npz")
(reflection,) = (layer for layer in flow.layers if isinstance(layer, flow_layers.Reflection))
reflection.set_weights([theirs["normals"]])
for name, value in zip(["z", "log_det"], flow(x)):
    np.testing.assert_allclose(value, theirs[name], atol=1e-5)
assert np.std(theirs["z"]) > 0.1
"""


def run(code, backend, folder, **variables):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend, **variables},
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


def test_chain_of_tensorflow_probability_written_anew_is_as_likely(tmp_path):
    theirs, ours = SECTIONS["normflows, FrEIA and TensorFlow Probability"]
    skip_without("tensorflow_probability")
    run("\n".join([DATA, COLUMNS, theirs, ours, TRAINING]), "tensorflow", tmp_path)


def test_workflow_of_bayesflow_written_anew_has_the_same_posterior(tmp_path):
    """Both draw from the known posterior of a simulator that adds noise to its parameters."""
    theirs, ours = SECTIONS["A workflow of BayesFlow"]
    skip_without("bayesflow")
    code = "\n".join([SIMULATIONS, theirs, "their_posterior = posterior", ours, POSTERIORS])
    code = code.replace("epochs=20", "epochs=20, verbose=0")
    run(code, os.environ.get("KERAS_BACKEND", "tensorflow"), tmp_path)


def test_flow_of_gyoza_0_2_computes_the_same(tmp_path):
    theirs, ours = SECTIONS["gyoza 0.2"]
    if not EARLIER.exists():
        pytest.skip("gyoza 0.2 is not installed")
    earlier = {"PYTHONPATH": str(EARLIER), "TF_USE_LEGACY_KERAS": "1"}
    run("\n".join([NETWORKS, "import gyoza", theirs, WRITE]), "tensorflow", tmp_path, **earlier)
    run("\n".join([NETWORKS, ours, COMPARE]), "tensorflow", tmp_path)
