"""Runs the examples of all docstrings, each page as a reader would: in a process of its own.

A page is a class, with its methods, or a function, or the docstring of a module. The process has
imported gyoza, keras and NumPy, and nothing else: it is a fork of this one, which reads docstrings
without importing their modules.

    python docs/run_examples.py [text that names of pages contain]
"""

import ast
import doctest
import gc
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import gyoza

PACKAGE = Path(__file__).parents[1] / "gyoza"
WORKERS = 2
TIMEOUT = 300  # seconds for a page


def find_pages() -> Iterator[doctest.DocTest]:
    """Yields the examples of each page, in the order of the files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ast.parse(path.read_text("utf-8"))
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        pages = {f"{name}.{node.name}": ast.walk(node) for node in module.body if defines(node)}
        for page, nodes in {name: [module], **pages}.items():
            examples = [example for node in nodes for example in get_examples(node)]
            if examples:
                yield doctest.DocTest(examples, {}, page, str(path), 0, None)


def defines(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef)


def get_examples(node: ast.AST) -> list[doctest.Example]:
    """Returns the examples in the docstring of a module, class, method or function."""
    has_docstring = defines(node) or isinstance(node, ast.Module)
    text = ast.get_docstring(node) if has_docstring else None
    examples = doctest.DocTestParser().get_examples(text or "")
    for example in examples:
        example.lineno += getattr(node, "lineno", 0)
    return examples


def run_page(page: doctest.DocTest) -> int:
    """Runs the examples of a page, reports what went wrong, and returns the number of failures."""
    keras.utils.set_random_seed(0)
    page.globs.update(__name__="__main__", gyoza=gyoza, keras=keras, np=np)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(page, out=report.append)
    print("".join(report), end="", flush=True)
    return runner.failures


def run_in_fork(page: doctest.DocTest) -> int:
    """Runs a page in a process of its own, and returns how that ended: 0 if all is well.

    `multiprocessing` is not meant for this: when one of its processes starts, it looks after all
    others, and a thread that waits for one of them may not learn how that ended.
    """
    process_id = os.fork()
    if process_id == 0:
        failed = True
        try:
            signal.alarm(TIMEOUT)
            failed = run_page(page) > 0
        finally:
            os._exit(failed)  # without what the parent does at its end
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])


if __name__ == "__main__":
    pages = [page for page in find_pages() if "".join(sys.argv[1:]) in page.name]
    gc.freeze()  # or each fork would go through, and so copy, all that was imported
    with ThreadPoolExecutor(WORKERS) as pool:
        codes = list(pool.map(run_in_fork, pages))
    failed = {page.name: code for page, code in zip(pages, codes, strict=True) if code != 0}
    example_count = sum(len(page.examples) for page in pages)
    print(f"{example_count} examples on {len(pages)} pages. Pages that failed: {failed or 'none'}")
    sys.exit(bool(failed))
