"""The opening handshake on the wire: what is checked, who may connect, and how a route accepts or refuses."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    Request,
    Response,
    SubApp,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import ANY_ORIGIN, HandshakeError, Upgrade
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient, Reply
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

Fields = Iterable[tuple[str, str]]
Route = Callable[[Upgrade, Any], Awaitable[Response | None]]

HANDSHAKE = request_bytes("GET /ws HTTP/1.1")
HELLO = request_bytes("GET /hello HTTP/1.1", [("Host", "testserver")])


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


def app_with(route: Route) -> App:
    return (
        App().with_stateless_route("/hello", lambda _: Response(200, "hello")).with_websocket_route("/ws", route)
    )


@asynccontextmanager
async def client_of(app: App[Any]) -> AsyncGenerator[RawClient]:
    """A raw client of an app, on memory streams."""
    with trio.fail_after(10):
        async with served_in_memory(app) as connect:
            yield RawClient(connect())


@asynccontextmanager
async def client_of_echo() -> AsyncGenerator[RawClient]:
    async with client_of(app_with(websocket_handler(echo))) as client:
        yield client


async def assert_still_http(client: RawClient) -> None:
    """The connection answers another request."""
    await client.send(HELLO)
    assert (await client.reply()).content == b"hello"


async def assert_echoes(client: RawClient) -> None:
    await client.send(client_frame(TEXT, b"hi"))
    assert await client.frame() == (TEXT, b"hi")


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in HANDSHAKE_FIELDS if field[0] != name]


def with_value(name: str, *values: str) -> list[tuple[str, str]]:
    """The handshake's fields with other values under a name."""
    return [*without(name), *((name, value) for value in values)]


# ------------------------------------------------------------------------------------- a good handshake


async def test_the_answer() -> None:
    """A handshake is answered with a 101 that proves that its key was read (RFC 6455, section 1.3)."""
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
async def test_other_good_handshakes(fields: Fields) -> None:
    """Letter case does not count, Upgrade and Connection are lists, and what is not supported is not agreed to."""
    async with client_of_echo() as client:
        await client.send(request_bytes("GET /ws HTTP/1.1", fields))
        status, headers, _ = await client.reply()

        assert status == 101
        assert "Sec-WebSocket-Protocol" not in headers
        assert "Sec-WebSocket-Extensions" not in headers
        await assert_echoes(client)


@pytest.mark.parametrize("value", ["h2c", "websocket/13", "web socket"])
async def test_an_upgrade_to_something_else(value: str) -> None:
    """A request to upgrade to another protocol is an ordinary request."""
    async with client_of_echo() as client:
        await client.send(request_bytes("GET /hello HTTP/1.1", with_value("Upgrade", value)))

        assert (await client.reply()).content == b"hello"


async def test_the_request_is_the_streams() -> None:
    """The stream has the request that opened it: path, query and headers."""
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
async def test_bytes_behind_the_handshake(size: int) -> None:
    """Frames in the same packet as the handshake are not lost, a Close at their end neither."""
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


async def test_half_a_frame_behind_the_handshake() -> None:
    """A frame that begins in the handshake's packet and ends later is one frame."""
    frame = client_frame(TEXT, b"early")
    async with client_of_echo() as client:
        await client.send(HANDSHAKE + frame[:3])
        assert (await client.reply()).status == 101
        await client.send(frame[3:])

        assert await client.frame() == (TEXT, b"early")


async def test_pipelined_behind_requests() -> None:
    """A handshake pipelined behind other requests is answered behind them, and what follows it is WebSocket."""
    async with client_of_echo() as client:
        await client.send(HELLO * 2 + HANDSHAKE + client_frame(BINARY, b"early"))

        assert [(await client.reply()).status for _ in range(3)] == [200, 200, 101]
        assert await client.frame() == (BINARY, b"early")


# --------------------------------------------------------------------------------------- handshake faults

GET = "GET /ws HTTP/1.1"
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
async def test_a_fault_is_a_400(line: str, fields: Fields, reason: str) -> None:
    """A faulty handshake is a 400 whose page says what is wrong, and the connection stays usable."""
    async with client_of_echo() as client:
        await client.send(request_bytes(line, fields))
        status, _, content = await client.reply()

        assert status == 400
        assert reason in content.decode()
        await assert_still_http(client)


