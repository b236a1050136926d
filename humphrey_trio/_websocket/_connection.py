"""One open WebSocket, as the library drives it: reading, writing, and its end.

The connection task keeps it (``_keep``): it alone waits on the socket to write, and it closes. Whoever owns the
conversation reads, in one task at a time. Both sides meet in the outbox and in ``_over``.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from .._runs import current_run
from .._server._pacing import SWEEP_INTERVAL
from .._server._transport import Incoming
from ._close_record import Ending
from ._codec import (
    ABNORMAL,
    EMPTY_CLOSE,
    GOING_AWAY,
    NO_CODE,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Close,
    Decoder,
    Failure,
    Ping,
    Pong,
    encode_close,
    encode_ping,
    encode_pong,
)
from ._errors import ConnectionClosed
from ._message import Message
from ._outbox import Outbox
from ._policies import WhenFull
from ._pulse import BEAT, Need, Pulse
from ._tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._http._drain import Drain
    from .._http._limits import Timeouts
    from .._http._request import Request
    from .._server._connection import Takeover
    from ._admission import Admitted
    from ._close_record import Initiator
    from ._codec import Event, Frames
    from ._heartbeat import Heartbeat
    from ._limits import StreamLimits
    from ._policies import FullPolicy

_ids = itertools.count(1)

# Messages up to here count as messages alone; the turn of those ends before their bytes would end it.
_SHORT = 1024

_CLOSE = WhenFull.CLOSE  # an enumeration looks its members up anew each time, which a broadcast would feel

#: Why a stream ends with a server or an application that ends gracefully.
DRAINED = "the server ends"


class WebsocketConnection:
    """An open WebSocket, on the server's side; ``WebsocketStream`` is what users get of it.

    Attributes:
        id: a number that no other of this process has.
        request: the request that opened it.
        subprotocol: what was agreed on, or None.
        value: what the route's ``accept`` function let it in with, or None.
    """

    __slots__ = (
        "_ahead",
        "_attended",
        "_bytes_received",
        "_clock",
        "_close_by",
        "_closed",
        "_decoder",
        "_deflate",
        "_drain",
        "_drain_by",
        "_end_by",
        "_end_with",
        "_filling",
        "_has_own_reader",
        "_heard_end",
        "_leash",
        "_limits",
        "_lingering",
        "_messages_received",
        "_news",
        "_on_gone",
        "_opened",
        "_outbox",
        "_over",
        "_own_shutdown",
        "_pace",
        "_pulse",
        "_reading",
        "_run",
        "_since",
        "_take_by",
        "_taken",
        "_tally",
        "_timeouts",
        "_transport",
        "_write_by",
        "id",
        "request",
        "subprotocol",
        "value",
    )

    def __init__(self, takeover: Takeover, limits: StreamLimits, admitted: Admitted) -> None:
        self.id = next(_ids)
        self.request: Request = takeover.request
        self._transport = takeover.transport
        self._timeouts: Timeouts = takeover.server.timeouts
        self._pace = takeover.server.pace
        self._clock = takeover.server.clock
        self._lingering = takeover.lingering
        self._limits = limits
        self._tally = Tally()
        self._outbox = Outbox(takeover.transport, limits, self._tally)
        self.subprotocol = admitted.subprotocol
        self.value = admitted.value
        self._deflate = admitted.deflate
        self._decoder = Decoder(limits, deflate=admitted.deflate)
        self._since = trio.current_time()
        self._run = current_run()
        self._messages_received = 0
        self._bytes_received = 0
        # How it ended: what the user is told, whether the peer said its last, whether there is nothing to read.
        self._closed: Ending | None = None
        self._heard_end = False
        self._over = False
        # Who reads: nobody yet, a task in ``receive``, or a reader that fills ``_ahead``.
        self._taken = False
        self._reading = False
        self._filling = False  # whether somebody waits on the socket for bytes, just now
        self._has_own_reader = False
        self._attended = False  # whether a task reads until the end, whatever happens
        self._ahead: deque[Message] | None = None
        self._news: trio.Event | None = None
        self._opened: trio.Event | None = None
        self._on_gone: Callable[[], None] | None = None
        self._pulse = Pulse()
        # Moments on trio's clock; the server's sweep looks at the earliest.
        self._take_by = self._write_by = self._close_by = self._end_by = self._drain_by = inf
        self._end_with = (POLICY_VIOLATION, "")  # code and reason, when ``_end_by`` has come
        self._leash = takeover.leash
        self._leash.expire = self._expire
        # How the server ends gracefully, unless an application ends by itself and looks after its streams.
        self._drain = takeover.server.drain
        self._own_shutdown: trio.Event | None = None
        self._leash.drain = self._end_gracefully

    # ------------------------------------------------------------------------------------------ sending

    def _hand_over(self, put: Callable[[bytes], None], frame: bytes) -> None:
        """Put a frame into the outbox; afterwards the stream is closed if the peer was gone."""
        try:
            put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose("the connection broke")

    def _offer(self, frames: Frames, policy: FullPolicy, final: bool) -> bool:
        """Take a broadcast's message, if there is room for it.

        Args:
            frames: the message.
            policy: what happens if there is no room and the offer is final.
            final: whether the writer had its turns; else nothing happens without room.

        Returns:
            False if it has to be offered once more.
        """
        if self._closed is not None:
            return True
        frame, outbox, deflate = frames.plain, self._outbox, self._deflate
        if deflate is not None and (compressed := frames.compressed_for(deflate)) is not None:
            frame = compressed
        if not (outbox.direct or outbox.has_room(len(frame))):
            if not final and not outbox.is_stuck:
                return False
            if not outbox.make_room(len(frame), policy):
                self._refuse(policy)
                return True
        if deflate is not None and frame is not frames.plain:
            deflate.reset()
        try:
            if policy is _CLOSE:
                outbox.put(frame)
            else:
                outbox.put_droppable(frame, policy)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose("the connection broke")
        return True

    def _outbox_for(self, frames: Frames) -> tuple[Outbox, int]:
        """The outbox that a broadcast's message goes into, and how many bytes it has there."""
        compressed = None if self._deflate is None else frames.compressed_for(self._deflate)
        return self._outbox, len(frames.plain if compressed is None else compressed)

    def _refuse(self, policy: FullPolicy) -> None:
        """There is no room for a message."""
        self._tally.count_dropped(1)
        if policy not in (WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST):
            self._count_slow_close()
            self._close(TRY_AGAIN_LATER, "too slow", cause="its outbox was full", drop_queue=True)

    # ---------------------------------------------------------------------------------------- receiving

    async def _next(self) -> Message | None:
        """Read the next message in the calling task; None when the peer will send none that counts."""
        decoder = self._decoder
        if self._outbox.corked and not self._over:
            await self._wait_opened()
        while not self._over:
            if self._pace.spent(0):
                await trio.lowlevel.checkpoint()
                if self._over:  # The connection broke meanwhile: what was not decoded yet is for ``_next_left``.
                    break
            event = decoder.next()
            if event is None:
                await self._fill()
            elif isinstance(event, Message):
                # What it has inflated to counts. No checkpoint may separate a message from its receiver.
                if len(event.data) > _SHORT:
                    self._pace.count(len(event.data))
                if self._closed is None:
                    self._messages_received += 1
                    return event
                # What arrives behind our own Close is no message any more; its bytes are counted.
            else:
                self._control(event)
        return None

    async def _next_left(self) -> Message | None:
        """The next message that had arrived before writing to the peer failed; None at a Close or a failure."""
        while True:
            if self._pace.spent(0):
                await trio.lowlevel.checkpoint()
            event = self._decoder.next()
            if event is None:
                return None
            if isinstance(event, Message):
                self._messages_received += 1
                return event

    async def _fill(self) -> None:
        self._filling = True
        try:
            data = await self._transport.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose("the connection broke")
            return
        finally:
            self._filling = False
        if data:
            self._pulse.heard = True
            self._bytes_received += len(data)
            self._decoder.receive(data)
        else:
            self._lose("the connection ended without a Close")

    def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._hand_over(self._outbox.put_control, encode_pong(event.payload))
        elif isinstance(event, Pong):
            if event.payload == BEAT:
                self._pulse.answered(self._clock.now())
        elif isinstance(event, Close):
            self._heard_end = True
            self._close(event.code, event.reason, initiator="client")
            if self._closed is not None:
                self._closed.answered = True
            self._end_reading()
        elif isinstance(event, Failure):
            self._close(event.code, event.reason, cause="what the client sent was refused")
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
        while True:
            if self._is_deaf:
                self._tally.count_pause()
            while self._is_deaf and self._closed is None:
                with trio.move_on_after(SWEEP_INTERVAL) as scope:
                    await self._wait_news()
                if scope.cancelled_caught and self._has_own_reader and self._timeouts.disconnect < inf:
                    self._look_for_peer()  # an application looks for itself
            if (message := await self._next()) is None:
                break
            ahead.append(message)
            self._tell_news()
        self._tell_news()

    def _put_back(self, message: Message) -> None:
        """A message that was received has to wait, in front of those that are read ahead."""
        if self._ahead is None:
            self._ahead = deque()
        self._ahead.appendleft(message)

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

    def _count_unread(self) -> None:
        """Count the messages that were read ahead as unhandled, and drop them."""
        if self._ahead:
            self._tally.count_unhandled(len(self._ahead))
            self._ahead.clear()

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

    def _close(
        self,
        code: int,
        reason: str,
        *,
        cause: str = "",
        exception: BaseException | None = None,
        initiator: Initiator = "server",
        drop_queue: bool = False,
    ) -> None:
        """Say Close behind what waits, or instead of it; the first to close decides the code."""
        if self._closed is not None:
            return
        self._note_end(initiator, code, reason, cause, exception)
        if self._outbox.corked:
            self._end_reading()  # the handshake is refused; nothing was promised to the peer
        elif not self._heard_end:
            self._expect_end()
        close = EMPTY_CLOSE if code == NO_CODE else encode_close(code, reason)
        self._hand_over(partial(self._outbox.end, drop_queue=drop_queue), close)
        self._tell_news()

    def _lose(self, cause: str) -> None:
        """The connection has ended without a Close from the peer."""
        if self._closed is None:
            self._note_end("client", ABNORMAL, "", cause)
        self._heard_end = True
        self._outbox.abandon()
        self._end_reading()

    def _note_end(
        self, initiator: Initiator, code: int, reason: str, cause: str, exception: BaseException | None = None
    ) -> None:
        age = trio.current_time() - self._since
        queue = self._outbox
        self._closed = Ending(
            initiator, code, reason, cause, exception, age, queue.queued_messages, queue.queued_bytes
        )

    def _end_reading(self) -> None:
        if self._over:
            return
        self._over = True
        self._tell_news()
        self._outbox.wake()
        if self._on_gone is not None:
            on_gone, self._on_gone = self._on_gone, None  # it may refer to whoever refers to this
            on_gone()

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

    def _open(self, head: bytes, rest: bytes) -> bool:
        """Send the handshake's answer, and take what came behind the handshake; False if it was closed before."""
        opened = self._closed is None
        if opened:
            self._bytes_received = len(rest)
            self._decoder.receive(rest)
            self._hand_over(self._outbox.uncork, head)
        else:
            self._end_reading()
        if self._opened is not None:
            self._opened.set()
        return opened

    def _expect_taker(self, seconds: float) -> None:
        if not self._taken:
            self._take_by = self._clock.now() + seconds
            self._set_deadline()

    def _take(self, limits: StreamLimits, timeouts: Timeouts, tally: Tally, shutdown: trio.Event | None) -> None:
        """Belong to an application, with its bounds, its counts and its end."""
        self._taken = self._attended = True
        self._tally.whole = tally
        self._own_shutdown = shutdown
        self._limits = limits
        self._timeouts = timeouts
        self._outbox.limit(limits)
        self._decoder.limit(limits)
        self._take_by = inf
        self._set_deadline()

    @property
    def _is_deaf(self) -> bool:
        """Whether so much was read ahead that nobody reads."""
        return self._read_ahead_count >= self._limits.max_read_ahead

    @property
    def _read_ahead_count(self) -> int:
        return 0 if self._ahead is None else len(self._ahead)

    def _look_for_peer(self) -> None:
        """Notice that the peer has left, where reading would not."""
        if not self._filling and not self._over and self._transport.hung_up():
            self._lose("the connection ended without a Close")

    def _beat(self, heartbeat: Heartbeat) -> bool:
        """Look for a sign of life; whether the peer was pinged."""
        now = self._clock.now()
        need = self._pulse.look(now, heartbeat, deaf=not self._filling)
        if need is Need.CUT:
            self._cut(f"no answer to a ping in {heartbeat.timeout:g} s")
        elif need is Need.PING and self._closed is None:
            self._pulse.pinged(now)
            self._hand_over(self._outbox.put_control, encode_ping(BEAT))
            return True
        return False

    def _cut(self, cause: str) -> None:
        """End the connection without a word, for a peer that would not hear one."""
        if self._closed is None:
            self._note_end("server", ABNORMAL, cause, cause)
        self._transport.abort()
        self._lose(cause)

    def _leave(self) -> None:
        """Whoever read does not any more; an open stream is closed with 1001."""
        self._close(GOING_AWAY, "", cause="the application has ended")
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
            if self._filling:
                await trio.lowlevel.checkpoint()  # a reader that was interrupted leaves the transport first
            if not self._filling:
                await self._lingering.linger(self._transport, self._leash)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except trio.Cancelled:
            await self._say_last_words()
            raise
        finally:
            self._lose("the connection broke")
            self._note_clean()
            await self._transport.close()

    async def _write_until_over(self) -> None:
        outbox = self._outbox
        while True:
            if outbox.pending:
                self._write_by = self._clock.now() + self._timeouts.write
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
        """Read to the peer's Close, or to the close deadline, after a close by a user who does not receive."""
        self._reading = True
        # The close deadline interrupts the transport; over a foreign stream that ends a block, not a wait.
        with self._transport.interruptible():
            while await self._next() is not None:
                pass

    async def _say_last_words(self) -> None:
        code, reason, cause = GOING_AWAY, "", "the server has ended"
        if self._leash.draining:
            code, reason, cause = self._drain.code, self._drain.reason, DRAINED
        if self._closed is None:
            self._note_end("server", code, reason, cause)
        words = self._outbox.last_words(encode_close(code, reason))
        # Also if all was sent before: unread input has to be discarded, or the close resets the connection.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._outbox.count_last_words(await self._transport.send_last(words))

    def _expect_end(self) -> None:
        self._close_by = self._clock.now() + self._timeouts.close
        self._set_deadline()

    def _note_clean(self) -> None:
        """Note whether the peer could read everything; the connection has ended."""
        ended = self._closed
        assert ended is not None
        ended.clean = ended.answered and self._transport.incoming is Incoming.ENDED

    def _count_slow_close(self) -> None:
        """The peer is too slow: once, also if it is closed for that and then does not read its Close."""
        if not self._tally.slow_closes:
            self._tally.count_slow_close()

    def _set_deadline(self) -> None:
        self._leash.at = min(self._take_by, self._write_by, self._close_by, self._end_by, self._drain_by)

    def _expire(self) -> None:
        """A moment has passed: nobody took the stream, its time is over, or the peer is too slow."""
        now = self._clock.now()
        if self._take_by <= now:
            self._take_by = inf
            if not self._taken:
                self._close(TRY_AGAIN_LATER, "nobody takes this connection")
        if self._end_by <= now:
            self._end_by = inf
            self._close(*self._end_with, cause="its deadline has passed")
        if self._drain_by <= now:
            self._drain_by = inf
            self._drain_after(0, self._drain)
        self._set_deadline()
        if min(self._write_by, self._close_by) <= now:
            self._count_slow_close()
            if self._outbox.pending:
                self._cut("too slow")
            else:
                self._stop_waiting_for_close()

    def _stop_waiting_for_close(self) -> None:
        """The peer has not answered our Close in time; the connection task lingers, since it may still read."""
        self._transport.interrupt()
        self._lose("too slow")

    def _end_gracefully(self) -> None:
        """The server ends: be closed at some moment of the spread, unless an application sees to that."""
        if self._own_shutdown is not None and self._own_shutdown.is_set():
            return
        self._drain_after(random.uniform(0, self._drain.spread), self._drain)

    def _drain_after(self, seconds: float, drain: Drain) -> None:
        """Close because of a graceful end, after so many seconds; ``set_deadline`` does not move that."""
        self._drain = drain
        if seconds:
            self._drain_by = min(self._drain_by, self._clock.now() + seconds)
            self._set_deadline()
        else:
            self._close(drain.code, drain.reason, cause=DRAINED)
