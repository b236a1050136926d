"""Fixtures of several test modules."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import trio

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


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The calls of ``trio.run``, which are recorded and not executed. Loggers are as before at the end."""
    calls: list[tuple[Any, ...]] = []

    def run(async_fn: Any, *args: object, **_: object) -> None:
        assert inspect.iscoroutinefunction(async_fn), "trio.run takes an async function"
        inspect.signature(async_fn).bind(*args)
        calls.append((async_fn, *args))

    monkeypatch.setattr(trio, "run", run)
    access_log = logging.getLogger("humphrey_trio.access")
    handlers, propagate = access_log.handlers[:], access_log.propagate
    yield calls
    access_log.handlers[:], access_log.propagate = handlers, propagate
