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
from tests.support.http_clients import dial, get, is_served, listening
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.small_app import small_app
from tests.support.wire import request_bytes

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


def knock(address: Address, data: bytes = b"") -> socket.socket:
    """A client that connects without letting other tasks run: the kernel takes it into the backlog."""
    sock = socket.create_connection(address)
    sock.sendall(data)
    sock.setblocking(False)
    return sock


async def answered(sock: socket.socket) -> bool:
    """Whether something has come for this client, once the server has done all it can."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        return sock.recv(2**16) != b""
    except BlockingIOError:
        return False


class PassCounter(trio.abc.Instrument):
    """Counts the scheduler's passes."""

    passes = 0

    def after_io_wait(self, timeout: float) -> None:
        self.passes += 1


async def test_newcomers_are_accepted_in_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newcomers are taken 64 a pass of the scheduler, so that neither they nor the others starve."""
    scheduler = PassCounter()
    accepted_in: list[int] = []
    accept = socket.socket.accept

    def counted(self: socket.socket) -> tuple[socket.socket, Any]:
        found = accept(self)
        accepted_in.append(scheduler.passes)
        return found

    monkeypatch.setattr(socket.socket, "accept", counted)
    trio.lowlevel.add_instrument(scheduler)
    async with listening(small_app()) as [address]:
        clients = [knock(address, get()) for _ in range(100)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for client in clients:
            assert client.recv(2**16).startswith(b"HTTP/1.1 200 ")
            client.close()
    assert list(Counter(accepted_in).values()) == [64, 36]


async def test_beyond_max_connections_newcomers_wait() -> None:
    """Beyond max_connections nobody is accepted; who waits in the backlog is served when a slot is free."""
    async with listening(small_app(max_connections=2)) as [address]:
        clients = [knock(address, get()) for _ in range(4)]
        assert [await answered(client) for client in clients] == [True, True, False, False]
        for leaving, coming in ((0, 2), (2, 3)):
            clients[leaving].close()
            assert await answered(clients[coming])
            clients[1].send(get())
            assert await answered(clients[1])
        for client in clients:
            client.close()


async def test_max_connections_holds_over_all_addresses() -> None:
    """A freed slot goes to whoever waits, at whichever of the app's addresses."""
    async with listening(small_app(max_connections=1), ANY_PORT, ANY_PORT) as [one, other]:
        first = knock(one, get())
        assert await answered(first)
        waiting = [knock(one, get()), knock(other, get()), knock(one, get())]
        assert not any([await answered(client) for client in waiting])
        leaving = first
        while waiting:
            leaving.close()
            [leaving] = [client for client in waiting if await answered(client)]
            waiting.remove(leaving)
        leaving.close()


async def test_upgraded_connections_count() -> None:
    """A connection that became a WebSocket holds its slot until it ends."""

    async def hold(stream: WebsocketStream, state: None) -> None:
        async for _ in stream:
            pass

    app = small_app(max_connections=1).with_websocket_route("/ws", websocket_handler(hold))
    async with listening(app) as [address]:
        websocket = knock(address, request_bytes("GET /ws HTTP/1.1"))
        assert await answered(websocket)
        with knock(address, get()) as client:
            assert not await answered(client)
            websocket.close()
            assert await answered(client)


class FailingAccept:
    """A stand-in for ``socket.accept`` that fails a few times first."""

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
async def test_without_room_accepting_pauses(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Out of file descriptors or memory, accepting pauses for 100 ms at a time; the log says so once a second."""
    async with listening(small_app()) as [address]:
        settled = await dial(address)
        assert (await settled.ask(get())).content == b"fine"
        failing = FailingAccept(monkeypatch, number, times=13)
        start = trio.current_time()
        newcomer = await dial(address)
        await newcomer.send(get())
        assert (await settled.ask(get())).content == b"fine"
        assert (await newcomer.receive()).content == b"fine"
        assert failing.left == 0
        assert trio.current_time() - start >= 1.3
        await settled.stream.aclose()
        await newcomer.stream.aclose()
    first, second = caplog.messages
    assert first == f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1)"
    assert second.startswith(f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
async def test_a_newcomer_that_fails_is_passed_over(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks before it is accepted costs nobody else anything."""
    FailingAccept(monkeypatch, number, times=3)
    async with listening(small_app()) as [address]:
        assert await is_served(address)


async def test_another_accept_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is about the listener itself ends the server with it."""
    FailingAccept(monkeypatch, errno.EINVAL, times=1)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, check=lambda exc: exc.errno == errno.EINVAL), flatten_subgroups=True
    ):
        async with listening(small_app()) as [address]:
            knock(address).close()
            await trio.sleep(10)
