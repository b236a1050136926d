"""Test clients for an app, over memory streams instead of sockets.

The connection code of the app serves the other end of the streams, in a nursery that ends with the client.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from .._app._app import App
from .._http._address import Address
from .._http._headers import Headers
from .._http._response import Response
from .._quoting import quoted
from .._websocket._errors import ConnectionClosed, HandshakeError
from .._websocket._limits import StreamLimits
from .._websocket._message import Message
from .._websocket._protocol._close_codes import ABNORMAL, NORMAL
from .._websocket._protocol._decoder import Close, Decoder, Ping
from ._http_codec import ClientCodec
from ._websocket_codec import ClientEncoder

if TYPE_CHECKING:
    from .._http._headers import HeadersLike
    from .._websocket._message import Sendable
    from .._websocket._protocol._decoder import Event

_MEMORY = Address("memory", 0)
_HOST = "testserver"
_SWITCHING = 101
_NO_LIMITS = StreamLimits(max_message_size=2**62, max_fragments=2**62)

_Connect = Callable[[], trio.abc.Stream]


@asynccontextmanager
async def http_client(app: App[Any]) -> AsyncGenerator[HttpClient]:
    """Open an HTTP client of an app: ``async with http_client(app) as client:``.

    The client works with virtual time (``trio.testing.MockClock``), because it does not wait for the operating
    system.

    Args:
        app: the app. It need not be running.

    Yields:
        The client. It connects with the first request.

    Raises:
        TypeError: ``app`` is not an ``App``.
    """
    async with _serving(app) as connect:
        client = HttpClient(connect)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def websocket_client(
    app: App[Any], path: str = "/", *, headers: HeadersLike = ()
) -> AsyncGenerator[WebsocketClient]:
    """Open a WebSocket client of an app: ``async with websocket_client(app, "/ws") as client:``.

    At the end of the block, the client closes the WebSocket with 1000. The client works with virtual time.

    Args:
        app: the HTTP app that has the websocket route. It need not be running, but a linked ``AsyncWebsocketApp``
            must be, unless the app runs it (``with_websocket_app``).
        path: the request target, with the query.
        headers: additional header fields of the handshake request.

    Yields:
        The client, with an open WebSocket.

    Raises:
        HandshakeError: the upgrade was refused. It has the ``status`` and the ``response``.
        TypeError: ``app`` is not an ``App``.
    """
    async with _serving(app) as connect:
        stream = connect()
        client = await open_websocket(stream, path, headers=headers)
        try:
            yield client
            await client.close()
        finally:
            await trio.aclose_forcefully(stream)


async def open_websocket(
    stream: trio.abc.Stream, path: str = "/", *, headers: HeadersLike = ()
) -> WebsocketClient:
    """Execute the opening handshake on a connection that is open already.

    Use it with ``memory_connection`` to inject faults, or with ``trio.open_tcp_stream`` to test an app that
    listens. The caller closes the stream.

    Args:
        stream: the client's end of the connection.
        path: the request target, with the query.
        headers: additional header fields of the handshake request.

    Raises:
        HandshakeError: the upgrade was refused. It has the ``status`` and the ``response``.
        ConnectionError: the server has closed the connection without a response.
    """
    return WebsocketClient(stream, *await _shake_hands(stream, path, headers))


@asynccontextmanager
async def _serving(app: App[Any]) -> AsyncGenerator[_Connect]:
    """Serve an app in memory. An exception of the block is raised as it is, and not in an ExceptionGroup."""
    if not isinstance(app, App):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"pass the HTTP App that has the route, not {type(app).__name__}: see new_unlinked")
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:

        def connect() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(app.serve_stream, theirs)
            return ours

        try:
            yield connect
        except trio.Cancelled:
            raise
        except BaseException as exc:
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


class HttpClient:
    """An HTTP client of an app. Use ``http_client`` to open one.

    It sends one request at a time, on one connection that is kept alive. After a response with
    ``Connection: close``, the next request opens a new connection.
    """

    def __init__(self, connect: _Connect) -> None:
        self._connect = connect
        self._stream: trio.abc.Stream | None = None
        self._codec = ClientCodec()

    async def request(
        self, method: str, target: str, *, headers: HeadersLike = (), content: str | bytes = b""
    ) -> Response:
        """Send a request, and wait for the response.

        Args:
            method: the method, such as ``"GET"``.
            target: the path, with the query.
            headers: header fields. Host and Content-Length are added if they are missing.
            content: the body. A str is sent as UTF-8.

        Returns:
            The response with all header fields except Transfer-Encoding.

        Raises:
            ConnectionError: the server has closed the connection without a response, for example because
                ``Timeouts.idle`` has passed since the previous request.
        """
        body = content.encode() if isinstance(content, str) else content
        fields = _with_default(Headers(headers), "Host", _HOST)
        if body:
            fields = _with_default(fields, "Content-Length", str(len(body)))
        if self._stream is None or not self._codec.reusable:
            await self.aclose()
            self._stream, self._codec = self._connect(), ClientCodec()
        stream = self._stream
        try:
            await stream.send_all(self._codec.request(method, target, fields, body))
            return _response(*await _read_response(stream, self._codec))
        except BaseException as exc:
            # The connection cannot be used again after an incomplete request or response.
            self._stream = None
            await trio.aclose_forcefully(stream)
            if isinstance(exc, trio.BrokenResourceError):
                raise ConnectionError("the server has closed the connection") from None
            raise

    async def get(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """Send a GET request, and wait for the response.

        Args:
            target: the path, with the query.
            headers: header fields, as for ``request``.

        Returns:
            The response.

        Raises:
            ConnectionError: as for ``request``.
        """
        return await self.request("GET", target, headers=headers)

    async def head(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """Send a HEAD request, and wait for the response.

        Args:
            target: the path, with the query.
            headers: header fields, as for ``request``.

        Returns:
            The response, without a body.

        Raises:
            ConnectionError: as for ``request``.
        """
        return await self.request("HEAD", target, headers=headers)

    async def post(self, target: str, *, content: str | bytes = b"", headers: HeadersLike = ()) -> Response:
        """Send a POST request, and wait for the response.

        Args:
            target: the path, with the query.
            content: the body. A str is sent as UTF-8.
            headers: header fields, as for ``request``.

        Returns:
            The response.

        Raises:
            ConnectionError: as for ``request``.
        """
        return await self.request("POST", target, headers=headers, content=content)

    async def put(self, target: str, *, content: str | bytes = b"", headers: HeadersLike = ()) -> Response:
        """Send a PUT request, and wait for the response.

        Args:
            target: the path, with the query.
            content: the body. A str is sent as UTF-8.
            headers: header fields, as for ``request``.

        Returns:
            The response.

        Raises:
            ConnectionError: as for ``request``.
        """
        return await self.request("PUT", target, headers=headers, content=content)

    async def delete(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """Send a DELETE request, and wait for the response.

        Args:
            target: the path, with the query.
            headers: header fields, as for ``request``.

        Returns:
            The response.

        Raises:
            ConnectionError: as for ``request``.
        """
        return await self.request("DELETE", target, headers=headers)

    async def aclose(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


class WebsocketClient:
    """A WebSocket client of an app. Use ``websocket_client`` or ``open_websocket`` to open one.

    ``async for message in client`` receives messages until the WebSocket is closed. Pings of the server are
    answered while the client receives or closes.

    Attributes:
        headers: the header fields of the 101 response.
        stream: the client's end of the connection. Use it to half-close or stall the connection. Bytes that were
            received from it directly are unknown to ``receive``.
    """

    def __init__(self, stream: trio.abc.Stream, headers: Headers, rest: bytes) -> None:
        self.headers = headers
        self.stream = stream
        self._encoder = ClientEncoder()
        self._decoder = Decoder(_NO_LIMITS, client=True)
        self._decoder.receive(rest)
        self._closing = False
        self._closed: ConnectionClosed | None = None

    @property
    def close_code(self) -> int | None:
        """The close code of the server. None while the WebSocket is open.

        1005 if the Close frame of the server had no code, 1006 if the connection ended without a Close frame
        (RFC 6455, section 7.1.5).
        """
        return None if self._closed is None else self._closed.code

    async def send(self, message: Sendable) -> None:
        """Send a message.

        Args:
            message: a ``Message``, a str for a text message, or bytes for a binary message.

        Raises:
            ConnectionClosed: the server has closed the WebSocket or the connection.
            TypeError: ``message`` has another type.
        """
        data = message.data if isinstance(message, Message) else message
        await self._send(self._encoder.message(data))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping. The Pong of the server is read and ignored by ``receive``.

        Args:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the server has closed the WebSocket or the connection.
            ValueError: the payload is longer than 125 bytes.
        """
        await self._send(self._encoder.ping(payload))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes without framing, to test the reaction of a server to invalid input.

        Args:
            data: the bytes for the wire.

        Raises:
            ConnectionClosed: the server has closed the WebSocket or the connection.
        """
        await self._send(data)

    async def receive(self) -> Message:
        """Wait for the next message. Pings that arrive before it are answered.

        Returns:
            The message.

        Raises:
            ConnectionClosed: the server has closed the WebSocket or the connection. It has the close code and
                reason.
        """
        while self._closed is None:
            event = self._decoder.next()
            if isinstance(event, Message):
                return event
            await (self._fill() if event is None else self._control(event))
        raise ConnectionClosed(self._closed.code, self._closed.reason)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the WebSocket, and wait until the server has closed the connection.

        Messages that arrive in this time are discarded. Does nothing if the WebSocket is closed already.

        Args:
            code: the close code.
            reason: the close reason, at most 123 bytes in UTF-8.
        """
        if self._closed is None:
            await self._send_close(code, reason)
            async for _ in self:
                pass

    async def disconnect(self) -> None:
        """Close the connection without a Close frame, as a client does whose process or network fails.

        The ``close_code`` is 1006 then. Does nothing if the WebSocket is closed already.
        """
        if self._closed is None:
            self._closed = ConnectionClosed(ABNORMAL)
            await trio.aclose_forcefully(self.stream)

    def __aiter__(self) -> WebsocketClient:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def _send(self, data: bytes) -> None:
        if self._closed is not None:
            raise ConnectionClosed(self._closed.code, self._closed.reason)
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            self._closed = ConnectionClosed(ABNORMAL)
            raise ConnectionClosed(ABNORMAL) from None

    async def _fill(self) -> None:
        data = await self.stream.receive_some()
        if data:
            self._decoder.receive(bytes(data))
        else:
            await self._end(ConnectionClosed(ABNORMAL))

    async def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            await self._send(self._encoder.pong(event.payload))
        elif isinstance(event, Close):
            await self._send_close(event.code, "")
            await self._end(ConnectionClosed(event.code, event.reason))

    async def _end(self, closed: ConnectionClosed) -> None:
        """Close the connection after the server has closed it (RFC 6455, section 7.1.1)."""
        self._closed = closed
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass
        await self.stream.aclose()

    async def _send_close(self, code: int, reason: str) -> None:
        if not self._closing:
            self._closing = True
            with suppress(ConnectionClosed):  # the server has closed the connection already
                await self._send(self._encoder.close(code, reason))


