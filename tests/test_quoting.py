"""Data of a peer is quoted in log lines, representations and default error pages."""

from __future__ import annotations

import ast
import html
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.http import Headers, Request, Response
from humphrey_trio.testing import websocket_client
from humphrey_trio.websocket import Deflate, HandshakeError, Upgrade
from tests.support.apps import linked, served_in_memory
from tests.support.clients import RawClient
from tests.support.programs import ROOT
from tests.support.wire import HANDSHAKE_FIELDS, close_frame, request_bytes

#: Controls, an escape sequence, line ends of all kinds, and what changes the direction of the text behind it.
CONTROLS = "\x00\t\x07\x08\x1b[31m\x1b]0;title\x07\r\nstream 1 forged\x7f"
BIDI = "\u202e\u2066\u2069\u200f\u061c"
HOSTILE = f"x{CONTROLS}\x85\x9b31m\xad{BIDI}\u2028\u2029\ufeff"
#: What of that can stand in a header field (RFC 9110, section 5.5): C1 controls, which are escape sequences too.
IN_FIELD = "x\x80\x85\x90q\x9b31m\x9d0;title\x9c\xad"


class NotQuoted(AssertionError):
    """A text contains data of a peer that is not quoted."""


def assert_harmless(text: str) -> None:
    """Assert that a text is one line of printable characters."""
    if not text.isprintable():
        raise NotQuoted(ascii(text))


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All log records. At the end, their messages and the values of ``extra`` are checked."""
    caplog.set_level(logging.DEBUG, "humphrey_trio")
    usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    yield caplog
    for record in caplog.get_records("call"):
        if not record.name.startswith("humphrey_trio"):
            continue
        assert_harmless(record.getMessage())
        for name, value in vars(record).items():
            if name not in usual:
                assert_harmless(str(value))
                assert_harmless(repr(value))


def messages(log: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == level]


# ---------------------------------------------------------------------------------------------- WebSockets


async def test_close_reason_in_an_app(
    log: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The close reason of a client is quoted in the representations of its stream, record and exceptions."""
    shown: list[object] = []

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        shown.append(message)
        raise ValueError("the handler failed")

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        shown.extend((stream, stream.request, stream.close_record))
        try:
            await stream.send("too late")
        except ConnectionClosed as exc:
            shown.append(exc)
        raise ValueError("the disconnect handler failed")

    websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(on_disconnect)
    async with linked(websocket_app) as app, served_in_memory(app) as connect:
        client = await RawClient(connect()).open(f"/{'?' * 600}")
        await client.send(close_frame(4000, HOSTILE))
        assert await client.close_code() == 4000
        assert await client.at_end()
        websocket_app.with_message_handler(on_message)
        async with websocket_client(app, "/") as other:
            await other.send(HOSTILE)
    assert [type(thing).__name__ for thing in shown[:4]] == [
        "AsyncStream",
        "Request",
        "CloseRecord",
        "ConnectionClosed",
    ]
    assert any(isinstance(thing, Message) for thing in shown)
    for thing in shown:
        assert_harmless(repr(thing))
        if not isinstance(thing, Message):  # whose str is its text
            assert_harmless(str(thing))
    _, _, end, *_ = messages(log, logging.INFO)  # after the lines about the listener and the 101
    assert repr(HOSTILE) in end
    assert repr(HOSTILE) in messages(log, logging.ERROR)[0]


