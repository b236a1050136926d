"""The responses of one connection: queued if their body is bytes, and streamed otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .._hints import add_hint
from .._http._body import discard, name_of_body
from .._http._field_lists import connection_options
from .._http._response import Response
from ._head import name_of
from ._response_stream import Framing, ResponseStream, framing_field, framing_of

if TYPE_CHECKING:
    from .._http._body import StreamedBody
    from .._http._request import Request
    from ._control import ConnectionControl
    from ._departures import HandlerScope
    from ._interface import ServerSettings
    from ._outgoing import Outgoing
    from ._recording import Recording
    from ._request_body import RequestBody
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")


class Responses:
    """Sends the responses of one connection.

    Every method that sends a response returns whether the connection ends after it. Its argument ``close`` is
    whether the request is a reason for that.

    Args:
        transport: the transport.
        control: the control of the connection.
        settings: the objects that all connections of the server share.
        outgoing: the outgoing side.
        handlers: the scope in which bodies are produced.
        recording: records the responses; None if nothing does.
    """

    __slots__ = (
        "_control",
        "_counters",
        "_handlers",
        "_outgoing",
        "_recording",
        "_settings",
        "_stream",
        "_transport",
    )

    def __init__(
        self,
        transport: Transport,
        control: ConnectionControl,
        settings: ServerSettings,
        outgoing: Outgoing,
        handlers: HandlerScope,
        recording: Recording | None,
    ) -> None:
        self._transport = transport
        self._control = control
        self._settings = settings
        self._outgoing = outgoing
        self._handlers = handlers
        self._recording = recording
        self._counters = settings.observers.counters
        self._stream: ResponseStream | None = None  # the response that is being streamed

    def end_events(self) -> None:
        """End the response if it is a stream of events, because a graceful shutdown has begun."""
        if self._stream is not None:
            self._stream.end_events()

    async def deliver(
        self,
        request: Request | None,
        response: Response,
        close: bool,
        incoming: RequestBody | None = None,
        *,
        head_only: bool = False,
    ) -> bool:
        """Queue a response, or stream it.

        Args:
            request: the request; None if its head could not be read.
            response: the response.
            close: see the class.
            incoming: the body of the request, if the handler reads it itself.
            head_only: whether to omit the body. It is always omitted if the method of ``request`` is HEAD (RFC
                9110, section 9.3.2).
        """
        head_only = head_only or (request is not None and request.method == "HEAD")
        if response.body is not None:
            return await self.stream(request, response, response.body, close, incoming, head_only=head_only)
        if incoming is not None:
            close = incoming.begin_response() or not incoming.may_be_discarded or close
        return self.put(request, response, close, head_only=head_only)

    def put(self, request: Request | None, response: Response, close: bool, *, head_only: bool) -> bool:
        """Queue a response whose body is bytes."""
        if "connection" in response.headers.names or self._control.draining or self._handlers.has_left:
            close = self._ends_after(response, close)
        data = self._settings.writer.encode(response, head_only=head_only, close=close)
        self._outgoing.put(data)
        self._counters.statuses[response.status] += 1
        if self._recording is not None:
            size = 0 if head_only else len(response.content)
            self._recording.put(request, response.status, size, len(data))
        return close

    def _ends_after(self, response: Response, close: bool) -> bool:
        if close or self._control.draining or self._handlers.has_left:
            return True
        given = response.headers
        return "connection" in given.names and "close" in connection_options(given)

    # Streams...

    async def stream(
        self,
        request: Request | None,
        response: Response,
        body: StreamedBody,
        close: bool,
        incoming: RequestBody | None,
        *,
        head_only: bool,
    ) -> bool:
        """Stream a response. See ``deliver``."""
        framing = framing_of(body, "HTTP/1.0" if request is None else request.version)

        def make_head() -> bytes:
            # Only the head decides whether the connection ends after the response. It is encoded when the first
            # piece is sent, and by then a shutdown may have begun, or the body of the request may have been read.
            nonlocal close
            uncertain = incoming is not None and incoming.begin_response()
            close = self._ends_after(response, close or uncertain or framing is Framing.CLOSE)
            return self._settings.writer.encode_head(response, framing_field(body, framing), close=close)

        if head_only:
            discard(body)
            self._put_head(request, response.status, make_head())
            return close
        stream = ResponseStream(
            body,
            framing,
            make_head,
            self._outgoing,
            self._transport,
            self._settings.fairness,
            self._handlers.leave,
        )
        try:
            failure = await self._run(stream, body)
        finally:
            if stream.begun:
                self._note_streamed(request, response.status, stream.sent)
        if failure is None:
            return close
        if not stream.begun:
            return await self._replace(request, response, failure, close, incoming)
        if incoming is None or not incoming.explains(failure):
            add_hint(failure)
            logger.error("%s failed for %s", name_of_body(response.body), name_of(request), exc_info=failure)
        return True

    def _put_head(self, request: Request | None, status: int, head: bytes) -> None:
        """Queue the head of a streamed response, as the whole response."""
        self._outgoing.put(head)
        self._counters.statuses[status] += 1
        if self._recording is not None:
            self._recording.put(request, status, 0, len(head))

    def _note_streamed(self, request: Request | None, status: int, size: int) -> None:
        """Count and record a response that was streamed, to its end or not."""
        self._counters.statuses[status] += 1
        if self._recording is not None:
            self._recording.record(request, status, size)

    async def _run(self, stream: ResponseStream, body: StreamedBody) -> Exception | None:
        self._handlers.begin(self._handlers.policy)
        self._stream = stream
        if self._control.draining:
            stream.end_events()
        try:
            return await stream.run()
        finally:
            self._stream = None
            self._handlers.end()
            discard(body)

    async def _replace(
        self,
        request: Request | None,
        failed: Response,
        failure: Exception,
        close: bool,
        incoming: RequestBody | None,
    ) -> bool:
        """Answer a request whose response has failed before its head was sent."""
        answer = await self._settings.service.fail(request, failure, failed)
        if answer.body is not None:  # it might fail as well
            discard(answer.body)
            answer = Response.empty(answer.status)
        return await self.deliver(request, answer, close, incoming)
