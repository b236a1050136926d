"""Which route answers an opening handshake, and what answers requests without an upgrade."""

from __future__ import annotations

import re

import pytest

from humphrey_trio import (
    App,
    Request,
    Response,
    SubApp,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.websocket import HandshakeError
from tests.support.handshakes import (
    GET,
    HELLO,
    Fields,
    Route,
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
    HANDSHAKE_FIELDS,
    request_bytes,
)

HOST = [("Host", "testserver")]
NO_UPGRADES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "no field": (GET, HOST),
    "no Connection": (GET, without("Connection")),
    "Connection without Upgrade": (GET, with_value("Connection", "keep-alive")),
    "Connection that only looks like it": (GET, with_value("Connection", "upgrades")),
    "no Upgrade": (GET, without("Upgrade")),
    "another Upgrade": (GET, with_value("Upgrade", "h2c")),
    "HEAD": ("HEAD /ws HTTP/1.1", list(HANDSHAKE_FIELDS)),
    "HTTP/1.0": ("GET /ws HTTP/1.0", list(HANDSHAKE_FIELDS)),
    "a length": (GET, [*HANDSHAKE_FIELDS, ("Content-Length", "5")]),
    "chunks": (GET, [*HANDSHAKE_FIELDS, ("Transfer-Encoding", "chunked")]),
}
no_upgrade = pytest.mark.parametrize(("line", "fields"), NO_UPGRADES.values(), ids=NO_UPGRADES)


@no_upgrade
async def test_no_upgrade_at_a_websocket_route(line: str, fields: Fields) -> None:
    """A GET or HEAD without an upgrade, where only a WebSocket route matches, is a 426 that says so."""
    async with client_of_echo() as client:
        await client.send(request_bytes(line, fields))
        head, _, page = (await client.stream.receive_some()).partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"\r\nUpgrade: websocket" in head
        closes = line.endswith("1.0") or fields[-1] in (("Content-Length", "5"), ("Transfer-Encoding", "chunked"))
        assert re.findall(rb"Connection: (.*?)(?:\r\n|$)", head) == [b"upgrade, close" if closes else b"upgrade"]
        if line.startswith("HEAD"):
            assert page == b""
        else:
            assert b"only WebSockets are served here" in page
            assert b"proxy" in page
        if not closes:
            await assert_still_http(client)


@no_upgrade
async def test_websocket_route_and_http_route_at_one_path(line: str, fields: Fields) -> None:
    """Requests without an upgrade go to the HTTP route of a path, and upgrades to its WebSocket route."""
    seen: list[Request] = []

    def see(request: Request) -> Response:
        seen.append(request)
        return Response(200, request.content)

    app = app_with(websocket_handler(echo)).with_stateless_route("/w*", see)
    async with client_of(app) as client:
        body = {"Content-Length": b"hello", "Transfer-Encoding": b"5\r\nhello\r\n0\r\n\r\n"}.get(
            fields[-1][0], b""
        )
        await client.send(request_bytes(line, fields) + body)
        head = await client.stream.receive_some()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert [(request.path, request.content) for request in seen] == [("/ws", b"hello" if body else b"")]
    async with client_of(app) as client:
        await client.open("/ws")
        await assert_echoes(client)


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "BREW", "get"])
@pytest.mark.parametrize("fields", [HOST, list(HANDSHAKE_FIELDS)], ids=["plain", "with the fields of an upgrade"])
async def test_other_methods_at_a_websocket_route(method: str, fields: Fields) -> None:
    """Any method but GET and HEAD at a WebSocket route is a 405 that allows GET."""
    async with client_of_echo() as client:
        await client.send(request_bytes(f"{method} /ws HTTP/1.1", fields))
        status, headers, content = await client.reply()

        assert (status, headers.get_all("Allow")) == (405, ("GET",))
        assert "Upgrade" not in headers
        assert b"opened with GET" in content
        await assert_still_http(client)


