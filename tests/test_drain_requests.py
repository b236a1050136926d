"""HTTP requests and idle connections in a drain.

RFC 9112, section 9.6.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response
from humphrey_trio.websocket import Upgrade
from tests.support.clients import RawClient
from tests.support.drain_clients import POST, assert_last, get
from tests.support.drain_handlers import Held, hello
from tests.support.draining import Clock, in_memory, on_sockets, over_tls
from tests.support.wire import HANDSHAKE_FIELDS


@pytest.mark.parametrize("served", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize(
    ("begun", "rest"),
    [(b"G", get()[1:]), (get()[:-2], get()[-2:]), (POST, b"body"), (POST + b"bod", b"y"), (get("/held"), b"")],
    ids=["a byte", "half a head", "no body", "half a body", "a handler"],
)
async def test_drain_answers_pending_requests(
    begun: bytes, rest: bytes, served: int, autojump_clock: Clock
) -> None:
    """A request whose first byte has arrived is answered, and then the server closes the connection."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("/", hello).with_stateless_route("/held", held).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        for _ in range(served):
            await client.send(get())
            assert "Connection" not in (await client.reply()).headers
        await client.send(begun)
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.sleep(5)
        held.release.set()
        if rest:
            await client.send(rest)
        assert_last(await client.reply())
        assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(5)


@pytest.mark.parametrize("drained", ["before the response", "after the response"])
async def test_drain_does_not_wait_for_an_unread_body(drained: str, autojump_clock: Clock) -> None:
    """The rest of a body that the handler has not read does not delay the end of its connection."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("/", held, stream=True).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await client.send(POST + b"bod")
        await trio.testing.wait_all_tasks_blocked()
        if drained == "before the response":
            stage.drain()
        held.release.set()
        assert (await client.reply()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        if drained == "after the response":
            stage.drain()
        assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now < 1


@pytest.mark.parametrize("begun", [0, 1000], ids=["before the first byte", "in the middle"])
async def test_drain_completes_slow_responses(begun: int, autojump_clock: Clock) -> None:
    """A response that is being sent is completed, and then the connection ends."""
    shutdown, body = trio.Event(), b"x" * 200_000
    app = App().with_stateless_route("/", lambda _: Response(200, body)).with_shutdown(shutdown)
    async with in_memory(shutdown, app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await stage.connect()
        await client.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        answer = bytes(await client.receive_some(begun)) if begun else b""
        stage.drain()
        while piece := await client.receive_some(10_000):
            answer += piece
            await trio.sleep(0.5)
        assert answer.endswith(b"\r\n\r\n" + body)
        await client.aclose()  # until then the server lingers
        await stage.http.returned.wait()
        assert stage.now < 15


async def test_drain_and_pipelined_requests(autojump_clock: Clock) -> None:
    """Of pipelined requests, the one in its handler is answered, and no later one is handled."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("*", held).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await client.send(get("/1") + get("/2") + get("/3"))
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.testing.wait_all_tasks_blocked()
        held.release.set()
        assert_last(await client.reply())
        assert await client.at_end()
    assert held.paths == ["/1"]


@pytest.mark.parametrize("size", [10, len(get())], ids=["a part", "the whole"])
@pytest.mark.parametrize("make", [in_memory, on_sockets, over_tls])
async def test_request_as_the_drain_begins(make: Any, size: int, autojump_clock: Clock) -> None:
    """A request on a kept-alive connection that arrives as the drain begins is answered if it is handled.

    In memory it always is. A socket may be closed before the server sees the bytes.
    """
    handled = answered = 0

    def count(_: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200)

    for _ in range(20):
        shutdown = trio.Event()
        app = App().with_stateless_route("/", count).with_shutdown(shutdown)
        async with make(shutdown, app) as stage:
            client = await stage.raw()
            await client.send(get())
            await client.reply()
            await trio.testing.wait_all_tasks_blocked()
            await client.send(get()[:size])
            stage.drain()  # in the same pass of the scheduler
            try:
                if size < len(get()):
                    await trio.sleep(2)
                    await client.send(get()[size:])
                assert (await client.reply()).status == 200
                assert await client.at_end()
                answered += 1
            except (EOFError, trio.BrokenResourceError):
                assert make is not in_memory
    assert handled == 20 + answered
    assert answered > 0


class AtTheBeginning(logging.Handler):
    """Sends a request when a graceful shutdown begins, before any connection is closed."""

    def __init__(self, stream: trio.SocketStream, data: bytes) -> None:
        super().__init__(logging.INFO)
        self._socket = stream.socket.fileno()
        self._data = data

    def emit(self, record: logging.LogRecord) -> None:
        if " begins: open connections: " in record.getMessage():
            os.write(self._socket, self._data)


@pytest.mark.parametrize("size", [0, 10, len(get())], ids=["nothing", "a part", "the whole"])
async def test_request_before_an_idle_connection_is_closed(
    size: int, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that arrives before the drain half-closes its idle connection is answered."""
    shutdown = trio.Event()
    app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
    logger = logging.getLogger("humphrey_trio.http")
    caplog.set_level(logging.INFO, logger.name)
    async with on_sockets(shutdown, app) as stage:
        stream = await stage.connect()
        assert isinstance(stream, trio.SocketStream)
        client = RawClient(stream)
        await client.send(get())
        await client.reply()
        await trio.testing.wait_all_tasks_blocked()
        logger.addHandler(sending := AtTheBeginning(stream, get()[:size]))
        try:
            stage.drain()
            await trio.testing.wait_all_tasks_blocked()
        finally:
            logger.removeHandler(sending)
        if size:
            await client.send(get()[size:])
            assert_last(await client.reply())
        assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now == 0


@pytest.mark.parametrize("make", [in_memory, on_sockets, over_tls])
@pytest.mark.parametrize("path", ["/", "/unknown", "/ws"])
async def test_drain_closes_idle_connections(make: Any, path: str, autojump_clock: Clock) -> None:
    """Connections that wait for a further request are closed at once, even after a refused upgrade."""
    shutdown = trio.Event()

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        return Response(403)

    app = App().with_stateless_route("/", hello).with_websocket_route("/ws", refuse).with_shutdown(shutdown)
    async with make(shutdown, app) as stage:
        clients = [await stage.raw() for _ in range(3)]
        for client in clients:
            await client.send(get(path, HANDSHAKE_FIELDS[1:] if path == "/ws" else ()))
            assert (await client.reply()).headers.get("Connection") is None
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        for client in clients:
            assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now == 0