async def _shake_hands(stream: trio.abc.Stream, path: str, headers: HeadersLike) -> tuple[Headers, bytes]:
    """Execute the opening handshake. Returns the header fields of the 101, and the bytes after it."""
    fields = Headers(headers)
    key = base64.b64encode(secrets.token_bytes(16)).decode("ascii")
    handshake = {
        "Host": _HOST,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    for name, value in handshake.items():
        fields = _with_default(fields, name, value)
    codec = ClientCodec()
    await stream.send_all(codec.request("GET", path, fields, b""))
    status, found, content = await _read_response(stream, codec)
    if status == _SWITCHING:
        return found, codec.rest
    reason = f"refused with {status}: {quoted(content.decode(errors='replace'))}"
    raise HandshakeError(reason, status, headers=found, response=_response(status, found, content))


async def _read_response(stream: trio.abc.Stream, codec: ClientCodec) -> tuple[int, Headers, bytes]:
    while (found := codec.next_response()) is None:
        codec.receive(bytes(await stream.receive_some()))
    return found


def _response(status: int, headers: Headers, content: bytes) -> Response:
    return Response(status, content, headers.without_header("Transfer-Encoding"))


def _with_default(fields: Headers, name: str, value: str) -> Headers:
    return fields if name in fields else fields.with_header(name, value)
