"""The command line: ``python -m humphrey_trio``. The top layer: no other part of the library knows it."""
