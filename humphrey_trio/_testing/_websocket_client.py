"""The WebSocket client of tests."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from .._app._app import App
from .._http._headers import Headers
from .._http._response import Response
from .._quoting import quoted
from .._websocket._errors import ConnectionClosed, HandshakeError
from .._websocket._limits import StreamLimits
from .._websocket._message import Message
from .._websocket._protocol._close_codes import ABNORMAL, NORMAL
from .._websocket._protocol._decoder import Close, Decoder, Ping
from ._client_connection import ClientConnection
from ._outgoing_request import HOST, make_request, with_default
from ._serving import serving
from ._websocket_codec import ClientEncoder

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._headers import HeadersLike
    from .._websocket._message import Sendable
    from .._websocket._protocol._decoder import Event

_SWITCHING = 101
_NO_LIMITS = StreamLimits(max_message_size=2**62, max_fragments=2**62)


@asynccontextmanager
async def websocket_client(
    app: App[Any], path: str = "/", *, headers: HeadersLike = (), peer: Address | None = None
) -> AsyncGenerator[WebsocketClient]:
    """Open a WebSocket client of an app: ``async with websocket_client(app, "/ws") as client:``.

    At the end of the block, the client closes the WebSocket with 1000. The client works with virtual time. To send
    the cookies of an ``HttpClient``, use its ``websocket``.

    Args:
        app: the HTTP app that has the websocket route. It need not be running, but a linked ``AsyncWebsocketApp``
            must be, unless the app runs it (``with_websocket_app``).
        path: the request target, with the query.
        headers: additional header fields of the handshake request.
        peer: the address of the client, as for ``http_client``.

    Yields:
        The client, with an open WebSocket.

    Raises:
        HandshakeError: the upgrade was refused. It has the ``status`` and the ``response``.
        ConnectionError: the server has closed the connection without a response.
        TypeError: ``app`` is not an ``App``, or ``peer`` is not an ``Address``.
    """
    async with (
        serving(app, trio.testing.memory_stream_pair, peer) as connect,
        websocket_over(connect(), path, headers) as client,
    ):
        yield client


@asynccontextmanager
async def websocket_over(
    stream: trio.abc.Stream, path: str, headers: HeadersLike
) -> AsyncGenerator[WebsocketClient]:
    """Open a WebSocket as ``open_websocket`` does. At the end of the block, close it and the stream."""
    try:
        client = await open_websocket(stream, path, headers=headers)
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

    Returns:
        The client.

    Raises:
        HandshakeError: the upgrade was refused. It has the ``status`` and the ``response``.
        ConnectionError: the server has closed the connection without a response.
    """
    return WebsocketClient(stream, *await _shake_hands(stream, path, headers))


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
    handshake = {
        "Host": HOST,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode("ascii"),
    }
    for name, value in handshake.items():
        fields = with_default(fields, name, value)
    connection = ClientConnection(stream)
    async with connection.exchange(make_request("GET", path, fields)) as response:
        if response.status == _SWITCHING:
            return response.headers, connection.rest
        content = await response.read()
    reason = f"refused with {response.status}: {quoted(content.decode(errors='replace'))}"
    refusal = Response(response.status, content, response.headers.without_header("Transfer-Encoding"))
    raise HandshakeError(reason, response.status, headers=response.headers, response=refusal)
