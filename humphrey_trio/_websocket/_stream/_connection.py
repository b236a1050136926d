"""One open WebSocket: it connects the parts of a stream, and handles control frames and the end.

The parts are the phase, the inbox, the outbox and the deadlines. They do not depend on each other. The connection
starts no task. Users call the functions of ``_calls``, readers ``Inbox.next``, and the connection task writes
(``_connection_task``). The connection does not depend on applications.
"""

from __future__ import annotations

import itertools
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import trio

from ..._trio_runs import check_run, current_run
from .._causes import (
    APP_CANCELLED,
    CONNECTION_BROKE,
    DEADLINE_PASSED,
    NO_CLOSE,
    SERVER_CANCELLED,
    SHUTTING_DOWN,
    TOO_SLOW,
    VIOLATION,
)
from .._close_record import Ending
from .._counters import Counters
from .._errors import ConnectionClosed
from .._protocol._close_codes import ABNORMAL, GOING_AWAY, NO_CODE, TRY_AGAIN_LATER
from .._protocol._decoder import Close, Failure, Ping, Pong
from .._protocol._encoder import EMPTY_CLOSE, encode_close, encode_ping, encode_pong
from ._deadline_table import Deadline, DeadlineTable
from ._graceful_end import CLOSE_IN_SPREAD
from ._inbox import Inbox, Reader
from ._liveness import HEARTBEAT_PAYLOAD, Liveness, Need
from ._outbox import Outbox
from ._phase import Lifecycle, Phase, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._http._address import Address
    from ..._http._drain import Drain
    from ..._http._limits import Timeouts
    from ..._http._request import Request
    from ..._server._interface import Handover
    from .._close_record import Initiator
    from .._heartbeat_settings import Heartbeat
    from .._limits import StreamLimits
    from .._protocol._decoder import Event
    from ._admission import Admitted
    from ._deadline_table import TakeWatch
    from ._graceful_end import ServerEnd

# Seconds in a hook after which the route of a stream is told that the stream waits.
_UNTAKEN_SECONDS = 1.0

_ids = itertools.count(1)


