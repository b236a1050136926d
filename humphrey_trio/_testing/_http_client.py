"""The HTTP client of tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import trio

from .._app._app import App
from .._http._address import Address
from .._http._cookies import SetCookie
from .._http._fields import Fields, FieldsLike
from .._http._headers import Headers, HeadersLike
from .._http._parameters import media_type
from .._http._response import Response
from .._quoting import quoted
from .._websocket._errors import HandshakeError
from ._client_connection import ClientConnection
from ._cookie_jar import CookieJar
from ._memory_stream import memory_connection
from ._outgoing_request import HOST, UNSET, Content, OutgoingRequest, UploadsLike, make_request, with_default
from ._redirects import redirected
from ._response_reader import ResponseError
from ._serving import serving
from ._streamed_response import EventStream, StreamedResponse
from ._websocket_client import WebsocketClient, websocket_over

_SWITCHING = 101
# As in browsers (Fetch standard, section 4.4).
_MAX_REDIRECTS = 20
_EVENT_STREAM = "text/event-stream"


class BodyOptions(TypedDict, total=False):
    """Keyword arguments of ``HttpClient.request``."""

    content: Content
    json: object
    form: FieldsLike | None
    files: UploadsLike | None
    follow_redirects: bool


class RequestOptions(BodyOptions, total=False):
    """All keyword arguments of ``HttpClient.request``, for its short forms."""

    headers: HeadersLike


@asynccontextmanager
async def http_client(
    app: App[Any],
    *,
    host: str = HOST,
    headers: HeadersLike = (),
    peer: Address | None = None,
    scheme: str = "http",
) -> AsyncGenerator[HttpClient]:
    """Open an HTTP client of an app: ``async with http_client(app) as client:``.

    The client works with virtual time (``trio.testing.MockClock``), because it does not wait for the operating
    system. Its connections are those of ``memory_connection``.

    Args:
        app: the app. It need not be running.
        host, headers, scheme: as for ``HttpClient``. The connection has no TLS. So for ``request.scheme``, the app
            needs trusted proxies, and ``headers`` an ``X-Forwarded-Proto: https``.
        peer: the address of the client, ``request.address`` of the handlers. For an app with trusted proxies, it
            is that of the proxy, and ``headers`` has its forwarding fields. A connection condition is called with
            it. The default has the host ``memory``.

    Yields:
        The client. It connects with the first request.

    Raises:
        TypeError: ``app`` is not an ``App``, or ``peer`` is not an ``Address``.
    """
    async with serving(app, memory_connection, peer) as connect_now:

        async def connect() -> trio.abc.Stream:
            return connect_now()

        async with HttpClient(connect, host=host, headers=headers, scheme=scheme) as client:
            yield client


class HttpClient:
    """An HTTP client. ``http_client(app)`` opens one of an app in memory.

    For an app that listens, write ``HttpClient(partial(trio.open_tcp_stream, "127.0.0.1", port))``, and close it
    with ``async with`` or ``aclose``.

    A connection is used again for the next request. A request that is sent while another one is in progress opens
    another connection. Cookies are kept, and sent with later requests.

    Args:
        connect: an async function that opens a connection and returns the stream.
        host: the Host field of requests that have none.
        headers: header fields of every request that does not have one with the same name.
        scheme: the scheme of the URLs of the server. Redirects to another one are errors.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[trio.abc.Stream]],
        *,
        host: str = HOST,
        headers: HeadersLike = (),
        scheme: str = "http",
    ) -> None:
        self._connect = connect
        self._host = host
        self._headers = Headers(headers)
        self._scheme = scheme
        self._jar = CookieJar()
        self._idle: ClientConnection | None = None

    # Requests...

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: HeadersLike = (),
        content: Content = b"",
        json: object = UNSET,
        form: FieldsLike | None = None,
        files: UploadsLike | None = None,
        follow_redirects: bool = False,
    ) -> Response:
        """Send a request, and wait for the whole response.

        Args:
            method: the method, such as ``"GET"``.
            target: the path, with the query, percent-encoded.
            headers: header fields. Host and the field that frames the body are added if they are missing. With
                ``Expect: 100-continue``, the body is sent when the server has sent a 100.
            content: the body. A str is sent as UTF-8. An async iterable of bytes or str, or a coroutine function
                ``async def produce(write)``, is sent while it is produced: chunked, unless ``headers`` has a
                Content-Length. If the response ends first, the rest is not sent, and the connection is closed.
            json: a value that is sent as JSON, instead of ``content``.
            form: the fields of a form, as pairs or a mapping. Sent urlencoded, or as multipart if there are files.
            files: the files of a form: pairs or a mapping of a field name and an ``Upload``.
            follow_redirects: whether a redirect is followed, at most 20 times. Otherwise it is the response.

        Returns:
            The response with all header fields except Transfer-Encoding. The body is not decompressed.

        Raises:
            ResponseError: the response is malformed, incomplete, longer than 64 MiB, or a redirect to another
                server.
            ConnectionError: the server has closed the connection without a response, for example because
                ``Timeouts.idle`` has passed since the previous request.
            TypeError, ValueError: an argument is invalid.
            Exception: the exception of a ``content`` that is produced while it is sent.
        """
        opened = self.stream(
            method,
            target,
            headers=headers,
            content=content,
            json=json,
            form=form,
            files=files,
            follow_redirects=follow_redirects,
        )
        async with opened as response:
            return await _whole(response)

    async def get(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a GET request. The arguments and exceptions are those of ``request``."""
        return await self.request("GET", target, **options)

    async def head(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a HEAD request. The arguments and exceptions are those of ``request``."""
        return await self.request("HEAD", target, **options)

    async def post(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a POST request. The arguments and exceptions are those of ``request``."""
        return await self.request("POST", target, **options)

    async def put(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a PUT request. The arguments and exceptions are those of ``request``."""
        return await self.request("PUT", target, **options)

    async def patch(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a PATCH request. The arguments and exceptions are those of ``request``."""
        return await self.request("PATCH", target, **options)

    async def delete(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a DELETE request. The arguments and exceptions are those of ``request``."""
        return await self.request("DELETE", target, **options)

    async def options(self, target: str, **options: Unpack[RequestOptions]) -> Response:
        """Send an OPTIONS request. The arguments and exceptions are those of ``request``."""
        return await self.request("OPTIONS", target, **options)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        target: str,
        *,
        headers: HeadersLike = (),
        content: Content = b"",
        json: object = UNSET,
        form: FieldsLike | None = None,
        files: UploadsLike | None = None,
        follow_redirects: bool = False,
    ) -> AsyncGenerator[StreamedResponse]:
        """Send a request, and read the response while it arrives: ``async with client.stream("GET", "/") as it:``.

        If the block ends before the end of the response, the client disconnects.

        Args:
            method, target, headers, content, json, form, files, follow_redirects: as for ``request``.

        Yields:
            The response, when its head has arrived. The request may be sent until the end of the block.

        Raises:
            ResponseError, ConnectionError, TypeError, ValueError, Exception: as for ``request``.
        """
        request = make_request(method, target, self._with_defaults(headers), content, json, form, files)
        for _ in range(1 + _MAX_REDIRECTS):
            following: OutgoingRequest | None = None
            async with self._exchange(request) as response:
                if follow_redirects:
                    following = redirected(request, response.status, response.headers, self._scheme)
                if following is None:
                    yield response
                    return
                await response.read()
            request = following
        raise ResponseError(f"there are more than {_MAX_REDIRECTS} redirects")

    @asynccontextmanager
    async def events(
        self,
        target: str,
        *,
        method: str = "GET",
        last_event_id: str = "",
        headers: HeadersLike = (),
        **options: Unpack[BodyOptions],
    ) -> AsyncGenerator[EventStream]:
        """Open a stream of server-sent events: ``async with client.events("/events") as events:``.

        At the end of the block, the client disconnects.

        Args:
            target: the path, with the query.
            method: the method.
            last_event_id: the id of the last event that the client has received, to continue after it.
            headers: header fields, as for ``request``.
            options: the other keyword arguments of ``request``.

        Yields:
            The events: ``async for event in events``.

        Raises:
            ResponseError: the status is not 200, or the Content-Type is not ``text/event-stream``. The exception
                has the ``response``. Or as for ``request``.
            ConnectionError, TypeError, ValueError, Exception: as for ``request``.
        """
        fields = with_default(headers, "Accept", _EVENT_STREAM)
        if last_event_id:
            fields = fields.with_header("Last-Event-ID", last_event_id.encode().decode("latin-1"))
        async with self.stream(method, target, headers=fields, **options) as response:
            if response.status != 200 or media_type(response.headers.get("Content-Type", "")) != _EVENT_STREAM:
                raise await _refused(response)
            yield EventStream(response, last_event_id)

    @asynccontextmanager
    async def websocket(self, path: str = "/", *, headers: HeadersLike = ()) -> AsyncGenerator[WebsocketClient]:
        """Open a WebSocket with the cookies of this client: ``async with client.websocket("/ws") as socket:``.

        It has a connection of its own. At the end of the block, the client closes the WebSocket with 1000.

        Args:
            path: the request target, with the query.
            headers: additional header fields of the handshake request.

        Yields:
            The client, with an open WebSocket.

        Raises:
            HandshakeError: the upgrade was refused. It has the ``status`` and the ``response``.
            ConnectionError: the server has closed the connection without a response.
        """
        fields = self._with_defaults(headers)
        request = self._with_cookies(OutgoingRequest("GET", path, fields))
        async with AsyncExitStack() as stack:
            opening = websocket_over(await self._connect(), path, request.headers)
            try:
                socket = await stack.enter_async_context(opening)
            except HandshakeError as refusal:
                self._store_cookies(request, refusal.headers)
                raise
            self._store_cookies(request, socket.headers)
            yield socket

    # Cookies...

    @property
    def cookies(self) -> Fields:
        """The names and values of the cookies that the client has now, in the order in which they were set."""
        return self._jar.pairs(trio.current_time())

    def set_cookie(self, cookie: SetCookie) -> None:
        """Add a cookie, or replace or delete one, as a response does: ``set_cookie(SetCookie("user", "ann"))``.

        Args:
            cookie: the cookie.

        Raises:
            TypeError: it is not a ``SetCookie``.
        """
        if not isinstance(cookie, SetCookie):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"set_cookie takes a SetCookie('name', 'value'), not {type(cookie).__name__}")
        host = OutgoingRequest("GET", "/", Headers([("Host", self._host)])).host
        self._jar.store([cookie.to_header()], host, "/", trio.current_time())

    def clear_cookies(self) -> None:
        """Remove all cookies."""
        self._jar.clear()

    def _with_cookies(self, request: OutgoingRequest) -> OutgoingRequest:
        """Add the cookies for a request, unless it has a Cookie field."""
        cookies = self._jar.header(request.host, request.path, trio.current_time())
        return request.with_header("Cookie", cookies) if cookies and "Cookie" not in request.headers else request

    def _store_cookies(self, request: OutgoingRequest, headers: Headers) -> None:
        """Store the cookies that the response to a request has set."""
        self._jar.store(headers.get_all("Set-Cookie"), request.host, request.path, trio.current_time())

    def _with_defaults(self, headers: HeadersLike) -> Headers:
        """Add the fields of the client that are not given. Host is the first one."""
        given = Headers(headers)
        fields = [*(pair for pair in self._headers if pair[0] not in given), *given]
        if not any(name.lower() == "host" for name, _ in fields):
            fields.insert(0, ("Host", self._host))
        return Headers(fields)

    # Connections...

    async def aclose(self) -> None:
        """Close the connection that is kept for the next request, which then opens another one."""
        connection, self._idle = self._idle, None
        if connection is not None:
            await connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _exchange(self, request: OutgoingRequest) -> AsyncGenerator[StreamedResponse]:
        """Send a request on a connection, and keep the connection if it can be used again."""
        request = self._with_cookies(request)
        connection, self._idle = self._idle, None
        if connection is None:
            connection = ClientConnection(await self._connect())
        try:
            async with connection.exchange(request) as response:
                self._store_cookies(request, response.headers)
                if response.status == _SWITCHING:
                    raise ResponseError("the server has switched the protocol: use client.websocket(path)")
                yield response
        finally:
            if connection.reusable and self._idle is None:
                self._idle = connection
            else:
                await connection.aclose()


async def _whole(response: StreamedResponse) -> Response:
    try:
        content = await response.read()
    except ValueError as exc:
        raise ResponseError(f"{exc}, with stream()") from None
    return Response(response.status, content, response.headers.without_header("Transfer-Encoding"))


async def _refused(response: StreamedResponse) -> ResponseError:
    whole = await _whole(response)
    found = f"not an event stream: status {whole.status}, Content-Type {quoted(whole.content_type)}"
    return ResponseError(f"{found}: {quoted(whole.content.decode(errors='replace'))}", whole)
