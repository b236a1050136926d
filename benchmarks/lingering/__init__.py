"""Measures the cost of lingering connections: `python -m benchmarks.lingering`, see README.md."""
