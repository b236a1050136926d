"""Compares two revisions of this library: `python -m benchmarks.revisions`, see README.md."""
