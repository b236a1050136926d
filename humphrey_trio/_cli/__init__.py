"""The command line: ``python -m humphrey_trio``. No other part of the library imports it."""
