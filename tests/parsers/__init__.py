"""A comparison of the parsers of request heads: for the same bytes, all have the same result.

``messages`` makes bytes from a source of random numbers, and ``comparison`` runs the parsers on them. To run many:
``python -m tests.parsers --examples 1000000``.
"""
