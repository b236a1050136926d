"""The Origin field of opening handshakes."""

from __future__ import annotations

import html
import logging
from collections.abc import Collection

import pytest
import trio
import trio.testing

from humphrey_trio import (
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import ANY_ORIGIN, SAME_HOST
from tests.support.clients import Reply
from tests.support.handshakes import (
    GET,
    app_with,
    assert_echoes,
    assert_still_http,
    client_of,
    echo,
    with_value,
)
from tests.support.wire import (
    HANDSHAKE_FIELDS,
    request_bytes,
)

ALLOWED: list[tuple[str | None, str, Collection[str] | None]] = [
    (None, "example.com", None),
    (None, "example.com", {"https://other.example"}),
    (None, "example.com", set()),
    ("http://example.com", "example.com", None),
    ("https://example.com", "example.com", None),
    ("http://example.com", "example.com:80", None),
    ("https://example.com", "example.com:443", None),
    ("http://example.com:80", "example.com", None),
    ("https://example.com:443", "example.com:443", None),
    ("http://example.com:8080", "example.com:8080", None),
    ("HTTP://Example.COM", "eXample.com", None),
    ("http://[::1]", "[::1]", None),
    ("http://[::1]", "[::1]:80", None),
    ("http://[::1]:8080", "[::1]:8080", None),
    ("https://other.example", "example.com", {"https://other.example", "https://third.example"}),
    ("https://other.example", "example.com", "https://other.example"),
    ("https://OTHER.example", "example.com", {"https://other.EXAMPLE"}),
    ("null", "example.com", {"null"}),
    ("https://other.example", "example.com", {ANY_ORIGIN}),
    ("null", "example.com", [ANY_ORIGIN]),
    ("http://example.com", "example.com", SAME_HOST),
    ("https://example.com:8080", "example.com:8080", {SAME_HOST, "https://other.example"}),
    ("https://other.example", "example.com", [SAME_HOST, "https://other.example"]),
    ("https://a.other.example", "example.com", {"https://*.other.example"}),
    ("http://localhost:5173", "localhost:8080", "http://localhost:*"),
    ("https://other.example", "example.com", {"https://other.example:443"}),
    ("https://xn--bcher-kva.example", "example.com", {"https://bücher.example"}),
    ("file://", "example.com", {"file://"}),
    ("http://example.com", "example.com.", None),
    ("http://[::1]", "[0:0::1]", None),
]

FORBIDDEN: list[tuple[str, str, Collection[str] | None]] = [
    ("http://other.example", "example.com", None),
    ("http://other.example", "example.com", SAME_HOST),
    ("https://third.example", "example.com", [SAME_HOST, "https://other.example"]),
    ("http://example.com", "example.com", {"https://other.example"}),
    ("http://example.com.other.example", "example.com", None),
    ("http://example.com:8080", "example.com", None),
    ("http://example.com", "example.com:8080", None),
    ("https://example.com", "example.com:80", None),
    ("http://[::1]:8080", "[::1]", None),
    ("http://[::2]", "[::1]", None),
    ("null", "example.com", None),
    ("", "example.com", None),
    ("example.com", "example.com", None),
    ("http://", "example.com", None),
    ("ftp://example.com", "example.com", None),
    ("chrome-extension://example.com", "example.com", None),
    ("http://example.com", "example.com", set()),
    ("http://example.com", "example.com", {"https://other.example"}),
    ("https://other.exam", "example.com", "https://other.example"),
    ("https://other.example:8443", "example.com", {"https://other.example"}),
    ("https://sub.other.example", "example.com", {"https://other.example"}),
    ("https://evil.example/.other.example", "example.com", {"https://*.other.example"}),
    ("https://evil.example:.other.example", "example.com", {"https://*.other.example"}),
    ("https://user@a.other.example", "example.com", {"https://*.other.example"}),
    ("http://example.com/", "example.com", None),
    ("http://user@example.com", "example.com", None),
    ("file://", "example.com", {"null"}),
]


async def reply_for(origin: str | None, host: str, origins: Collection[str] | None) -> Reply:
    """The response to a handshake with this Origin and Host."""
    fields = with_value("Host", host) + ([] if origin is None else [("Origin", origin)])
    async with client_of(app_with(websocket_handler(echo, origins=origins))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
        await (assert_echoes(client) if reply.status == 101 else assert_still_http(client))
    return reply


@pytest.mark.parametrize(("origin", "host", "origins"), ALLOWED)
async def test_allowed_origins(origin: str | None, host: str, origins: Collection[str] | None) -> None:
    """Clients without Origin, and pages of the host itself or of an allowed origin, may connect."""
    assert (await reply_for(origin, host, origins)).status == 101


@pytest.mark.parametrize(("origin", "host", "origins"), FORBIDDEN)
async def test_forbidden_origins(
    origin: str, host: str, origins: Collection[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other origin gets a 403; the response and one log line name the origin and the host."""
    caplog.set_level(logging.INFO, "humphrey_trio.websocket")
    status, _, content = await reply_for(origin, host, origins)

    assert status == 403
    refusal = f"pages of {origin!r} may not connect to {host!r}"
    assert refusal in html.unescape(content.decode())
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == f"refused memory:0: {refusal}"
    extra = vars(record)
    assert (extra["origin"], extra["host"], extra["path"]) == (origin, host, "/ws")
    assert extra["peer_addr"] == "memory:0"


async def test_two_origin_fields() -> None:
    """A handshake with two Origin fields is refused, even if one of them is allowed."""
    fields = [*HANDSHAKE_FIELDS, ("Origin", "http://testserver"), ("Origin", "http://evil.example")]
    async with client_of(app_with(websocket_handler(echo))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
    assert reply.status == 403
    assert "'http://testserver, http://evil.example'" in html.unescape(reply.content.decode())


async def test_origin_is_escaped_on_the_error_page() -> None:
    """The error page escapes the origin."""
    fields = [*HANDSHAKE_FIELDS, ("Origin", "<script>alert(1)</script>"), ("Accept", "text/html")]
    async with client_of(app_with(websocket_handler(echo))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
    assert b"<h1>403 Forbidden</h1>" in reply.content
    assert b"<script>" not in reply.content


@pytest.mark.parametrize("origins", ["example.com", {"https://example.com/path"}, ["https://"]])
async def test_invalid_origins_of_a_route(origins: str | set[str] | list[str]) -> None:
    """An origin that no browser can send is refused when the route is made."""
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    with pytest.raises(ValueError, match="is no origin"):
        websocket_handler(echo, origins=origins)
    with pytest.raises(ValueError, match="is no origin"):
        async_websocket_handler(hook, origins=origins)
