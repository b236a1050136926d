"""WebSockets of ASGI apps: accepting, refusing, messages, close codes, failures, and clients that leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, ConnectionClosed, HandshakeError, Request, Response, Timeouts
from humphrey_trio.testing import memory_connection, websocket_client
from tests.support import PATIENCE
from tests.support.asgi import Message, Receive, Script, Send, mounted
from tests.support.draining import in_memory
from tests.support.logs import errors

Clock = trio.testing.MockClock

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
TEXT = {"type": "websocket.send", "text": "hello"}
START = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"token")]}
BODY = {"type": "websocket.http.response.body", "body": b"no token"}
PART = {**BODY, "more_body": True}

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Accept, and send each message back."""
    assert await receive() == {"type": "websocket.connect"}
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


@pytest.mark.parametrize("data", ["", "hello", "é" * 1000, b"", b"\0\xff", b"a" * 100_000])
async def test_messages(data: str | bytes) -> None:
    """Text and binary messages pass in both directions, as they are."""
    async with websocket_client(mounted(echo)) as client:
        await client.send(data)
        assert (await client.receive()).data == data


@pytest.mark.parametrize("message", [{"text": "a", "bytes": None}, {"text": None, "bytes": b"a"}, {"bytes": b"a"}])
async def test_both_keys(message: Message) -> None:
    """The key of the other kind may be there, with None."""
    async with websocket_client(mounted(Script(ACCEPT, {"type": "websocket.send", **message}))) as client:
        assert (await client.receive()).bytes == b"a"


async def test_accept() -> None:
    """The app chooses the subprotocol, and adds header fields to the 101."""
    accept = {**ACCEPT, "subprotocol": "json", "headers": [(b"x-a", b"1"), (b"set-cookie", b"a=b")]}
    offer = {"Sec-WebSocket-Protocol": "chat, json"}
    async with websocket_client(mounted(Script(accept)), headers=offer) as client:
        assert client.headers["Sec-WebSocket-Protocol"] == "json"
        assert client.headers["X-A"] == "1"
        assert client.headers["Set-Cookie"] == "a=b"


async def test_a_task_that_sends_while_another_accepts() -> None:
    """A message that is sent before the handshake is complete waits for it."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ACCEPT)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(send, TEXT)

    for _ in range(10):  # the order of the tasks is random
        async with websocket_client(mounted(app)) as client:
            assert (await client.receive()).text == "hello"


async def test_pages_of_other_origins() -> None:
    """The app decides which pages may connect."""
    async with websocket_client(mounted(Script(ACCEPT)), headers={"Origin": "https://other.example"}):
        pass


@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        (None, 1000, ""),
        (CLOSE, 1000, ""),
        ({**CLOSE, "code": 1001}, 1001, ""),
        ({**CLOSE, "code": 4000, "reason": "bye é"}, 4000, "bye é"),
        ({**CLOSE, "code": None, "reason": None}, 1000, ""),
    ],
)
async def test_close(close: Message | None, code: int, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The app closes with a code and a reason. If it returns instead, the code is 1000."""
    received: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        if close is not None:
            await send(close)
            received.append(await receive())

    async with websocket_client(mounted(app)) as client:
        with pytest.raises(ConnectionClosed) as caught:
            await client.receive()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    expected = {"type": "websocket.disconnect", "code": code, "reason": reason}
    assert received == ([] if close is None else [expected])
    assert not errors(caplog)


async def refused(messages: list[Any], **options: Any) -> HandshakeError:
    """The refusal of an app that sends some messages."""
    with pytest.raises(HandshakeError) as caught:
        async with websocket_client(mounted(Script(*messages), **options)):
            pass
    return caught.value