async def test_close_reason_in_a_coroutine(
    log: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A coroutine that fails after the client has closed is logged with the quoted reason."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        try:
            await stream.receive()
        except ConnectionClosed as exc:
            raise ExceptionGroup("both", [exc, ValueError("another")]) from exc

    app = App().with_websocket_route("/", websocket_handler(handler))
    async with served_in_memory(app) as connect:
        client = await RawClient(connect()).open()
        await client.send(close_frame(4000, HOSTILE))
        assert await client.close_code() == 4000
        assert await client.at_end()
    assert repr(HOSTILE) in messages(log, logging.ERROR)[0]
    # The traceback shows the exception by its text.
    assert f"closed with 4000: {HOSTILE!r}" in log.text


@pytest.mark.parametrize("error", [ConnectionClosed(4000, HOSTILE), ConnectionClosed(1006)])
def test_connection_closed_quotes_its_reason(error: ConnectionClosed) -> None:
    """``ConnectionClosed`` has the original reason, and quotes it in its text."""
    assert_harmless(str(error))
    assert_harmless(repr(error))
    assert error.reason in ("", HOSTILE)


# ------------------------------------------------------------------------------------------ handshakes


def page_text(content: bytes) -> str:
    """The text that a browser or a terminal displays for a default error page, without its line end."""
    return html.unescape(re.sub("<[^>]*>", " ", content.decode())).removesuffix("\n")


FIELDS = [
    *("Origin", "Cookie", "User-Agent", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"),
    *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection"),
]


@pytest.mark.parametrize("name", FIELDS)
async def test_handshake_fields(name: str, autojump_clock: trio.testing.MockClock) -> None:
    """The fields of a handshake are quoted in log lines, error pages and the representation of the request."""
    seen: list[Request] = []

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        seen.append(upgrade.request)
        await upgrade.accept(subprotocols=["chat"], deflate=Deflate())
        raise ValueError("the route failed")

    fields = [*(pair for pair in HANDSHAKE_FIELDS if pair[0] != name), (name, IN_FIELD)]
    async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
        client = RawClient(connect())
        await client.send(request_bytes("GET /ws HTTP/1.1", fields))
        reply = await client.reply()
    assert_harmless(page_text(reply.content))
    for request in seen:
        assert_harmless(repr(request))
        assert IN_FIELD in [value for _, value in request.headers]
    if name == "Origin":
        assert repr(IN_FIELD) in page_text(reply.content)


async def test_handshake_error_with_text_of_a_peer(autojump_clock: trio.testing.MockClock) -> None:
    """The default error page escapes the reason of a ``HandshakeError``."""

    async def route(upgrade: Upgrade, state: None) -> None:
        raise HandshakeError(f"no room {HOSTILE}", 404)

    async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
        client = RawClient(connect())
        await client.send(request_bytes("GET /ws HTTP/1.1"))
        reply = await client.reply()
    assert reply.status == 404
    assert_harmless(page_text(reply.content))
    assert "stream 1 forged" in page_text(reply.content)


async def test_refusal_in_the_test_client(autojump_clock: trio.testing.MockClock) -> None:
    """The exception of the test client quotes the error page."""

    async def route(upgrade: Upgrade, state: None) -> Response:
        return Response(403, HOSTILE)

    app = App().with_websocket_route("/", route)
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app):
            pass
    assert_harmless(str(refused.value))
    assert repr(HOSTILE) in str(refused.value)


# ----------------------------------------------------------------------------------------------- HTTP

RAW = HOSTILE.encode()
HEADS = {
    "method": b"GE" + RAW + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "target": b"GET /" + RAW + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "version": b"GET / HTTP/1.1" + RAW + b"\r\nHost: a\r\n\r\n",
    "name": b"GET / HTTP/1.1\r\nHost: a\r\nX" + IN_FIELD.encode("latin-1") + b": y\r\n\r\n",
    "value": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + RAW + b"\r\n\r\n",
    "host": b"GET / HTTP/1.1\r\nHost: " + IN_FIELD.encode("latin-1") + b"\r\n\r\n",
    "line": b"GET / HTTP/1.1\r\nHost: a\r\n" + IN_FIELD.encode("latin-1") + b"\r\n\r\n",
    "length": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + IN_FIELD.encode("latin-1") + b"\r\n\r\n",
    "coding": b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + IN_FIELD.encode("latin-1") + b"\r\n\r\n",
    "chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + RAW + b"\r\n",
    "footer": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na" + RAW + b"\r\n0\r\n\r\n",
    "trailer": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + RAW + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + RAW + b"\r\n\r\n",
}


@pytest.mark.parametrize("where", HEADS)
async def test_malformed_requests(where: str, autojump_clock: trio.testing.MockClock) -> None:
    """The error page of a malformed request contains no raw data of it."""
    app = App().with_stateless_route("/*", lambda _: Response(200))
    async with served_in_memory(app) as connect:
        client = RawClient(connect())
        await client.send(HEADS[where])
        reply = await client.reply()
    assert reply.status in (400, 501)
    assert_harmless(page_text(reply.content))


@pytest.mark.parametrize("method", ["GET", f"GET{HOSTILE}"])
async def test_failed_handler_is_logged(method: str, log: pytest.LogCaptureFixture) -> None:
    """A failed handler is logged with the quoted method and path of its request."""

    def fail(request: Request) -> Response:
        raise ValueError("the handler failed")

    app = App().with_stateless_route("/*", fail)
    request = Request(method, f"/{HOSTILE}", HOSTILE, headers=Headers([("X", IN_FIELD)]), content=RAW)
    response = await app.handle(request)
    assert response.status == 500
    assert_harmless(page_text(response.content))
    assert_harmless(repr(request))
    assert_harmless(repr(response))
    assert messages(log, logging.ERROR)[0].startswith(f"the handler {__name__}.")


async def test_failed_error_handler_is_logged(log: pytest.LogCaptureFixture) -> None:
    """A failed error handler is logged with the request, escaped."""

    def fail(*_: object) -> Response:
        raise ValueError("the error handler failed")

    response = await App().with_error_handler(fail).handle(Request("GET", f"/{HOSTILE}"))
    assert response.status == 404
    (message,) = messages(log, logging.ERROR)
    assert message.startswith(f"the error handler {__name__}.")
    assert_harmless(message)


# -------------------------------------------------------------------------------- source of the package

#: What may stand in a log line by ``%s`` without being quoted, since no peer decides its text.
OURS = {
    "exc.strerror",  # the operating system's
    "reason.strerror",
    "self._path",  # of the operator's own socket
    "name",  # of the operator's own host
    "skipped",
    "why",  # printable
    "path",  # printable
    "method",  # printable, or escaped
    "client",  # escaped
    "agent",  # escaped
    "url_of(address, tls=tls, scheme=scheme)",  # of the operator's own listener
    "named",  # the addresses of the operator's own listeners
    "signal.Signals(number).name",
    "passed[number]",  # the operator's own name of a socket
    "peer",
    "request.address",
    "transport.peer",  # the operating system's
    "self._transport.peer",
    "request.client",  # an address that was parsed
    "connection.client",
    "name_of(request)",  # printable
    "told",  # printable
    "self._name()",  # of a function of the application
    "blocking",  # names of the application
    "stack",  # names and source of the application
    "qualified_name(function)",
    "name_of_body(response.body)",
    "kind",
    "self._name",  # of an ASGI app
    "self.name",
    "record",  # a CloseRecord, which quotes the reason itself
}
#: F-strings that are compared or sent to a server, and not shown.
NOT_SHOWN = {
    ("_cookie_jar", "self.path"),
    ("_outgoing_request", "self.method"),
    ("_redirects", "found.query"),
}
#: Names of what a peer sends, which no f-string may show as it is.
OF_PEERS = {"reason", "path", "query", "method", "uri", "origin", "given", "subprotocol", "text", "content"}

MODULES = sorted((ROOT / "humphrey_trio").rglob("*.py"))


def is_quoted(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("quoted", "printable", "escaped")


def raw_in_log(call: ast.Call) -> Iterator[str]:
    """The ``%s`` arguments of a log call that are neither quoted nor known to be the library's own."""
    form, *arguments = call.args
    assert isinstance(form, ast.Constant), f"a log line begins with a literal: {ast.unparse(call)}"
    for conversion, argument in zip(re.findall(r"%[^a-z]*([a-z])", form.value), arguments, strict=True):
        if conversion == "s" and not is_quoted(argument) and ast.unparse(argument) not in OURS:
            yield ast.unparse(argument)


def raw_in_text(node: ast.JoinedStr) -> Iterator[str]:
    """The parts of an f-string that are not quoted, although their name is that of data of a peer."""
    for value in node.values:
        if isinstance(value, ast.FormattedValue) and value.conversion == -1 and not is_quoted(value.value):
            name = ast.unparse(value.value).rpartition(".")[2]
            if name in OF_PEERS:
                yield ast.unparse(value.value)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_source_quotes_data_of_peers(module: Any) -> None:
    """All log lines and texts of the package quote data of peers."""
    tree = ast.parse(module.read_text())
    found = [
        raw
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.") and node.args
        if not ast.unparse(node.func).endswith(("isEnabledFor", "getLogger"))
        for raw in raw_in_log(node)
    ]
    texts = [raw for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for raw in raw_in_text(node)]
    assert found + [raw for raw in texts if (module.stem, raw) not in NOT_SHOWN] == []
