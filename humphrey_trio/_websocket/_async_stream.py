"""The clients of an event-driven app, one by one and all together.

An ``AsyncStream`` is one client as handlers see it, the ``Audience`` is all of them. Nobody here runs handlers
or waits for a client.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic

import trio

from .._state import StreamState
from ._codec import NORMAL, Frames
from ._errors import ConnectionClosed

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._request import Request
    from ._message import Message, Sendable
    from ._stream import WebsocketStream

# After so many receivers a broadcast lets the other tasks run.
_BROADCAST_TURN = 100


class Audience:
    """All clients of an app.

    Attributes:
        streams: those that are connected, by their ids.
    """

    __slots__ = ("_broadcasting", "_turn", "streams")

    def __init__(self) -> None:
        self.streams: dict[int, AsyncStream[Any]] = {}
        self._broadcasting = trio.StrictFIFOLock()
        self._turn = 0  # broadcasts and their receivers since other tasks could run

    @trio.lowlevel.enable_ki_protection
    async def broadcast(self, message: Sendable, compress: bool) -> None:
        """Send a message to all; see ``AsyncSender.broadcast``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        frames = Frames(message, compress=compress)
        try:
            self._broadcasting.acquire_nowait()
        except trio.WouldBlock:
            await self._broadcasting.acquire()
        try:
            for stream in tuple(self.streams.values()):
                stream._websocket._offer(frames)
                if self._turn_is_over():
                    await trio.lowlevel.checkpoint()
            # The broadcast itself counts as well: one to nobody has to let somebody connect.
            if self._turn_is_over():
                await trio.lowlevel.checkpoint()
        finally:
            self._broadcasting.release()

    def _turn_is_over(self) -> bool:
        self._turn += 1
        if self._turn < _BROADCAST_TURN:
            return False
        self._turn = 0
        return True


class AsyncStream(Generic[StreamState]):
    """A connected client, as the handlers of an ``AsyncWebsocketApp`` get it.

    Attributes:
        state: what the app's ``stream_state`` made for this client; None without one.
    """

    __slots__ = ("_audience", "_busy_since", "_closing", "_helper", "_scope", "_websocket", "state")

    def __init__(self, audience: Audience, websocket: WebsocketStream, state: StreamState) -> None:
        self._audience = audience
        self._websocket = websocket
        self.state = state
        self._scope: trio.CancelScope | None = None  # around the handlers
        self._closing = False  # by a handler of its own, which then may finish
        self._busy_since = 0  # the sweep in whose time a handler began; 0 while none runs
        self._helper: _Helper | None = None

    # What the app does with it...

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """The next message for a handler; None when there will be none."""
        if self._helper is not None:
            await self._helper.stop()
            self._helper = None
        ahead = self._websocket._ahead
        return ahead.popleft() if ahead else await self._websocket._next()

    def _get_help(self, nursery: trio.Nursery) -> None:
        if self._helper is None:
            self._helper = _Helper(self._websocket)
            nursery.start_soon(self._helper.run)

    def _client_left(self) -> None:
        if self._busy_since and not self._closing and self._scope is not None:
            self._scope.cancel()

    # What a handler does with it...

    @property
    def id(self) -> int:
        """A number that no other stream of this process has."""
        return self._websocket.id

    @property
    def peer_addr(self) -> Address:
        """The client's end of the connection."""
        return self._websocket.peer_addr

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._websocket.request

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on, or None."""
        return self._websocket.subprotocol

    @property
    def value(self) -> Any:
        """What the route's ``accept`` function let the client in with, or None."""
        return self._websocket.value

    @property
    def latency(self) -> float | None:
        """Seconds from the heartbeat's last ping to its answer; None before the first."""
        return self._websocket.latency

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return self._websocket.closed

    @property
    def close_code(self) -> int | None:
        """The close code as in ``ConnectionClosed``; None while the stream is open."""
        return self._websocket.close_code

    @property
    def close_reason(self) -> str | None:
        """The text beside the close code; None while the stream is open."""
        return self._websocket.close_reason

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to this client; see ``WebsocketStream.send``.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        await self._websocket.send(message, compress=compress)

    async def broadcast(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to every client of the app, this one too; see ``AsyncSender.broadcast``."""
        await self._audience.broadcast(message, compress)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; see ``WebsocketStream.ping``."""
        await self._websocket.ping(payload)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream; see ``WebsocketStream.close``. The disconnect handler runs when it has ended."""
        self._closing = True
        await self._websocket.close(code, reason)

    def __repr__(self) -> str:
        return f"<AsyncStream of {self._websocket!r}>"


class _Helper:
    """Reads ahead on one stream while a handler is busy, so that pings are answered and a leave is noticed.

    Two tasks never read at once: the reader stops its helper before it goes on itself.
    """

    __slots__ = ("_done", "_scope", "_websocket")

    def __init__(self, websocket: WebsocketStream) -> None:
        self._websocket = websocket
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        try:
            with self._scope:
                await self._websocket._read_ahead()
        finally:
            self._done.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._done.wait()


class AsyncSender:
    """Sends to the clients of an app from anywhere in its trio run: before, during and after ``run``.

    From another thread: ``trio.from_thread.run(sender.broadcast, message)``, with ``trio_token=`` if the
    thread was not started by trio.
    """

    __slots__ = ("_audience",)

    def __init__(self, audience: Audience) -> None:
        self._audience = audience

    async def send(self, stream_id: int, message: Sendable, *, compress: bool = True) -> bool:
        """Send a message to one client; see ``WebsocketStream.send``.

        Returns:
            False if no open stream of the app has that id.
        """
        stream = self._audience.streams.get(stream_id)
        if stream is not None:
            with suppress(ConnectionClosed):
                await stream.send(message, compress=compress)
                return True
        await trio.lowlevel.checkpoint()
        return False

    async def broadcast(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to every client that is connected when it begins.

        It is encoded once, and compressed once for all clients that can share that; it waits for no client,
        and one whose outbox is full is closed with 1013. Broadcasts of one app go out one after the other, so
        that all clients see the same order; a cancelled one has reached some. Other tasks run at every
        hundredth client.

        Raises:
            TypeError: this cannot be sent.
        """
        await self._audience.broadcast(message, compress)
