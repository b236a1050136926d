"""One HTTP connection: requests in, responses out, in order, until it ends or leaves HTTP.

The shell moves bytes between a transport and the codec, and asks a small ``Service`` what to answer. It never
sees App, and it knows no WebSockets: an upgrade is given away whole.
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

from .._http._response import Response
from ._codec import CONTINUE, BadRequest, RequestReader, ResponseWriter, connection_options
from ._transport import CHUNK

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .._http._drain import Drain
    from .._http._limits import Limits, Timeouts
    from .._http._request import Request
    from ._codec import Head
    from ._lingering import Lingering
    from ._pacing import Leash, Pace, SweepClock
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

#: What a newcomer gets to send its request when the server ends, or to shake hands: it may be on its way.
LATE_SECONDS = 1.0

# Four pipelined requests, or as many pieces of a body, are a turn; then the other connections run. Longer turns
# would be a little cheaper, and make everybody else wait for whoever floods.
_REQUEST_COST = 16 * 1024


class Service(Protocol):
    """The application, as a connection sees it. No method raises an ``Exception``."""

    def find(self, host: str, path: str, /) -> Any:
        """The route of an ordinary request, for ``respond``; None if there is none.

        A body is read only if there is a route.
        """
        ...

    def find_websocket(self, host: str, path: str, /) -> Any:
        """The route of a request to open a WebSocket, for ``upgrade``; None if there is none."""
        ...

    def respond(self, request: Request, route: Any, /) -> Response | Awaitable[Response]:
        """The response of a route that ``find`` has found, or an awaitable for ``settle``."""
        ...

    async def settle(self, request: Request, answer: Awaitable[Response], /) -> Response:
        """The response that ``respond`` has left to be awaited."""
        ...

    async def reject(self, host: str, request: Request, /) -> Response:
        """The answer to an ordinary request without a route."""
        ...

    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        """The answer to what was not served."""
        ...

    async def upgrade(self, takeover: Takeover) -> Response | None:
        """Lend the connection; a response leaves it with HTTP, None when the other protocol has ended."""
        ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What all connections of a server share."""

    service: Service
    limits: Limits
    timeouts: Timeouts
    drain: Drain
    writer: ResponseWriter
    pace: Pace
    clock: SweepClock


@dataclass(slots=True)
class Takeover:
    """A connection on loan to another protocol.

    Attributes:
        request: the request that asks for it.
        route: what ``Service.find_websocket`` has found.
        close: whether the connection ends if HTTP answers it.
        rest: what came behind the request's head.
        transport: the bytes; the connection task closes it.
        leash: the borrower's to set.
        server: what all connections of the server share.
        lingering: how the borrower ends the connection, so that the peer receives the last bytes.
    """

    request: Request
    route: Any
    close: bool
    rest: bytearray
    transport: Transport
    leash: Leash
    server: ServerSettings
    lingering: Lingering


class Phase(enum.Enum):
    """What a connection does, and with it what a deadline and a graceful end mean.

    ======== ======================================== ====================== =================================
    phase    deadline                                 when it passes         when a graceful end begins
    ======== ======================================== ====================== =================================
    NEW      ``header``, from the accept on           the connection ends    the first request has a second
    IDLE     ``idle``                                 the connection ends    the connection ends
    READING  ``header`` or ``body``                   408                    the request is answered
    ANSWERED ``write``, while bytes wait to be sent   the peer is cut off    the response is sent
    OVERDUE  passed while READING
    EXPIRED  passed while NEW or IDLE
    ======== ======================================== ====================== =================================

    A connection is READING from the first byte of a request until the request is whole.
    """

    NEW = enum.auto()
    IDLE = enum.auto()
    READING = enum.auto()
    ANSWERED = enum.auto()
    OVERDUE = enum.auto()
    EXPIRED = enum.auto()


# Python 3.11 looks members up anew each time, which a small request would feel.
_NEW, _IDLE, _READING, _ANSWERED, _OVERDUE, _EXPIRED = Phase
_WITHOUT_REQUEST = (_NEW, _IDLE, _EXPIRED)
_PASSED = (_OVERDUE, _EXPIRED)