@pytest.mark.parametrize("version", ["8", "0", "14", "13, 8", "013", ""])
async def test_another_version_is_a_426(version: str) -> None:
    """A version that is not spoken here is a 426 that says which one is, and the connection stays usable."""
    async with client_of_echo() as client:
        await client.send(request_bytes(GET, with_value(VERSION, version)))
        status, headers, content = await client.reply()

        assert status == 426
        assert headers.get_all("Sec-WebSocket-Version") == ("13",)
        assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "upgrade")
        assert b"only WebSocket version 13" in content
        await assert_still_http(client)


async def test_a_good_handshake_behind_a_bad_one() -> None:
    """A client may correct its handshake on the same connection, in the same packet too."""
    async with client_of_echo() as client:
        bad = request_bytes(GET, with_value(VERSION, "8"))
        await client.send(bad + HANDSHAKE + client_frame(TEXT, b"at last"))

        assert [(await client.reply()).status for _ in range(2)] == [426, 101]
        assert await client.frame() == (TEXT, b"at last")


async def test_a_faults_page_is_the_error_handlers() -> None:
    """The error handler answers faulty handshakes: it gets the status, the request and the HandshakeError."""
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


# ------------------------------------------------------------------------------------------------ routes


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
async def test_no_upgrade_where_only_a_websocket_is(line: str, fields: Fields) -> None:
    """A GET or HEAD that asks for no WebSocket where nothing else is, is a 426 that says what would be served."""
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
async def test_no_upgrade_where_a_request_is_answered_too(line: str, fields: Fields) -> None:
    """What asks for no WebSocket goes to the HTTP route of the path, and what asks for one to the WebSocket."""
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
async def test_another_method_where_only_a_websocket_is(method: str, fields: Fields) -> None:
    """Any method but GET and HEAD is a 405 that names GET, whatever the request asks for."""
    async with client_of_echo() as client:
        await client.send(request_bytes(f"{method} /ws HTTP/1.1", fields))
        status, headers, content = await client.reply()

        assert (status, headers.get_all("Allow")) == (405, ("GET",))
        assert "Upgrade" not in headers
        assert b"opened with GET" in content
        await assert_still_http(client)


async def test_a_body_where_only_a_websocket_is() -> None:
    """A body is not read there, and is never taken for a request: the connection ends behind the answer."""
    async with client_of_echo() as client:
        await client.send(request_bytes("POST /ws HTTP/1.1", [*HOST, ("Content-Length", str(len(HELLO)))]) + HELLO)
        status, headers, _ = await client.reply()

        assert (status, headers["Connection"]) == (405, "close")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.at_end()


async def test_pages_where_only_a_websocket_is() -> None:
    """The error handler answers there: it gets the request and what is wrong, and its answer gets the fields."""
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


async def test_no_socket_where_only_a_websocket_is() -> None:
    """``App.handle`` answers as a connection does: 426, 405, and 404 where nothing is."""
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
    """An upgrade where no WebSocket is, is an ordinary request, and the connection stays usable."""

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        assert (status, exception) == (404, None)
        return Response(status, "nothing here")

    async with client_of(app_with(websocket_handler(echo)).with_error_handler(on_error)) as client:
        await client.send(request_bytes(f"GET {path} HTTP/1.1"))

        assert (await client.reply())[::2] == (status, content)
        await assert_still_http(client)


async def test_hosts_decide_what_is_served() -> None:
    """A WebSocket that only another host has is a 404, and one of the app itself is there for all hosts."""
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
async def test_routes_of_hosts(host: str, greeting: bytes) -> None:
    """A WebSocket route of a host's SubApp comes before the app's own."""

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


async def test_a_route_gets_the_state() -> None:
    """A WebSocket route gets the app's state as its second argument."""

    async def route(upgrade: Upgrade, state: str) -> Response | None:
        return Response(403, f"{upgrade.request.path} {state}")

    async with client_of(App("the state").with_websocket_route("/ws", route)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).content == b"/ws the state"


async def test_a_route_refuses() -> None:
    """A route refuses by returning a response, and the connection stays usable."""

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        return Response(401, "who are you?", {"WWW-Authenticate": "Basic"})

    async with client_of(app_with(refuse)) as client:
        for _ in range(2):
            await client.send(HANDSHAKE)
            status, headers, content = await client.reply()
            assert (status, content) == (401, b"who are you?")
            assert headers["WWW-Authenticate"] == "Basic"
        await assert_still_http(client)


