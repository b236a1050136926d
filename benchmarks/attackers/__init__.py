"""Measures what attackers do to a server and its clients: `python -m benchmarks.attackers`, see README.md."""
