"""What importing the package brings along, and what it leaves out."""

import importlib
import pkgutil
import re
import subprocess
import sys

import gyoza


def test_import_does_not_import_optional_libraries():
    code = (
        "import sys, keras; before = set(sys.modules); import gyoza, gyoza.testing; "
        "libraries = 'matplotlib', 'sklearn', 'scipy', 'tqdm'; "
        "print([name for name in libraries if name in set(sys.modules) - before])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.splitlines()[-1] == "[]"


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gyoza.__version__)


def test_every_module_says_what_is_public():
    for module in pkgutil.walk_packages(gyoza.__path__, "gyoza."):
        if module.name != "gyoza.version":
            public = importlib.import_module(module.name).__all__
            assert len(set(public)) == len(public)
            assert all(hasattr(sys.modules[module.name], name) for name in public)
