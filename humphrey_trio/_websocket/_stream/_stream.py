"""One open WebSocket, as users see it: what they send and receive, and what became of it.

``WebsocketStream`` is a face: it checks arguments and hands every call to its ``WebsocketConnection``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._errors import ConnectionClosed
from .._protocol._close_codes import NORMAL, POLICY_VIOLATION
from ._reports import close_record_of, statistics_of

if TYPE_CHECKING:
    from ..._http._address import Address
    from ..._http._request import Request
    from .._close_record import CloseRecord
    from .._message import Message, Sendable
    from .._statistics import StreamStatistics
    from ._connection import WebsocketConnection


class WebsocketStream:
    """One WebSocket connection, on the server's side.

    ``async for message in stream`` receives until the stream is closed. Any number of tasks may send, one at a
    time may receive. A route gets one from ``Upgrade.accept`` or ``websocket_handler``; a channel given to
    ``async_websocket_handler`` delivers them. Called in another run of trio than the server's, its methods raise
    RuntimeError.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: WebsocketConnection) -> None:
        self._connection = connection

    @property
    def id(self) -> int:
        """A number that no other stream of this process has."""
        return self._connection.id

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._connection.request

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on (RFC 6455, section 1.9), or None."""
        return self._connection.subprotocol

    @property
    def value(self) -> Any:
        """The value with which the route's ``accept`` function let the client in, or None."""
        return self._connection.value

    @property
    def peer_addr(self) -> Address:
        """The peer's end of the connection."""
        return self._connection.peer_addr

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream, so that nothing can be sent any more."""
        return self._connection.closed

    @property
    def close_code(self) -> int | None:
        """The close code as in ``ConnectionClosed``; None while the stream is open."""
        ending = self._connection.lifecycle.ending
        return None if ending is None else ending.code

    @property
    def close_reason(self) -> str | None:
        """The text beside the close code; None while the stream is open."""
        ending = self._connection.lifecycle.ending
        return None if ending is None else ending.reason

    @property
    def latency(self) -> float | None:
        """Seconds from the last ping of a heartbeat to its answer; None before the first."""
        liveness = self._connection.liveness
        return None if liveness is None else liveness.latency

    @property
    def close_record(self) -> CloseRecord | None:
        """Why it was closed, by which side, and what had happened by then; None while it is open."""
        return close_record_of(self._connection)

    def statistics(self) -> StreamStatistics:
        """What the stream has done so far, and what waits."""
        return statistics_of(self._connection)

    def __repr__(self) -> str:
        return repr(self._connection)

    # Sending...

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message; a str goes as text, bytes go as binary.

        It waits while the outbox is full. Cancelled, it has either handed over the whole message or nothing.
        It is a checkpoint for cancellation; other tasks run at every 64th message or 64 KiB.

        Args:
            message: what to send.
            compress: False sends it uncompressed, where compression was agreed on.

        Raises:
            ConnectionClosed: the stream is closed.
            TypeError: this cannot be sent.
        """
        await self._connection.send(message, compress)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping, in front of the messages that wait; the peer's answer is not awaited.

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the stream is closed.
            ValueError: the payload is too long.
        """
        await self._connection.ping(payload)

    @trio.lowlevel.enable_ki_protection
    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream: what was sent goes out first, then a Close frame.

        It does not wait for the peer, which is cut off when it has neither read on nor answered for
        ``Timeouts.close`` seconds. A closed stream stays as it is.

        Args:
            code: 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, section 7.4).
            reason: text for the peer's log, at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        await self._connection.before_close(code, reason)
        self._connection.close(code, reason)

    def set_deadline(self, seconds: float, code: int = POLICY_VIOLATION, reason: str = "") -> None:
        """Close the stream after so many seconds, for what lets a client in only for a time, such as a token.

        What was sent before goes out first. It replaces the deadline that was set before; a closed stream
        stays as it is.

        Args:
            seconds: from now on, above zero, precise to a quarter of a second; ``math.inf`` for no deadline.
                Time in which the process is held up, by a handler that blocks for instance, is added.
            code: the close code, as for ``close``.
            reason: the text beside it, as for ``close``.

        Raises:
            ValueError: the seconds are not above zero, the code may not be sent, or the reason is too long.
        """
        self._connection.set_user_deadline(seconds, code, reason)

    # Receiving...

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """The next message.

        Raises:
            ConnectionClosed: the stream is closed, and every message before that was received.
            trio.BusyResourceError: another task receives already, or an application, for its handlers.
        """
        connection = self._connection
        connection.begin_receive()
        try:
            message = await connection.inbox.next(connection)
        finally:
            connection.end_receive()
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
    """The machinery of a stream, for an application that has taken it out of a hook.

    A hook is a plain channel of ``WebsocketStream``, so this is the one way from the face to the parts.
    """
    return stream._connection
