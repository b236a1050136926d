"""How WebSockets end over streams of all kinds: peers that do not answer, unread input."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, Timeouts, async_websocket_handler
from humphrey_trio.testing import memory_connection
from tests.support.apps import StreamPair
from tests.support.clients import RawClient
from tests.support.wire import CLOSE, TEXT, client_frame

Clock = trio.testing.MockClock

both_kinds = pytest.mark.parametrize("stream_pair", [memory_connection, trio.testing.memory_stream_pair])


async def sleep_long(stream: AsyncStream[None], message: Message, state: None) -> None:
    await trio.sleep(10)


class Pair:
    """A linked pair that runs in a nursery, each app in a scope of its own."""

    def __init__(self, timeouts: Timeouts = Timeouts()) -> None:  # noqa: B008  (frozen)
        self.websocket_app = AsyncWebsocketApp.new_unlinked(timeouts=timeouts).with_message_handler(sleep_long)
        route = async_websocket_handler(self.websocket_app.connect_hook())
        self._app = App(timeouts=timeouts).with_websocket_route("/", route)
        self.http, self.websocket = trio.CancelScope(), trio.CancelScope()

    async def run(self) -> None:
        """Run the WebSocket app."""
        with self.websocket:
            await self.websocket_app.run()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve the one connection."""
        with self.http:
            await self._app.serve_stream(stream)


@both_kinds
async def test_a_peer_that_does_not_answer_close_is_left(
    stream_pair: StreamPair, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """A client that never answers the Close of an app that was cancelled is waited for like any other."""
    pair = Pair(Timeouts(close=2, linger=1))
    nursery.start_soon(pair.run)
    ours, theirs = stream_pair()
    nursery.start_soon(pair.serve, theirs)
    client = await RawClient(ours).open()
    await trio.sleep(1)
    pair.websocket.cancel()
    assert (await client.frame())[0] == CLOSE
    with trio.fail_after(2 + 1 + 0.5):
        assert await client.stream.receive_some() == b""


async def test_a_hard_stop_does_not_reset_behind_its_close(autojump_clock: Clock) -> None:
    """Both apps are cancelled while there is unread input: the client can read the Close frame none the less."""
    for _ in range(20):  # the tasks of the apps run in any order
        pair = Pair()
        ours, theirs = memory_connection()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.run)
            nursery.start_soon(pair.serve, theirs)
            client = await RawClient(ours).open()
            await trio.sleep(0.1)
            pair.websocket.cancel()
            pair.http.cancel()
            ours.send_nowait(client_frame(TEXT, b"unread"))
        assert await client.close_code() == 1001
