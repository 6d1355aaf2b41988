"""How fast gyoza is beside other libraries: run `python -m speed` in `benchmarks/`."""
