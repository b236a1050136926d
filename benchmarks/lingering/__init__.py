"""What lingering costs, and clients that need it: `python -m benchmarks.lingering`, see README.md."""
