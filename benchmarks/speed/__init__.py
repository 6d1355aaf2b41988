"""How fast gyoza is compared with other libraries: run `python -m speed` in `benchmarks/`."""
