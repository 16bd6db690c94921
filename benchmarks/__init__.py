"""Questions about speed, memory and other packages: one script each, `python -m benchmarks.NAME` in a checkout."""
