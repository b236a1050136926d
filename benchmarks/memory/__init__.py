"""Measures the memory of a server for large bodies: `python -m benchmarks.memory`, see README.md."""
