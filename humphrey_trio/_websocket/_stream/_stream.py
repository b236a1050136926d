"""The public object for one open WebSocket.

``WebsocketStream`` is a face: it passes every call to its ``WebsocketConnection``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._errors import ConnectionClosed
from .._protocol._close_codes import NORMAL, POLICY_VIOLATION
from ._calls import before_close, begin_receive, end_receive, ping, send, set_deadline
from ._reports import close_record_of, statistics_of

if TYPE_CHECKING:
    from ..._http._address import Address
    from ..._http._request import Request
    from .._close_record import CloseRecord
    from .._message import Message, Sendable
    from .._statistics import StreamStatistics
    from ._connection import WebsocketConnection


class WebsocketStream:
    """A WebSocket connection (RFC 6455), the server side.

    ``async for message in stream`` receives messages until the stream is closed. Any number of tasks may send.
    Only one task at a time may receive. ``Upgrade.accept`` returns a stream, ``websocket_handler`` passes one to
    its handler, and ``async_websocket_handler`` sends streams to a channel. If sending, receiving, closing or
    ``set_deadline`` is called in another run of trio than that of the server, it raises ``RuntimeError``.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: WebsocketConnection) -> None:
        self._connection = connection

    @property
    def id(self) -> int:
        """A number that is unique among the streams of this process."""
        return self._connection.id

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._connection.request

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol (RFC 6455, section 1.9), or None."""
        return self._connection.subprotocol

    @property
    def value(self) -> Any:
        """The ``value`` of the ``Accept`` that the ``accept`` function of the route returned, or None."""
        return self._connection.value

    @property
    def peer_addr(self) -> Address:
        """The address of the peer, which may be a proxy. See ``client``."""
        return self._connection.peer_addr

    @property
    def client(self) -> Address:
        """The address of the client: that of the peer, unless a trusted proxy tells another one."""
        return self._connection.client

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream. Then nothing can be sent."""
        return self._connection.closed

    @property
    def close_code(self) -> int | None:
        """The close code, as ``ConnectionClosed.code``; None while the stream is open."""
        ending = self._connection.lifecycle.ending
        return None if ending is None else ending.code

    @property
    def close_reason(self) -> str | None:
        """The close reason, as ``ConnectionClosed.reason``; None while the stream is open."""
        ending = self._connection.lifecycle.ending
        return None if ending is None else ending.reason

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered Ping of a heartbeat to its Pong; None before the first Pong."""
        liveness = self._connection.liveness
        return None if liveness is None else liveness.latency

    @property
    def close_record(self) -> CloseRecord | None:
        """How the stream was closed, and its statistics; None while it is open."""
        return close_record_of(self._connection)

    def statistics(self) -> StreamStatistics:
        """Return statistics of the stream so far."""
        return statistics_of(self._connection)

    def __repr__(self) -> str:
        return repr(self._connection)

    # Sending...

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message.

        It waits while the outbox is full. When it returns, the message was sent to the kernel or waits in the
        outbox. If cancelled, the message was put into the outbox as a whole or not at all. Every call is a
        cancellation point. Other tasks run at least after every 64 messages or 64 KiB.

        Args:
            message: a ``str`` for a text message, bytes for a binary message, or a ``Message``.
            compress: whether to compress it, if compression was negotiated.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: ``message`` has another type.
            RuntimeError: called in another run of trio than that of the server.
        """
        await send(self._connection, message, compress)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping (RFC 6455, section 5.5.2).

        It is sent before queued messages, and replaces an earlier Ping that is still queued. It does not wait for
        the Pong.

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the stream is closed.
            ValueError: the payload is longer than 125 bytes.
            RuntimeError: called in another run of trio than that of the server.
        """
        await ping(self._connection, payload)

    @trio.lowlevel.enable_ki_protection
    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream (RFC 6455, section 7.1.2). Does nothing if it is closed.

        Queued messages are sent first, then a Close frame. The call does not wait for the peer. The peer is cut
        off if it neither reads nor answers for ``Timeouts.close`` seconds.

        Args:
            code: the close code: 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999 (section 7.4).
            reason: the close reason, at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
            RuntimeError: called in another run of trio than that of the server.
        """
        await before_close(self._connection, code, reason)
        self._connection.close(code, reason)

    def set_deadline(self, seconds: float, code: int = POLICY_VIOLATION, reason: str = "") -> None:
        """Close the stream after some seconds, for example when an access token expires.

        Queued messages are sent before the Close. The deadline replaces one that was set before. Does nothing if
        the stream is closed.

        Args:
            seconds: the time from now; above zero, with a precision of a quarter of a second. ``math.inf`` removes
                the deadline. While the process is blocked, for example by a handler, the time does not pass.
            code: the close code, as for ``close``.
            reason: the close reason, as for ``close``.

        Raises:
            ValueError: ``seconds`` is not above zero, the code may not be sent, or the reason is too long.
            RuntimeError: called in another run of trio than that of the server.
        """
        set_deadline(self._connection, seconds, code, reason)

    # Receiving...

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """Receive the next message. If cancelled, no message is lost.

        Returns:
            The message.

        Raises:
            ConnectionClosed: the stream is closed, and no received messages are left.
            trio.BusyResourceError: another task is receiving, or an application receives for its handlers.
            RuntimeError: called in another run of trio than that of the server.
        """
        connection = self._connection
        begin_receive(connection)
        try:
            message = await connection.inbox.next(connection)
        finally:
            end_receive(connection)
        if message is None:
            raise connection.closed_error()
        return message

    def __aiter__(self) -> WebsocketStream:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None


def connection_of(stream: WebsocketStream) -> WebsocketConnection:
    """Return the connection of a stream, for an application that has taken it from a hook.

    A hook is a plain channel of ``WebsocketStream``. This is the only access from the face to its parts.
    """
    return stream._connection