class WebsocketConnection:
    """The machinery of one ``WebsocketStream``.

    Attributes:
        id, request, subprotocol, value: as in ``WebsocketStream``.
        transport: the transport; only the connection task closes it.
        lifecycle: the phase, and the note of the first close.
        inbox, outbox: the incoming and the outgoing side.
        deadlines: the deadlines of the stream.
        counters: the counters of dropped messages and of waits.
        liveness: the state of the heartbeat; None before its first check.
        deflate: the negotiated compression, or None.
        thread: the thread of the run of trio that the stream belongs to.
    """

    __slots__ = (
        "_drain",
        "_run",
        "_server_end",
        "counters",
        "deadlines",
        "deflate",
        "id",
        "inbox",
        "lifecycle",
        "liveness",
        "outbox",
        "request",
        "subprotocol",
        "thread",
        "transport",
        "value",
    )

    def __init__(self, handover: Handover, limits: StreamLimits, admitted: Admitted) -> None:
        server, control = handover.server, handover.control
        self.id = next(_ids)
        self.request: Request = handover.request
        self.subprotocol = admitted.subprotocol
        self.value = admitted.value
        self.transport = handover.transport
        self.deflate = admitted.deflate
        self.lifecycle = Lifecycle(trio.current_time())
        self.counters = Counters()
        self.inbox = Inbox(handover.transport, server.fairness, limits, admitted.deflate, self.counters)
        self.outbox = Outbox(handover.transport, limits, self.counters)
        self.deadlines = DeadlineTable(control, server.clock, server.timeouts)
        self.liveness: Liveness | None = None
        self._run = current_run()
        self.thread = get_ident()
        self._drain = server.drain
        self._server_end: ServerEnd = CLOSE_IN_SPREAD
        control.hand_to(self.expire, self._server_ends)

    @property
    def peer_addr(self) -> Address:
        """The address of the peer."""
        return self.transport.peer

    @property
    def client(self) -> Address:
        """The address of the client, as ``Request.client``."""
        return self.request.client

    @property
    def server(self) -> object:
        """Identifies the server of the connection: the object that counts the work of its connections."""
        return self.inbox.fairness

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return not self.lifecycle.phase.is_open

    def __repr__(self) -> str:
        """Return the repr of the ``WebsocketStream``, also used in log lines."""
        state = str(self.closed_error()) if self.closed else "open"
        return f"<WebsocketStream {self.id} with {self.client}, {state}>"

    def check_run(self) -> None:
        """Check that the calling task belongs to the run of trio of the stream.

        Raises:
            RuntimeError: it does not.
        """
        check_run(self._run, "this stream")

    def check_open(self) -> None:
        """Check that the stream is open.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        if self.closed:
            raise self.closed_error()

    def closed_error(self) -> ConnectionClosed:
        """Create the exception of a closed stream. A new one for each caller, because it has a traceback."""
        ending = self.lifecycle.ending
        assert ending is not None
        return ConnectionClosed(ending.code, ending.reason)

    # Sending...

    def put(self, put: Callable[[bytes], None], frame: bytes) -> None:
        """Call a ``put`` method of the outbox. If the connection is broken, the stream is closed."""
        try:
            put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.note_broken()

    def note_broken(self) -> None:
        """End, because the transport has raised an error."""
        self.end_without_close(CONNECTION_BROKE)

    # Receiving...

    def handle_control(self, event: Event) -> None:
        """Handle an event that is not a message."""
        if isinstance(event, Ping):
            # Does nothing after our Close: no frame may follow it (RFC 6455, section 5.5.1).
            self.put(self.outbox.put_control, encode_pong(event.payload))
        elif isinstance(event, Pong):
            # Any other Pong was not asked for by the heartbeat, and is ignored (section 5.5.3).
            if event.payload == HEARTBEAT_PAYLOAD and self.liveness is not None:
                self.liveness.note_pong(self.deadlines.now())
        elif isinstance(event, Close):
            # If we have not sent a Close, we reply with the same code (RFC 6455, section 5.5.1). Queued messages
            # are sent before it, because the peer may still read.
            self._end("client", event.code, event.reason)
            self.lifecycle.note_answered()
            self._move(Step.PEER_CLOSE)
        elif isinstance(event, Failure):
            self._end("server", event.code, event.reason, cause=VIOLATION)
            self._move(Step.FAILURE)

    # The end. These methods may be called in any order. The first call determines the close code; the table of
    # transitions in _phase determines the effect of the others.

    def close(
        self,
        code: int,
        reason: str,
        *,
        cause: str = "",
        exception: BaseException | None = None,
        drop_queue: bool = False,
    ) -> None:
        """Close from this side. Does nothing if the stream is closed.

        Args:
            code, reason: the content of the Close frame, checked.
            cause, exception: for the close record.
            drop_queue: whether to drop queued messages. Else the Close is sent after them.
        """
        if self.lifecycle.phase.is_open:
            # The frame before the step: putting it may find that the connection is broken. Then
            # ``end_without_close`` has moved the phase to CLOSED, and the step changes nothing.
            self._end("server", code, reason, cause=cause, exception=exception, drop_queue=drop_queue)
            self._move(Step.CLOSE)

    def end_without_close(self, cause: str) -> None:
        """End without a Close of the peer: the input has ended, or a deadline for it has passed."""
        # 1006 is for the record only and is never sent (RFC 6455, section 7.4.1).
        self._note_ending("client", ABNORMAL, "", cause)
        # The outbox before the step: it wakes the writer, which must find that the outbox has ended.
        self.outbox.abandon()
        self._move(Step.END)

    def cut(self, cause: str) -> None:
        """Abort the connection without a Close, because the peer does not read or does not answer."""
        # Before ``end_without_close``, which would note the client as the side that has ended the stream.
        self._note_ending("server", ABNORMAL, cause, cause)
        self.transport.abort()
        self.end_without_close(cause)

    def stop_reading(self) -> None:
        """Stop reading. Called when the connection task has written everything."""
        self._move(Step.END)

    def begin_final_close(self, *, server_drains: bool) -> bytes:
        """Close from this side, because the connection task is cancelled.

        It moves the phase without waking the readers. They must not see the end before the final frames are sent,
        which can take half a second over a trio stream. ``end_without_close`` wakes them.

        Args:
            server_drains: whether a graceful shutdown of the server is the reason.

        Returns:
            The bytes to send; empty if nothing can be sent.
        """
        code, reason, cause = GOING_AWAY, "", SERVER_CANCELLED
        if server_drains:
            code, reason, cause = self._drain.code, self._drain.reason, SHUTTING_DOWN
        self._note_ending("server", code, reason, cause)
        self.lifecycle.move(Step.CLOSE)
        return self.outbox.final_frames(encode_close(code, reason))

    def _end(
        self,
        initiator: Initiator,
        code: int,
        reason: str,
        *,
        cause: str = "",
        exception: BaseException | None = None,
        drop_queue: bool = False,
    ) -> None:
        """Note the first close and put our Close frame. Does nothing after the first call."""
        if self.lifecycle.ending is not None:
            return
        # Before the frame is put, so that the record has what waited at this moment, without the Close and before
        # messages are dropped.
        self._note_ending(initiator, code, reason, cause, exception)
        # The reply to a Close without a code has none either: 1005 must not be sent (RFC 6455, section 7.4.1).
        close = EMPTY_CLOSE if code == NO_CODE else encode_close(code, reason)
        self.put(partial(self.outbox.end, drop_queue=drop_queue), close)

    def _note_ending(
        self, initiator: Initiator, code: int, reason: str, cause: str, exception: BaseException | None = None
    ) -> None:
        lifecycle, queue = self.lifecycle, self.outbox
        if lifecycle.ending is None:
            age = trio.current_time() - lifecycle.began
            waits = queue.queued_messages, queue.queued_bytes
            lifecycle.note_ending(Ending(initiator, code, reason, cause, exception, age, *waits))

    def _move(self, step: Step) -> None:
        """Take a step, and execute the effects of the new phase."""
        lifecycle = self.lifecycle
        awaited, read = lifecycle.phase.awaits_close, lifecycle.phase.reads
        if not lifecycle.move(step):
            return
        if lifecycle.phase.awaits_close and not awaited:
            self.expect_close()  # not from CLOSING to FAILED: then the deadline is set already
        # A reader that waits for the handshake, for a message or for room checks the new phase.
        self.inbox.tell_change()
        # Only the step that ends reading. Afterwards the writer need not wait for the Close of the peer, and the
        # function of ``when_over`` cancels what works for the client.
        if read and not lifecycle.phase.reads:
            self.outbox.wake()
            lifecycle.tell_over()

    def count_slow_close(self) -> None:
        """Count the peer as too slow. Counts only once, although it may also be too slow to read the Close."""
        if not self.counters.slow_closes:
            self.counters.count_slow_close()

    # Opening, and changes of the owner...

    def open(self, head: bytes, rest: bytes) -> bool:
        """Answer the handshake.

        Args:
            head: the 101 response.
            rest: the bytes that were received after the handshake.

        Returns:
            False if the stream was closed before, so that the handshake must be refused.
        """
        if self.lifecycle.phase is not Phase.OPENING:
            return False
        # A client may send frames together with its handshake, although it does not know yet whether it is
        # accepted.
        self.inbox.receive_bytes(rest)
        self._move(Step.ANSWER)
        self.put(self.outbox.uncork, head)
        return True

    def set_take_deadline(self, watch: TakeWatch) -> None:
        """Close the stream with 1013 if it has no reader after ``take_timeout`` of its route."""
        if not self.inbox.is_taken:
            self.deadlines.set_take(min(_UNTAKEN_SECONDS, watch.take_timeout), watch)

    def _note_untaken(self) -> None:
        """Tell the route of a stream that waits in a hook. The second time, close the stream."""
        watch = self.deadlines.pop_take_watch()
        left = 0.0
        if watch is not None:
            watch.note_untaken(self.request.path)
            left = watch.take_timeout - _UNTAKEN_SECONDS
        if left > 0:
            self.deadlines.set(Deadline.TAKE, left)
        else:
            self.close(TRY_AGAIN_LATER, "no application took this connection")

    def take(self, limits: StreamLimits, timeouts: Timeouts, counters: Counters, server_end: ServerEnd) -> None:
        """Make an application the owner of the stream, with its limits, timeouts, counters and graceful end."""
        # No frame is decoded before a stream has a reader, so the new limits hold from the first frame on.
        self.inbox.give_to(Reader.SESSION)
        self.inbox.limit(limits)
        self.outbox.limit(limits)
        self.counters.add_to(counters)
        self.deadlines.use(timeouts)
        self.deadlines.clear(Deadline.TAKE)
        self._server_end = server_end

    def release(self) -> None:
        """End the ownership of the application. If the stream is open, it is closed with 1001."""
        self.close(GOING_AWAY, "", cause=APP_CANCELLED)
        # The session reads no further. Without this, the connection task would leave it to the session to read
        # until the Close of the peer.
        if self.inbox.reader is Reader.SESSION:
            self.inbox.give_to(Reader.CALLERS)
        self.outbox.wake()

    # Time...

    def expect_close(self) -> None:
        """Set the close deadline to ``Timeouts.close`` seconds from now."""
        self.deadlines.set(Deadline.CLOSE, self.deadlines.timeouts.close)

    def expire(self) -> None:
        """Handle the deadlines that have passed. Called by the sweep of the server."""
        # The order matters only for the close code: of several deadlines in one sweep, the first one closes.
        deadlines = self.deadlines
        if deadlines.take_passed(Deadline.TAKE) and not self.inbox.is_taken:
            self._note_untaken()
        if deadlines.take_passed(Deadline.USER):
            code, reason = self.deadlines.user_close
            self.close(code, reason, cause=DEADLINE_PASSED)
        if deadlines.take_passed(Deadline.DRAIN):
            self.drain(self._drain, 0)
        if deadlines.has_passed(Deadline.WRITE) or deadlines.has_passed(Deadline.CLOSE):
            self.count_slow_close()
            if self.outbox.pending:
                self.cut(TOO_SLOW)
            else:
                # The peer has not answered our Close, but it may still read. So the connection task lingers.
                self.transport.interrupt()
                self.end_without_close(TOO_SLOW)

    def drain(self, drain: Drain, seconds: float) -> None:
        """Close the stream for a graceful shutdown.

        Args:
            drain: the code and the reason.
            seconds: the time from now; 0 for at once. ``set_deadline`` does not change it.
        """
        self._drain = drain
        if seconds:
            self.deadlines.set_earlier(Deadline.DRAIN, seconds)
        else:
            self.close(drain.code, drain.reason, cause=SHUTTING_DOWN)

    def _server_ends(self) -> None:
        self._server_end.on_server_end(self, self._drain)

    # The peer...

    def detect_disconnect(self) -> None:
        """Detect a disconnect of the peer while no task reads."""
        if not self.inbox.waiting and self.lifecycle.phase.reads and self.transport.hung_up():
            self.end_without_close(NO_CLOSE)

    def check_liveness(self, heartbeat: Heartbeat) -> bool:
        """Send a Ping to a silent peer, and cut off one that has not answered the last Ping.

        Returns:
            Whether a Ping was sent.
        """
        if self.liveness is None:
            self.liveness = Liveness()
        now, inbox = self.deadlines.now(), self.inbox
        need = self.liveness.check(now, heartbeat, bytes_received=inbox.bytes_received, reading=inbox.waiting)
        if need is Need.CUT:
            self.cut(f"no answer to a ping in {heartbeat.timeout:g} s")
        elif need is Need.PING and self.lifecycle.phase.is_open:
            self.liveness.note_ping(now)
            self.put(self.outbox.put_control, encode_ping(HEARTBEAT_PAYLOAD))
            return True
        return False
