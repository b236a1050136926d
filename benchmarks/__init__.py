"""Compares humphrey_trio with other servers on the same work: `python -m benchmarks`, see README.md."""
