"""A send that is cancelled, at each of its checkpoints in turn, over everything that bytes can go over."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeAlias

import pytest
import trio
import trio.testing

from humphrey_trio import App, WebsocketStream, websocket_handler
from humphrey_trio._server._transport import StreamTransport
from humphrey_trio.http import Address
from tests.support.apps import StreamPair, served_in_memory
from tests.support.clients import RawClient
from tests.support.links import Link, limit_send_buffers, listening
from tests.support.steps import cancelled_at
from tests.support.wire import BINARY, CLOSE

#: Serves an app, and makes a connection to it: the client's end.
Serving: TypeAlias = Callable[[App], AbstractAsyncContextManager[trio.abc.Stream]]

PEER = Address("peer")
#: More than the small buffers hold, and more than a send may be without letting other tasks run.
FILLING, CUT = 250_000, 70_000


@asynccontextmanager
async def in_memory(
    app: App, stream_pair: StreamPair = trio.testing.memory_stream_pair
) -> AsyncGenerator[trio.abc.Stream]:
    """A connection in memory."""
    async with served_in_memory(app, stream_pair) as connect:
        yield connect()


lockstep = partial(in_memory, stream_pair=trio.testing.lockstep_stream_pair)


@asynccontextmanager
async def plain(app: App, link: Link = Link.PLAIN) -> AsyncGenerator[trio.abc.Stream]:
    """A connection of sockets that hold some kilobytes."""
    async with listening(app, link) as address:
        limit_send_buffers(address, 16384)
        yield await link.connect(address, buffer=16384)


tls = partial(plain, link=Link.TLS)

every_link = pytest.mark.parametrize(
    "serving", [in_memory, lockstep, plain, tls], ids=["memory", "lockstep", "plain", "tls"]
)


def payload(name: str, step: int, size: int) -> bytes:
    """A message's bytes, different in every message and at every place of it."""
    return b"".join(b"%s %d %d;" % (name.encode(), step, i) for i in range(size // 10))[:size]


async def received_from(
    handler: Callable[[WebsocketStream, None], Awaitable[None]], serving: Serving
) -> list[bytes]:
    """Everything that a client gets from a handler with a small outbox, up to its Close with 1000."""
    app = App().with_websocket_route("/", websocket_handler(handler, max_outbox_bytes=1000))
    received: list[bytes] = []
    with trio.fail_after(60):
        async with serving(app) as stream, stream:
            client = await RawClient(stream).open()
            while (frame := await client.frame())[0] == BINARY:
                received.append(frame[1])
            assert frame == (CLOSE, b"\x03\xe8")
    return received


@pytest.mark.parametrize("resumed", [False, True], ids=["while it waits", "when it may go on"])
@every_link
async def test_only_whole_messages_arrive(serving: Serving, resumed: bool) -> None:
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

    rest = iter(await received_from(send_and_cancel, serving))
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


@every_link
async def test_a_send_that_begins_cancelled(serving: Serving) -> None:
    """A send in a scope that is cancelled already sends nothing."""

    async def send_and_cancel(stream: WebsocketStream, state: None) -> None:
        with trio.move_on_after(0) as scope:
            await stream.send(b"never")
        assert scope.cancelled_caught
        await stream.send(b"instead")

    assert await received_from(send_and_cancel, serving) == [b"instead"]
