"""An upgrade to WebSocket: how a route accepts it, and which task runs what afterwards.

The route decides before anything is promised to the client. The connection task always keeps the stream
(``WebsocketStream._keep``); a route with a coroutine of its own runs beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

from .._failures import failure_of
from .._http._response import Response
from .._quoting import printable
from ._admission import Accept, Admission, Admitted
from ._codec import GOING_AWAY, INTERNAL_ERROR, NORMAL
from ._errors import HandshakeError, tells_the_end
from ._handshake import answer_handshake, check_handshake
from ._limits import StreamLimits
from ._stream import WebsocketStream

if TYPE_CHECKING:
    from typing import Unpack

    from .._http._headers import HeadersLike
    from .._http._request import Request
    from .._server._connection import Takeover
    from ._compression import Deflate
    from ._limits import StreamOptions

logger = logging.getLogger("humphrey_trio.websocket")

_State = TypeVar("_State")

#: What ``with_websocket_route`` takes.
WebsocketRoute: TypeAlias = Callable[["Upgrade", _State], Awaitable[Response | None]]


class Upgrade:
    """A client's wish to open a WebSocket, as a websocket route gets it.

    The route either accepts it, once, or returns a ``Response`` that refuses it. An attempt that fails, such as a
    hook without a place, leaves it as it was: the route may try another hook, or accept it itself. When the route
    has ended, nobody can accept it any more.

    Attributes:
        request: the opening handshake, checked.
    """

    __slots__ = ("_decided", "_ended", "_key", "_stream", "_takeover", "request")

    def __init__(self, takeover: Takeover) -> None:
        self._key = check_handshake(takeover.request)
        self.request: Request = takeover.request
        self._takeover = takeover
        self._stream: WebsocketStream | None = None  # from the attempt to accept on; None again if it has failed
        self._ended = False  # whether its route has returned or raised
        self._decided: trio.Event | None = None

    @trio.lowlevel.enable_ki_protection
    async def accept(
        self,
        *,
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        headers: HeadersLike = (),
        **options: Unpack[StreamOptions],
    ) -> WebsocketStream:
        """Complete the handshake and open the stream.

        The stream lives as long as the route runs: then it is closed with 1000, or with 1011 if the route
        raised. When the client leaves, the route has ``Timeouts.disconnect`` seconds to end before it is
        cancelled.

        Args:
            origins: the pages that may connect, such as ``{"https://example.com", "http://localhost:*"}``. In a
                host ``*`` stands for any run of characters; as a port it is any port. None for the pages of
                the host that they connect to, ``ANY_ORIGIN`` for all.
            subprotocols: those that are spoken, best first; the first that the client offers is taken.
            deflate: how messages are compressed, if the client can do that; None for not at all.
            headers: further header fields of the 101.
            **options: bounds of the stream, as in ``StreamLimits``.

        Raises:
            HandshakeError: the page's origin may not connect, which is logged, or the server ends; let it pass,
                and the client gets its status.
            RuntimeError: the upgrade was accepted before, or its route has refused it.
            ValueError, TypeError: an option or a header is invalid.
        """
        admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate)
        admission.check(self.request)
        admitted = admission.agree(self.request, Accept(headers=headers))
        return await self._accept(admitted, StreamLimits(**options))

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, admitted: Admitted, limits: StreamLimits) -> WebsocketStream:
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._attempt(admitted, limits) as stream:
            stream._own_reader()
            self._complete(admitted)
        # Not cancelled any more: the client has its 101, so the caller has to get its stream.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return stream

    @contextmanager
    def _attempt(self, admitted: Admitted, limits: StreamLimits) -> Generator[WebsocketStream]:
        """The stream before its handshake is answered, which waits until then with what is sent on it.

        If the handshake is not answered in the block, the attempt has failed, and another may be made.
        """
        if self._stream is not None:
            raise RuntimeError("this upgrade was accepted before, or another task is about to accept it")
        if self._ended:
            raise RuntimeError(
                "the route of this upgrade has ended and refused it: accept it while the route runs"
            )
        if self._takeover.leash.draining:
            raise self._unavailable("the server ends")
        stream = self._stream = WebsocketStream(self._takeover, limits, admitted)
        try:
            yield stream
        finally:
            if not stream._is_open:
                self._stream = None

    def _complete(self, admitted: Admitted) -> bool:
        """Answer the handshake; False if the stream was closed before."""
        assert self._stream is not None
        rest = self._takeover.rest
        opened = self._stream._open(answer_handshake(self._key, admitted.fields), bytes(rest))
        if opened:
            rest.clear()  # the stream has it now; without a stream HTTP goes on with it
            if self._decided is not None:
                self._decided.set()
        return opened

    def _end(self) -> None:
        """The route has ended. Without a stream the connection goes on with HTTP, and no task may accept it."""
        self._ended = True
        if self._stream is not None and not self._stream._is_open:
            # Another task waits for a place in a hook.
            self._stream._close(GOING_AWAY, "", cause="its route has refused it")

    def _unavailable(self, reason: str) -> HandshakeError:
        """A 503 that says after how many seconds to come back (RFC 9110, section 10.2.3)."""
        takeover, seconds = self._takeover, "1"
        if takeover.leash.draining:
            reason, seconds = "the server ends", takeover.server.drain.retry_after_field
        return HandshakeError(reason, 503, headers=[("Retry-After", seconds)])


async def run_upgrade(route: WebsocketRoute[Any], upgrade: Upgrade, state: object) -> Response | None:
    """Run a route in the connection task, and keep its stream until it has ended.

    Returns:
        The response that refuses the upgrade, or None.

    Raises:
        Exception: what the route raised before it accepted, HandshakeError among it.
    """
    # A route that gives its stream away returns at once, and needs no task of its own.
    if not getattr(route, "lends", False):
        return await _run_beside(route, upgrade, state)
    refusal = await route(upgrade, state)
    if refusal is None and upgrade._stream is not None:
        # Not in a coroutine of its own, which would cost every client 200 bytes.
        try:
            await upgrade._stream._keep()
        finally:
            _log_end(upgrade._stream)
    return refusal


def _log_end(stream: WebsocketStream) -> None:
    """How a stream ended; the connection has ended by then."""
    if logger.isEnabledFor(logging.INFO):
        record = stream.close_record
        extra = {
            "close_record": record,
            "stream_id": stream.id,
            "peer_addr": str(stream.peer_addr),
            "path": printable(stream.request.path),
        }
        logger.info("stream %d with %s %s", stream.id, stream.peer_addr, record, extra=extra)


async def _run_beside(route: WebsocketRoute[Any], upgrade: Upgrade, state: object) -> Response | None:
    """Run the route in a task of its own, and keep the stream in this one."""
    decided = upgrade._decided = trio.Event()
    refusal: Response | None = None
    error: Exception | None = None
    scope = trio.CancelScope()

    def limit_route() -> None:
        """The client has left, and the connection task may still linger: the route has to end."""
        disconnect = upgrade._takeover.server.timeouts.disconnect
        scope.deadline = min(scope.deadline, trio.current_time() + disconnect)

    async def run_route() -> None:
        nonlocal refusal, error
        try:
            with scope:
                refusal = await route(upgrade, state)
        except BaseException as exc:
            error = failure_of(exc, partial(_report_cancelled, upgrade))
        finally:
            upgrade._end()
        _part(upgrade, refusal, error)
        decided.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_route)
            await decided.wait()
            stream = upgrade._stream
            if stream is not None and stream._is_open:
                if stream._has_own_reader:
                    stream._on_gone = limit_route
                    nursery.start_soon(stream._read_ahead)
                try:
                    await stream._keep()
                finally:
                    _log_end(stream)
                limit_route()
                return None
    finally:
        # Here neither the route nor the reader runs any more, even if the route was cancelled.
        if upgrade._stream is not None and upgrade._stream._has_own_reader:
            upgrade._stream._count_unread()
    if error is not None:
        raise error
    return _checked(refusal)


def _checked(refusal: object) -> Response:
    if not isinstance(refusal, Response):
        raise TypeError(f"a websocket route that has neither accepted nor refused returned {refusal!r}")
    return refusal


def _report_cancelled(upgrade: Upgrade, failure: Exception) -> None:
    """Report what failed in a route that was cancelled, so that nothing can be answered."""
    if upgrade._stream is not None and upgrade._stream._is_open:
        _part(upgrade, None, failure)
    else:
        logger.error("the websocket route of %s failed", printable(upgrade.request.path), exc_info=failure)


def _part(upgrade: Upgrade, refusal: Response | None, error: Exception | None) -> None:
    """Close the stream of a route that has ended, and report what cannot be answered any more."""
    stream = upgrade._stream
    if stream is None or not stream._is_open:
        return
    if refusal is not None:
        logger.error("the route of %r returned %r after it had accepted", stream, refusal)
    failed = error is not None and not (stream.closed and tells_the_end(error))
    if failed:
        logger.error("the handler of %r failed", stream, exc_info=error)
    if stream._has_own_reader:  # else it was given away
        stream._count_unread()
        if failed:
            stream._close(INTERNAL_ERROR, "", cause="its handler failed", exception=error)
        else:
            stream._close(NORMAL, "", cause="its handler has ended")