class HttpConnection:
    """HTTP on a transport, from its beginning or from a refused upgrade to its end or to an upgrade.

    The connection task runs it. Afterwards that task lingers on the transport and closes it.
    """

    __slots__ = (
        "_leash",
        "_lingering",
        "_out",
        "_out_size",
        "_phase",
        "_reader",
        "_settings",
        "_transport",
    )

    def __init__(self, transport: Transport, settings: ServerSettings, leash: Leash, lingering: Lingering) -> None:
        self._transport = transport
        self._settings = settings
        self._leash = leash
        self._lingering = lingering
        self._reader = RequestReader(settings.limits)
        self._out: list[bytes] = []
        self._out_size = 0
        self._phase = _NEW

    @property
    def idle(self) -> bool:
        """Whether it waits, or waited at its end, for a request of which no byte has arrived."""
        return self._phase in _WITHOUT_REQUEST

    async def serve(self) -> Takeover | None:
        """Serve until the client leaves, an error ends the connection, or a deadline passes.

        Returns:
            The connection on loan, if a request asks for another protocol.
        """
        # The first head is due from the accept on, so that a silent or dripping client is cut off in time.
        self._let_wait(self._settings.timeouts.header)
        return await self._guard(False)

    async def go_on(self, takeover: Takeover, refusal: Response) -> Takeover | None:
        """As ``serve``, from the answer to a refused upgrade on."""
        self._reader = RequestReader(self._settings.limits, takeover.rest)
        self._phase = _ANSWERED
        self._leash.at = inf
        head_only = takeover.request.method == "HEAD"
        close = takeover.close or self._leash.draining
        return await self._guard(self._put_response(refusal, head_only=head_only, close=close))

    async def _guard(self, close: bool) -> Takeover | None:
        self._leash.expire = self._expire
        self._leash.drain = self._drain
        try:
            while True:
                with self._transport.interruptible():
                    return await self._serve_requests(close)
                # It was interrupted; over a foreign stream perhaps at the moment in which a request arrived.
                if self._phase in _PASSED or not self._reader.buffered:
                    break
        except BadRequest as exc:
            await self._refuse_last(exc)
            return None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone, or too slow
        if self._phase is _OVERDUE:
            await self._refuse_last(BadRequest("the request took too long", 408))
        return None

    def _expire(self) -> None:
        self._phase = _EXPIRED if self._phase in _WITHOUT_REQUEST else _OVERDUE
        self._transport.interrupt()

    def _drain(self) -> None:
        """A graceful end begins: read no further request, but the first of a new connection."""
        if self._phase is _IDLE:
            self._transport.interrupt()
        elif self._phase is _NEW:
            self._let_wait(LATE_SECONDS)

    # Requests...

    async def _serve_requests(self, close: bool) -> Takeover | None:
        service = self._settings.service
        while not close:
            head = await self._next_head()
            if head is None:
                return None
            if head.wants_websocket and (route := service.find_websocket(head.host, head.path)) is not None:
                return await self._lend(head, route)
            close = await self._answer(head)
        await self._flush()
        return None

    async def _next_head(self) -> Head | None:
        """The next request's head; None at the end of the connection."""
        reader, timeouts = self._reader, self._settings.timeouts
        head = reader.next_head()
        if head is not None:  # it came with the one before it
            if self._settings.pace.spent(_REQUEST_COST):
                await trio.lowlevel.checkpoint()
            return head
        await self._flush()
        if self._phase is _ANSWERED:
            if self._leash.draining and not reader.buffered:
                # The server began to end after the head of the last response, which did not say so. The
                # connection is not idle: that response may still be on its way.
                return None
            self._phase = _IDLE
            self._let_wait(timeouts.idle)
        elif self._leash.draining:
            self._let_wait(LATE_SECONDS)
        while head is None:
            if reader.buffered and self._phase in _WITHOUT_REQUEST:
                self._begin_reading()
            if not await self._receive():
                return None
            head = reader.next_head()
        self._phase = _ANSWERED
        self._leash.at = inf
        return head

    def _begin_reading(self) -> None:
        """The first bytes of a request have arrived. The first request is due from the accept on."""
        if self._phase is not _NEW or self._leash.draining:
            self._let_wait(self._settings.timeouts.header)
        self._phase = _READING

    async def _receive(self) -> bool:
        """Receive some bytes; False at the end of the connection."""
        data = await self._transport.receive_some()
        if not data:
            return False
        self._reader.receive(data)
        if self._leash.draining or self._phase in _PASSED:
            # An interrupt at the same moment takes effect here, not later in a handler.
            await trio.lowlevel.checkpoint_if_cancelled()
        return True

    async def _answer(self, head: Head) -> bool:
        """Answer one request; whether the connection ends behind it."""
        service = self._settings.service
        route = service.find(head.host, head.path)
        if route is None:
            await self._flush()
            response = await service.reject(head.host, self._to_request(head))
            # A body that nobody reads would be taken for the next request.
            return await self._reply(head, response, head.close or head.has_body)
        content = await self._read_body(head) if head.has_body else b""
        if content is None:
            return True
        request = self._to_request(head, content)
        answer = service.respond(request, route)
        if not isinstance(answer, Response):
            await self._flush_before(answer)
            answer = await service.settle(request, answer)
        return await self._reply(head, answer, head.close)

    def _to_request(self, head: Head, content: bytes = b"") -> Request:
        return head.to_request(content, self._transport.peer, self._transport.tls_info())

    async def _flush_before(self, answer: Awaitable[Response]) -> None:
        """Replies that are ready do not wait for one that is not; if they fail, it is not awaited at all."""
        try:
            await self._flush()
        except BaseException:
            if isinstance(answer, Coroutine):
                answer.close()  # else Python warns that it was never awaited
            raise

    async def _lend(self, head: Head, route: Any) -> Takeover:
        await self._flush()
        return Takeover(
            self._to_request(head),
            route,
            head.close,
            self._reader.take_rest(),
            self._transport,
            self._leash,
            self._settings,
            self._lingering,
        )

    # Bodies...

    async def _read_body(self, head: Head) -> bytes | None:
        """The whole body; None if the client left in the middle of it."""
        limit = self._settings.limits.body
        if head.content_length is not None and head.content_length > limit:
            raise BadRequest(f"the body is longer than {limit} bytes", 413)
        if head.expects_continue and not self._reader.buffered:
            self._put(CONTINUE)
        await self._flush()
        self._phase = _READING
        self._let_wait(self._settings.timeouts.body)
        # One buffer, whose value is taken without a copy: a list would cost 40 bytes for each chunk of a byte.
        body = BytesIO()
        while (piece := await self._next_piece()) != b"":
            if piece is None:
                return None
            if body.tell() + len(piece) > limit:
                raise BadRequest(f"the body is longer than {limit} bytes", 413)
            body.write(piece)
        self._phase = _ANSWERED
        self._leash.at = inf
        return body.getvalue()

    async def _next_piece(self) -> bytes | None:
        while (piece := self._reader.next_body()) is None:
            if not await self._receive():
                return None
        if self._settings.pace.spent(_REQUEST_COST):
            await trio.lowlevel.checkpoint()
        return piece

    # Responses...

    async def _reply(self, head: Head, response: Response, close: bool) -> bool:
        close = close or self._leash.draining
        close = self._put_response(response, head_only=head.method == "HEAD", close=close)
        if self._out_size >= CHUNK:
            await self._flush()
        return close

    def _put_response(self, response: Response, *, head_only: bool, close: bool) -> bool:
        """Queue a response; whether the connection ends behind it."""
        if response.headers and "close" in connection_options(response.headers):
            close = True
        self._put(self._settings.writer.encode(response, head_only=head_only, close=close))
        return close

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)

    async def _flush(self) -> None:
        """Send what has gathered; the replies to pipelined requests leave together."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            sent = self._transport.send_now(data)
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        # A peer that takes nothing is not waited for any longer: lingering would wait for it, too.
        self._leash.expire = self._transport.abort
        while rest:
            self._let_wait(self._settings.timeouts.write)
            rest = rest[await self._transport.send_some(rest) :]
        self._leash.at = inf
        self._leash.expire = self._expire

    async def _refuse_last(self, error: BadRequest) -> None:
        """Answer what cannot be served; the connection ends behind that answer."""
        self._phase = _ANSWERED
        response = await self._settings.service.refuse(error.status, None, error)
        self._put(self._settings.writer.encode(response, head_only=False, close=True))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flush()

    # Deadlines...

    def _let_wait(self, seconds: float) -> None:
        self._leash.at = self._settings.clock.now() + seconds
