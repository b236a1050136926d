"""One open WebSocket: it connects the parts of a stream, and handles control frames and the end.

The parts are the phase, the inbox, the outbox and the deadlines. They do not depend on each other. The connection
starts no task: readers call ``Inbox.next``, and the connection task writes (``_connection_task``). The connection
does not depend on applications.
"""

from __future__ import annotations

import itertools
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import trio

from ..._runs import check_run, current_run
from .._close_record import Ending
from .._counters import Counters
from .._errors import ConnectionClosed
from .._protocol._close_codes import ABNORMAL, GOING_AWAY, NO_CODE, POLICY_VIOLATION, TRY_AGAIN_LATER
from .._protocol._decoder import Close, Failure, Ping, Pong
from .._protocol._encoder import EMPTY_CLOSE, compress_for, encode_close, encode_message, encode_ping, encode_pong
from ._deadlines import Deadline, Deadlines
from ._graceful_end import CLOSE_IN_SPREAD, SERVER_ENDS
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
    from ..._server._connection import Handover
    from .._close_record import Initiator
    from .._heartbeat import Heartbeat
    from .._limits import StreamLimits
    from .._message import Sendable
    from .._protocol._decoder import Event
    from ._admission import Admitted
    from ._graceful_end import ServerEnd

_ids = itertools.count(1)

_NO_CLOSE_CODE = (POLICY_VIOLATION, "")

_NONE = Reader.NONE  # saves the attribute lookup of the enum for each message

