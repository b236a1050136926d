"""Streamed requests and responses of ASGI apps, backpressure, and clients that leave, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from humphrey_trio import App, HttpError, Limits, Request, Response, Timeouts, WhenLeft
from humphrey_trio.http import Write
from humphrey_trio.testing import http_client, memory_connection
from tests.support.asgi import BODY, LAST, PART, START, Message, Receive, Send, mounted, without_lifespan
from tests.support.logs import errors

Clock = trio.testing.MockClock

CallNext = Callable[[Request], Awaitable[Response]]

CHUNK = 64 * 1024
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def part(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def read_request(receive: Receive) -> bytes:
    """The whole body of a request."""
    body: bytes = b""
    while (message := await receive())["type"] == "http.request":
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body
    raise AssertionError(message)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Send each part of the request back as it arrives."""
    await send(START)
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(part(message["body"], more=more))


# Streaming...


async def test_a_streamed_response(autojump_clock: Clock) -> None:
    """The client gets each part when the app has sent it."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        for number in range(3):
            await send(part(b"%d" % number))
            await trio.sleep(1)
        await send(LAST)

    async with http_client(mounted(app)) as client, client.stream("GET", "/") as response:
        start = trio.current_time()
        arrived = [(piece, round(trio.current_time() - start)) async for piece in response]
    assert arrived == [(b"0", 0), (b"1", 1), (b"2", 2)]
    assert response.headers["Transfer-Encoding"] == "chunked"


async def test_a_streamed_request(autojump_clock: Clock) -> None:
    """The app gets each part of a body when it arrives, and the response may begin before its end."""

    async def produce(write: Write) -> None:
        for number in range(3):
            await write(b"%d" % number)
            await trio.sleep(1)

    async with http_client(mounted(echo)) as client, client.stream("POST", "/", content=produce) as response:
        start = trio.current_time()
        arrived = [(piece, round(trio.current_time() - start)) async for piece in response]
    assert arrived == [(b"0", 0), (b"1", 1), (b"2", 2)]


@pytest.mark.parametrize("size", [0, 1, CHUNK, 50 * CHUNK])
async def test_bodies_of_requests(size: int) -> None:
    """The app gets the whole body, of any size."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        body = await read_request(receive)
        await send(START)
        await send({**BODY, "body": b"%d" % len(body)})

    async with http_client(mounted(app, limits=Limits(body=50 * CHUNK))) as client:
        for _ in range(2):
            assert (await client.post("/", content=b"a" * size)).content == b"%d" % size


@pytest.mark.parametrize(("chunked", "is_read"), [(False, False), (True, False), (True, True)])
async def test_the_last_part_of_a_request(chunked: bool, is_read: bool) -> None:
    """The last part says that it is the last, unless the body is chunked, and no layer has read it before."""
    parts: list[tuple[bytes, bool]] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while not parts or parts[-1][1]:
            message = await receive()
            parts.append((message["body"], message["more_body"]))
        await send(START)
        await send(BODY)

    async def produce(write: Write) -> None:
        await write(b"abc")

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        return await call_next(request.replace(content=await request.read(limit=100)))

    served = mounted(app).with_layer(layer) if is_read else mounted(app)
    content = produce if chunked else b"abc"
    async with http_client(served) as client, client.stream("POST", "/", content=content) as response:
        assert response.status == 200
    assert parts == ([(b"abc", True), (b"", False)] if chunked and not is_read else [(b"abc", False)])


async def test_a_client_that_does_not_read(autojump_clock: Clock) -> None:
    """``send`` waits while the client does not read, and continues when it does."""
    sent = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(START)
        for _ in range(200):
            await send(part(b"a" * CHUNK))
            sent += 1
        await send(LAST)

    async with http_client(mounted(app)) as client, client.stream("GET", "/") as response:
        await trio.sleep(1)
        assert sent < 50
        before = sent
        await trio.sleep(1)
        assert sent == before
        assert len(b"".join([piece async for piece in response])) == 200 * CHUNK
    assert sent == 200


async def test_an_app_that_does_not_read(autojump_clock: Clock) -> None:
    """Nothing of a body is received before the app asks for it, except for what the transport buffers."""
    produced = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await trio.sleep(1)
        assert produced < 50
        assert len(await read_request(receive)) == 200 * CHUNK
        await send(START)
        await send(BODY)

    async def produce(write: Write) -> None:
        nonlocal produced
        for _ in range(200):
            await write(b"a" * CHUNK)
            produced += 1

    async with http_client(mounted(app, limits=Limits(body=200 * CHUNK))) as client:
        assert (await client.post("/", content=produce)).text == "hello"


async def test_parts_of_several_tasks() -> None:
    """Several tasks of an app may send: each part is sent as a whole, and none is lost."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send, part(b"%d" % number * CHUNK))
        await send(LAST)

    async with http_client(mounted(app)) as client:
        body = (await client.get("/")).content
    assert sorted(body[start : start + CHUNK] for start in range(0, len(body), CHUNK)) == [
        b"%d" % number * CHUNK for number in range(10)
    ]


async def test_a_head_without_a_body(autojump_clock: Clock) -> None:
    """The head is sent soon after the start, although the first part of the body takes long."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        await trio.sleep(10)
        await send(BODY)

    async with http_client(mounted(app)) as client:
        start = trio.current_time()
        async with client.stream("GET", "/") as response:
            assert trio.current_time() - start < 0.2
            assert await response.read() == b"hello"
        assert trio.current_time() - start > 9


