"""One HTTP connection: read requests and send responses, in order, until it is closed or upgraded.

It connects a transport with the codec, and gets the responses from a ``Service``. It depends neither on App nor on
WebSockets: for an upgrade it returns the connection as a ``Handover``.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .._http._field_lists import connection_options
from .._http._response import Response
from ._head import BadRequest
from ._request_reader import RequestReader
from ._response_writer import CONTINUE, ResponseWriter
from ._transport import CHUNK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from .._http._drain import Drain
    from .._http._headers import Headers
    from .._http._limits import Limits, Timeouts
    from .._http._request import Request
    from ._clock import SweepClock
    from ._control import ConnectionControl
    from ._fairness import Fairness
    from ._head import Head
    from ._lingering import Lingering
    from ._observers import Observers
    from ._request_reader import HeadParser
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

#: Seconds that a new connection has for its first request, or for its TLS handshake, after a graceful shutdown has
#: begun. The request may already be in transit.
NEW_CONNECTION_GRACE = 1.0

# Bytes that a request, or a piece of a body, counts for ``Fairness``. So after four of them that were buffered the
# task executes a checkpoint. Fewer checkpoints would be slightly cheaper, but a client that floods would delay the
# others.
_REQUEST_COST = 16 * 1024


class Match(Protocol):
    """The outcome of ``Service.find``: what answers a request."""

    @property
    def served(self) -> bool:
        """Whether a handler gets the request. Otherwise ``Service.reject`` answers, and the body is not read."""
        ...

    @property
    def upgrades(self) -> bool:
        """Whether the handler is a WebSocket route. The request then goes to ``Service.upgrade``."""
        ...

    @property
    def handler(self) -> Any:
        """The handler, for ``Handover.route``."""
        ...

    @property
    def params(self) -> Mapping[str, str]:
        """The ``path_params`` of the request."""
        ...

    @property
    def max_body(self) -> int | None:
        """The limit of the body in bytes; None for ``Limits.body``."""
        ...


class Service(Protocol):
    """The interface of the application for a connection. No method raises an ``Exception``."""

    def find(self, host: str, method: str, path: str, wants_websocket: bool, /) -> Match:
        """Find what answers a request.

        Called with the head only: the body is not read if no handler gets the request.

        Args:
            host: the authority of the request in lower case.
            method: the method of the request.
            path: the path of the request.
            wants_websocket: whether it is a request to open a WebSocket.
        """
        ...

    def respond(self, request: Request, match: Any, /) -> Response | Awaitable[Response]:
        """Call the handler of a match from ``find``.

        Returns:
            The response, or an awaitable that must be passed to ``settle``.
        """
        ...

    async def settle(self, request: Request, answer: Awaitable[Response], /) -> Response:
        """Await the result of ``respond``."""
        ...

    async def reject(self, request: Request, match: Any, /) -> Response:
        """Create the response to a request whose match is not served."""
        ...

    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        """Create an error response."""
        ...

    async def upgrade(self, handover: Handover) -> Response | None:
        """Run a WebSocket route.

        Returns:
            None if the upgrade was accepted and the WebSocket is closed. Otherwise the response that refuses it:
            the connection continues with HTTP.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The objects that all connections of a server share."""

    service: Service
    limits: Limits
    timeouts: Timeouts
    drain: Drain
    parse_head: HeadParser
    writer: ResponseWriter
    fairness: Fairness
    clock: SweepClock
    observers: Observers


class UpgradeGate(Protocol):
    """What an upgrade passes before it is accepted."""

    async def pass_admitted(self) -> Headers:
        """Wait until the upgrade may be accepted. Returns further header fields of the 101.

        Raises:
            Exception: the upgrade is refused.
        """
        ...


@dataclass(slots=True)
class Handover:
    """A connection for which the client has requested an upgrade.

    The receiver uses the transport until it returns. The connection task closes the transport.

    Attributes:
        request: the request for the upgrade.
        route: the handler of the match from ``Service.find``.
        close: whether the connection must be closed after the response if the upgrade is refused.
        rest: the bytes that were received after the head of the request.
        transport: the transport.
        control: the control of the connection. The receiver sets its deadline and callbacks.
        server: the objects that all connections of the server share.
        lingering: ends a connection so that the peer receives the last bytes.
        gate: what the upgrade passes before it is accepted; None for nothing.
    """

    request: Request
    route: Any
    close: bool
    rest: bytearray
    transport: Transport
    control: ConnectionControl
    server: ServerSettings
    lingering: Lingering
    gate: UpgradeGate | None = None


class Phase(enum.Enum):
    """The phase of a connection. It determines the effects of a deadline and of a graceful shutdown.

    ======== ======================================== ====================== =================================
    phase    deadline                                 when it passes         when a graceful shutdown begins
    ======== ======================================== ====================== =================================
    NEW      ``header``, from the accept on           the connection ends    the first request has a second
    IDLE     ``idle``                                 the connection ends    the connection ends
    READING  ``header`` or ``body``                   408                    the request is answered
    ANSWERED ``write``, while bytes wait to be sent   the peer is cut off    the response is sent
    OVERDUE  passed while READING
    EXPIRED  passed while NEW or IDLE
    ======== ======================================== ====================== =================================

    A connection is READING from the first byte of a request until the request is complete.
    """

    NEW = enum.auto()
    IDLE = enum.auto()
    READING = enum.auto()
    ANSWERED = enum.auto()
    OVERDUE = enum.auto()
    EXPIRED = enum.auto()


# Module globals, because access to a member of an enumeration is slow in Python 3.11.
_NEW, _IDLE, _READING, _ANSWERED, _OVERDUE, _EXPIRED = Phase
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
    """

    __slots__ = (
        "_control",
        "_lingering",
        "_out",
        "_out_size",
        "_phase",
        "_reader",
        "_settings",
        "_transport",
    )

    def __init__(
        self, transport: Transport, settings: ServerSettings, control: ConnectionControl, lingering: Lingering
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._control = control
        self._lingering = lingering
        self._reader = RequestReader(settings.limits, parse=settings.parse_head)
        self._out: list[bytes] = []
        self._out_size = 0
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
        return self._guard(False)

    async def resume(self, handover: Handover, refusal: Response) -> Handover | None:
        """Send the response to a refused upgrade, and serve the connection as ``serve`` does."""
        settings = self._settings
        self._reader = RequestReader(settings.limits, handover.rest, parse=settings.parse_head)
        self._phase = _ANSWERED
        self._control.expire_at(inf)
        head_only = handover.request.method == "HEAD"
        close = handover.close or self._control.draining
        return await self._guard(self._put_response(refusal, head_only=head_only, close=close))

    async def _guard(self, close: bool) -> Handover | None:
        self._control.hand_to(self._expire, self._drain)
        try:
            while True:
                with self._transport.interruptible():
                    return await self._serve_requests(close)
                # interrupt was called. Over a trio stream, the bytes of a request may have arrived at the same
                # time. Then that request is served.
                if self._phase in _PASSED or not self._reader.buffered:
                    break
        except BadRequest as exc:
            await self._refuse_last(exc)
            return None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has disconnected, or is too slow to read
        if self._phase is _OVERDUE:
            await self._refuse_last(BadRequest("the request took too long", 408))
        return None

    def _expire(self) -> None:
        self._phase = _EXPIRED if self._phase in _WITHOUT_REQUEST else _OVERDUE
        self._transport.interrupt()

    def _drain(self) -> None:
        """A graceful shutdown has begun: read no further request, except the first one of a new connection."""
        if self._phase is _IDLE:
            self._transport.interrupt()
        elif self._phase is _NEW:
            self._set_deadline(NEW_CONNECTION_GRACE)

    # Requests...

    async def _serve_requests(self, close: bool) -> Handover | None:
        service = self._settings.service
        while not close:
            head = await self._next_head()
            if head is None:
                return None
            match = service.find(head.host, head.method, head.path, head.wants_websocket)
            if head.wants_websocket and match.upgrades:
                return await self._lend(head, match)
            close = await self._answer(head, match)
            if self._out_size >= CHUNK:
                await self._flush()
        await self._flush()
        return None

    async def _next_head(self) -> Head | None:
        """Read the head of the next request. Returns None at the end of the connection."""
        reader, timeouts = self._reader, self._settings.timeouts
        head = reader.next_head()
        if head is not None:  # pipelined: it was received together with the previous request
            if self._settings.fairness.spent(_REQUEST_COST):
                await trio.lowlevel.checkpoint()
            return head
        if self._out:
            await self._flush()
        if self._phase is _ANSWERED:
            if self._control.draining and not reader.buffered:
                # The shutdown began after the last response was encoded without Connection: close. Do not change
                # the phase to IDLE, because that response may be in transit and the connection must linger for it.
                return None
            self._phase = _IDLE
            self._set_deadline(timeouts.idle)
        elif self._control.draining:
            self._set_deadline(NEW_CONNECTION_GRACE)
        while head is None:
            if reader.buffered and self._phase in _WITHOUT_REQUEST:
                self._begin_reading()
            # As _receive, but without its coroutine, which would cost time at each wakeup.
            data = await self._transport.receive_some()
            if not data:
                return None
            reader.receive(data)
            if self._control.draining or self._phase in _PASSED:
                await trio.lowlevel.checkpoint_if_cancelled()
            head = reader.next_head()
        self._phase = _ANSWERED
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
            await self._flush()
            rejection = await service.reject(self._to_request(head, match), match)
            # The body is not read. If the connection stayed open, it would be parsed as the next request.
            return self._reply(head, rejection, head.close or head.has_body)
        content = await self._read_body(head, match) if head.content_length != 0 else b""
        if content is None:
            return True
        request = self._to_request(head, match, content)
        answer = service.respond(request, match)
        if not isinstance(answer, Response):
            await self._flush_before(answer)
            answer = await service.settle(request, answer)
        return self._reply(head, answer, head.close)

    def _to_request(self, head: Head, match: Match, content: bytes = b"") -> Request:
        transport, limits = self._transport, self._settings.limits
        return head.to_request(content, transport.peer, transport.tls_info(), match.params, limits.fields)

    async def _flush_before(self, answer: Awaitable[Response]) -> None:
        """Send the previous responses before an async handler is awaited. If that fails, it is not awaited."""
        try:
            await self._flush()
        except BaseException:
            if isinstance(answer, Coroutine):
                answer.close()  # avoids a RuntimeWarning that it was never awaited
            raise

    async def _lend(self, head: Head, match: Match) -> Handover:
        await self._flush()
        return Handover(
            self._to_request(head, match),
            match.handler,
            head.close,
            self._reader.take_rest(),
            self._transport,
            self._control,
            self._settings,
            self._lingering,
        )

    # Bodies...

    async def _read_body(self, head: Head, match: Match) -> bytes | None:
        """Read the body. Returns None if the connection has ended before its end."""
        limit = self._settings.limits.body if match.max_body is None else match.max_body
        if head.content_length is not None and head.content_length > limit:
            raise BadRequest(f"the body is longer than {limit} bytes", 413)
        if head.expects_continue and not self._reader.buffered:
            self._put(CONTINUE)
        await self._flush()
        self._phase = _READING
        self._set_deadline(self._settings.timeouts.body)
        # BytesIO.getvalue does not copy. A list of pieces would take 40 bytes for each chunk of one byte.
        body = BytesIO()
        while (piece := await self._next_piece()) != b"":
            if piece is None:
                return None
            if body.tell() + len(piece) > limit:
                raise BadRequest(f"the body is longer than {limit} bytes", 413)
            body.write(piece)
        self._phase = _ANSWERED
        self._control.expire_at(inf)
        return body.getvalue()

    async def _receive(self) -> bool:
        """Receive some bytes. Returns False at the end of file."""
        data = await self._transport.receive_some()
        if not data:
            return False
        self._reader.receive(data)
        if self._control.draining or self._phase in _PASSED:
            # Over a trio stream, interrupt cancels a scope. If it was called just now, the cancellation must be
            # delivered here, and not in a handler.
            await trio.lowlevel.checkpoint_if_cancelled()
        return True

    async def _next_piece(self) -> bytes | None:
        while (piece := self._reader.next_body()) is None:
            if not await self._receive():
                return None
        if self._settings.fairness.spent(_REQUEST_COST):
            await trio.lowlevel.checkpoint()
        return piece

    # Responses...

    def _reply(self, head: Head, response: Response, close: bool) -> bool:
        close = close or self._control.draining
        return self._put_response(response, head_only=head.method == "HEAD", close=close)

    def _put_response(self, response: Response, *, head_only: bool, close: bool) -> bool:
        """Queue a response. Returns whether the connection ends after it."""
        given = response.headers
        if given and "connection" in given.names and "close" in connection_options(given):
            close = True
        self._put(self._settings.writer.encode(response, head_only=head_only, close=close))
        return close

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)

    async def _flush(self) -> None:
        """Send the queued responses. Those to pipelined requests are sent in one call."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            sent = self._transport.send_now(data)
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        # After the write timeout the connection must not linger, because the peer does not read. So abort it.
        self._control.hand_to(self._transport.abort, self._drain)
        while rest:
            self._set_deadline(self._settings.timeouts.write)
            rest = rest[await self._transport.send_some(rest) :]
        self._control.expire_at(inf)
        self._control.hand_to(self._expire, self._drain)

    async def _refuse_last(self, error: BadRequest) -> None:
        """Send an error response to an invalid request. The connection ends after it."""
        self._phase = _ANSWERED
        response = await self._settings.service.refuse(error.status, None, error)
        self._put(self._settings.writer.encode(response, head_only=False, close=True))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flush()

    # Deadlines...

    def _set_deadline(self, seconds: float) -> None:
        self._control.expire_at(self._settings.clock.now() + seconds)
