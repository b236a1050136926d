"""Measures the effect of attackers on other clients: `python -m benchmarks.attackers`, see README.md."""
