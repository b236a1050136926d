"""Fixtures of several test modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser import Browser, running_browser
from tests.support.close_records import Log


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of one module."""
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    """The log entries of ended connections."""
    return Log(caplog)
