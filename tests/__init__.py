"""The test suite of humphrey_trio."""
