"""The messages of an ASGI app for an HTTP request: each legal and illegal order, and malformed messages."""

from __future__ import annotations

import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import trio

from humphrey_trio.testing import ResponseError, http_client
from tests.support.asgi import BODY, LAST, PART, START, Message, Receive, Script, Send, mounted
from tests.support.logs import errors

FILE: Message = {"type": "http.response.pathsend", "path": __file__}


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {**START, "status": status, "headers": headers}


@pytest.mark.parametrize(
    ("messages", "status", "body"),
    [
        ([START, BODY], 200, b"hello"),
        ([START, LAST], 200, b""),
        ([START, PART, LAST], 200, b"part"),
        ([START, PART, PART, BODY], 200, b"partparthello"),
        ([START, {**PART, "body": b""}, BODY], 200, b"hello"),
        ([START, {**BODY, "more_body": False}], 200, b"hello"),
        ([START, {**BODY, "body": bytearray(b"hi")}], 200, b"hi"),
        ([START, {**BODY, "body": memoryview(b"hi")}], 200, b"hi"),
        ([START, FILE], 200, Path(__file__).read_bytes()),
        ([{**START, "status": HTTPStatus.CREATED}, BODY], 201, b"hello"),
        ([start(status=204), LAST], 204, b""),
        ([start(status=204), {**PART, "body": b""}, LAST], 204, b""),
        ([start(status=304), LAST], 304, b""),
        ([start((b"content-length", b"9"), status=304), LAST], 304, b""),
        ([start((b"content-length", b"5")), BODY], 200, b"hello"),
        ([start((b"content-length", b"4")), PART, LAST], 200, b"part"),
        ([start((b"content-length", b"8")), PART, PART, LAST], 200, b"partpart"),
        ([start((b"content-length", b"5"), (b"Content-Length", b"5")), BODY], 200, b"hello"),
        ([start((b"transfer-encoding", b"chunked")), BODY], 200, b"hello"),
        ([{**START, "headers": iter([[b"x-a", b"b"]])}, BODY], 200, b"hello"),
    ],
)
async def test_legal_orders(messages: list[Message], status: int, body: bytes) -> None:
    """The client gets the response that the messages describe, and the app is not told of an error."""
    async with http_client(mounted(Script(*messages))) as client:
        response = await client.get("/")
    assert (response.status, response.content) == (status, body)


