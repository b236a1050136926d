"""Fixtures of several test modules."""

from __future__ import annotations

import pytest

from tests.support.close_records import Log


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    """The log entries of ended connections."""
    return Log(caplog)
