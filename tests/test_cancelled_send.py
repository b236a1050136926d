"""A send that is cancelled, at each of its checkpoints in turn, over everything that bytes can go over."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio
import trio.testing
from helpers import BINARY, CLOSE, Link, RawClient, cancelled_at, server_context

from humphrey_trio import App, WebsocketStream, websocket_handler
from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._server._transport import SocketTransport, StreamTransport, Transport
from humphrey_trio.http import Address

#: Makes the server's end of a connection, and the client's.
Pair: TypeAlias = Callable[[], Awaitable[tuple[Transport, trio.abc.Stream]]]

PEER = Address("peer")
#: More than the small buffers hold, and more than a send may be without letting other tasks run.
FILLING, CUT = 250_000, 70_000


async def memory() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = trio.testing.memory_stream_pair()
    return StreamTransport(theirs, PEER), ours


async def lockstep() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = trio.testing.lockstep_stream_pair()
    return StreamTransport(theirs, PEER), ours


def small_sockets() -> tuple[socket.socket, trio.SocketStream]:
    """Two ends of a TCP connection that holds some kilobytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    client.setblocking(False)
    return server, trio.SocketStream(trio.socket.from_stdlib_socket(client))


async def plain() -> tuple[Transport, trio.abc.Stream]:
    server, client = small_sockets()
    return SocketTransport(server, PEER), client


async def tls() -> tuple[Transport, trio.abc.Stream]:
    server, client = small_sockets()
    transport = TlsTransport(server, PEER, server_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        stream = await Link.TLS.over(client)
    return transport, stream


every_pair = pytest.mark.parametrize("make_pair", [memory, lockstep, plain, tls])


def payload(name: str, step: int, size: int) -> bytes:
    """A message's bytes, different in every message and at every place of it."""
    return b"".join(b"%s %d %d;" % (name.encode(), step, i) for i in range(size // 10))[:size]


async def received_from(
    handler: Callable[[WebsocketStream, None], Awaitable[None]], make_pair: Pair
) -> list[bytes]:
    """Everything that a client gets from a handler with a small outbox, up to its Close with 1000."""
    app = App().with_websocket_route("/", websocket_handler(handler, max_outbox_bytes=1000))
    received: list[bytes] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = app._server()
            await nursery.start(server.run)
            transport, stream = await make_pair()
            nursery.start_soon(server.serve, transport)
            async with stream:
                client = await RawClient(stream).open()
                while (frame := await client.frame())[0] == BINARY:
                    received.append(frame[1])
            assert frame == (CLOSE, b"\x03\xe8")
            nursery.cancel_scope.cancel()
    return received


@pytest.mark.parametrize("resumed", [False, True], ids=["while it waits", "when it may go on"])
@every_pair
async def test_only_whole_messages_arrive(make_pair: Pair, resumed: bool) -> None:
    """Whenever a send is cancelled, its message arrives whole or not at all, and the next ones arrive whole."""
    came_back: dict[int, bool] = {}

    async def send_and_cancel(stream: WebsocketStream, state: None) -> None:
        for step in itertools.count(1):
            came_back[step] = False

            async def send(step: int = step) -> None:
                await stream.send(payload("cut", step, CUT))
                came_back[step] = True

            # What does not go out at once lets the next one wait, as one behind a slow client does.
            await stream.send(payload("filling", step, FILLING))
            reached = await cancelled_at(step, send, resumed=resumed)
            await stream.send(payload("behind", step, 10))
            if not reached:
                return

    rest = iter(await received_from(send_and_cancel, make_pair))
    arrived: dict[int, bool] = {}
    for step in came_back:
        assert next(rest) == payload("filling", step, FILLING)
        message = next(rest)
        arrived[step] = message != payload("behind", step, 10)
        if arrived[step]:
            assert message == payload("cut", step, CUT)
            assert next(rest) == payload("behind", step, 10)
    assert list(rest) == []
    # A send that came back has sent; the last one, which was not cancelled, among them.
    assert all(arrived[step] for step in came_back if came_back[step])
    assert came_back[len(came_back)]
    # And the test has met what it is about: sends that were cancelled before they had handed over.
    assert list(arrived.values()).count(False) >= 2


async def test_an_abort_in_the_moment_in_which_all_is_taken() -> None:
    """An abort holds although the stream takes the bytes in the same moment: nothing more is sent."""
    _, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(theirs, PEER)

    async def abort() -> None:
        transport.abort()

    theirs.send_stream.send_all_hook = abort
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_some(b"all of it")
    assert transport.torn
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_some(b"and more")
    assert theirs.send_stream.get_data_nowait() == b"all of it"


@every_pair
async def test_a_send_that_begins_cancelled(make_pair: Pair) -> None:
    """A send in a scope that is cancelled already sends nothing."""

    async def send_and_cancel(stream: WebsocketStream, state: None) -> None:
        with trio.move_on_after(0) as scope:
            await stream.send(b"never")
        assert scope.cancelled_caught
        await stream.send(b"instead")

    assert await received_from(send_and_cancel, make_pair) == [b"instead"]
