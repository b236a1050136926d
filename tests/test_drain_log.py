"""The log lines of a graceful shutdown."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio.http import Timeouts
from humphrey_trio.testing import memory_connection
from tests.support import ANY_PORT
from tests.support.drain_clients import get
from tests.support.drain_handlers import Held
from tests.support.draining import Clock, in_memory


async def drain_log(caplog: pytest.LogCaptureFixture, *, released: bool) -> list[tuple[str, str]]:
    """The levels and texts of a shutdown with one request, which is answered after two seconds or never.

    Without the line about the address, which is replaced by ADDRESS.
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
    listening, *others = caplog.records
    address = listening.getMessage().removeprefix("listening on ")
    return [(record.levelname, record.getMessage().replace(address, "ADDRESS")) for record in others]


async def test_a_shutdown_is_logged(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """A line says that the shutdown begins, and with how many connections, and another that it has ended."""
    assert await drain_log(caplog, released=True) == [
        ("INFO", "a graceful shutdown of ADDRESS begins: open connections: 1"),
        ("INFO", "the graceful shutdown of ADDRESS has ended after 2.0 s"),
    ]


async def test_connections_that_are_left_are_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """A WARNING says how many connections are cancelled at the deadline."""
    begin, end = await drain_log(caplog, released=False)
    assert begin == ("INFO", "a graceful shutdown of ADDRESS begins: open connections: 1")
    assert end == ("WARNING", "connections of ADDRESS that are cancelled 9.0 s after the shutdown began: 1")


async def test_each_server_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The lines of several servers name the addresses of each."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown)
    async with trio.open_nursery() as nursery:
        both = await nursery.start(app.run, ANY_PORT, ANY_PORT)
        (one,) = await nursery.start(app.run, ANY_PORT)
        caplog.clear()
        shutdown.set()
    names = [", ".join(f"http://{address}" for address in addresses) for addresses in (both, [one])]
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        text.format(name)
        for name in names
        for text in (
            "a graceful shutdown of {} begins: open connections: 0",
            "the graceful shutdown of {} has ended after 0.0 s",
        )
    )


async def test_a_server_without_listeners(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """The server of a single stream has no address to name."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown)
    ours, theirs = memory_connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.serve_stream, theirs)
        await trio.testing.wait_all_tasks_blocked()
        shutdown.set()
    assert caplog.records[0].getMessage() == "a graceful shutdown begins: open connections: 1"
    await ours.aclose()
