"""One open WebSocket: reading, writing, and its end.

The connection task keeps a stream (``keep``): it alone waits on the socket to write, and it closes. Whoever
owns the conversation reads, in one task at a time. Both sides meet in the outbox and in ``_over``.
"""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from .._server._transport import linger
from ._codec import (
    ABNORMAL,
    EMPTY_CLOSE,
    GOING_AWAY,
    NO_CODE,
    NORMAL,
    TRY_AGAIN_LATER,
    Close,
    Decoder,
    Failure,
    Ping,
    Pong,
    encode_close,
    encode_for,
    encode_message,
    encode_ping,
    encode_pong,
)
from ._errors import ConnectionClosed
from ._message import Message
from ._outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._http._address import Address
    from .._http._limits import Timeouts
    from .._http._request import Request
    from .._server._connection import Takeover
    from ._admission import Admitted
    from ._codec import Event, Frames
    from ._heartbeat import Heartbeat
    from ._limits import StreamLimits
    from ._message import Sendable

_ids = itertools.count(1)

# The payload of a heartbeat's ping: its answer tells the latency.
_BEAT = b"heartbeat"


class WebsocketStream:
    """One WebSocket connection, on the server's side.

    ``async for message in stream`` receives until the stream is closed. Any number of tasks may send, one at a
    time may receive. A route gets one from ``Upgrade.accept`` or ``websocket_handler``; a channel given to
    ``async_websocket_handler`` delivers them.

    Attributes:
        id: a number that no other stream of this process has.
        request: the request that opened it.
        subprotocol: what was agreed on (RFC 6455, section 1.9), or None.
        value: what the route's ``accept`` function let it in with, or None.
        latency: seconds from the last ping of a heartbeat to its answer; None before the first.
    """

    __slots__ = (
        "_ahead",
        "_attended",
        "_close_by",
        "_closed",
        "_deadline",
        "_decoder",
        "_deflate",
        "_has_own_reader",
        "_heard",
        "_heard_end",
        "_limits",
        "_news",
        "_on_gone",
        "_opened",
        "_outbox",
        "_over",
        "_pace",
        "_pinged_at",
        "_reading",
        "_silent_since",
        "_take_by",
        "_taken",
        "_timeouts",
        "_transport",
        "_write_by",
        "id",
        "latency",
        "request",
        "subprotocol",
        "value",
    )

    def __init__(self, takeover: Takeover, limits: StreamLimits, admitted: Admitted) -> None:
        self.id = next(_ids)
        self.request: Request = takeover.request
        self._transport = takeover.transport
        self._timeouts: Timeouts = takeover.timeouts
        self._pace = takeover.pace
        self._limits = limits
        self._outbox = Outbox(takeover.transport, limits)
        self.subprotocol = admitted.subprotocol
        self.value = admitted.value
        self._deflate = admitted.deflate
        self._decoder = Decoder(limits, deflate=admitted.deflate)
        self._decoder.receive(takeover.rest)
        # How it ended: what the user is told, whether the peer said its last, whether there is nothing to read.
        self._closed: ConnectionClosed | None = None
        self._heard_end = False
        self._over = False
        # Who reads: nobody yet, a task in ``receive``, or a reader that fills ``_ahead``.
        self._taken = False
        self._reading = False
        self._has_own_reader = False
        self._attended = False  # whether a task reads until the end, whatever happens
        self._ahead: deque[Message] | None = None
        self._news: trio.Event | None = None
        self._opened: trio.Event | None = None
        self._on_gone: Callable[[], None] | None = None
        # The heartbeat's: whether a byte came since its last look, and since when none did.
        self._heard = False
        self._silent_since = -inf
        self._pinged_at: float | None = None
        self.latency: float | None = None
        # Moments on trio's clock; the server's sweep looks at the earliest.
        self._take_by = self._write_by = self._close_by = inf
        self._deadline = takeover.deadline
        self._deadline.expire = self._expire

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

    def __repr__(self) -> str:
        state = "open" if self._closed is None else str(self._closed)
        return f"<WebsocketStream {self.id} with {self.peer_addr}, {state}>"

    # ------------------------------------------------------------------------------------------ sending

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
            frame = encode_for(message, self._deflate)
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
        await trio.lowlevel.checkpoint()
        self._close(code, reason)

    def _hand_over(self, put: Callable[[bytes], None], frame: bytes) -> None:
        """Put a frame into the outbox; afterwards the stream is closed if the peer was gone."""
        try:
            put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose()

    def _offer(self, frames: Frames) -> None:
        """A broadcast's message: taken if there is room; a peer that is too slow for it is closed."""
        if self._closed is not None:
            return
        frame = frames.plain
        if self._deflate is not None and (compressed := frames.compressed_for(self._deflate)) is not None:
            frame = compressed
            self._deflate.reset()
        if not self._outbox.has_room(len(frame)):
            self._close(TRY_AGAIN_LATER, "too slow", drop_queue=True)
        else:
            self._hand_over(self._outbox.put, frame)

    # ---------------------------------------------------------------------------------------- receiving

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """The next message.

        Raises:
            ConnectionClosed: the stream is closed, and every message before that was received.
            trio.BusyResourceError: another task receives already.
        """
        if self._reading:
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

    async def _next(self) -> Message | None:
        """Read the next message in the calling task; None when the peer will send none that counts."""
        decoder = self._decoder
        if self._outbox.corked:
            await self._wait_opened()
        while not self._over:
            if self._pace.spent(0):
                await trio.lowlevel.checkpoint()
            event = decoder.next()
            if event is None:
                await self._fill()
            elif isinstance(event, Message):
                if self._closed is None:
                    return event
            else:
                self._control(event)
        return None

    async def _fill(self) -> None:
        try:
            data = await self._transport.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if data:
            self._heard = True
            self._decoder.receive(data)
        else:
            self._lose()

    def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._hand_over(self._outbox.put_control, encode_pong(event.payload))
        elif isinstance(event, Pong):
            if event.payload == _BEAT and self._pinged_at is not None:
                self.latency = trio.current_time() - self._pinged_at
        elif isinstance(event, Close):
            self._heard_end = True
            self._close(event.code, event.reason)
            self._end_reading()
        elif isinstance(event, Failure):
            self._close(event.code, event.reason)
            self._end_reading()

    async def _wait_opened(self) -> None:
        if self._opened is None:
            self._opened = trio.Event()
        await self._opened.wait()

    # Reading ahead...

    @trio.lowlevel.enable_ki_protection
    async def _read_ahead(self) -> None:
        """Read for a receiver that is busy, until the end; while enough is there, do not read."""
        ahead = self._ahead
        if ahead is None:
            ahead = self._ahead = deque()
        while (message := await self._next()) is not None:
            ahead.append(message)
            self._tell_news()
            while self._is_deaf and self._closed is None:
                await self._wait_news()
        self._tell_news()

    async def _next_ahead(self) -> Message | None:
        ahead = self._ahead
        assert ahead is not None
        await trio.lowlevel.checkpoint()
        while not ahead and not self._over:
            await self._wait_news()
        if not ahead:
            return None
        message = ahead.popleft()
        self._tell_news()
        return message

    async def _wait_news(self) -> None:
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()

    def _tell_news(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    # ------------------------------------------------------------------------------------------ the end

    def _closed_now(self) -> ConnectionClosed:
        """What a caller is told; a new exception each time, since each gets its own traceback."""
        closed = self._closed
        assert closed is not None
        return ConnectionClosed(closed.code, closed.reason)

    def _close(self, code: int, reason: str, *, drop_queue: bool = False) -> None:
        """Say Close behind what waits, or instead of it; the first to close decides the code."""
        if self._closed is not None:
            return
        self._closed = ConnectionClosed(code, reason)
        if not self._heard_end:
            self._expect_end()
        close = EMPTY_CLOSE if code == NO_CODE else encode_close(code, reason)
        self._hand_over(partial(self._outbox.end, drop_queue=drop_queue), close)
        self._tell_news()

    def _lose(self) -> None:
        """The connection has ended without a Close from the peer."""
        if self._closed is None:
            self._closed = ConnectionClosed(ABNORMAL)
        self._heard_end = True
        self._outbox.abandon()
        self._end_reading()

    def _end_reading(self) -> None:
        if self._over:
            return
        self._over = True
        self._tell_news()
        self._outbox.wake()
        if self._on_gone is not None:
            self._on_gone()

    # ------------------------------------------------------------------- for the one who passes it on

    def _own_reader(self) -> None:
        """Have a reader of its own (``_read_ahead``), from which ``receive`` gets its messages."""
        self._taken = self._attended = True
        self._has_own_reader = True
        self._ahead = deque()

    @property
    def _is_open(self) -> bool:
        """Whether the handshake was answered."""
        return not self._outbox.corked

    def _open(self, head: bytes) -> bool:
        """Send the handshake's answer; False if the stream was closed before."""
        if self._closed is not None:
            self._end_reading()
            return False
        self._hand_over(self._outbox.uncork, head)
        if self._opened is not None:
            self._opened.set()
        return True

    def _expect_taker(self, seconds: float) -> None:
        if not self._taken:
            self._take_by = trio.current_time() + seconds
            self._set_deadline()

    def _take(self, limits: StreamLimits, timeouts: Timeouts) -> None:
        """Belong to an application, with its bounds."""
        self._taken = self._attended = True
        self._limits = limits
        self._timeouts = timeouts
        self._outbox.limit(limits)
        self._decoder.limit(limits)
        self._take_by = inf
        self._set_deadline()

    @property
    def _is_deaf(self) -> bool:
        """Whether so much was read ahead that nobody reads."""
        return self._ahead is not None and len(self._ahead) >= self._limits.max_read_ahead

    def _look_for_peer(self) -> None:
        """Notice that the peer has left, where reading would not."""
        if self._is_deaf and not self._over and self._transport.hung_up():
            self._lose()

    def _beat(self, now: float, heartbeat: Heartbeat) -> bool:
        """Look for a sign of life; whether the peer was pinged."""
        if self._heard or self._is_deaf or self._silent_since == -inf:
            # Where nobody reads, silence means nothing.
            self._heard, self._silent_since = False, now
            self._pinged_at = None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= heartbeat.timeout:
                self._cut(f"no answer to a ping in {heartbeat.timeout:g} s")
        elif now - self._silent_since >= heartbeat.interval and self._closed is None:
            self._pinged_at = now
            self._hand_over(self._outbox.put_control, encode_ping(_BEAT))
            return True
        return False

    def _cut(self, cause: str) -> None:
        """End the connection without a word, for a peer that would not hear one."""
        if self._closed is None:
            self._closed = ConnectionClosed(ABNORMAL, cause)
        self._transport.abort()
        self._lose()

    def _leave(self) -> None:
        """Whoever read does not any more; an open stream is closed with 1001."""
        self._close(GOING_AWAY, "")
        self._attended = False
        self._outbox.wake()

    # ------------------------------------------------------------------------------ the connection task

    async def _keep(self) -> None:
        """Write what waits until the stream has ended, then close; the connection task's part.

        Cancelled, it says what it can without waiting, and a Close with 1001.
        """
        try:
            await self._write_until_over()
            self._end_reading()
            if not self._heard_end:
                await linger(self._transport)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except trio.Cancelled:
            await self._say_last_words()
            raise
        finally:
            self._lose()
            await self._transport.close()

    async def _write_until_over(self) -> None:
        outbox = self._outbox
        while True:
            if outbox.pending:
                self._write_by = trio.current_time() + self._timeouts.write
                self._set_deadline()
                await outbox.flush_some()
                self._write_by = inf
                # A peer that reads on through what waits before our Close gets its time anew.
                if self._closed is not None and not self._heard_end:
                    self._expect_end()
            elif outbox.ended and (self._over or not self._taken):
                return
            elif outbox.ended and not self._attended and not self._reading:
                await self._hear_out()
                return
            else:
                self._set_deadline()
                await outbox.wait_for_work()

    async def _hear_out(self) -> None:
        """Read on to the peer's Close in the place of somebody who has closed and does not read."""
        self._reading = True
        with trio.move_on_after(self._timeouts.close):
            while await self._next() is not None:
                pass

    async def _say_last_words(self) -> None:
        words = self._outbox.last_words(encode_close(GOING_AWAY))
        if self._closed is None:
            self._closed = ConnectionClosed(GOING_AWAY)
        if words:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._transport.send_last(words)

    def _expect_end(self) -> None:
        self._close_by = trio.current_time() + self._timeouts.close
        self._set_deadline()

    def _set_deadline(self) -> None:
        self._deadline.at = min(self._take_by, self._write_by, self._close_by)

    def _expire(self) -> None:
        """A moment has passed: nobody took the stream, or the peer is too slow."""
        now = trio.current_time()
        if self._take_by <= now:
            self._take_by = inf
            if not self._taken:
                self._close(TRY_AGAIN_LATER, "nobody takes this connection")
        self._set_deadline()
        if min(self._write_by, self._close_by) <= now:
            self._cut("too slow")