async def test_an_app_that_sends_nothing_for_long_lets_other_tasks_run() -> None:
    """Empty parts of a response without a body are a checkpoint each."""
    others = 0

    async def count() -> None:
        nonlocal others
        while others < 100:
            others += 1
            await trio.lowlevel.checkpoint()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start(status=204))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            while others < 100:
                await send({**PART, "body": b""})
        await send(LAST)

    with trio.fail_after(5):
        async with http_client(mounted(app)) as client:
            assert (await client.get("/")).status == 204


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_body_that_must_not_be_is_the_same_error_for_head(status: int) -> None:
    """``send`` raises a ``RuntimeError`` for the body of a response that has none, also for HEAD."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start(status=status))
        with pytest.raises(RuntimeError, match="must not have a body"):
            await send(BODY)
        raise ValueError("seen")

    async with http_client(mounted(app)) as client:
        for method in ("GET", "HEAD"):
            assert (await client.request(method, "/")).status == 500


BEFORE_THE_HEAD: list[tuple[list[Any], str]] = [
    ([], "returned without sending a response"),
    ([START], "returned without sending the whole body"),
    ([BODY], "has sent 'http.response.body', but expected is 'http.response.start'"),
    ([FILE], "has sent 'http.response.pathsend', but expected is 'http.response.start'"),
    ([START, START], "has sent 'http.response.start', but expected is 'http.response.body' or"),
    ([{"type": "http.response.trailers"}], "has sent 'http.response.trailers', but expected"),
    ([{"type": "websocket.accept"}], "has sent 'websocket.accept', but expected"),
    ([{"type": "http.disconnect"}], "has sent 'http.disconnect', but expected"),
    ([{"type": "a" * 1000 + "\n"}], "has sent 'aaaa"),
    ([{}], "without a 'type'"),
    ([{"type": None}], "without a 'type'"),
    ([{"type": []}], "without a 'type'"),
    ([None], "has sent a NoneType"),
    (["http.response.start"], "has sent a str"),
    ([{"type": "http.response.start"}], "the 'status' of 'http.response.start' must be an int, not NoneType"),
    ([{**START, "status": "200"}], "must be an int, not str"),
    ([{**START, "status": 101}], "must be from 200 to 999, not 101"),
    ([{**START, "status": 1000}], "must be from 200 to 999, not 1000"),
    ([{**START, "headers": 5}], "'headers' of 'http.response.start' must be pairs"),
    ([{**START, "headers": [b"x-a"]}], "must be pairs"),
    ([{**START, "headers": [("x-a", "b")]}], "must be pairs of bytes, such as"),
    ([start((b"x a", b"b"))], "'x a' is not a header name"),
    ([start((b"x-a", b"b\r\nx: y"))], "contains a control character"),
    ([start((b"x-a", b" b"))], "white space"),
    ([start((b"content-length", b"-1"))], "is not a number of bytes"),
    ([start((b"content-length", b"1" * 30))], "is not a number of bytes"),
    ([start((b"content-length", b"1"), (b"Content-Length", b"2"))], "two Content-Lengths: 1 and 2"),
    ([{**START, "trailers": True}], "no extension 'http.response.trailers'"),
    ([START, {**BODY, "body": "hello"}], "the 'body' of 'http.response.body' must be bytes, not str"),
    ([START, {**BODY, "body": None}], "must be bytes, not NoneType"),
    ([start(status=204), BODY], "a 204 response must not have a body"),
    ([start(status=204), PART], "a 204 response must not have a body"),
    ([start((b"content-length", b"6")), BODY], "of 5 bytes is shorter than its Content-Length of 6"),
    ([start((b"content-length", b"4")), BODY], "of 5 bytes is longer than its Content-Length of 4"),
    ([START, {**FILE, "path": "relative"}], "must be absolute, not 'relative'"),
    ([START, {**FILE, "path": None}], "must be absolute"),
    ([START, {**FILE, "path": b"/x"}], "must be a str, not bytes"),
    ([START, {**FILE, "path": "/missing"}], "'/missing' cannot be sent: .*No such file"),
    ([START, {**FILE, "path": "/"}], "'/' cannot be sent"),
    ([START, {**FILE, "path": "/\0"}], "cannot be sent: embedded null byte"),
    ([START, {**FILE, "path": "/\ud800"}], "cannot be sent: .*surrogates not allowed"),
    ([start(status=204), FILE], "a 204 response must not have a body"),
]


@pytest.mark.parametrize(("messages", "reason"), BEFORE_THE_HEAD)
async def test_errors_before_the_head(messages: list[Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed message, or one that is not expected, is an error of ``send``, a 500 and a log line."""
    async with http_client(mounted(Script(*messages))) as client:
        assert (await client.get("/items")).status == 500
    (record,) = errors(caplog)
    assert "the ASGI app tests.support.asgi.without_lifespan" in record.getMessage()
    assert "GET /items" in record.getMessage()
    assert record.exc_info is not None
    with pytest.raises(RuntimeError, match=reason):
        raise record.exc_info[1] or AssertionError


AFTER_THE_HEAD: list[tuple[list[Any], str]] = [
    ([START, PART], "returned without sending the whole body"),
    ([START, PART, START], "has sent 'http.response.start', but expected is 'http.response.body'"),
    ([START, PART, FILE], "has sent 'http.response.pathsend', but expected is 'http.response.body'"),
    ([START, PART, {"type": "x"}], "has sent 'x', but expected"),
    ([START, PART, {**BODY, "body": 5}], "must be bytes, not int"),
    ([start((b"content-length", b"9")), PART, BODY, LAST], "has sent 'http.response.body', but expected is no"),
    ([start((b"content-length", b"8")), PART, LAST], "of 4 bytes is shorter than its Content-Length of 8"),
    ([start((b"content-length", b"8")), PART, BODY], "of 9 bytes is longer than its Content-Length of 8"),
]


