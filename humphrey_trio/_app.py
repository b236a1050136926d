"""The HTTP application: hosts, routes, handlers and errors, with or without a server in front of it."""

from __future__ import annotations

import html
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import trio

from ._failures import failure_of
from ._http._address import Address
from ._http._drain import Drain
from ._http._headers import Headers
from ._http._limits import Limits, Timeouts
from ._http._request import Request
from ._http._response import Response
from ._http._statistics import HttpStatistics
from ._http._status import reason_phrase
from ._krauss import wildcard_match
from ._quoting import printable
from ._route import HttpRoute, Routes, RouteTable, SubApp, http_routes, websocket_routes
from ._server._certificate import Certificate, CertificateFiles, GivenContext
from ._server._codec import BadRequest, ResponseWriter
from ._server._connection import ServerSettings, Takeover
from ._server._direct import DirectStream, DirectTransport
from ._server._listen import open_listeners
from ._server._pacing import Pace, SweepClock
from ._server._server import HttpServer, check_shutdown
from ._server._transport import StreamTransport, Transport
from ._state import State
from ._websocket._errors import HandshakeError
from ._websocket._handshake import no_handshake
from ._websocket._serve_upgrade import serve_upgrade

if TYPE_CHECKING:
    from ._websocket._upgrade import WebsocketRoute

logger = logging.getLogger("humphrey_trio.http")

# The peer of a stream that has no address.
_MEMORY = Address("memory")

_Route = TypeVar("_Route")

#: What ``with_error_handler`` takes: ``(status, request or None, exception or None)``, plain or async.
ErrorHandler: TypeAlias = Callable[[int, Request | None, Exception | None], Response | Awaitable[Response]]


