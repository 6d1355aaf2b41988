"""What importing the package brings along, and what it leaves out."""

import ast
import importlib
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import keras
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gyoza
from gyoza.data import CategoricalPairs, ContinuousPairs


def test_import_registers_all_classes_and_imports_no_optional_libraries():
    """The process also draws pairs, which the same seed gives here."""
    code = """
import importlib, json, pkgutil, sys
import keras, numpy as np
before = set(sys.modules)  # Keras imports whatever it can work with.
import gyoza
registered = set(keras.saving.get_custom_objects())
gyoza.testing.check_flow_layer, gyoza.applications.RealNVP, gyoza.data.CategoricalPairs
libraries = "matplotlib", "sklearn", "scipy", "tqdm", "gyoza.plotting"
print([name for name in libraries if name in set(sys.modules) - before])
x, values = np.arange(12.0), np.arange(24).reshape(12, 2) % 5 % 3
Categorical, Continuous = gyoza.data.CategoricalPairs, gyoza.data.ContinuousPairs
sources = Categorical(x, values, seed=7), Continuous(x, values, 0.5, seed=7)
for source in sources:
    source.set_epoch(2)
print(json.dumps([source.pairs.tolist() for source in sources]))
print(gyoza.plotting.density_heat_map.__name__)
for module in pkgutil.walk_packages(gyoza.__path__, "gyoza."):
    if not module.name.startswith("gyoza.backend."):
        importlib.import_module(module.name)
print("gyoza>Interpreter" in registered, set(keras.saving.get_custom_objects()) - registered)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    imported, pairs, *others = output.splitlines()[-4:]
    assert [imported, *others] == ["[]", "density_heat_map", "True set()"]
    x, values = np.arange(12.0), np.arange(24).reshape(12, 2) % 5 % 3
    sources = CategoricalPairs(x, values, seed=7), ContinuousPairs(x, values, 0.5, seed=7)
    for source, pairs_there in zip(sources, json.loads(pairs), strict=True):
        source.set_epoch(2)
        assert source.pairs.tolist() == pairs_there


def test_all_public_subpackages_are_attributes():
    public = {
        module.name
        for module in pkgutil.iter_modules(gyoza.__path__)
        if module.name not in ("backend", "extras", "version")
    }
    assert public <= set(dir(gyoza))
    for name in public:
        assert getattr(gyoza, name) is sys.modules[f"gyoza.{name}"]
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        gyoza.absent  # noqa: B018


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gyoza.__version__)


def test_every_module_says_what_is_public():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    left_out = {"gyoza.version", *(f"gyoza.backend.{name}" for name in others)}
    for module in pkgutil.walk_packages(gyoza.__path__, "gyoza."):
        if module.name not in left_out:
            public = importlib.import_module(module.name).__all__
            assert len(set(public)) == len(public)
            assert all(hasattr(sys.modules[module.name], name) for name in public)


def test_no_module_runs_text_or_data_as_code_or_asks_the_network():
    modules = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    modules |= {"socket", "urllib", "http", "ftplib", "requests", "ssl"}
    functions = {"eval", "exec", "compile", "__import__"}
    for path in pathlib.Path(gyoza.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
                assert not {name.split(".")[0] for name in names} & modules, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in functions, path
            if isinstance(node, ast.keyword) and ast.unparse(node) != "allow_pickle=False":
                assert node.arg not in ("allow_pickle", "safe_mode"), path


def test_locked_dependencies_have_hashes_and_are_those_that_are_asked_for():
    root = pathlib.Path(gyoza.__file__).parents[1]
    if not (root / "requirements.lock").exists():
        pytest.skip("installed without its sources")
    text = (root / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search("://|--index|--find-links|/(home|opt|root|tmp|work)/", text)
    locked = {}
    for block in re.split(r"\n(?=\S)", re.sub("(?m)^ *#.*\n", "", text).strip()):
        head, *hashes = block.split("\\\n")
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", part.strip()) for part in hashes)
        name, version = head.split(";")[0].strip().split("==")
        locked.setdefault(name, []).append(version)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    extras = re.search("(?m)^LOCKED := (.*)$", makefile)[1].split()
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name == "gyoza":
            wanted += (
                part
                for extra in requirement.extras
                for part in project["optional-dependencies"][extra]
            )
            continue
        versions = locked[canonicalize_name(requirement.name)]
        assert all(map(requirement.specifier.contains, versions)), line


def test_each_package_has_one_lowest_version():
    """Or `make test-lowest`, which installs those, could install none."""
    path = pathlib.Path(gyoza.__file__).parents[1] / "pyproject.toml"
    if not path.exists():
        pytest.skip("installed without its sources")
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    lowest = {}
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        for version in re.findall(r">=([\d.]+)", line):
            lowest.setdefault(Requirement(line).name, set()).add(version)
    assert "scikit-learn" in lowest
    assert {name: versions for name, versions in lowest.items() if len(versions) > 1} == {}


def read_workflows():
    """Returns the texts of all workflows by their names."""
    folder = pathlib.Path(gyoza.__file__).parents[1] / ".github" / "workflows"
    if not folder.exists():
        pytest.skip("installed without the repository")
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.yml")}


def test_workflows_name_the_commits_of_actions():
    actions = re.findall("(?m)uses: *(.*)$", "\n".join(read_workflows().values()))
    assert len(actions) > 10
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert all(map(pinned.fullmatch, actions))


# Targets of the Makefile that need nothing after `make locked`, but PyTorch.
LOCKED_TARGETS = {"coverage", "docs", "linkcheck", "lint"}
LOCKED_TARGETS |= {"test-tensorflow", "test-jax", "test-torch", "test-long"}
# What jobs install without hashes, for reasons that comments beside it give.
UNLOCKED = {
    "ci check": {"test-lowest"},
    "nightly test": {"install", "test", "pip install --pre keras-nightly"},
    "nightly more": {"test-export", "test-peers"},
    "nightly audit": {"pip install ."},
    "release build": {"pip install dist/*.whl"},
}


def find_unlocked(job):
    """Returns the targets and commands of a job that install packages without their hashes."""
    targets = {*re.findall("make ([a-z-]*[a-z])", job)}
    for listed in re.findall(r"target: \[?([a-z, -]*[a-z])", job):
        targets |= {*listed.split(", ")}
    if "locked" in targets:
        targets -= {"locked"} | LOCKED_TARGETS
    commands = re.findall(r"pip install .*", job)
    return targets | {line for line in commands if not re.search("--(require-hash|no-index)", line)}


def test_jobs_install_with_hashes_unless_they_are_listed():
    found = {}
    for name, text in read_workflows().items():
        for job in re.split(r"\n  (?=\w+:\n)", text.partition("\njobs:")[2])[1:]:
            found[f"{name} {job.partition(':')[0]}"] = find_unlocked(job)
    assert len(found) > 5
    assert {name: unlocked for name, unlocked in found.items() if unlocked} == UNLOCKED


@pytest.mark.long
def test_tests_that_hang_end_and_show_where(tmp_path):
    """The configuration of the tests, but for the time that it allows, ends an endless loop."""
    root = pathlib.Path(__file__).parents[1]
    path = tmp_path / "test_endless.py"
    path.write_text("def test_endless():\n    while True:\n        pass\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-c", root / "pyproject.toml", path]
    result = subprocess.run(
        [*command, "-o", "faulthandler_timeout=1"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert "Timeout" in result.stderr
    assert re.search(r'test_endless\.py", line \d in test_endless', result.stderr)


def test_no_file_of_the_package_is_long():
    paths = pathlib.Path(gyoza.__file__).parent.rglob("*.py")
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in paths}
    assert len(lengths) > 200
    assert not {path: length for path, length in lengths.items() if length > 450}
