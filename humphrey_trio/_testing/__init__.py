"""Clients and connections for tests."""