class App(Routes[State]):
    """An HTTP application.

    Args:
        state: what every handler gets as its second argument.
        limits: sizes that a client may not exceed.
        timeouts: how long a client may take.
        max_connections: how many connections may be open at once, upgraded and lingering ones included; None
            for no bound. For one beyond it the oldest lingering connection is closed; if none lingers, it waits
            in the kernel's backlog. At most half as many linger at once, 1,000 without a bound.
        server_name: the value of the Server header field; empty for none.

    Raises:
        ValueError: ``max_connections`` is below one, or ``server_name`` cannot stand in a header.

    Example:
        >>> app = App().with_stateless_route("/", lambda _: Response(200, "Hello world!"))
        >>> trio.run(app.run, "127.0.0.1:8080")  # doctest: +SKIP
    """

    def __init__(
        self,
        state: State = None,  # type: ignore[assignment]  # the default of State itself
        *,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        max_connections: int | None = None,
        server_name: str = "humphrey_trio",
    ) -> None:
        super().__init__()
        if max_connections is not None and max_connections < 1:
            raise ValueError("max_connections must be at least 1, or None for no bound")
        self._state = state
        self._limits = limits
        self._timeouts = timeouts
        self._max_connections = max_connections
        self._writer = ResponseWriter(server_name)
        self._hosts: list[tuple[str, SubApp[State]]] = []
        self._error_handler: ErrorHandler = default_error_handler
        self._certificate: Certificate | None = None
        self._shutdown: trio.Event | None = None
        self._drain = Drain()
        self._running: list[HttpServer] = []

    @property
    def state(self) -> State:
        """What every handler gets."""
        return self._state

    def statistics(self) -> HttpStatistics:
        """The connections of all calls of ``run`` and ``run_tls`` that are under way."""
        each = [server.statistics() for server in self._running]
        return HttpStatistics(
            connections=sum(one.connections for one in each),
            lingering=sum(one.lingering for one in each),
            lingering_cut=sum(one.lingering_cut for one in each),
        )

    def with_host(self, pattern: str, subapp: SubApp[State]) -> Self:
        """Serve hosts that match a pattern from a SubApp; a path it does not know goes to the default routes.

        Args:
            pattern: a host name in which ``*`` stands for any run of characters, such as ``*.example.com``.
                Letter case does not count, nor does a dot at the end of the name (RFC 1034, section 3.1), nor
                the port unless the pattern has one.

        Raises:
            ValueError: the pattern is ``*``, which would leave the default routes without requests.
        """
        pattern = _without_root(pattern.lower())
        if pattern == "*":
            raise ValueError("'*' is every host: use with_default_subapp, or routes of the app itself")
        self._hosts.append((pattern, subapp))
        return self

    def with_default_subapp(self, subapp: SubApp[State]) -> Self:
        """Serve what no host has from a SubApp; routes that were added to the app before are discarded."""
        self._routes = subapp._routes
        self._websocket_routes = subapp._websocket_routes
        return self

    def with_error_handler(self, handler: ErrorHandler) -> Self:
        """Answer what went wrong with ``handler(status, request, exception)``, plain or ``async def``.

        The request is None if it could not be read, the exception if there was none. A handler that fails
        itself is logged and replaced by the default page.
        """
        self._error_handler = handler
        return self

    def with_cert(
        self, cert: ssl.SSLContext | str | Path, key: str | Path | None = None, *, reload: bool = False
    ) -> Self:
        """Set the certificate for ``run_tls``.

        Args:
            cert: a file with the certificate and its chain in PEM, or a server's ``ssl.SSLContext``. Files are
                served with TLS 1.2 and 1.3 and ALPN ``http/1.1``; a context is served as it is.
            key: the file with the private key in PEM, if the first has none.
            reload: look at the files once a second while the server runs, and serve new connections with the
                new pair when they have changed. A pair that cannot be used is logged as an ERROR, and the one
                before stays.

        Raises:
            ValueError: the files are missing or do not fit together, the message says which; the context is a
                client's; or a context is to be reloaded.
        """
        if not isinstance(cert, ssl.SSLContext):
            self._certificate = CertificateFiles(cert, key, reloads=reload)
            return self
        if cert.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("this SSLContext is a client's: make a server's, with ssl.Purpose.CLIENT_AUTH")
        if reload:
            raise ValueError("only files are reloaded: give with_cert their paths in place of an SSLContext")
        self._certificate = GivenContext(cert)
        return self

    def with_shutdown(self, event: trio.Event, drain: Drain = Drain()) -> Self:  # noqa: B008  (frozen)
        """End gracefully when the event is set; then ``run`` returns.

        Nobody is accepted any more, requests that have begun are answered, idle connections and WebSockets are
        closed, and upgrades that still come get a 503 with Retry-After. What is left ``Timeouts.drain`` seconds
        later is cancelled. Streams of a linked ``AsyncWebsocketApp`` that ends by itself are left to it: give
        both the same event.

        Args:
            event: set by whoever wants the end.
            drain: how WebSockets are closed.

        Raises:
            ValueError: the drain's spread is too long for ``Timeouts.drain``.
            TypeError: the event is none of trio's.
        """
        check_shutdown(event, drain, self._timeouts)
        self._shutdown, self._drain = event, drain
        return self

    async def handle(self, request: Request) -> Response:
        """Answer a request; the whole application without a socket.

        A handler's exception is logged and becomes the error handler's 500.
        """
        service = _Service(self)
        host = request.headers.get("Host", "").lower()
        route = service.find(host, request.path)
        if route is None:
            return await service.reject(host, request)
        answer = service.respond(request, route)
        return answer if isinstance(answer, Response) else await service.settle(request, answer)

    async def run(
        self,
        *addresses: str,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve until cancelled, or until ``with_shutdown`` ends it.

        Args:
            addresses: ``127.0.0.1:80``, ``[::1]:80``, ``localhost:80`` or ``unix:/path``; port 0 takes a free
                one. A host name is listened on at all of its addresses that this machine has; the others are
                logged.
            task_status: for ``nursery.start``, which gives the bound addresses.

        Raises:
            ValueError: there is no address, or one that cannot be read.
            OSError: an address cannot be listened on, or none of a host name's; then none is.
        """
        await self._run(addresses, None, task_status)

    async def run_tls(
        self,
        *addresses: str,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve over TLS; as ``run`` otherwise.

        Raises:
            RuntimeError: there is no certificate; see ``with_cert``.
        """
        if self._certificate is None:
            raise RuntimeError("run_tls needs a certificate: call with_cert(cert, key) first")
        await self._run(addresses, self._certificate, task_status)

    async def serve_stream(self, stream: trio.abc.Stream, *, peer: Address = _MEMORY) -> None:
        """Serve one connection over a stream, which is closed at its end.

        The connection belongs to a ``run`` of this app that is under way: it holds one of its
        ``max_connections``, ends with its graceful end, and is cancelled when it returns. If the app does not
        run, the connection has a server of its own with the same bounds and deadlines. A stream that cannot end
        its outgoing side alone (``trio.abc.HalfCloseableStream``), such as ``trio.SSLStream``, lingers for a
        second at most.

        Args:
            stream: any trio stream, such as one end of ``trio.testing.memory_stream_pair()``. Frames of
                WebSockets take the direct path of sockets over a ``humphrey_trio.testing.DirectStream``.
            peer: what ``request.address`` tells.
        """
        transport: Transport
        if isinstance(stream, DirectStream):
            transport = DirectTransport(stream, peer)
        else:
            transport = StreamTransport(stream, peer)
        if self._running:
            await self._running[0].serve(transport)
            return
        async with trio.open_nursery() as nursery:
            server = self._server()
            try:
                await nursery.start(server.run)
            except BaseException:
                await transport.close()
                raise
            await server.serve(transport)
            nursery.cancel_scope.cancel()

    def _find_subapp(self, host: str) -> SubApp[State] | None:
        host = _without_root(host)
        name = _without_port(host)
        for pattern, subapp in self._hosts:
            # A pattern with a port is compared with the host as it was sent.
            if wildcard_match(pattern, host if _without_port(pattern) != pattern else name):
                return subapp
        return None

    async def _run(
        self,
        addresses: tuple[str, ...],
        certificate: Certificate | None,
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        listeners = await open_listeners(addresses)
        server = self._server(certificate)
        self._running.append(server)
        try:
            await server.run(listeners, task_status=task_status)
        finally:
            self._running.remove(server)

    def _server(self, certificate: Certificate | None = None) -> HttpServer:
        settings = ServerSettings(
            _Service(self), self._limits, self._timeouts, self._drain, self._writer, Pace(), SweepClock()
        )
        return HttpServer(
            settings, max_connections=self._max_connections, certificate=certificate, shutdown=self._shutdown
        )


class _Service(Generic[State]):
    """An App as a connection sees it."""

    def __init__(self, app: App[State]) -> None:
        self._app = app

    def find(self, host: str, path: str) -> HttpRoute | None:
        return self._find(host, path, http_routes)

    def find_websocket(self, host: str, path: str) -> WebsocketRoute[Any] | None:
        return self._find(host, path, websocket_routes)

    def _find(
        self, host: str, path: str, table_of: Callable[[Routes[State]], RouteTable[_Route]]
    ) -> _Route | None:
        """The route of a path: one of the host's own, or else one of the app's."""
        app = self._app
        subapp = app._find_subapp(host) if app._hosts else None
        route = None if subapp is None else table_of(subapp).find(path)
        return table_of(app).find(path) if route is None else route

    @trio.lowlevel.disable_ki_protection
    def respond(self, request: Request, route: HttpRoute) -> Response | Awaitable[Response]:
        """A plain handler's response at once, else its awaitable for ``settle``."""
        try:
            return route.call(request, self._app._state)
        except BaseException as exc:
            # Logged now: what is returned is never awaited if an earlier response cannot be sent.
            failure = _failure_of(exc, request)
            _log_failed_handler(request, failure)
            return self.refuse(500, request, failure)

    @trio.lowlevel.disable_ki_protection
    async def settle(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await _settle(answer)
        except BaseException as exc:
            return await self._fail(request, _failure_of(exc, request))

    async def reject(self, host: str, request: Request) -> Response:
        """A 404; where only a websocket route is, a 426 or a 405 (RFC 9110, sections 15.5.22 and 15.5.6)."""
        if self.find_websocket(host, request.path) is None:
            return await self.refuse(404, request, None)
        return await self._refuse_handshake(request, no_handshake(request))

    async def _refuse_handshake(self, request: Request, error: HandshakeError) -> Response:
        response = await self.refuse(error.status, request, error)
        for name, value in error.headers:
            response = response.with_header(name, value)
        return response

    async def _fail(self, request: Request, exception: Exception) -> Response:
        _log_failed_handler(request, exception)
        return await self.refuse(500, request, exception)

    @trio.lowlevel.disable_ki_protection
    async def refuse(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        try:
            return await _settle(self._app._error_handler(status, request, exception))
        except BaseException as exc:
            report = partial(_log_failed_error_handler, status)
            report(failure_of(exc, report))
            return default_error_handler(status, request, exception)

    async def upgrade(self, takeover: Takeover) -> Response | None:
        request = takeover.request
        try:
            return await serve_upgrade(takeover, self._app._state)
        except HandshakeError as exc:
            return await self._refuse_handshake(request, exc)
        except BaseException as exc:
            return await self._fail(request, _failure_of(exc, request))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and not port.endswith("]") else host


def _without_root(host: str) -> str:
    """The host without the dot that stands for the root of the domain name system, where it is given."""
    name = _without_port(host)
    return name.removesuffix(".") + host[len(name) :]


def _log_failed_handler(request: Request, exception: Exception) -> None:
    method, path = printable(request.method), printable(request.path)
    logger.error("the handler of %s %s failed", method, path, exc_info=exception)


def _log_failed_error_handler(status: int, exception: Exception) -> None:
    logger.error("the error handler failed for a %d", status, exc_info=exception)


def _failure_of(error: BaseException, request: Request) -> Exception:
    """What the handler of a request has failed with; as ``failure_of``."""
    return failure_of(error, partial(_log_failed_handler, request))


async def _settle(answer: object) -> Response:
    """The response of a handler, plain or async."""
    if not isinstance(answer, Response) and inspect.isawaitable(answer):
        answer = await answer
    if not isinstance(answer, Response):
        raise TypeError(f"a handler returns a Response, not {type(answer).__name__}")
    return answer


def default_error_handler(status: int, request: Request | None, exception: Exception | None) -> Response:
    """A small page with the status, and with what was wrong with the request if that was it."""
    title = html.escape(f"{status} {reason_phrase(status)}".strip())
    # What a handler raised may hold secrets; what we say of a request holds none.
    is_ours = isinstance(exception, (BadRequest, HandshakeError))
    detail = f"<p>{html.escape(printable(str(exception)))}</p>" if is_ours else ""
    page = f"<html><body><h1>{title}</h1>{detail}</body></html>"
    return Response(status, page, _HTML)


_HTML = Headers([("Content-Type", "text/html; charset=utf-8")])
