"""Measures humphrey_trio beside other servers on the same work: `python -m benchmarks`, see README.md."""