@pytest.mark.parametrize("close", [CLOSE, {**CLOSE, "code": 4000, "reason": "no"}])
async def test_close_before_accept(close: Message, caplog: pytest.LogCaptureFixture) -> None:
    """A close before the accept refuses with 403."""
    assert (await refused([close])).status == 403
    assert not errors(caplog)


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([START, BODY], b"no token"),
        ([START, PART, PART, {**BODY, "body": b""}], b"no tokenno token"),
        ([START, {"type": "websocket.http.response.body"}], b""),
    ],
)
async def test_denial_response(messages: list[Message], body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The app may refuse with a response of its own, streamed or not."""
    error = await refused(messages)
    assert error.response is not None
    assert (error.status, error.response.content) == (401, body)
    assert error.headers["X-Why"] == "token"
    assert not errors(caplog)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "returned without accepting or closing the WebSocket"),
        ([TEXT], "has sent 'websocket.send', but expected is 'websocket.accept' or 'websocket.close' or"),
        ([BODY], "has sent 'websocket.http.response.body', but expected"),
        ([{"type": "http.response.start", "status": 200}], "has sent 'http.response.start', but expected"),
        ([START], "returned without sending the whole body"),
        ([START, ACCEPT], "has sent 'websocket.accept', but expected is 'websocket.http.response.body'"),
        ([START, CLOSE], "has sent 'websocket.close', but expected"),
        ([{**START, "status": "401"}], "must be an int, not str"),
        ([START, {**BODY, "body": "text"}], "must be bytes, not str"),
        ([{**ACCEPT, "subprotocol": b"json"}], "must be a str, not bytes"),
        ([{**ACCEPT, "subprotocol": "other"}], "does not offer the subprotocol 'other'"),
        ([{**ACCEPT, "headers": [("a", "b")]}], "must be pairs of bytes"),
        ([{**ACCEPT, "headers": [(b"sec-websocket-protocol", b"a")]}], "the server itself sets"),
        ([None], "has sent a NoneType"),
    ],
)
async def test_errors_before_accept(messages: list[Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed message, or one that is not expected, becomes a 500 and a log line."""
    assert (await refused(messages)).status == 500
    (record,) = errors(caplog)
    assert "the ASGI app tests.support.asgi.without_lifespan" in record.getMessage()
    assert record.exc_info is not None
    with pytest.raises(RuntimeError, match=reason):
        raise record.exc_info[1] or AssertionError


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (ACCEPT, "has sent 'websocket.accept', but expected is 'websocket.send' or 'websocket.close'"),
        (START, "has sent 'websocket.http.response.start', but expected"),
        ({"type": "websocket.send"}, "exactly one of 'text' and 'bytes'"),
        ({**TEXT, "bytes": b"a"}, "exactly one of 'text' and 'bytes'"),
        ({**TEXT, "text": b"a"}, "must be a str, not bytes"),
        ({"type": "websocket.send", "bytes": "a"}, "must be bytes, not str"),
        ({**CLOSE, "code": "1000"}, "must be an int, not str"),
        ({**CLOSE, "code": 1005}, "'websocket.close' is not possible: .*1005"),
        ({**CLOSE, "reason": "a" * 124}, "'websocket.close' is not possible"),
        ({"type": "websocket.receive"}, "has sent 'websocket.receive'"),
    ],
)
async def test_errors_after_accept(message: Message, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """After the accept, an error closes the stream with 1011, and is logged."""
    async with websocket_client(mounted(Script(ACCEPT, message))) as client:
        with pytest.raises(ConnectionClosed) as caught:
            await client.receive()
    assert caught.value.code == 1011
    (record,) = errors(caplog)
    assert "the ASGI app tests.support.asgi.without_lifespan" in record.getMessage()
    assert record.exc_info is not None
    with pytest.raises(RuntimeError, match=reason):
        raise record.exc_info[1] or AssertionError


@pytest.mark.parametrize("message", [TEXT, CLOSE, ACCEPT])
async def test_errors_after_close(message: Message, caplog: pytest.LogCaptureFixture) -> None:
    """A message after the close is an error of the app. The client has got its close."""
    async with websocket_client(mounted(Script(ACCEPT, {**CLOSE, "code": 4000}, message))) as client:
        with pytest.raises(ConnectionClosed) as caught:
            await client.receive()
    assert caught.value.code == 4000
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert "expected is no further message" in str(record.exc_info[1])


@pytest.mark.parametrize("accepts", [False, True])
async def test_an_app_that_raises(accepts: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An exception becomes a 500 before the accept, and closes the stream with 1011 after it."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if accepts:
            await send(ACCEPT)
        raise ZeroDivisionError

    if accepts:
        async with websocket_client(mounted(app)) as client:
            with pytest.raises(ConnectionClosed, match="1011"):
                await client.receive()
    else:
        with pytest.raises(HandshakeError) as caught:
            async with websocket_client(mounted(app)):
                pass
        assert caught.value.status == 500
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


class Listener:
    """An app that accepts, and records how its client leaves and whether it could work on."""

    def __init__(self) -> None:
        self.events: list[object] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        self.events.append(await receive())
        self.events.append((await receive())["type"])
        try:
            await send(TEXT)
        except OSError as exc:
            self.events.append(type(exc).__name__)
        await send(CLOSE)
        await trio.sleep(10)
        self.events.append("worked on")


@pytest.mark.parametrize(("code", "expected", "reason"), [(1000, 1000, "bye"), (4321, 4321, ""), (None, 1006, "")])
async def test_a_client_that_leaves(
    code: int | None, expected: int, reason: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The app receives the close code, gets an OSError from ``send``, and is not cancelled."""
    listener = Listener()
    async with websocket_client(mounted(listener)) as client:
        await (client.disconnect() if code is None else client.close(code, reason))
        await trio.sleep(15)
    disconnect = {"type": "websocket.disconnect", "code": expected, "reason": reason}
    assert listener.events == [disconnect, "websocket.disconnect", "ClientDisconnected", "worked on"]
    assert not errors(caplog)


async def test_a_client_that_leaves_before_accept(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """An app that accepts a client that has left gets the disconnect."""
    events: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep(5)
        await send(ACCEPT)
        events.append((await receive())["type"])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            ours, theirs = memory_connection()
            nursery.start_soon(mounted(app).serve_stream, theirs)
            await ours.send_all(HANDSHAKE)
            await trio.sleep(1)
            await ours.aclose()
    assert events == ["websocket.disconnect"]
    assert not errors(caplog)


async def test_a_graceful_end(autojump_clock: Clock) -> None:
    """In a graceful end, the app receives the 1001, and may work on for ``Timeouts.drain``."""
    listener = Listener()
    shutdown = trio.Event()
    app = mounted(listener, timeouts=Timeouts(drain=20)).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.open("/")
        stage.drain()
        with pytest.raises(ConnectionClosed, match="1001"):
            await client.receive()
    assert stage.since(stage.http.at) == pytest.approx(10, abs=1)
    assert listener.events[0] == {"type": "websocket.disconnect", "code": 1001, "reason": ""}
    assert listener.events[-1] == "worked on"


async def test_a_graceful_end_before_accept(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A client that waits for the accept when the server shuts down gets a 503, and the app an OSError."""
    events: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep(5)
        try:
            await send(ACCEPT)
        except OSError:
            events.append(await receive())

    shutdown = trio.Event()
    async with in_memory(shutdown, mounted(app).with_shutdown(shutdown)) as stage, trio.open_nursery() as nursery:

        async def connect() -> None:
            with pytest.raises(HandshakeError) as caught:
                await stage.open("/")
            events.append(caught.value.status)

        nursery.start_soon(connect)
        await trio.sleep(1)
        stage.drain()
    assert sorted(map(str, events)) == ["503", str({"type": "websocket.disconnect", "code": 1006, "reason": ""})]
    assert not errors(caplog)


async def test_an_app_that_begins_again_in_another_server(caplog: pytest.LogCaptureFixture) -> None:
    """If the server that runs the app is cancelled, the streams of other servers are closed with 1012."""
    started = trio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            started.set()
            await receive()
            return
        await echo(scope, receive, send)

    served = App().with_asgi("*", app)
    first = trio.CancelScope()

    async def serve_first() -> None:
        with first:
            await served.serve_stream(memory_connection()[1])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_first)
            await started.wait()
            async with websocket_client(served) as client:
                first.cancel()
                with pytest.raises(ConnectionClosed) as closed:
                    await client.receive()
    assert closed.value.code == 1012
    assert not errors(caplog)


async def test_layers_of_a_websocket() -> None:
    """Layers add header fields to the 101, and may refuse it."""

    async def layer(request: Request, state: None, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        if request.query == "refuse":
            return Response(429)
        return response.with_header("X-Layer", str(response.status))

    app = mounted(echo).with_layer(layer)
    async with websocket_client(app) as client:
        assert client.headers["X-Layer"] == "101"
    with pytest.raises(HandshakeError) as caught:
        async with websocket_client(app, "/?refuse"):
            pass
    assert caught.value.status == 429


async def test_a_client_that_does_not_read(autojump_clock: Clock) -> None:
    """``send`` waits while the client does not read."""
    sent = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(ACCEPT)
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": b"a" * 100_000})
            sent += 1

    async with in_memory(trio.Event(), mounted(app), stream_pair=memory_connection) as stage:
        client = await stage.open("/")
        await trio.sleep(1)
        assert sent < 50
        assert len([message async for message in client]) == 100


async def test_concurrent_receive() -> None:
    """A second task cannot receive at the same time: an error says so."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await receive()
            await send(CLOSE)

    async with websocket_client(mounted(app)) as client:
        with pytest.raises(ConnectionClosed, match="1000"):
            await client.receive()
