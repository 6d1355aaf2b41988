#!/usr/bin/env bash
# Measures W1 to W9 on the accelerator of this machine, on JAX and PyTorch, beside the fastest of the
# other libraries, and which share of the rate of matrix products large batches reach. It takes at
# most eight minutes and no network: it uses what `python3` has, and wheels in benchmarks/wheels, and
# leaves out libraries that neither has. docs/gpu.md shows the tables.
#
#     benchmarks/on_device.sh [folder of results.json and tables.md, docs/speed/device by default]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
output=$(realpath -m "${1:-../docs/speed/device}")

export PYTHONPATH=$PWD/..
if compgen -G "wheels/*.whl" > /dev/null; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" wheels/*.whl
  PYTHONPATH=$PYTHONPATH:$site
fi
# JAX and PyTorch take turns on the same memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

# Each figure is written when it is there, so that the time may be over before the last.
timeout 480 python3 -m speed --here --minutes 0 --output "$output" \
  --cells W2 W2-large W3 W7 W7-large W1 W5 W9-16384 W9-32 W8 W4-512 W4-128 W6-16 \
  --rows "gyoza on JAX" "gyoza on PyTorch" distrax FrEIA zuko nflows flowjax || [ $? -eq 124 ]
