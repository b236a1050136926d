"""Clients for an app without sockets, so that a test needs no port and no real time.

Each client is served by the app's own connection code over a pair of memory streams, in a nursery that ends
with the client.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from ._app import App
from ._http._address import Address
from ._http._headers import Headers
from ._http._response import Response
from ._quoting import quoted
from ._server._codec import ClientCodec
from ._server._transport import StreamTransport
from ._websocket._codec import ABNORMAL, NORMAL, ClientEncoder, Close, Decoder, Ping
from ._websocket._errors import ConnectionClosed, HandshakeError
from ._websocket._limits import StreamLimits
from ._websocket._message import Message

if TYPE_CHECKING:
    from ._http._headers import HeadersLike
    from ._websocket._codec import Event
    from ._websocket._message import Sendable

_MEMORY = Address("memory", 0)
_HOST = "testserver"
_SWITCHING = 101
_NO_LIMITS = StreamLimits(max_message_size=2**62, max_fragments=2**62)

_Connect = Callable[[], trio.abc.Stream]


@asynccontextmanager
async def http_client(app: App[Any]) -> AsyncGenerator[HttpClient]:
    """An HTTP client of an app, on memory streams: ``async with http_client(app) as client:``.

    Time may be virtual (``trio.testing.MockClock``): nothing here waits for the operating system.
    """
    async with _serving(app) as connect:
        client = HttpClient(connect)
        try:
            yield client
        finally:
            await client._aclose()


@asynccontextmanager
async def websocket_client(
    app: App[Any], path: str = "/", *, headers: HeadersLike = ()
) -> AsyncGenerator[WebsocketClient]:
    """A WebSocket client of an app's route, on memory streams.

    For a linked pair give the HTTP app, and run the WebSocket app beside it. The client closes with 1000 at the
    end of the block.

    Args:
        app: the HTTP app that has the route.
        path: the request target, with a query if there is one.
        headers: further header fields of the handshake.

    Raises:
        HandshakeError: the upgrade was refused; it has the ``status`` and the whole ``response``.
    """
    async with _serving(app) as connect:
        stream = connect()
        client = WebsocketClient(stream, *await _open_websocket(stream, path, headers))
        try:
            yield client
            await client.close()
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _serving(app: App[Any]) -> AsyncGenerator[_Connect]:
    """Serve an app in memory; an exception of the block comes out as it is, not in a group."""
    if not isinstance(app, App):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"give the HTTP App that has the route, not {type(app).__name__}: see new_unlinked")
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        server = app._server()
        await nursery.start(server.run)

        def connect() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve, StreamTransport(theirs, _MEMORY))
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
    """Sends requests to an app, one at a time, on a connection that is kept alive."""

    def __init__(self, connect: _Connect) -> None:
        self._connect = connect
        self._stream: trio.abc.Stream | None = None
        self._codec = ClientCodec()

    async def request(
        self, method: str, target: str, *, headers: HeadersLike = (), content: str | bytes = b""
    ) -> Response:
        """Send a request and read its response.

        Args:
            method: the method token.
            target: the path, with a query if there is one.
            headers: header fields; Host and Content-Length are added where they are missing.
            content: the body; a str is sent as UTF-8.

        Raises:
            ConnectionError: the server has closed the connection instead of answering.
        """
        body = content.encode() if isinstance(content, str) else content
        fields = _with_default(Headers(headers), "Host", _HOST)
        if body:
            fields = _with_default(fields, "Content-Length", str(len(body)))
        if self._stream is None or not self._codec.reusable:
            await self._aclose()
            self._stream, self._codec = self._connect(), ClientCodec()
        stream = self._stream
        try:
            await stream.send_all(self._codec.request(method, target, fields, body))
            return _response(*await _read_response(stream, self._codec))
        except BaseException as exc:
            # Half an exchange leaves a connection that serves no other.
            self._stream = None
            await trio.aclose_forcefully(stream)
            if isinstance(exc, trio.BrokenResourceError):
                raise ConnectionError("the server has closed the connection") from None
            raise

    async def get(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """``request("GET", ...)``."""
        return await self.request("GET", target, headers=headers)

    async def head(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """``request("HEAD", ...)``."""
        return await self.request("HEAD", target, headers=headers)

    async def post(self, target: str, *, content: str | bytes = b"", headers: HeadersLike = ()) -> Response:
        """``request("POST", ...)``."""
        return await self.request("POST", target, headers=headers, content=content)

    async def put(self, target: str, *, content: str | bytes = b"", headers: HeadersLike = ()) -> Response:
        """``request("PUT", ...)``."""
        return await self.request("PUT", target, headers=headers, content=content)

    async def delete(self, target: str, *, headers: HeadersLike = ()) -> Response:
        """``request("DELETE", ...)``."""
        return await self.request("DELETE", target, headers=headers)

    async def _aclose(self) -> None:
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


class WebsocketClient:
    """The client's end of a WebSocket.

    Pings are answered while it receives. ``async for message in client`` receives until the server closes.

    Attributes:
        headers: the header fields of the server's 101.
    """

    def __init__(self, stream: trio.abc.Stream, headers: Headers, rest: bytes) -> None:
        self.headers = headers
        self._stream = stream
        self._encoder = ClientEncoder()
        self._decoder = Decoder(_NO_LIMITS, client=True)
        self._decoder.receive(rest)
        self._closing = False
        self._closed: ConnectionClosed | None = None

    @property
    def close_code(self) -> int | None:
        """The server's close code: 1005 if it gave none, 1006 if it left without; None while it is open."""
        return None if self._closed is None else self._closed.code

    async def send(self, message: Sendable) -> None:
        """Send a message; a str goes as text, bytes go as binary.

        Raises:
            ConnectionClosed: the server has closed.
        """
        data = message.data if isinstance(message, Message) else message
        await self._send(self._encoder.message(data))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; ``receive`` reads its answer away."""
        await self._send(self._encoder.ping(payload))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, for tests of what a server does with bad ones."""
        await self._send(data)

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ConnectionClosed: the server has closed.
        """
        while self._closed is None:
            event = self._decoder.next()
            if isinstance(event, Message):
                return event
            await (self._fill() if event is None else self._control(event))
        raise ConnectionClosed(self._closed.code, self._closed.reason)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close, and wait for the server's answer and end of file. Messages that still arrive are dropped."""
        if self._closed is None:
            await self._say_close(code, reason)
            async for _ in self:
                pass

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
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._closed = ConnectionClosed(ABNORMAL)
            raise ConnectionClosed(ABNORMAL) from None

    async def _fill(self) -> None:
        data = await self._stream.receive_some()
        if data:
            self._decoder.receive(bytes(data))
        else:
            await self._end(ConnectionClosed(ABNORMAL))

    async def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            await self._send(self._encoder.pong(event.payload))
        elif isinstance(event, Close):
            await self._say_close(event.code, "")
            await self._end(ConnectionClosed(event.code, event.reason))

    async def _end(self, closed: ConnectionClosed) -> None:
        """Close the connection, behind the server (RFC 6455, section 7.1.1)."""
        self._closed = closed
        with suppress(trio.BrokenResourceError):
            while await self._stream.receive_some():
                pass
        await self._stream.aclose()

    async def _say_close(self, code: int, reason: str) -> None:
        if not self._closing:
            self._closing = True
            with suppress(ConnectionClosed):  # whoever has left needs no Close
                await self._send(self._encoder.close(code, reason))


async def _open_websocket(stream: trio.abc.Stream, path: str, headers: HeadersLike) -> tuple[Headers, bytes]:
    """Do the handshake; the fields of the 101, and what came behind it."""
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
