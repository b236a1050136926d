"""``App.serve_stream``: one connection over any stream, with or without a ``run`` of the app."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response, Timeouts, WhenLeft
from humphrey_trio.http import Address
from humphrey_trio.testing import memory_connection
from tests.support import PATIENCE
from tests.support.clients import RawClient

Clock = trio.testing.MockClock

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def app_that_tells_its_peer(**settings: Any) -> App:
    def tell(request: Request) -> Response:
        return Response(200, str(request.address))

    return App(**settings).with_stateless_route("/", tell)


def connect(nursery: trio.Nursery, app: App, **options: Any) -> RawClient:
    """A client whose connection is served in a task of the nursery."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await app.serve_stream(theirs, **options)

    nursery.start_soon(serve)
    return RawClient(ours)


async def test_serve_stream_without_run(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """It serves requests until the client closes, with the timeouts of the app."""
    app = app_that_tells_its_peer(timeouts=Timeouts(idle=7, linger_idle=1))
    client = connect(nursery, app, peer=Address("10.0.0.1", 5))
    await client.send(GET + GET)
    for _ in range(2):
        assert (await client.reply()).content == b"10.0.0.1:5"
    began = trio.current_time()
    assert await client.at_end()
    assert trio.current_time() - began == pytest.approx(7, abs=0.5)


async def test_serve_stream_returns_at_the_end(autojump_clock: Clock) -> None:
    """It returns, and leaves no task, after the client has closed."""
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        client = connect(nursery, app_that_tells_its_peer())
        await client.send(GET)
        assert (await client.reply()).content == b"memory:0"
        await client.stream.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.parametrize("direct", [True, False])
async def test_serve_stream_cancelled_at_once(direct: bool, autojump_clock: Clock) -> None:
    """Cancelled before it begins to serve, it closes the stream."""
    ours, theirs = memory_connection() if direct else trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await app_that_tells_its_peer().serve_stream(theirs)
    with trio.fail_after(PATIENCE):
        assert await ours.receive_some() == b""


async def test_serve_stream_drains_without_run(autojump_clock: Clock) -> None:
    """The event of ``with_shutdown`` drains the connection."""
    shutdown = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            client = connect(nursery, app_that_tells_its_peer().with_shutdown(shutdown))
            await client.send(GET)
            assert (await client.reply()).status == 200
            shutdown.set()
            assert await client.at_end()


async def test_serve_stream_uses_a_slot_of_run(nursery: trio.Nursery) -> None:
    """While ``run`` is running, the connection occupies one of its slots."""
    app = app_that_tells_its_peer(max_connections=2)
    with trio.fail_after(PATIENCE):
        await nursery.start(app.run, "127.0.0.1:0")
        first, second = (connect(nursery, app) for _ in range(2))
        for client in (first, second):
            await client.send(GET)
            assert (await client.reply()).status == 200
        third = connect(nursery, app)
        await third.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().connections == 2
        await first.stream.aclose()
        assert (await third.reply()).status == 200
        assert app.statistics().connections == 2
        nursery.cancel_scope.cancel()


async def test_serve_stream_that_waits_for_the_last_slot_of_a_shutdown(autojump_clock: Clock) -> None:
    """A connection that waits for a slot when a shutdown ends is either served to its end, or not at all."""
    for _ in range(20):  # the scheduler decides which of the two
        steps: list[str] = []

        async def handle(request: Request, steps: list[str] = steps) -> Response:
            steps.append("begins")
            await trio.sleep(0.01)
            steps.append("ends")
            return Response(200)

        shutdown = trio.Event()
        app = App(max_connections=1, when_left=WhenLeft.FINISH).with_shutdown(shutdown)
        app.with_stateless_route("/", handle)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(app.run, "127.0.0.1:0")
                first = connect(nursery, app)
                await trio.testing.wait_all_tasks_blocked()
                ours, theirs = memory_connection()
                nursery.start_soon(app.serve_stream, theirs)
                second = RawClient(ours)
                await second.send(GET)
                shutdown.set()
                await trio.testing.wait_all_tasks_blocked()
                await first.stream.aclose()
                with suppress(trio.BrokenResourceError):  # a connection that is not served is reset
                    await second.at_end()
        assert steps in ([], ["begins", "ends"])


async def test_end_of_run_ends_serve_stream() -> None:
    """A drain of ``run`` closes the connection, its cancellation cancels it, and both leave no task."""
    before = trio.lowlevel.current_statistics().tasks_living
    for hard in (False, True):
        shutdown = trio.Event()
        app = app_that_tells_its_peer().with_shutdown(shutdown)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as clients:
                async with trio.open_nursery() as running:
                    await running.start(app.run, "127.0.0.1:0")
                    client = connect(clients, app)
                    await client.send(GET)
                    assert (await client.reply()).status == 200
                    if hard:
                        running.cancel_scope.cancel()
                    else:
                        shutdown.set()
                        assert await client.at_end()
                if hard:
                    assert await client.at_end()
    assert trio.lowlevel.current_statistics().tasks_living == before
