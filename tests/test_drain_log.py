"""The log lines of a graceful shutdown."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio.http import Timeouts
from tests.support.drain_clients import get
from tests.support.drain_handlers import Held
from tests.support.draining import Clock, in_memory


async def drain_log(caplog: pytest.LogCaptureFixture, *, released: bool) -> list[tuple[str, str]]:
    """The levels and texts of a shutdown with one request, which is answered after two seconds or never.

    Without the line about the address.
    """
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    shutdown, held = trio.Event(), Held()
    app = App(timeouts=Timeouts(drain=10)).with_stateless_route("/", held).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await client.send(get())
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.sleep(2)
        if released:
            held.release.set()
            await client.reply()
            await client.stream.aclose()
        await stage.http.returned.wait()
    return [(record.levelname, record.getMessage()) for record in caplog.records[1:]]


async def test_a_shutdown_is_logged(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """A line says that the shutdown begins, and with how many connections, and another that it has ended."""
    assert await drain_log(caplog, released=True) == [
        ("INFO", "a graceful shutdown begins: open connections: 1"),
        ("INFO", "the graceful shutdown has ended after 2.0 s"),
    ]


async def test_connections_that_are_left_are_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """A WARNING says how many connections are cancelled at the deadline."""
    begin, end = await drain_log(caplog, released=False)
    assert begin == ("INFO", "a graceful shutdown begins: open connections: 1")
    assert end == ("WARNING", "connections that are cancelled 9.0 s after the shutdown began: 1")
