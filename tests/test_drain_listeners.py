"""Listeners, the backlog and new connections in a drain."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio.http import Timeouts
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import server_context
from tests.support.clients import RawClient
from tests.support.drain_clients import assert_last, get, is_closed
from tests.support.drain_handlers import Held, hello
from tests.support.draining import Clock, in_memory, on_sockets
from tests.support.links import is_refused
from tests.support.times import SWEEP


async def test_silent_tls_client_in_the_backlog() -> None:
    """A drain waits a second for a silent TLS client that was not accepted yet."""
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown).with_cert(server_context())
    with ExitStack() as stack, trio.fail_after(8):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run_tls, ANY_PORT)
            stack.enter_context(socket.create_connection(("127.0.0.1", address.port or 0)))
            shutdown.set()


async def test_silent_tls_client(autojump_clock: Clock) -> None:
    """A drain waits one second for a client that has not begun its TLS handshake."""
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown).with_cert(server_context())
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run_tls, ANY_PORT)
        async with await trio.open_tcp_stream("127.0.0.1", address.port or 0) as client:
            await trio.testing.wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            shutdown.set()
            with suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
            assert trio.current_time() - began == pytest.approx(1)


async def test_drain_closes_the_listeners(tmp_path: Path) -> None:
    """A drain closes all listeners, and deletes the file of a Unix socket, while requests still run."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("/", held).with_shutdown(shutdown)
    file = tmp_path / "socket"
    async with on_sockets(shutdown, app, addresses=[ANY_PORT, ANY_PORT, f"unix:{file}"]) as stage:
        clients = [RawClient(await stage.connect(number)) for number in range(3)]
        for client in clients:
            await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert file.exists()
        stage.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert [await is_refused(address) for address in stage.addresses] == [True] * 3
        assert not file.exists()
        assert not stage.http.returned.is_set()
        held.release.set()
        for client in clients:
            reply = await client.reply()
            assert_last(reply)
            assert reply.content == b"held"
            assert await client.at_end()


async def test_drain_serves_the_backlog() -> None:
    """Each connection in the listener's backlog gets one response, whatever their number."""
    shutdown = trio.Event()
    app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
    async with on_sockets(shutdown, app) as stage:
        with ExitStack() as stack:
            (address,) = stage.addresses
            to = (address.host, address.port)
            socks = [stack.enter_context(socket.create_connection(to, PATIENCE)) for _ in range(200)]
            for sock in socks:
                sock.sendall(get())
            stage.drain()  # no checkpoint since they connected
            await stage.http.returned.wait()
            for sock in socks:
                answer = sock.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"\r\nConnection: close\r\n" in answer
                assert sock.recv(1) == b""


async def test_connect_as_the_drain_begins() -> None:
    """A client that connects in the step in which the drain begins does not delay it."""
    for _ in range(20):
        shutdown = trio.Event()
        app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
        async with on_sockets(shutdown, app) as stage:
            await trio.testing.wait_all_tasks_blocked()
            (address,) = stage.addresses
            with socket.create_connection((address.host, address.port)):
                stage.drain()


async def test_drain_at_max_connections() -> None:
    """At ``max_connections``, a drain accepts no connection from the backlog, and completes."""
    shutdown, held = trio.Event(), Held()
    app = App(max_connections=1).with_stateless_route("*", held).with_shutdown(shutdown)
    async with on_sockets(shutdown, app) as stage:
        first = await stage.raw()
        await first.send(get("/first"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        second = await stage.raw()
        await second.send(get("/second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.drain()
        await trio.testing.wait_all_tasks_blocked()
        held.release.set()
        assert_last(await first.reply())
        assert await is_closed(second)
    assert held.paths == ["/first"]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"], ids=["nothing", "a part"])
async def test_drain_with_silent_new_connections(sent: bytes, autojump_clock: Clock) -> None:
    """A silent new connection has a second to send; one that has sent part of a head has ``Timeouts.header``."""
    shutdown = trio.Event()
    app = App(timeouts=Timeouts(header=10)).with_stateless_route("/", hello).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        if sent:
            await client.send(sent)
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        if sent:
            assert_last(await client.reply(), 408)
        assert await client.at_end()
        assert (10 if sent else 1) <= stage.now <= (10 if sent else 1) + 2 * SWEEP


@pytest.mark.parametrize("seconds", [0, 5], ids=["at once", "with pauses"])
async def test_drain_with_new_connections_that_send(seconds: float, autojump_clock: Clock) -> None:
    """A new connection whose request begins within that second is answered, even if the head takes longer."""
    shutdown = trio.Event()
    app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.sleep(0.9)
        head = get()
        await client.send(head[:10])
        await trio.sleep(seconds)
        await client.send(head[10:])
        assert_last(await client.reply())
        assert await client.at_end()
        assert stage.now == pytest.approx(0.9 + seconds)
