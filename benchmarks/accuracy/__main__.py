"""How well the flows fit densities of known entropy, tables and images.

Run `make accuracy`, or parts of it: `cd benchmarks` and `python -m accuracy toy tables`. Everything
is seeded, and all numbers are for held-out data. `--flows matching` measures the flows with this
word in their name alone, and prints their rows instead of writing tables.
"""

import argparse

from . import continuous, images, tables, toy

PARTS = {"toy": toy, "continuous": continuous, "tables": tables, "images": images}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"some of {list(PARTS)}")
parser.add_argument("--seeds", type=int, default=3, help="runs for each table")
parser.add_argument(
    "--flows", nargs="*", default=(), help="words in the names of flows to measure alone"
)
arguments = parser.parse_args()
for part in arguments.parts:
    PARTS[part].run(arguments.seeds, arguments.flows)