_BROKE = "the connection broke"
_ENDED = "the connection ended without a Close"


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
    """

    __slots__ = (
        "_drain",
        "_fairness",
        "_run",
        "_server_end",
        "_thread",
        "_user_close",
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
        self.deadlines = Deadlines(control, server.clock, server.timeouts)
        self.liveness: Liveness | None = None
        self._fairness = server.fairness
        self._run = current_run()
        self._thread = get_ident()
        self._user_close = _NO_CLOSE_CODE  # the code and the reason for ``Deadline.USER``
        self._drain = server.drain
        self._server_end: ServerEnd = CLOSE_IN_SPREAD
        control.hand_to(self.expire, self._server_ends)

    @property
    def peer_addr(self) -> Address:
        """The address of the peer."""
        return self.transport.peer

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return not self.lifecycle.phase.is_open

    def __repr__(self) -> str:
        """Return the repr of the ``WebsocketStream``, also used in log lines."""
        state = str(self.closed_error()) if self.closed else "open"
        return f"<WebsocketStream {self.id} with {self.peer_addr}, {state}>"

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

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Sendable, compress: bool) -> None:
        """Send a message; see ``WebsocketStream.send``."""
        # Another run of trio is in another thread. To compare the runs for each message would cost 0.1 us.
        if get_ident() != self._thread:
            self.check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        inbox, outbox, lifecycle = self.inbox, self.outbox, self.lifecycle
        if inbox.reader is _NONE:
            inbox.take()
        frame = encode_message(message)
        size = len(frame)
        if lifecycle.phase.is_open and (outbox.contended or not outbox.has_room(size)):
            await outbox.wait_for_room(size)
        if not lifecycle.phase.is_open:
            raise self.closed_error()
        if compress and self.deflate is not None:
            # Only now, when it is certain to be sent: the window of the peer must equal that of the compressor.
            frame = compress_for(frame, self.deflate)
        # If the peer sent several messages at once, the replies are sent together. A system call for each would
        # cost more than everything else, and fill the buffers of the peer with small segments.
        try:
            if inbox.decoder.buffered:
                outbox.put_later(frame)
            else:
                outbox.put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose(_BROKE)
        if not lifecycle.phase.is_open:
            raise self.closed_error()
        if self._fairness.spent(size):
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def ping(self, payload: bytes) -> None:
        """Send a Ping; see ``WebsocketStream.ping``."""
        frame = encode_ping(payload)
        self.check_run()
        await trio.lowlevel.checkpoint()
        self.inbox.take()
        self.check_open()
        self.put(self.outbox.put_control, frame)
        self.check_open()

    def put(self, put: Callable[[bytes], None], frame: bytes) -> None:
        """Call a ``put`` method of the outbox. If the connection is broken, the stream is closed."""
        try:
            put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose(_BROKE)

    def refuse_message(self, *, close: bool) -> None:
        """Count a message for which the outbox has no room as dropped.

        Args:
            close: whether to close the stream with 1013.
        """
        self.counters.count_dropped(1)
        if close:
            self.count_slow_close()
            self.close(TRY_AGAIN_LATER, "too slow", cause="its outbox was full", drop_queue=True)

    # Receiving...

    def begin_receive(self) -> None:
        """Begin to receive one message. The caller must call ``end_receive`` afterwards.

        Raises:
            ConnectionClosed: the stream is closed, and another task receives the last messages.
            trio.BusyResourceError: another task or an application receives.
            RuntimeError: called in another run of trio.
        """
        if get_ident() != self._thread:
            self.check_run()
        inbox = self.inbox
        if inbox.is_busy:
            self.check_open()
            raise trio.BusyResourceError("another task is receiving from this stream")
        inbox.begin_receive()

    def end_receive(self) -> None:
        """End to receive a message."""
        self.inbox.end_receive()
        if not self.lifecycle.phase.is_open:
            self.outbox.wake()  # the connection task may have to read until the Close of the peer

    def handle_control(self, event: Event) -> None:
        """Handle an event that is not a message."""
        if isinstance(event, Ping):
            self.put(self.outbox.put_control, encode_pong(event.payload))
        elif isinstance(event, Pong):
            if event.payload == HEARTBEAT_PAYLOAD and self.liveness is not None:
                self.liveness.note_pong(self.deadlines.now())
        elif isinstance(event, Close):
            # If we have not sent a Close, we reply with the same code (RFC 6455, section 5.5.1). Queued messages
            # are sent before it, because the peer may still read.
            self._end("client", event.code, event.reason)
            self._note_answered()
            self._move(Step.PEER_CLOSE)
        elif isinstance(event, Failure):
            self._end("server", event.code, event.reason, cause="what the client sent was refused")
            self._move(Step.FAILURE)

    async def before_close(self, code: int, reason: str) -> None:
        """Check the arguments of a close, and execute a checkpoint.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
            RuntimeError: called in another run of trio.
        """
        encode_close(code, reason)
        self.check_run()
        await trio.lowlevel.checkpoint()

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
            # The frame before the step: putting it may find that the connection is broken. Then ``lose`` has moved
            # the phase to CLOSED, and the step changes nothing.
            self._end("server", code, reason, cause=cause, exception=exception, drop_queue=drop_queue)
            self._move(Step.CLOSE)

    def lose(self, cause: str) -> None:
        """End without a Close of the peer: the input has ended, or a deadline for it has passed."""
        self._note_ending("client", ABNORMAL, "", cause)
        self.outbox.abandon()
        self._move(Step.END)

    def cut(self, cause: str) -> None:
        """Abort the connection without a Close, because the peer does not read or does not answer."""
        self._note_ending("server", ABNORMAL, cause, cause)
        self.transport.abort()
        self.lose(cause)

    def stop_reading(self) -> None:
        """Stop reading. Called when the connection task has written everything."""
        self._move(Step.END)

    def begin_final_close(self, *, server_drains: bool) -> bytes:
        """Close from this side, because the connection task is cancelled.

        It moves the phase without waking the readers. They must not see the end before the final frames are sent,
        which can take half a second over a trio stream. ``lose`` wakes them.

        Args:
            server_drains: whether a graceful shutdown of the server is the reason.

        Returns:
            The bytes to send; empty if nothing can be sent.
        """
        code, reason, cause = GOING_AWAY, "", "the server has ended"
        if server_drains:
            code, reason, cause = self._drain.code, self._drain.reason, SERVER_ENDS
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

    def _note_answered(self) -> None:
        if self.lifecycle.ending is not None:
            self.lifecycle.ending.note_answered()

    def _move(self, step: Step) -> None:
        """Take a step, and execute the effects of the new phase."""
        lifecycle = self.lifecycle
        awaited, read = lifecycle.phase.awaits_close, lifecycle.phase.reads
        if not lifecycle.move(step):
            return
        if lifecycle.phase.awaits_close and not awaited:
            self.expect_close()  # not from CLOSING to FAILED: then the deadline is set already
        self.inbox.tell_change()
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
        self.inbox.receive_bytes(rest)
        self._move(Step.ANSWER)
        self.put(self.outbox.uncork, head)
        return True

    def set_take_deadline(self, seconds: float) -> None:
        """Close the stream with 1013 if it has no reader after some seconds."""
        if not self.inbox.is_taken:
            self.deadlines.set(Deadline.TAKE, seconds)

    def take(self, limits: StreamLimits, timeouts: Timeouts, counters: Counters, server_end: ServerEnd) -> None:
        """Make an application the owner of the stream, with its limits, timeouts, counters and graceful end."""
        self.inbox.give_to(Reader.SESSION)
        self.inbox.limit(limits)
        self.outbox.limit(limits)
        self.counters.add_to(counters)
        self.deadlines.use(timeouts)
        self.deadlines.clear(Deadline.TAKE)
        self._server_end = server_end

    def leave(self) -> None:
        """End the ownership of the application. If the stream is open, it is closed with 1001."""
        self.close(GOING_AWAY, "", cause="the application has ended")
        if self.inbox.reader is Reader.SESSION:
            self.inbox.give_to(Reader.CALLERS)
        self.outbox.wake()

    # Time...

    def set_user_deadline(self, seconds: float, code: int, reason: str) -> None:
        """Close the stream after some seconds; see ``WebsocketStream.set_deadline``."""
        if not seconds > 0:
            raise ValueError("the deadline must be a number of seconds above zero; to close at once, call close()")
        encode_close(code, reason)
        self.check_run()
        if self.lifecycle.phase.is_open:
            self._user_close = (code, reason)
            self.deadlines.set(Deadline.USER, seconds)

    def expect_close(self) -> None:
        """Set the close deadline to ``Timeouts.close`` seconds from now."""
        self.deadlines.set(Deadline.CLOSE, self.deadlines.timeouts.close)

    def expire(self) -> None:
        """Handle the deadlines that have passed. Called by the sweep of the server."""
        deadlines = self.deadlines
        if deadlines.take_passed(Deadline.TAKE) and not self.inbox.is_taken:
            self.close(TRY_AGAIN_LATER, "no application took this connection")
        if deadlines.take_passed(Deadline.USER):
            code, reason = self._user_close
            self.close(code, reason, cause="its deadline has passed")
        if deadlines.take_passed(Deadline.DRAIN):
            self.drain(self._drain, 0)
        if deadlines.has_passed(Deadline.WRITE) or deadlines.has_passed(Deadline.CLOSE):
            self.count_slow_close()
            if self.outbox.pending:
                self.cut("too slow")
            else:
                # The peer has not answered our Close, but it may still read. So the connection task lingers.
                self.transport.interrupt()
                self.lose("too slow")

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
            self.close(drain.code, drain.reason, cause=SERVER_ENDS)

    def _server_ends(self) -> None:
        self._server_end.on_server_end(self, self._drain)

    # The peer...

    def look_for_peer(self) -> None:
        """Detect a disconnect of the peer while no task reads."""
        if not self.inbox.waiting and self.lifecycle.phase.reads and self.transport.hung_up():
            self.lose(_ENDED)

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