@pytest.mark.parametrize(("messages", "reason"), AFTER_THE_HEAD)
async def test_errors_after_the_head(messages: list[Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """After the head, an error cuts the connection, unless the body is complete, and is logged."""
    async with http_client(mounted(Script(*messages))) as client:
        if "no" not in reason.split():
            with pytest.raises(ResponseError):
                await client.get("/")
        else:
            assert (await client.get("/")).content == b"parthello"
    (record,) = errors(caplog)
    assert record.exc_info is not None
    failure = record.exc_info[1]
    assert failure is not None
    with pytest.raises(RuntimeError, match=reason):
        raise failure
    assert "in the ASGI app tests.support.asgi.without_lifespan" in str(failure.__notes__)


@pytest.mark.parametrize("message", [START, BODY, PART, LAST, FILE])
async def test_messages_after_the_end(message: Message, caplog: pytest.LogCaptureFixture) -> None:
    """A message after the whole response is an error of the app. The client has its response."""
    async with http_client(mounted(Script(START, BODY, message))) as client:
        assert (await client.get("/")).text == "hello"
    (record,) = errors(caplog)
    assert "failed after its response to GET /" in record.getMessage()
    assert "expected is no further message" in str(record.exc_info)


async def test_an_app_may_handle_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """An app that catches the error of ``send`` may send what was expected."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=r"but expected is 'http\.response\.start'"):
            await send(BODY)
        await send(START)
        with pytest.raises(RuntimeError, match="must be bytes"):
            await send({**BODY, "body": "text"})
        await send(BODY)

    async with http_client(mounted(app)) as client:
        assert (await client.get("/")).text == "hello"
    assert not errors(caplog)


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ([START, BODY], "5"),
        ([start((b"content-length", b"5")), BODY], "5"),
        ([start((b"content-length", b"5")), LAST], "5"),
        ([start((b"content-length", b"8")), PART, PART, LAST], "8"),
        ([START, PART, PART, LAST], None),
        ([START, FILE], str(len(Path(__file__).read_bytes()))),
    ],
)
async def test_head_requests(
    messages: list[Message], length: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The response to HEAD has the length of the app and no body. What the app sends of a body is discarded."""
    async with http_client(mounted(Script(*messages))) as client:
        response = await client.head("/")
        assert (response.status, response.headers.get("Content-Length")) == (200, length)
        assert (await client.head("/")).status == 200
    assert not errors(caplog)


async def test_header_fields() -> None:
    """Header fields are sent in their order, repeated ones as well, and the server adds its own."""
    fields = [(b"x-a", b"1"), (b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d"), (b"x-latin", b"\xe9")]
    async with http_client(mounted(Script(start(*fields), BODY))) as client:
        response = await client.get("/")
    sent = [(name, value) for name, value in response.headers if name.lower() in ("x-a", "set-cookie", "x-latin")]
    assert sent == [("x-a", "1"), ("Set-Cookie", "a=b"), ("set-cookie", "c=d"), ("x-latin", "é")]
    assert response.headers["Server"] == "humphrey_trio"


class Failure(Exception):
    """Raised by the apps of these tests."""


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "the handler <the ASGI app tests.support.asgi.without_lifespan.<locals>.called> failed for GET /"),
        ([START], "failed for GET /"),
        (
            [START, PART],
            "the body of the response from <the ASGI app tests.support.asgi.",
        ),
        ([START, BODY], "called failed after its response to GET /"),
        ([START, PART, LAST], "called failed after its response to GET /"),
    ],
)
async def test_an_app_that_raises(messages: list[Message], told: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception becomes a 500, cuts the connection after the head, or is logged after the response."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise Failure

    async with http_client(mounted(app)) as client:
        if messages[1:] == [PART]:
            with pytest.raises(ResponseError):
                await client.get("/")
        else:
            assert (await client.get("/")).status == (200 if messages[1:] else 500)
    (record,) = errors(caplog)
    assert told in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Failure)


async def test_a_group_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    """The failures of a nursery in an app become a 500, and are logged."""

    async def fail() -> None:
        raise Failure

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    async with http_client(mounted(app)) as client:
        assert (await client.get("/")).status == 500
    (record,) = errors(caplog)
    assert record.levelno == logging.ERROR
