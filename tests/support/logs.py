"""Log records."""

from __future__ import annotations

import logging

import pytest


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of level ERROR and above."""
    return [record for record in caplog.records if record.levelno >= logging.ERROR]
