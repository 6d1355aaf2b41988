"""How well gyoza's flows fit: run `python -m accuracy` in `benchmarks/`."""
