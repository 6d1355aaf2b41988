"""Set-up of all tests."""

import gc
import os

from xla_flags import XLA_FLAGS

# Before anything imports JAX, which computes in float32 at most otherwise.
os.environ.setdefault("JAX_ENABLE_X64", "true")
os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
# Tensors are too small to be shared between threads, of which each worker would start several.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".pytest_cache/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import pytest
from caches import forget_what_was_compiled, forget_what_was_lowered, keep_kernels

import gyoza.modelling.training.fit
from gyoza.modelling.training.trainer import Training
from gyoza.testing import check_flow_layer

collect_ignore_glob = []

if keras.backend.backend() != "torch":
    # Arguments and data frames are the same on every backend, and tests take least time on PyTorch.
    collect_ignore_glob += [
        "modelling/flow_layers/test_axes.py",
        "modelling/flow_layers/test_first_arguments.py",
        "modelling/test_tables.py",
    ]

if keras.backend.backend() != "tensorflow":
    # These compute with NumPy alone. Once is enough.
    collect_ignore_glob += [
        "data/test_digits.py",
        "data/test_faces.py",
        "data/test_sprites.py",
        "data/test_tables.py",
        "data/test_toy.py",
        "interpretation/test_factor_sizes.py",
        "modelling/metrics/test_agreement.py",
        "modelling/metrics/test_i*.py",
        "modelling/metrics/test_optimal_probes.py",
        "modelling/metrics/test_predictability.py",
        "plotting/*",
    ]

if keras.backend.backend() == "jax":
    forget_what_was_compiled()

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Graphs are run too few times for it to pay.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
else:
    # The longest trainings, of parts that are tested on every backend.
    collect_ignore_glob += ["interpretation/test_fitting.py", "test_readme.py"]


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(items):
    """Leaves what another backend compiles to the long run.

    The longest tests start first, so that no worker waits for another one in the end.
    """
    for item in items:
        mark = item.get_closest_marker("compiled_by")
        if mark and keras.backend.backend() not in (*mark.args, "torch"):
            item.add_marker("long")
    longest = {"test_fitting.py", "test_readme.py", "test_replicas.py"}
    items.sort(key=lambda item: item.path.name not in longest)


def pytest_collection_finish():
    """Leaves what imports have made out of all later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    """Starts every test from the same random state."""
    with keep_kernels():
        keras.utils.set_random_seed(0)
    if keras.backend.backend() == "jax":
        forget_what_was_lowered()


@pytest.fixture(autouse=True, scope="session")
def compile_short_trainings():
    """Compiles the few steps of tests as the many of other trainings are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(gyoza.modelling.training.fit, "LEAST_STEPS_FOR_XLA", 0)
        yield


@pytest.fixture(scope="module")
def without_xla():
    """Spares flows XLA on TensorFlow, unless `compile` asks for it.

    It takes longer to compile what is run in tests than to run it. For modules that do not ask how
    flows are compiled: others train, evaluate, save and load such flows by XLA, as users do.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        if keras.backend.backend() == "tensorflow":
            monkeypatch.setattr(Training, "_choose_jit", lambda *_: False)
        yield


BRIEF, FULL = "in brief", "in full"
CONTRACTS = [FULL]
if keras.backend.backend() != "torch":  # where a case takes least time
    CONTRACTS = [BRIEF, pytest.param(FULL, marks=pytest.mark.long)]


@pytest.fixture(params=CONTRACTS)
def check_contract(request):
    """Returns a function that checks the contract of a layer: `check_flow_layer`.

    What costs most where it is compiled, and depends least on the backend, is left to PyTorch and
    the long run: other dtypes, saving, and further layouts of a layer.
    """

    def check(layer, input_shape, *, is_further_layout=False, **options):
        """Checks one case of a layer, or a further one, which is spared other dtypes and saving."""
        if is_further_layout:
            if request.param == BRIEF:
                pytest.skip("another case of this layer is checked")
            options = {**options, "policies": (), "fresh_process": False}
        elif request.param == BRIEF:
            options = {"fresh_process": False, **options, "policies": ()}
        check_flow_layer(layer, input_shape, **options)

    return check
