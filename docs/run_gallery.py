"""Runs the studies of the gallery again, and keeps what they print and draw.

Each file in `docs/gallery` is what a study printed, below its command, but for the progress that
Keras shows of trainings. With `--docs`, the study draws its figure in `docs/images`, too. For
another study, put its command into a file there, and show that file on its page.

    python docs/run_gallery.py [names of studies, all if omitted]
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUTS = ROOT / "docs" / "gallery"
PROMPT = "$ python "
PROGRESS = re.compile(r"^(Epoch \d+/\d+|(\x1b\[\d*m|\s)*\d+/\d+\b.*/step.*)\n", re.MULTILINE)


def find_commands() -> dict[str, str]:
    """Returns the arguments of Python, by the name of the study."""
    texts = {path.stem: path.read_text("utf-8") for path in sorted(OUTPUTS.glob("*.txt"))}
    return {name: text.splitlines()[0].removeprefix(PROMPT) for name, text in texts.items()}


def tidy(output: str) -> str:
    """Leaves out progress, and what else nobody sees: further empty lines, and ends of lines."""
    lines = [line.rstrip() for line in PROGRESS.sub("", output + "\n").splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def run(arguments: str) -> str:
    """Returns what a study printed."""
    result = subprocess.run(
        [sys.executable, *shlex.split(arguments), "--docs"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return tidy(result.stdout)


def main() -> None:
    commands = find_commands()
    for name in sys.argv[1:] or commands:
        print(f"{PROMPT}{commands[name]}", flush=True)
        output = run(commands[name])
        (OUTPUTS / f"{name}.txt").write_text(f"{PROMPT}{commands[name]}\n\n{output}\n", "utf-8")


if __name__ == "__main__":
    main()