@pytest.mark.parametrize("status", [204, 304])
async def test_a_late_end_without_a_body(status: int, autojump_clock: Clock) -> None:
    """A response that has no body is sent soon after the start."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({**START, "status": status})
        await trio.sleep(10)
        await send(LAST)

    async with http_client(mounted(app)) as client:
        start = trio.current_time()
        assert (await client.get("/")).status == status
        assert trio.current_time() - start < 0.2


async def test_a_late_file(autojump_clock: Clock) -> None:
    """A file may be sent long after the start."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        await trio.sleep(10)
        await send({"type": "http.response.pathsend", "path": __file__})

    async with http_client(mounted(app)) as client:
        assert b"test_a_late_file" in (await client.get("/")).content


async def test_one_part_that_is_all() -> None:
    """A part that is as long as Content-Length is sent as a whole, although the app says that more follows."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-length", b"4")]})
        await trio.lowlevel.checkpoint()
        await send(PART)
        await send(LAST)

    async with http_client(mounted(app)) as client:
        response = await client.get("/")
    assert (response.content, response.headers["Content-Length"]) == (b"part", "4")


# Limits...


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("own", [False, True])
async def test_a_body_that_is_too_long(chunked: bool, own: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A body above the limit of the mount, or of the App, gets a 413, and the app a disconnect."""
    messages: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        messages.append(message)
        await send(START)
        with pytest.raises(OSError, match="the client has left"):
            await send(PART)
        await send(PART)

    mount = App(limits=Limits(body=5000 if own else 10)).with_asgi(
        "*", without_lifespan(app), max_body=10 if own else None
    )

    async def produce(write: Write) -> None:
        await write(b"a" * 11)

    async with http_client(mount) as client:
        response = await client.post("/", content=produce if chunked else b"a" * 11)
    assert response.status == 413
    assert messages == ([{"type": "http.disconnect"}] if chunked else [])
    assert not errors(caplog)


async def test_a_body_that_is_slow(autojump_clock: Clock) -> None:
    """A body that does not arrive within ``Timeouts.body`` gets a 408."""

    async def produce(write: Write) -> None:
        await write(b"a")
        await trio.sleep(100)

    async with http_client(mounted(echo_whole, timeouts=Timeouts(body=5))) as client:
        assert (await client.post("/", content=produce)).status == 408


async def echo_whole(scope: Message, receive: Receive, send: Send) -> None:
    body = await read_request(receive)
    await send(START)
    await send({**BODY, "body": body})


async def test_a_client_that_expects_a_100() -> None:
    """The 100 is sent when the app receives the body."""
    async with http_client(mounted(echo_whole)) as client:
        assert (await client.post("/", content=b"a", headers={"Expect": "100-continue"})).content == b"a"


# Clients that leave...


class Watcher:
    """An app that does something, and records how it ends and whether it could work on afterwards."""

    def __init__(self, *messages: Message, reads: int = 0) -> None:
        self._messages = messages
        self._reads = reads
        self.events: list[object] = []
        self.done = trio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            for _ in range(self._reads):
                await receive()
            for message in self._messages:
                await send(message)
            message = await receive()
            while message["type"] == "http.request":
                message = await receive()
            self.events.append(message)
            self.events.append(await receive())
            try:
                if not self._messages:
                    await send(START)
                await send(PART)
            except OSError as exc:
                self.events.append(type(exc).__name__)
            await trio.sleep(10)
            self.events.append("worked on")
        except trio.Cancelled:
            self.events.append("cancelled")
            raise
        finally:
            self.done.set()


DISCONNECT = {"type": "http.disconnect"}


