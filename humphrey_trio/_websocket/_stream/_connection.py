"""One open WebSocket: it puts the parts of a stream together, and does what the peer's frames ask for.

The parts are its phase, its inbox, its outbox and its deadlines; each knows nothing of the others. The connection
starts no task: readers call ``Inbox.next``, and the connection task writes (``_connection_task``). It never sees
an application.
"""

from __future__ import annotations

import itertools
from functools import partial
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

_NOBODY = Reader.NOBODY  # an enumeration looks its members up anew each time, which every message would feel

_BROKE = "the connection broke"
_ENDED = "the connection ended without a Close"


class WebsocketConnection:
    """The machinery of one ``WebsocketStream``.

    Attributes:
        id, request, subprotocol, value: as in ``WebsocketStream``.
        transport: the bytes.
        lifecycle: its phase, and how it ended.
        inbox, outbox: its two directions.
        deadlines: when it may have to be closed.
        counters: what a slow peer and slow handlers have cost.
        liveness: what heartbeats know of the peer; None before the first.
        deflate: the compression that was agreed on, or None.
    """

    __slots__ = (
        "_drain",
        "_fairness",
        "_run",
        "_server_end",
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
        self._user_close = _NO_CLOSE_CODE  # the code and the reason for ``Deadline.USER``
        self._drain = server.drain
        self._server_end: ServerEnd = CLOSE_IN_SPREAD
        control.hand_to(self.expire, self._server_ends)

    @property
    def peer_addr(self) -> Address:
        """The peer's end of the connection."""
        return self.transport.peer

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return not self.lifecycle.phase.is_open

    def __repr__(self) -> str:
        """The stream's, which stands in log lines."""
        state = str(self.closed_error()) if self.closed else "open"
        return f"<WebsocketStream {self.id} with {self.peer_addr}, {state}>"

    def check_run(self) -> None:
        """Refuse a call from another run of trio.

        Raises:
            RuntimeError: this is another.
        """
        if current_run() is not self._run:
            check_run(self._run, "this stream")

    def check_open(self) -> None:
        """Refuse what only an open stream can do.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        if self.closed:
            raise self.closed_error()

    def closed_error(self) -> ConnectionClosed:
        """What a caller is told; a new exception each time, since each gets its own traceback."""
        ending = self.lifecycle.ending
        assert ending is not None
        return ConnectionClosed(ending.code, ending.reason)

    # Sending...

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Sendable, compress: bool) -> None:
        """Send a message; see ``WebsocketStream.send``."""
        if current_run() is not self._run:
            self.check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        inbox, outbox, lifecycle = self.inbox, self.outbox, self.lifecycle
        if inbox.reader is _NOBODY:
            inbox.take()
        frame = encode_message(message)
        size = len(frame)
        if lifecycle.phase.is_open and (outbox.contended or not outbox.has_room(size)):
            await outbox.wait_for_room(size)
        if not lifecycle.phase.is_open:
            raise self.closed_error()
        if compress and self.deflate is not None:
            # Not before it is certain to be sent: the peer's memory has to follow the compressor's.
            frame = compress_for(frame, self.deflate)
        # Replies to a peer that sends many messages at once leave together: a system call for each would cost
        # more than all the rest, and fill the peer's buffers with tiny segments.
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
        """Put a frame into the outbox; afterwards the stream is closed if the peer was gone."""
        try:
            put(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose(_BROKE)

    def refuse_message(self, *, close: bool) -> None:
        """Count a message for which the outbox has no room, and perhaps close the stream for that."""
        self.counters.count_dropped(1)
        if close:
            self.count_slow_close()
            self.close(TRY_AGAIN_LATER, "too slow", cause="its outbox was full", drop_queue=True)

    # Receiving...

    def begin_receive(self) -> None:
        """Be read by the calling task, for one message, until ``end_receive``.

        Raises:
            ConnectionClosed: the stream is closed, and another task reads its last messages.
            trio.BusyResourceError: another task or an application reads.
        """
        if current_run() is not self._run:
            self.check_run()
        inbox = self.inbox
        if inbox.is_busy:
            self.check_open()
            raise trio.BusyResourceError("another task receives from this stream already")
        inbox.begin_receive()

    def end_receive(self) -> None:
        """Be read by the calling task no more."""
        self.inbox.end_receive()
        if not self.lifecycle.phase.is_open:
            self.outbox.wake()  # now the connection task may have to read up to the peer's Close

    def handle_control(self, event: Event) -> None:
        """Do what the peer asks for, with anything but a message."""
        if isinstance(event, Ping):
            self.put(self.outbox.put_control, encode_pong(event.payload))
        elif isinstance(event, Pong):
            if event.payload == HEARTBEAT_PAYLOAD and self.liveness is not None:
                self.liveness.note_pong(self.deadlines.now())
        elif isinstance(event, Close):
            # If we have not closed yet, our Close repeats its code (RFC 6455, section 5.5.1). What users have sent
            # before goes out in front of it: the peer may still read.
            self._end("client", event.code, event.reason)
            self._note_answered()
            self._move(Step.PEER_CLOSE)
        elif isinstance(event, Failure):
            self._end("server", event.code, event.reason, cause="what the client sent was refused")
            self._move(Step.FAILURE)

    async def before_close(self, code: int, reason: str) -> None:
        """Refuse what cannot be sent, or is called from another run of trio; a checkpoint.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        encode_close(code, reason)
        self.check_run()
        await trio.lowlevel.checkpoint()

    # The end. Each of these may come first; the first decides the code, and the table of phases what follows.

    def close(
        self,
        code: int,
        reason: str,
        *,
        cause: str = "",
        exception: BaseException | None = None,
        drop_queue: bool = False,
    ) -> None:
        """Close from this side: a Close goes behind what waits or, with ``drop_queue``, in its place."""
        if self.lifecycle.phase.is_open:
            # The note and the frame first: if the transport is broken, putting the frame is what finds out, and
            # the stream is lost by then.
            self._end("server", code, reason, cause=cause, exception=exception, drop_queue=drop_queue)
            self._move(Step.CLOSE)

    def lose(self, cause: str) -> None:
        """End without a Close of the peer: its bytes have ended, or nobody waits for them any longer."""
        self._note_ending("client", ABNORMAL, "", cause)
        self.outbox.abandon()
        self._move(Step.END)

    def cut(self, cause: str) -> None:
        """End the connection at once, for a peer that would not receive a Close either."""
        self._note_ending("server", ABNORMAL, cause, cause)
        self.transport.abort()
        self.lose(cause)

    def stop_reading(self) -> None:
        """Read no more; the connection task has written everything."""
        self._move(Step.END)

    def begin_last_words(self, *, server_drains: bool) -> bytes:
        """Close from this side, because the connection task is cancelled.

        Nobody is told yet: the handlers learn of it when the last words are sent, which over a foreign stream may
        take half a second.

        Returns:
            What to send at last; empty for nothing.
        """
        code, reason, cause = GOING_AWAY, "", "the server has ended"
        if server_drains:
            code, reason, cause = self._drain.code, self._drain.reason, SERVER_ENDS
        self._note_ending("server", code, reason, cause)
        self.lifecycle.move(Step.CLOSE)
        return self.outbox.last_words(encode_close(code, reason))

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
        """Note who closes first and put our Close; does nothing the second time."""
        if self.lifecycle.ending is not None:
            return
        self._note_ending(initiator, code, reason, cause, exception)
        # A Close without a code is answered by one without (RFC 6455, section 7.1.5: 1005 is never sent).
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
        """Take a step, and do what the new phase asks for."""
        lifecycle = self.lifecycle
        awaited, read = lifecycle.phase.awaits_close, lifecycle.phase.reads
        if not lifecycle.move(step):
            return
        if lifecycle.phase.awaits_close and not awaited:
            self.expect_close()  # not again where a failure follows our Close: the peer has its time already
        self.inbox.tell_change()
        if read and not lifecycle.phase.reads:
            self.outbox.wake()
            lifecycle.tell_over()

    def count_slow_close(self) -> None:
        """Count the peer as too slow: once, also if it is closed for that and then does not read its Close."""
        if not self.counters.slow_closes:
            self.counters.count_slow_close()

    # From hand to hand...

    def open(self, head: bytes, rest: bytes) -> bool:
        """Send the handshake's answer, and take what came behind the handshake.

        Returns:
            False if the stream was closed before, so that the handshake has to be refused.
        """
        if self.lifecycle.phase is not Phase.OPENING:
            return False
        self.inbox.receive_bytes(rest)
        self._move(Step.ANSWER)
        self.put(self.outbox.uncork, head)
        return True

    def expect_taker(self, seconds: float) -> None:
        """Be closed if nobody has taken the stream after so many seconds."""
        if not self.inbox.is_taken:
            self.deadlines.set(Deadline.TAKE, seconds)

    def take(self, limits: StreamLimits, timeouts: Timeouts, counters: Counters, server_end: ServerEnd) -> None:
        """Belong to an application, with its bounds and timeouts, its counters and its graceful end."""
        self.inbox.give_to(Reader.SESSION)
        self.inbox.limit(limits)
        self.outbox.limit(limits)
        self.counters.add_to(counters)
        self.deadlines.use(timeouts)
        self.deadlines.clear(Deadline.TAKE)
        self._server_end = server_end

    def leave(self) -> None:
        """Belong to an application no more; an open stream is closed with 1001."""
        self.close(GOING_AWAY, "", cause="the application has ended")
        if self.inbox.reader is Reader.SESSION:
            self.inbox.give_to(Reader.CALLERS)
        self.outbox.wake()

    # Time...

    def set_user_deadline(self, seconds: float, code: int, reason: str) -> None:
        """Be closed after so many seconds; see ``WebsocketStream.set_deadline``."""
        if not seconds > 0:
            raise ValueError("a deadline is seconds above zero from now on; to close at once there is close()")
        encode_close(code, reason)
        self.check_run()
        if self.lifecycle.phase.is_open:
            self._user_close = (code, reason)
            self.deadlines.set(Deadline.USER, seconds)

    def expect_close(self) -> None:
        """Give the peer ``Timeouts.close`` from now on."""
        self.deadlines.set(Deadline.CLOSE, self.deadlines.timeouts.close)

    def expire(self) -> None:
        """Do what the deadlines ask for that have passed; called by the server's sweep."""
        deadlines = self.deadlines
        if deadlines.take_passed(Deadline.TAKE) and not self.inbox.is_taken:
            self.close(TRY_AGAIN_LATER, "nobody takes this connection")
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
                # The peer has not answered our Close. The connection task lingers, since it may still read.
                self.transport.interrupt()
                self.lose("too slow")

    def drain(self, drain: Drain, seconds: float) -> None:
        """Be closed because of a graceful end, after so many seconds; ``set_deadline`` does not move that."""
        self._drain = drain
        if seconds:
            self.deadlines.set_earlier(Deadline.DRAIN, seconds)
        else:
            self.close(drain.code, drain.reason, cause=SERVER_ENDS)

    def _server_ends(self) -> None:
        self._server_end.on_server_end(self, self._drain)

    # The peer...

    def look_for_peer(self) -> None:
        """Notice that the peer has left, where no task reads and so would notice."""
        if not self.inbox.waiting and self.lifecycle.phase.reads and self.transport.hung_up():
            self.lose(_ENDED)

    def check_liveness(self, heartbeat: Heartbeat) -> bool:
        """Look for a sign of life; ping a silent peer, and cut off one that has not answered.

        Returns:
            Whether the peer was pinged.
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