async def test_a_route_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A route that raises before it accepts is a 500 and logged, and the connection stays usable."""

    async def fail(upgrade: Upgrade, state: None) -> Response | None:
        raise RuntimeError("a secret")

    async with client_of(app_with(fail)) as client:
        await client.send(HANDSHAKE)
        status, _, content = await client.reply()
        assert status == 500
        assert b"secret" not in content
        await assert_still_http(client)

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert "a secret" in str(record.exc_info[1])


async def test_a_route_that_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A route that neither accepts nor refuses is a 500, and the log says what it has left out."""

    async def forget(upgrade: Upgrade, state: None) -> Response | None:
        return None

    async with client_of(app_with(forget)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 500
        await assert_still_http(client)

    assert "must accept the upgrade or return a Response" in caplog.text


async def test_a_route_that_hands_over_and_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A route of one's own may end in a hook's; what it raises behind that is logged, and the stream goes on."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    hand_over = async_websocket_handler(hook)

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        await hand_over(upgrade, state)
        raise RuntimeError("too late")

    async with client_of(app_with(route)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101
        stream = await streams.receive()
        await stream.send("still here")
        assert await client.frame() == (TEXT, b"still here")

    assert "too late" in caplog.text


async def test_a_route_refuses_by_an_error() -> None:
    """A route may also raise HandshakeError, whose status and reason the client gets."""

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        raise HandshakeError("not on Sundays", 403)

    async with client_of(app_with(refuse)) as client:
        await client.send(HANDSHAKE)
        status, _, content = await client.reply()

        assert status == 403
        assert b"not on Sundays" in content
        await assert_still_http(client)


async def test_further_headers() -> None:
    """A route may add header fields to the 101."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        await upgrade.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return None

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).headers.get_all("Set-Cookie") == ("a=1", "b=2")


@pytest.mark.parametrize(
    "options",
    [{"headers": {"X": "a\r\nY: b"}}, {"max_message_size": 0}],
    ids=["a header with a line end", "a limit of zero"],
)
async def test_invalid_options(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Accepting with an invalid header or limit is a ValueError before anything is sent, so it becomes a 500."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        with pytest.raises(ValueError, match=r"header|max_message_size"):
            await upgrade.accept(**options)
        return Response(418)

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).status == 418


async def test_accepted_twice() -> None:
    """A second accept is a RuntimeError, and leaves the stream as it is."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        stream = await upgrade.accept()
        with pytest.raises(RuntimeError, match="accepted before"):
            await upgrade.accept()
        await stream.send("still here")
        return None

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101

        assert await client.frame() == (TEXT, b"still here")
        assert await client.close_code() == 1000


async def refuse_by_a_response(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    return Response(403, "no")


async def refuse_by_an_error(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    raise HandshakeError("no", 403)


async def fail_to_decide(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    raise ValueError("no")


@pytest.mark.parametrize("route", [refuse_by_a_response, refuse_by_an_error, fail_to_decide])
async def test_accepted_after_a_refusal(route: Route) -> None:
    """An upgrade whose route has ended cannot be accepted, and nothing gets into the connection, which is HTTP."""
    kept: list[Upgrade] = []
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    app = App(kept).with_websocket_route("/ws", route)
    async with client_of(app.with_stateless_route("/hello", lambda _: Response(200, "hello"))) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status in (403, 500)

        with pytest.raises(RuntimeError, match="has ended and refused it"):
            await kept[0].accept()
        with pytest.raises(RuntimeError, match="has ended and refused it"):
            await async_websocket_handler(hook)(kept[0], None)
        assert hook.statistics().current_buffer_used == 0
        await assert_still_http(client)


async def test_refused_while_another_task_waits_for_a_place(autojump_clock: trio.testing.MockClock) -> None:
    """A refusal counts at once: a task that still waits for a place in a hook gets a 503 and no place."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    statuses: list[int] = []

    async def hand_over(upgrade: Upgrade) -> None:
        with pytest.raises(HandshakeError) as refused:
            await async_websocket_handler(hook, place_timeout=50)(upgrade, None)
        statuses.append(refused.value.status)

    async with trio.open_nursery() as nursery:

        async def refuse(upgrade: Upgrade, state: None) -> Response | None:
            nursery.start_soon(hand_over, upgrade)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task is accepting"):
                await upgrade.accept()
            return Response(403, "no")

        async with client_of(app_with(refuse)) as client:
            await client.send(HANDSHAKE)
            assert (await client.reply()).status == 403
            with pytest.raises(trio.WouldBlock):
                streams.receive_nowait()
            await assert_still_http(client)
    assert statuses == [503]


async def test_a_cancelled_accept_has_not_accepted(autojump_clock: trio.testing.MockClock) -> None:
    """A route whose ``accept`` was cancelled may still refuse."""

    async def route(upgrade: Upgrade, state: None) -> Response:
        with trio.CancelScope() as scope:
            scope.cancel()
            await upgrade.accept()
        return Response(403, "no")

    async with client_of(app_with(route)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 403
        await assert_still_http(client)


@pytest.mark.parametrize("second", ["a hook", "accept"])
async def test_a_second_attempt_after_a_503(second: str, autojump_clock: trio.testing.MockClock) -> None:
    """When a hook has no place, the route may try another, or accept by itself; what came early is not lost."""
    full, _ = trio.open_memory_channel[WebsocketStream](0)
    gone, receiver = trio.open_memory_channel[WebsocketStream](1)
    receiver.close()
    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        for busy in (full, gone):
            with pytest.raises(HandshakeError, match="no WebSocket app takes this connection now"):
                await async_websocket_handler(busy)(upgrade, state)
        with trio.move_on_after(0.5):
            await async_websocket_handler(full)(upgrade, state)
        if second == "a hook":
            return await async_websocket_handler(hook)(upgrade, state)
        return await websocket_handler(echo)(upgrade, state)

    async with trio.open_nursery() as nursery, client_of(app_with(route)) as client:
        await client.send(HANDSHAKE + client_frame(TEXT, b"early"))
        assert (await client.reply()).status == 101
        if second == "a hook":
            nursery.start_soon(echo, await streams.receive(), None)

        assert await client.frame() == (TEXT, b"early")
        await assert_echoes(client)
        await client.send(close_frame(1000))
        assert await client.close_code() == 1000


async def test_a_response_after_accepting(caplog: pytest.LogCaptureFixture) -> None:
    """A route that returns a response after it has accepted ends its stream with 1000, and is logged."""

    async def confused(upgrade: Upgrade, state: None) -> Response | None:
        await upgrade.accept()
        return Response(200)

    async with client_of(app_with(confused)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101
        assert await client.close_code() == 1000

    assert "after it had accepted" in caplog.text


# ----------------------------------------------------------------------------------------------- origins

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
    """The reply to a handshake with that Origin and Host."""
    fields = with_value("Host", host) + ([] if origin is None else [("Origin", origin)])
    async with client_of(app_with(websocket_handler(echo, origins=origins))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
        await (assert_echoes(client) if reply.status == 101 else assert_still_http(client))
    return reply


@pytest.mark.parametrize(("origin", "host", "origins"), ALLOWED)
async def test_allowed_origins(origin: str | None, host: str, origins: Collection[str] | None) -> None:
    """Pages of the host itself, of an origin on the list, and clients without Origin may connect."""
    assert (await reply_for(origin, host, origins)).status == 101


@pytest.mark.parametrize(("origin", "host", "origins"), FORBIDDEN)
async def test_forbidden_origins(
    origin: str, host: str, origins: Collection[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other page gets a 403; its page and one line of the log name its origin and the host."""
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


async def test_two_origins_are_none() -> None:
    """A handshake with two Origin fields is of no page that may connect, though one of them may."""
    fields = [*HANDSHAKE_FIELDS, ("Origin", "http://testserver"), ("Origin", "http://evil.example")]
    async with client_of(app_with(websocket_handler(echo))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
    assert reply.status == 403
    assert "'http://testserver, http://evil.example'" in html.unescape(reply.content.decode())


async def test_the_origin_on_the_page_is_harmless() -> None:
    """What a client calls its origin stands on the error page as text, not as HTML."""
    fields = [*HANDSHAKE_FIELDS, ("Origin", "<script>alert(1)</script>"), ("Accept", "text/html")]
    async with client_of(app_with(websocket_handler(echo))) as client:
        await client.send(request_bytes(GET, fields))
        reply = await client.reply()
    assert b"<h1>403 Forbidden</h1>" in reply.content
    assert b"<script>" not in reply.content


@pytest.mark.parametrize("origins", ["example.com", {"https://example.com/path"}, ["https://"]])
async def test_what_is_no_origin(origins: str | set[str] | list[str]) -> None:
    """An origin that no browser can send is refused when the route is made."""
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    with pytest.raises(ValueError, match="is no origin"):
        websocket_handler(echo, origins=origins)
    with pytest.raises(ValueError, match="is no origin"):
        async_websocket_handler(hook, origins=origins)