@pytest.mark.parametrize("when_left", list(WhenLeft))
@pytest.mark.parametrize(
    ("messages", "reads", "request_head"),
    [
        ([], 0, GET),
        ([], 1, GET),
        ([START], 1, GET),
        ([START, PART], 0, GET),
        ([START, PART], 1, GET),
        ([], 0, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
        ([], 1, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"),
        ([START, PART], 0, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"),
    ],
)
async def test_a_client_that_leaves(
    messages: list[Message],
    reads: int,
    request_head: bytes,
    when_left: WhenLeft,
    autojump_clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In every phase the app gets a disconnect, then an OSError when it sends a stream, and is not cancelled."""
    watcher = Watcher(*messages, reads=reads)
    app = mounted(watcher, when_left=when_left)
    async with trio.open_nursery() as nursery:
        ours, theirs = memory_connection()
        nursery.start_soon(app.serve_stream, theirs)
        await ours.send_all(request_head)
        await trio.sleep(2)
        await ours.aclose()
    assert watcher.events == [DISCONNECT, DISCONNECT, "ClientDisconnected", "worked on"]
    assert not errors(caplog)


async def test_a_disconnect_after_the_response(autojump_clock: Clock) -> None:
    """After the response, the app receives a disconnect, and runs on."""
    events: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, receive)
            await trio.sleep(1)
            await send(START)
            await send(BODY)
        events.append(await receive())
        await trio.sleep(5)
        events.append("worked on")

    async def listen(receive: Receive) -> None:
        assert (await receive())["type"] == "http.request"
        events.append(await receive())

    async with http_client(mounted(app)) as client:
        for _ in range(2):
            assert (await client.get("/")).text == "hello"
        await trio.sleep(10)
    assert [events.count(event) for event in (DISCONNECT, "worked on")] == [4, 2]


async def test_an_app_that_ignores_the_disconnect(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The OSError of ``send`` ends an app whose client has left. It is not logged, also not in a group."""
    ended = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal ended
        try:
            await send(START)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_forever, send)
        finally:
            ended += 1

    async def send_forever(send: Send) -> None:
        while True:
            await send(PART)
            await trio.sleep(1)

    async with http_client(mounted(app)) as client:
        async with client.stream("GET", "/") as response:
            await anext(aiter(response))
        await trio.sleep(10)
    assert ended == 1
    assert not errors(caplog)


async def test_a_response_that_comes_too_late(autojump_clock: Clock) -> None:
    """An app that answers after its client has left works on behind its response, as if the client were there."""
    events: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for message in (START, BODY):
            await send(message)
        await trio.sleep(10)
        events.append("worked on")

    async with http_client(mounted(app)) as client:
        with trio.move_on_after(1):
            await client.get("/")
        await trio.sleep(20)
    assert events == ["worked on"]


async def test_the_disconnect_comes_before_the_error(autojump_clock: Clock) -> None:
    """A task of the app that waits for the disconnect can cancel another one before its ``send`` fails."""
    events: list[object] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async def send_forever() -> None:
            while True:
                await send(PART)

        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_forever)
            while (await receive())["type"] != "http.disconnect":
                pass
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        events.append("worked on")

    async with http_client(mounted(app)) as client:
        async with client.stream("GET", "/") as response:
            await anext(aiter(response))
        await trio.sleep(10)
    assert events == ["worked on"]


async def test_a_question_in_a_cancelled_scope(autojump_clock: Clock) -> None:
    """``receive`` in a cancelled scope returns the disconnect if there is one, as frameworks ask for it."""
    answers: list[bool] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        for _ in range(2):
            message: Message = {}
            with trio.CancelScope() as cancelled:
                cancelled.cancel()
                message = await receive()
            answers.append(message == DISCONNECT)
            await trio.sleep(5)

    async with http_client(mounted(app)) as client:
        with trio.move_on_after(1):
            await client.get("/")
        await trio.sleep(20)
    assert answers == [False, True]


async def test_a_failure_after_the_client_has_left(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of an app whose client has left is logged."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ZeroDivisionError

    async with http_client(mounted(app)) as client:
        with trio.move_on_after(1):
            await client.get("/")
        await trio.sleep(10)
    (record,) = errors(caplog)
    assert "failed after its response to GET /" in record.getMessage()


# Layers...


@pytest.mark.parametrize("fails", [False, True])
async def test_a_layer_that_drops_the_response(fails: bool, autojump_clock: Clock) -> None:
    """An app whose streamed response is replaced by a layer gets the disconnect, and does not hang."""
    watcher = Watcher(START, PART)

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        await call_next(request)
        if fails:
            raise HttpError(404)
        return Response(404)

    async with http_client(mounted(watcher).with_layer(layer)) as client:
        assert (await client.get("/")).status == 404
        with trio.fail_after(50):
            await watcher.done.wait()
    assert watcher.events == [DISCONNECT, DISCONNECT, "ClientDisconnected", "worked on"]


async def test_a_layer_with_a_timeout(autojump_clock: Clock) -> None:
    """A layer that stops to wait for the app tells it that the client has left."""
    watcher = Watcher()

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        with trio.move_on_after(1):
            return await call_next(request)
        return Response(504)

    async with http_client(mounted(watcher).with_layer(layer)) as client:
        assert (await client.get("/")).status == 504
        await trio.sleep(20)
    assert watcher.events == [DISCONNECT, DISCONNECT, "ClientDisconnected", "worked on"]


async def test_a_layer_that_reads_the_body() -> None:
    """A layer may read the body, and pass on a request that has it as a whole."""

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        return await call_next(request.replace(content=(await request.read(limit=100)).upper()))

    async with http_client(mounted(echo_whole).with_layer(layer)) as client:
        assert (await client.post("/", content=b"hello")).text == "HELLO"
        assert (await client.get("/")).text == ""


async def test_a_connection_that_is_kept() -> None:
    """A connection is used for the next request, after any kind of body."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/parts":
            await send(PART)
        await send(BODY)

    mount = mounted(app)
    async with http_client(mount) as client:
        for path in ("/", "/parts") * 3:
            for method in ("GET", "POST", "HEAD"):
                await client.request(method, path, content=b"unread")
    assert mount.statistics().accepted == 1