async def test_body_at_a_websocket_route() -> None:
    """A body at a WebSocket route is not read, and the connection ends after the response."""
    async with client_of_echo() as client:
        await client.send(request_bytes("POST /ws HTTP/1.1", [*HOST, ("Content-Length", str(len(HELLO)))]) + HELLO)
        status, headers, _ = await client.reply()

        assert (status, headers["Connection"]) == (405, "close")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.at_end()


async def test_error_handler_at_a_websocket_route() -> None:
    """The error handler answers 426 and 405 at a WebSocket route, and the required fields are added."""
    seen: list[tuple[int, str, str]] = []

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        assert request is not None
        assert isinstance(exception, HandshakeError)
        seen.append((status, request.method, str(exception)[:20]))
        return Response(status, "own page")

    app = app_with(websocket_handler(echo)).with_error_handler(on_error)
    async with client_of(app) as client:
        await client.send(request_bytes(GET, HOST) + request_bytes("POST /ws HTTP/1.1", HOST))
        refused, not_allowed = await client.reply(), await client.reply()

    assert (refused.status, refused.content, refused.headers["Upgrade"]) == (426, b"own page", "websocket")
    assert (not_allowed.status, not_allowed.content, not_allowed.headers["Allow"]) == (405, b"own page", "GET")
    assert seen == [(426, "GET", "only WebSockets are "), (405, "POST", "a WebSocket is opene")]


async def test_app_handle_at_a_websocket_route() -> None:
    """``App.handle`` answers as a connection does: 426, 405, and 404 without a route."""
    app = app_with(websocket_handler(echo))
    requests = [Request(path="/ws"), Request("HEAD", "/ws"), Request("PUT", "/ws"), Request(path="/other")]
    answers = [await app.handle(request) for request in requests]

    assert [answer.status for answer in answers] == [426, 426, 405, 404]
    assert [answers[0].headers[name] for name in ("Upgrade", "Connection")] == ["websocket", "upgrade"]
    assert answers[2].headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("path", "status", "content"),
    [("/other", 404, b"nothing here"), ("/hello", 200, b"hello")],
    ids=["no route", "a route for requests only"],
)
async def test_no_websocket_route(path: str, status: int, content: bytes) -> None:
    """An upgrade where no WebSocket route matches is an ordinary request, and the connection is kept alive."""

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        assert (status, exception) == (404, None)
        return Response(status, "nothing here")

    async with client_of(app_with(websocket_handler(echo)).with_error_handler(on_error)) as client:
        await client.send(request_bytes(f"GET {path} HTTP/1.1"))

        assert (await client.reply())[::2] == (status, content)
        await assert_still_http(client)


async def test_websocket_routes_of_hosts_and_of_the_app() -> None:
    """A WebSocket route of a host is a 404 for other hosts, and one of the app is there for all hosts."""
    subapp: SubApp = SubApp().with_websocket_route("/one", websocket_handler(echo))
    app = app_with(websocket_handler(echo)).with_host("one.example", subapp)
    async with client_of(app) as client:
        statuses = []
        for host, path in [("one.example", "/one"), ("other", "/one"), ("one.example", "/ws"), ("other", "/ws")]:
            await client.send(request_bytes(f"GET {path} HTTP/1.1", [("Host", host)]))
            statuses.append((await client.reply()).status)

        assert statuses == [426, 404, 426, 426]


@pytest.mark.parametrize(
    ("host", "greeting"),
    [("one.example", b"one"), ("ONE.example:8080", b"one"), ("other.example", b"default")],
)
async def test_websocket_route_of_a_host_is_first(host: str, greeting: bytes) -> None:
    """A WebSocket route of the SubApp of a host comes before that of the app."""

    def greeter(text: bytes) -> Route:
        async def greet(stream: WebsocketStream, state: None) -> None:
            await stream.send(text)

        return websocket_handler(greet)

    subapp: SubApp = SubApp().with_websocket_route("/ws", greeter(b"one"))
    app = App().with_host("one.example", subapp).with_websocket_route("/ws", greeter(b"default"))
    async with client_of(app) as client:
        await client.send(request_bytes(GET, with_value("Host", host)))
        assert (await client.reply()).status == 101

        assert await client.frame() == (BINARY, greeting)
