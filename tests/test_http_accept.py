"""How an app accepts connections: bursts, ``max_connections``, and errors of accept."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import WebsocketStream, websocket_handler
from humphrey_trio.http import Address
from tests.support import ANY_PORT
from tests.support.http_clients import dial, get, is_served, serving
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.small_app import small_app
from tests.support.wire import request_bytes

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


def connect_now(address: Address, data: bytes = b"") -> socket.socket:
    """Connect a client without a checkpoint: the kernel adds it to the backlog."""
    sock = socket.create_connection(address)
    sock.sendall(data)
    sock.setblocking(False)
    return sock


async def answered(sock: socket.socket) -> bool:
    """Whether the client has received something, after the server has done all it can."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        return sock.recv(2**16) != b""
    except BlockingIOError:
        return False


class PassCounter(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    passes = 0

    def after_io_wait(self, timeout: float) -> None:
        self.passes += 1


async def test_accepts_in_a_pass_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 64 connections are accepted in one pass of the scheduler."""
    scheduler = PassCounter()
    accepted_in: list[int] = []
    accept = socket.socket.accept

    def counted(self: socket.socket) -> tuple[socket.socket, Any]:
        found = accept(self)
        accepted_in.append(scheduler.passes)
        return found

    monkeypatch.setattr(socket.socket, "accept", counted)
    trio.lowlevel.add_instrument(scheduler)
    async with serving(small_app()) as [address]:
        clients = [connect_now(address, get()) for _ in range(100)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for client in clients:
            assert client.recv(2**16).startswith(b"HTTP/1.1 200 ")
            client.close()
    assert list(Counter(accepted_in).values()) == [64, 36]


async def test_max_connections() -> None:
    """Connections beyond max_connections wait in the backlog until a slot is free."""
    async with serving(small_app(max_connections=2)) as [address]:
        clients = [connect_now(address, get()) for _ in range(4)]
        assert [await answered(client) for client in clients] == [True, True, False, False]
        for leaving, coming in ((0, 2), (2, 3)):
            clients[leaving].close()
            assert await answered(clients[coming])
            clients[1].send(get())
            assert await answered(clients[1])
        for client in clients:
            client.close()


async def test_max_connections_over_all_addresses() -> None:
    """A free slot goes to a waiting connection at any of the addresses of the app."""
    async with serving(small_app(max_connections=1), ANY_PORT, ANY_PORT) as [one, other]:
        first = connect_now(one, get())
        assert await answered(first)
        waiting = [connect_now(one, get()), connect_now(other, get()), connect_now(one, get())]
        assert not any([await answered(client) for client in waiting])
        leaving = first
        while waiting:
            leaving.close()
            [leaving] = [client for client in waiting if await answered(client)]
            waiting.remove(leaving)
        leaving.close()


async def test_max_connections_includes_websockets() -> None:
    """A connection that became a WebSocket occupies its slot until it ends."""

    async def hold(stream: WebsocketStream, state: None) -> None:
        async for _ in stream:
            pass

    app = small_app(max_connections=1).with_websocket_route("/ws", websocket_handler(hold))
    async with serving(app) as [address]:
        websocket = connect_now(address, request_bytes("GET /ws HTTP/1.1"))
        assert await answered(websocket)
        with connect_now(address, get()) as client:
            assert not await answered(client)
            websocket.close()
            assert await answered(client)


class FailingAccept:
    """Makes ``socket.accept`` fail a few times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
        self.left = times
        accept = socket.socket.accept

        def fail_first(sock: socket.socket) -> tuple[socket.socket, Any]:
            if self.left:
                self.left -= 1
                raise OSError(number, os.strerror(number))
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", fail_first)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_accept_pauses_without_descriptors_or_memory(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without file descriptors or memory, accepting pauses for 100 ms at a time, and logs that once a second."""
    async with serving(small_app()) as [address]:
        settled = await dial(address)
        assert (await settled.ask(get())).content == b"fine"
        failing = FailingAccept(monkeypatch, number, times=13)
        start = trio.current_time()
        client = await dial(address)
        await client.send(get())
        assert (await settled.ask(get())).content == b"fine"
        assert (await client.receive()).content == b"fine"
        assert failing.left == 0
        assert trio.current_time() - start >= 1.3
        await settled.stream.aclose()
        await client.stream.aclose()
    first, second = caplog.messages
    assert first == f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1)"
    assert second.startswith(f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
async def test_connection_that_fails_before_accept_is_skipped(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that fails before it is accepted does not affect others."""
    FailingAccept(monkeypatch, number, times=3)
    async with serving(small_app()) as [address]:
        assert await is_served(address)


async def test_other_accept_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the listener itself ends the app with that error."""
    FailingAccept(monkeypatch, errno.EINVAL, times=1)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, check=lambda exc: exc.errno == errno.EINVAL), flatten_subgroups=True
    ):
        async with serving(small_app()) as [address]:
            connect_now(address).close()
            await trio.sleep(10)
