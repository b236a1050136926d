"""One HTTP connection: read requests and send responses, in order, until it is closed or upgraded.

It connects a transport with the codec, and gets the responses from a ``Service``. It depends neither on App nor on
WebSockets: for an upgrade it returns the connection as a ``Handover``.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from .._http._events import EventType
from .._http._response import Response
from .._quoting import printable
from ._departures import HandlerScope
from ._head import BadRequest, TlsOnPlainPort
from ._http_phase import NEW_CONNECTION_GRACE, HttpPhase
from ._interface import Handover, Match, ServerSettings
from ._outgoing import Outgoing
from ._recording import Recording
from ._request_body import RequestBody, read_whole, too_long
from ._request_reader import RequestReader
from ._response_writer import CONTINUE
from ._responses import Responses
from ._stored_body import EMPTY_BODY
from ._transport import CHUNK

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .._http._body import BodyStream
    from .._http._request import Request
    from ._control import ConnectionControl
    from ._head import Head
    from ._lingering import Lingering
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

# Bytes that a request, or a piece of a body, counts for ``Fairness``. So after four of them that were buffered the
# task executes a checkpoint. Fewer checkpoints would be slightly cheaper, but a client that floods would delay the
# others.
_REQUEST_COST = 16 * 1024

# Module globals, because access to a member of an enumeration is slow in Python 3.11.
_NEW, _IDLE, _READING, _ANSWERING, _OVERDUE, _EXPIRED = HttpPhase
_WITHOUT_REQUEST = (_NEW, _IDLE, _EXPIRED)
_PASSED = (_OVERDUE, _EXPIRED)


class HttpConnection:
    """HTTP on a transport, from the accept or a refused upgrade until the connection ends or is upgraded.

    It runs in the connection task, which afterwards lingers on the transport and closes it.

    Args:
        transport: the transport.
        settings: the objects that all connections of the server share.
        control: the control of the connection. Its deadline and callbacks are set here.
        lingering: passed on in a ``Handover``.
        recording: records the responses; None if nothing does.
    """

    __slots__ = (
        "_control",
        "_counters",
        "_discarding",
        "_handlers",
        "_lingering",
        "_outgoing",
        "_phase",
        "_reader",
        "_recording",
        "_responses",
        "_settings",
        "_tls",
        "_transport",
        "_unread",
    )

    def __init__(
        self,
        transport: Transport,
        settings: ServerSettings,
        control: ConnectionControl,
        lingering: Lingering,
        recording: Recording | None,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._control = control
        self._lingering = lingering
        self._recording = recording
        self._counters = settings.observers.counters
        self._tls = transport.tls_info()
        self._reader = RequestReader(settings.limits, parse=settings.parse_head)
        self._outgoing = Outgoing(transport, control, settings, recording)
        self._handlers = HandlerScope(transport, control, settings.departures, settings.when_left)
        self._responses = Responses(transport, control, settings, self._outgoing, self._handlers, recording)
        self._discarding: trio.CancelScope | None = None  # while the rest of a body is discarded
        self._unread: tuple[Head, Match] | None = None  # the request whose body is being read
        self._phase = _NEW

    @property
    def idle(self) -> bool:
        """Whether the connection waits for a request, or waited when it ended, and no byte of it has arrived."""
        return self._phase in _WITHOUT_REQUEST

    def serve(self) -> Coroutine[Any, Any, Handover | None]:
        """Serve until the client closes, an error ends the connection, or a deadline passes.

        Returns:
            The connection, if the client has requested an upgrade that has a route; else None.
        """
        # Before the first byte, so that a client that sends nothing is cut off.
        self._set_deadline(self._settings.timeouts.header)
        # Not awaited here, because every coroutine between the task and the wait costs time at each wakeup.
        return self._guard()

    def resume(self, handover: Handover, refusal: Response) -> Coroutine[Any, Any, Handover | None]:
        """Send the response to a refused upgrade, and serve the connection as ``serve`` does."""
        settings = self._settings
        self._reader = RequestReader(settings.limits, handover.rest, parse=settings.parse_head)
        self._phase = _ANSWERING
        self._control.expire_at(inf)
        return self._guard(self._responses.deliver(handover.request, refusal, handover.close))

    async def _guard(self, first: Awaitable[bool] | None = None) -> Handover | None:
        self._control.hand_to(self._expire, self._drain)
        try:
            while True:
                with self._transport.interruptible(), self._handlers:
                    begin, first = first, None
                    return await self._serve_requests(False if begin is None else await begin)
                # interrupt was called. Over a trio stream, the bytes of a request may have arrived at the same
                # time. Then that request is served, unless the client has left.
                if self._handlers.has_left or self._phase in _PASSED or not self._reader.buffered:
                    break
        except BadRequest as exc:
            if isinstance(exc, TlsOnPlainPort):
                logger.info(
                    "TLS from %s on a port without TLS: use run_tls, or --tls-cert of the command line",
                    self._transport.peer,
                )
            await self._refuse_last(exc)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client has disconnected, or is too slow to read.
            if self._phase is _ANSWERING or self._unread is not None:
                self._handlers.note_left()
        finally:
            self._report_end()
        if self._phase is _OVERDUE:
            await self._refuse_last(BadRequest("the request took too long", 408))
        elif self._phase is _IDLE and self._control.draining and self._transport.has_input():
            # A request has arrived before the shutdown interrupted the wait for it. It has NEW_CONNECTION_GRACE.
            return await self._guard()
        return None

    def _report_end(self) -> None:
        """Record the responses that could not be sent, and report a client that has left."""
        self._note_unsent()
        if self._handlers.has_left:
            observers = self._settings.observers
            observers.report(EventType.STREAM_DISCONNECTED_WHILE_WAITING, self._transport.peer)

    def _expire(self) -> None:
        if self._phase is _ANSWERING:
            self._handlers.watch()
            return
        self._phase = _EXPIRED if self._phase in _WITHOUT_REQUEST else _OVERDUE
        self._transport.interrupt()

    def _drain(self) -> None:
        """A graceful shutdown has begun: read no further request, except the first one of a new connection."""
        if self._phase is _IDLE:
            self._transport.interrupt()
        elif self._phase is _NEW:
            self._set_deadline(NEW_CONNECTION_GRACE)
        elif self._discarding is not None:
            self._discarding.cancel()  # the response was sent, and no further request is read
        else:
            self._responses.end_events()

    # Requests...

    async def _serve_requests(self, close: bool) -> Handover | None:
        service, proxies, outgoing = self._settings.service, self._settings.proxies, self._outgoing
        counters, recording = self._counters, self._recording
        while not close:
            head = await self._next_head()
            if head is None:
                return None
            if proxies is not None:
                head.resolve(proxies, self._transport.peer)
            match = service.find(head.host, head.method, head.path, head.wants_websocket)
            if recording is not None:
                recording.begin(match.pattern)
            counters.requests += 1
            if head.wants_websocket and match.upgrades:
                return await self._hand_over(head, match)
            try:
                close = await self._answer(head, match)
            finally:
                counters.ended += 1
            if outgoing.size >= CHUNK:
                await outgoing.flush()
        await outgoing.flush()
        return None

    async def _next_head(self) -> Head | None:
        """Read the head of the next request. Returns None at the end of the connection."""
        reader, timeouts = self._reader, self._settings.timeouts
        if reader.buffered:
            head = reader.next_head()
            if head is not None:  # pipelined: it was received together with the previous request
                if self._settings.fairness.spent(_REQUEST_COST):
                    await trio.lowlevel.checkpoint()
                return head
        if self._outgoing.size:
            await self._outgoing.flush()
        if self._phase is _ANSWERING:
            if self._control.draining and not reader.buffered:
                # The shutdown began after the last response was encoded without Connection: close. Do not change
                # the phase to IDLE, because that response may be in transit and the connection must linger for it.
                return None
            self._phase = _IDLE
            self._set_deadline(timeouts.idle)
            monitor = self._settings.observers.monitor
            if monitor is not None:
                monitor.report(EventType.KEEP_ALIVE_RESPECTED, self._transport.peer)
        elif self._control.draining:
            self._set_deadline(NEW_CONNECTION_GRACE)
        head = None
        while head is None:
            if reader.buffered and self._phase in _WITHOUT_REQUEST:
                self._begin_reading()
            # As _receive, but without its coroutine, which would cost time at each wakeup.
            data = await self._transport.receive_some()
            if not data:
                return None
            self._counters.bytes_received += len(data)
            reader.receive(data)
            if self._control.draining or self._phase in _PASSED:
                await trio.lowlevel.checkpoint_if_cancelled()
            head = reader.next_head()
        self._phase = _ANSWERING
        self._control.expire_at(inf)
        return head

    def _begin_reading(self) -> None:
        """The first bytes of a request have arrived. A new connection keeps its deadline from the accept."""
        if self._phase is not _NEW or self._control.draining:
            self._set_deadline(self._settings.timeouts.header)
        self._phase = _READING

    async def _answer(self, head: Head, match: Match) -> bool:
        """Answer a request. Returns whether the connection ends after the response."""
        service = self._settings.service
        if not match.served:
            await self._outgoing.flush()
            request = self._to_request(head, match)
            rejection = await self._watched(service.reject(request, match))
            # The body is not read. If the connection stayed open, it would be parsed as the next request.
            return await self._responses.deliver(request, rejection, head.close or head.has_body)
        incoming: RequestBody | None = None
        content: bytes | BodyStream | None
        if match.stream:
            content = EMPTY_BODY if head.content_length == 0 else (incoming := self._open_body(head, match))
        else:
            content = b"" if head.content_length == 0 else await self._read_body(head, match)
        if content is None:
            self._handlers.note_left()
            return True
        # As _to_request, but without its call.
        limits, peer = self._settings.limits, self._transport.peer
        request = head.to_request(content, peer, self._tls, match.params, limits.fields)
        answer = service.respond(request, match)
        if not isinstance(answer, Response):
            if self._outgoing.size:
                await self._flush_before(answer)
            self._handlers.begin(match)
            try:
                answer = await service.settle(request, match, answer)
            except BaseException:
                if incoming is not None:
                    # A task that has outlived the handler must not read beside the connection.
                    await incoming.end()
                raise
            finally:
                self._handlers.end()
        if incoming is None and answer.body is None:
            return self._responses.put(request, answer, head.close, head_only=head.method == "HEAD")
        self._handlers.use_policy(match)
        return await self._answer_stream(request, answer, head.close, incoming)

    async def _watched(self, answer: Awaitable[Response]) -> Response:
        """Await the answer to a request that no handler gets. Layers and the error handler may be async."""
        self._handlers.begin(None)
        try:
            return await answer
        finally:
            self._handlers.end()

    def _to_request(self, head: Head, match: Match) -> Request:
        """Return a request whose body is not read."""
        limits = self._settings.limits
        return head.to_request(b"", self._transport.peer, self._tls, match.params, limits.fields)

    async def _flush_before(self, answer: Awaitable[Response]) -> None:
        """Send the previous responses before an async handler is awaited. If that fails, it is not awaited."""
        try:
            await self._outgoing.flush()
        except BaseException:
            if isinstance(answer, Coroutine):
                answer.close()  # avoids a RuntimeWarning that it was never awaited
            raise

    async def _hand_over(self, head: Head, match: Match) -> Handover:
        request = self._to_request(head, match)
        path = printable(head.path)
        self._settings.observers.report(EventType.WEBSOCKET_CONNECTION_REQUESTED, request.client, path)
        try:
            await self._outgoing.flush()
        except BaseException:
            self._counters.count_ended()
            raise
        return Handover(
            request,
            match.handler,
            head.close,
            self._reader.take_rest(),
            self._transport,
            self._control,
            self._settings,
            self._lingering,
            self._recording,
        )

    # Bodies of requests...

    async def _read_body(self, head: Head, match: Match) -> bytes | None:
        """Read the body. Returns None if the connection has ended before its end."""
        limit = self._check_size(head, match)
        if head.expects_continue and not self._reader.buffered:
            self._outgoing.put(CONTINUE)
        await self._outgoing.flush()
        self._phase = _READING
        self._set_deadline(self._settings.timeouts.body)
        content = await read_whole(self._reader, self._receive, self._settings.fairness, limit)
        if content is not None:
            self._unread = None
            self._phase = _ANSWERING
            self._control.expire_at(inf)
        return content

    def _check_size(self, head: Head, match: Match) -> int:
        """Return the maximum size of a body. Raises ``BadRequest`` if it is declared to be longer."""
        self._unread = head, match
        limit = self._settings.limits.body if match.max_body is None else match.max_body
        if head.content_length is not None and head.content_length > limit:
            raise too_long(limit)
        return limit

    async def _receive(self) -> bool:
        """Receive some bytes. Returns False at the end of file."""
        data = await self._transport.receive_some()
        if not data:
            return False
        self._counters.bytes_received += len(data)
        self._reader.receive(data)
        if self._control.draining or self._phase in _PASSED:
            # Over a trio stream, interrupt cancels a scope. If it was called just now, the cancellation must be
            # delivered here, and not in a handler.
            await trio.lowlevel.checkpoint_if_cancelled()
        return True

    def _open_body(self, head: Head, match: Match) -> RequestBody:
        """Return the body for a handler that reads it itself."""
        limit = self._check_size(head, match)
        self._unread = None
        return RequestBody(head, self._reader, self._transport, self._outgoing, self._settings, limit)

    async def _answer_stream(
        self, request: Request, response: Response, close: bool, incoming: RequestBody | None
    ) -> bool:
        """Send a response if it or the request is streamed. Returns whether the connection ends after it."""
        if incoming is None:
            return await self._responses.deliver(request, response, close)
        try:
            close = await self._responses.deliver(request, response, close, incoming)
        finally:
            await incoming.end()
        if close or incoming.is_at_end:
            return close
        await self._outgoing.flush()
        return not await self._discard(incoming)

    async def _discard(self, incoming: RequestBody) -> bool:
        """Discard the rest of a body. Returns whether the next request can be read."""
        if self._control.draining:
            return False
        discarded = False
        with trio.CancelScope() as self._discarding:
            discarded = await incoming.discard()
        self._discarding = None
        return discarded

    # Ending...

    async def _refuse_last(self, error: BadRequest) -> None:
        """Send an error response to an invalid request. The connection ends after it."""
        self._phase = _ANSWERING
        request = None if self._unread is None else self._to_request(*self._unread)
        service = self._settings.service
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError), self._handlers:
                response = await self._watched(service.refuse(error.status, request, error))
                head_only = request is None and self._reader.is_refused_head_request
                await self._responses.deliver(request, response, True, head_only=head_only)
                await self._outgoing.flush()
        finally:
            self._note_unsent()

    def _note_unsent(self) -> None:
        """Record the responses that could not be sent, or only in part."""
        if self._recording is not None:
            self._recording.note_sent(self._outgoing.size)

    # Deadlines...

    def _set_deadline(self, seconds: float) -> None:
        self._control.expire_at(self._settings.clock.now() + seconds)
