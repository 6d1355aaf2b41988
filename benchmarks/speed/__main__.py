"""How fast gyoza trains, evaluates and samples, and the memory it needs, compared with its peers.

Run `make bench`, or parts of it in `benchmarks/`: `python -m speed --cells W2 W3 --rows gyoza
zuko`. Each library runs in an environment of its own, each measurement in a process of its own, and
the libraries take turns, round after round while there is time. The figures are written as JSON,
and the tables of the documentation are made of them.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

from speed.cells import CELLS
from speed.report import write_report
from speed.rows import ENVIRONMENTS, ROWS, Row

_BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
_CACHE = _BENCHMARKS / ".environments"
_QUICK_CELLS = ["W1", "W2", "W3", "W5", "W7", "W9-32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few cells and peers, in five minutes")
    parser.add_argument("--cells", nargs="+", help=f"some of {', '.join(CELLS)}")
    parser.add_argument("--rows", nargs="+", help="names, or how they begin")
    parser.add_argument(
        "--here", action="store_true", help="install nothing: measure what this Python has"
    )
    parser.add_argument("--minutes", type=float, default=36.0, help="no round starts after these")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=_BENCHMARKS.parent / "build" / "speed",
        help="folder of results.json, tables.md and memory.png",
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    rows = [row for row in ROWS if row.is_quick or not arguments.quick]
    if arguments.rows:
        rows = [row for row in ROWS if row.name.startswith(tuple(arguments.rows))]
    usual = [name for name, cell in CELLS.items() if not cell.is_large]
    names = arguments.cells or (_QUICK_CELLS if arguments.quick else usual)
    unknown = set(names) - set(CELLS)
    if unknown or not rows:
        parser.error(f"there are no such cells or rows: {sorted(unknown) or arguments.rows}")
    environments = {row.environment for row in rows}
    pythons = dict.fromkeys(environments, pathlib.Path(sys.executable))
    if not arguments.here:
        pythons = _make_environments(environments)
    options = ["--seconds", "0.05", "--repeats", "3"] if arguments.quick else []
    results = {"machine": _describe_machine(), "figures": []}
    longest = 0.0
    for number in range(1 if arguments.quick else 10):
        round_started = time.monotonic()
        minutes = (round_started + longest - started) / 60
        if number and minutes > arguments.minutes:
            break
        for name in names:
            offering = [row for row in rows if row.offers(CELLS[name])]
            shift = number % max(1, len(offering))  # nobody is always the first, or the last
            for row in offering[shift:] + offering[:shift]:
                figures = _measure(row, name, pythons[row.environment], options)
                if figures is not None:
                    results["figures"].append(
                        {"cell": name, "row": row.name, "round": number, **figures}
                    )
            results["minutes"] = (time.monotonic() - started) / 60
            write_report(results, arguments.output)
        longest = max(longest, time.monotonic() - round_started)
    print(f"{arguments.output}/tables.md after {results['minutes']:.0f} minutes")


def _make_environments(names: set[str]) -> dict[str, pathlib.Path]:
    """Installs what is not there yet, and returns the interpreter of each environment."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(_make_environment, names), strict=True))


def _make_environment(name: str) -> pathlib.Path:
    requirements = ENVIRONMENTS[name]
    key = hashlib.sha256(" ".join((sys.version, *requirements)).encode()).hexdigest()[:8]
    folder = _CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Installing {' '.join(requirements)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        paths = ["-e", str(_BENCHMARKS.parent)]
        arguments = [a for r in requirements for a in (paths if r == "." else [r])]
        try:
            subprocess.run([*pip, *arguments], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"pip failed: {error.stderr[-2000:]}")
        (folder / "complete").touch()
    return python


def _measure(row: Row, cell: str, python: pathlib.Path, options: list[str]) -> dict | None:
    """Measures one row of one cell in a process of its own."""
    command = [python, "-m", "speed.worker", row.peer, row.variant, cell, *options]
    paths = [str(_BENCHMARKS)]
    if python == pathlib.Path(sys.executable):
        paths += filter(None, [os.environ.get("PYTHONPATH")])
    variables = {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3", **row.variables}
    variables["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # first steps compile, as a user's do
    variables["SPEED_STARTED"] = str(time.time())
    try:
        process = subprocess.run(
            command,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    except subprocess.TimeoutExpired:
        print(f"{cell:9} {row.name:22} takes too long", flush=True)
        return None
    except subprocess.CalledProcessError as error:
        print(f"{cell:9} {row.name:22} failed: {error.stderr.strip()[-300:]}", flush=True)
        return None
    figures = json.loads(process.stdout.strip().splitlines()[-1])
    if figures.pop("missing", False):
        return None
    step = sorted(figures["train_s"])[len(figures["train_s"]) // 2]
    print(
        f"{cell:9} {row.name:22} {1e3 * step:10.3f} ms a step, first after "
        f"{figures['first_step_s']:.1f} s",
        flush=True,
    )
    return figures


def _describe_machine() -> dict[str, str]:
    """Returns date, processor, accelerator and Python version."""
    lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    machine = {
        "date": datetime.date.today().isoformat(),
        "processor": f"{model or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        output = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        if output:
            machine["accelerator"] = output
    return machine


if __name__ == "__main__":
    main()
