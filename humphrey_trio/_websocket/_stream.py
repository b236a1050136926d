"""One open WebSocket, as users see it: what they send and receive, and what became of it.

Everything here stands on ``WebsocketConnection``, which does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._runs import check_run, current_run
from ._close_record import CloseRecord
from ._codec import NORMAL, POLICY_VIOLATION, compress_for, encode_close, encode_message, encode_ping
from ._connection import WebsocketConnection
from ._errors import ConnectionClosed
from ._statistics import StreamStatistics

if TYPE_CHECKING:
    from .._http._address import Address
    from ._message import Message, Sendable


class WebsocketStream(WebsocketConnection):
    """One WebSocket connection, on the server's side.

    ``async for message in stream`` receives until the stream is closed. Any number of tasks may send, one at a
    time may receive. A route gets one from ``Upgrade.accept`` or ``websocket_handler``; a channel given to
    ``async_websocket_handler`` delivers them.

    Attributes:
        id: a number that no other stream of this process has.
        request: the request that opened it.
        subprotocol: what was agreed on (RFC 6455, section 1.9), or None.
        value: what the route's ``accept`` function let it in with, or None.
    """

    __slots__ = ()

    @property
    def peer_addr(self) -> Address:
        """The peer's end of the connection."""
        return self._transport.peer

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream, so that nothing can be sent any more."""
        return self._closed is not None

    @property
    def close_code(self) -> int | None:
        """The close code as in ``ConnectionClosed``; None while the stream is open."""
        return None if self._closed is None else self._closed.code

    @property
    def close_reason(self) -> str | None:
        """The text beside the close code; None while the stream is open."""
        return None if self._closed is None else self._closed.reason

    @property
    def latency(self) -> float | None:
        """Seconds from the last ping of a heartbeat to its answer; None before the first."""
        return self._pulse.latency

    @property
    def close_record(self) -> CloseRecord | None:
        """Why it was closed, by whom, and what had happened by then; None while it is open."""
        if (closed := self._closed) is None:
            return None
        return CloseRecord(
            initiator=closed.initiator,
            code=closed.code,
            reason=closed.reason,
            cause=closed.cause,
            exception=closed.exception,
            age=closed.age,
            messages_received=self._messages_received,
            bytes_received=self._bytes_received,
            messages_sent=self._outbox.messages_put,
            bytes_sent=self._outbox.bytes_sent,
            dropped=self._tally.dropped,
            unhandled=self._tally.unhandled,
            queued_messages=closed.queued_messages,
            queued_bytes=closed.queued_bytes,
            clean=closed.clean,
        )

    def statistics(self) -> StreamStatistics:
        """What it has done so far, and what waits."""
        outbox, tally = self._outbox, self._tally
        return StreamStatistics(
            messages_received=self._messages_received,
            bytes_received=self._bytes_received,
            messages_sent=outbox.messages_put,
            bytes_sent=outbox.bytes_sent,
            queued_messages=outbox.queued_messages,
            queued_bytes=outbox.queued_bytes,
            read_ahead=self._read_ahead_count,
            dropped=tally.dropped,
            unhandled=tally.unhandled,
            slow_closes=tally.slow_closes,
            send_waits=tally.waits,
            read_pauses=tally.pauses,
        )

    def __repr__(self) -> str:
        state = "open" if self._closed is None else str(self._closed_now())
        return f"<WebsocketStream {self.id} with {self.peer_addr}, {state}>"

    def _check_run(self) -> None:
        if current_run() is not self._run:
            check_run(self._run, "this stream")

    # Sending...

    @trio.lowlevel.enable_ki_protection
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
        self._check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._taken = True
        frame = encode_message(message)
        outbox, size = self._outbox, len(frame)
        if self._closed is None and (outbox.contended or not outbox.has_room(size)):
            await outbox.wait_for_room(size)
        if self._closed is not None:
            raise self._closed_now()
        if compress and self._deflate is not None:
            # Not before it is certain to be sent: the peer's memory has to follow the compressor's.
            frame = compress_for(frame, self._deflate)
        # Replies to a peer that sends many messages at once leave together: a system call for each would cost
        # more than all the rest, and fill the peer's buffers with tiny segments.
        self._hand_over(outbox.put_later if self._decoder.buffered else outbox.put, frame)
        if self._closed is not None:
            raise self._closed_now()
        if self._pace.spent(size):
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping, in front of the messages that wait; the peer's answer is not awaited.

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the stream is closed.
            ValueError: the payload is too long.
        """
        frame = encode_ping(payload)
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._taken = True
        if self._closed is not None:
            raise self._closed_now()
        self._hand_over(self._outbox.put_control, frame)
        if self._closed is not None:
            raise self._closed_now()

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
        encode_close(code, reason)
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._close(code, reason)

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
        if not seconds > 0:
            raise ValueError("a deadline is seconds above zero from now on; to close at once there is close()")
        encode_close(code, reason)
        self._check_run()
        if self._closed is None:
            self._end_by = self._clock.now() + seconds
            self._end_with = (code, reason)
            self._set_deadline()

    # Receiving...

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """The next message.

        Raises:
            ConnectionClosed: the stream is closed, and every message before that was received.
            trio.BusyResourceError: another task receives already, or an application, for its handlers.
        """
        self._check_run()
        if self._reading or (self._attended and not self._has_own_reader):
            if self._closed is not None:
                raise self._closed_now()
            raise trio.BusyResourceError("another task receives from this stream already")
        self._taken = self._reading = True
        try:
            message = await (self._next_ahead() if self._has_own_reader else self._next())
        finally:
            self._reading = False
            if self._closed is not None:
                self._outbox.wake()  # now the connection task may have to hear the peer out
        if message is None:
            raise self._closed_now()
        return message

    def __aiter__(self) -> WebsocketStream:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None
