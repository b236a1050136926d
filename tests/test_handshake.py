"""The opening handshake: the response to a valid one, and the faults of others."""

from __future__ import annotations

import pytest

from humphrey_trio import (
    App,
    Request,
    Response,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.websocket import HandshakeError
from tests.support.handshakes import (
    GET,
    HANDSHAKE,
    HELLO,
    Fields,
    app_with,
    assert_echoes,
    assert_still_http,
    client_of,
    client_of_echo,
    echo,
    with_value,
    without,
)
from tests.support.wire import (
    BINARY,
    CLOSE,
    HANDSHAKE_FIELDS,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    request_bytes,
)


async def test_101_response() -> None:
    """A handshake gets a 101 that proves that the server has read the key (RFC 6455, section 1.3)."""
    async with client_of_echo() as client:
        await client.send(HANDSHAKE)
        status, headers, content = await client.reply()

        assert (status, content) == (101, b"")
        assert list(headers) == [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ]
        await assert_echoes(client)


@pytest.mark.parametrize(
    "fields",
    [
        with_value("Upgrade", "WebSocket"),
        with_value("Upgrade", "h2c, WEBSOCKET"),
        with_value("Upgrade", "h2c", "websocket"),
        with_value("Connection", "upgrade"),
        with_value("Connection", "keep-alive, Upgrade"),
        with_value("Connection", "keep-alive", "UPGRADE"),
        [(name.lower(), value) for name, value in HANDSHAKE_FIELDS],
        [
            *HANDSHAKE_FIELDS,
            ("Sec-WebSocket-Protocol", "chat"),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ],
    ],
    ids=str,
)
async def test_other_valid_handshakes(fields: Fields) -> None:
    """Names and tokens are case-insensitive, Upgrade and Connection are lists, and unknown offers are ignored."""
    async with client_of_echo() as client:
        await client.send(request_bytes("GET /ws HTTP/1.1", fields))
        status, headers, _ = await client.reply()

        assert status == 101
        assert "Sec-WebSocket-Protocol" not in headers
        assert "Sec-WebSocket-Extensions" not in headers
        await assert_echoes(client)


@pytest.mark.parametrize("value", ["h2c", "websocket/13", "web socket"])
async def test_upgrade_to_another_protocol(value: str) -> None:
    """A request to upgrade to another protocol is an ordinary request."""
    async with client_of_echo() as client:
        await client.send(request_bytes("GET /hello HTTP/1.1", with_value("Upgrade", value)))

        assert (await client.reply()).content == b"hello"


async def test_stream_has_the_request() -> None:
    """The stream has the request of its handshake: path, query and headers."""
    requests: list[Request] = []

    async def look(stream: WebsocketStream, state: None) -> None:
        requests.append(stream.request)

    async with client_of(App().with_websocket_route("/rooms/*", websocket_handler(look))) as client:
        await client.send(request_bytes("GET /rooms/7?user=me HTTP/1.1", [*HANDSHAKE_FIELDS, ("Cookie", "a=b")]))
        await client.reply()
        assert await client.close_code() == 1000

    (request,) = requests
    assert (request.path, request.query, request.headers["Cookie"]) == ("/rooms/7", "user=me", "a=b")


@pytest.mark.parametrize("size", [10000, 1], ids=["in one packet", "byte by byte"])
async def test_frames_in_the_packet_of_the_handshake(size: int) -> None:
    """Frames in the packet of the handshake are received, including a Close."""
    received: list[str | bytes] = []

    async def listen(stream: WebsocketStream, state: None) -> None:
        received.extend([message.data async for message in stream])

    frames = [client_frame(TEXT, b"early"), client_frame(PING, b"P"), client_frame(BINARY, b"bird")]
    data = b"".join([HANDSHAKE, *frames, close_frame(3000, "bye")])
    async with client_of(app_with(websocket_handler(listen))) as client:
        for start in range(0, len(data), size):
            await client.send(data[start : start + size])

        assert (await client.reply()).status == 101
        assert await client.frame() == (PONG, b"P")
        assert await client.frame() == (CLOSE, (3000).to_bytes(2, "big") + b"bye")
        assert await client.at_end()
        assert received == ["early", b"bird"]


async def test_incomplete_frame_in_the_packet_of_the_handshake() -> None:
    """A frame that begins in the packet of the handshake and ends later is received."""
    frame = client_frame(TEXT, b"early")
    async with client_of_echo() as client:
        await client.send(HANDSHAKE + frame[:3])
        assert (await client.reply()).status == 101
        await client.send(frame[3:])

        assert await client.frame() == (TEXT, b"early")


async def test_handshake_pipelined_after_requests() -> None:
    """A handshake that is pipelined after other requests is answered after them, and frames may follow it."""
    async with client_of_echo() as client:
        await client.send(HELLO * 2 + HANDSHAKE + client_frame(BINARY, b"early"))

        assert [(await client.reply()).status for _ in range(3)] == [200, 200, 101]
        assert await client.frame() == (BINARY, b"early")


KEY, VERSION = "Sec-WebSocket-Key", "Sec-WebSocket-Version"
SHORT_KEY = "dGhlIHNhbXBsZSBub25j"  # 15 bytes

FAULTS: dict[str, tuple[str, list[tuple[str, str]], str]] = {
    "key missing": (GET, without(KEY), "Sec-WebSocket-Key is missing"),
    "key twice": (GET, [*HANDSHAKE_FIELDS, HANDSHAKE_FIELDS[-1]], "Sec-WebSocket-Key is repeated"),
    "key too short": (GET, with_value(KEY, SHORT_KEY), "not the base64 of 16 bytes"),
    "key too long": (GET, with_value(KEY, SHORT_KEY + "YWE="), "not the base64 of 16 bytes"),
    "key empty": (GET, with_value(KEY, ""), "not the base64 of 16 bytes"),
    "key of one letter": (GET, with_value(KEY, "x"), "not the base64 of 16 bytes"),
    "key with a blank": (GET, with_value(KEY, "dGhlIHNh bXBsZSBub25jZQ=="), "not the base64 of 16 bytes"),
    "key not in ASCII": (GET, with_value(KEY, "dGhlIHNhbXBsZSBub25jZ\xe9=="), "not the base64 of 16 bytes"),
    "key without its end": (GET, with_value(KEY, "dGhlIHNhbXBsZSBub25jZQ"), "not the base64 of 16 bytes"),
    "version missing": (GET, without(VERSION), "Sec-WebSocket-Version is missing"),
    "version twice": (GET, with_value(VERSION, "13", "13"), "Sec-WebSocket-Version is repeated"),
}


@pytest.mark.parametrize(("line", "fields", "reason"), FAULTS.values(), ids=FAULTS)
async def test_invalid_handshakes(line: str, fields: Fields, reason: str) -> None:
    """An invalid handshake is a 400 with the reason, and the connection is kept alive."""
    async with client_of_echo() as client:
        await client.send(request_bytes(line, fields))
        status, _, content = await client.reply()

        assert status == 400
        assert reason in content.decode()
        await assert_still_http(client)


@pytest.mark.parametrize("version", ["8", "0", "14", "13, 8", "013", ""])
async def test_other_versions(version: str) -> None:
    """Another version is a 426 with the supported one, and the connection is kept alive."""
    async with client_of_echo() as client:
        await client.send(request_bytes(GET, with_value(VERSION, version)))
        status, headers, content = await client.reply()

        assert status == 426
        assert headers.get_all("Sec-WebSocket-Version") == ("13",)
        assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "upgrade")
        assert b"only WebSocket version 13" in content
        await assert_still_http(client)


async def test_valid_handshake_after_an_invalid_one() -> None:
    """A client may repeat its handshake on the same connection, even in the same packet."""
    async with client_of_echo() as client:
        bad = request_bytes(GET, with_value(VERSION, "8"))
        await client.send(bad + HANDSHAKE + client_frame(TEXT, b"at last"))

        assert [(await client.reply()).status for _ in range(2)] == [426, 101]
        assert await client.frame() == (TEXT, b"at last")


async def test_error_handler_of_invalid_handshakes() -> None:
    """The error handler answers invalid handshakes, with the status, the request and the HandshakeError."""
    seen: list[tuple[int, Request | None, Exception | None]] = []

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        seen.append((status, request, exception))
        return Response(status, "own page")

    async with client_of(app_with(websocket_handler(echo)).with_error_handler(on_error)) as client:
        await client.send(request_bytes(GET, without(KEY)))
        assert (await client.reply()).content == b"own page"

    ((status, request, exception),) = seen
    assert status == 400
    assert request is not None
    assert request.path == "/ws"
    assert isinstance(exception, HandshakeError)
