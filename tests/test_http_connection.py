"""HTTP connections in memory: keep-alive, pipelining, bodies, 100 Continue, and refused upgrades.

RFC 9112, sections 9.3, 9.3.2 and 9.6; RFC 9110, sections 7.8 and 10.1.1.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio.http import App, Headers, Limits, Request, Response, Write
from humphrey_trio.websocket import Upgrade
from tests.support.http_clients import EXPECT, chunks, get, in_memory, post, sized
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.small_app import small_app, wait_a_second
from tests.support.wire import HANDSHAKE_FIELDS, request_bytes

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


async def test_a_connection_is_kept_alive() -> None:
    """A connection serves requests one after the other, without a Connection field."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for _ in range(3):
            answer = await client.ask(get())
            assert (answer.status, answer.content) == (200, b"fine")
            assert "Connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """Pipelined requests are handled one at a time and answered in order, however long each one takes."""
    running: list[str] = []

    async def slow_first(request: Request) -> Response:
        running.append(request.path)
        await trio.sleep(10 - int(request.path[1:]))
        assert running.pop() == request.path
        assert running == []
        return Response(200, request.path)

    async with in_memory(App().with_stateless_route("/*", slow_first)) as connect:
        client = connect()
        await client.send(b"".join(get(f"/{number}") for number in range(10)))
        assert [(await client.receive()).content for _ in range(10)] == [b"/%d" % number for number in range(10)]


async def test_pipelining_leaves_time_for_other_connections() -> None:
    """While a connection has a thousand pipelined requests, another connection is served."""
    done = 0
    done_at_mark: int | None = None

    def count(request: Request) -> Response:
        nonlocal done, done_at_mark
        done += 1
        if request.path == "/mark":
            done_at_mark = done
        return Response.empty(204)

    async with in_memory(App().with_stateless_route("/*", count)) as connect:
        greedy, other = connect(), connect()
        await greedy.send(get() * 1000)
        await other.ask(get("/mark"))
        for _ in range(1000):
            await greedy.receive()
    assert done_at_mark is not None
    assert done_at_mark < 200


async def test_head_is_get_without_the_body() -> None:
    """The response to HEAD has the fields of the response to GET, and no body."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for path in ("/", "/nowhere"):
            whole = await client.ask(get(path))
            await client.send(get(path).replace(b"GET", b"HEAD"))
            head = await client.receive(head_only=True)
            assert head.status == whole.status
            assert head.headers.without_header("Date") == whole.headers.without_header("Date")
        assert (await client.ask(get())).content == b"fine"


@pytest.mark.parametrize(
    "rest",
    [
        b" / HTTP/1.1\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\nX: bare\r\n\r\n",
        b" / HTTP/9.1\r\nHost: a\r\n\r\n",
        b" /" + b"a" * 20_000,
        b" / two HTTP/1.1\r\n",
        b" / HTTP/1.1\r\nHost",
    ],
    ids=["no Host", "bare LF", "version", "too long", "request line", "too late"],
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_a_refused_head_request(rest: bytes, streams: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A request that cannot be read gets no body either, if its method is HEAD (RFC 9110, section 9.3.2)."""

    async def produce(write: Write) -> None:
        await write("an error")

    def error(status: int, request: Request | None, exception: Exception | None) -> Response:
        return Response.stream(produce, status=status) if streams else Response(status, "an error")

    async with in_memory(small_app().with_error_handler(error)) as connect:
        lasts: list[tuple[bytes, bytes]] = []
        for method in (b"GET", b"\r\nHEAD", b"HEADS"):
            client = connect()
            await client.send(method + rest)
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            lasts.append((head, body))
        assert [body for _, body in lasts] == [b"an error", b"", b"an error"]
        assert lasts[1][0].splitlines()[0] == lasts[0][0].splitlines()[0]
        assert b"\r\nConnection: close" in lasts[1][0]


@pytest.mark.parametrize(
    "request_",
    [
        get(version="1.0"),
        get("/", "Connection: close"),
        get("/", "Connection: keep-alive", version="1.0"),
        get("/bye"),
    ],
    ids=["HTTP/1.0", "client", "HTTP/1.0 keep-alive", "handler"],
)
async def test_connection_close_by_either_side(request_: bytes) -> None:
    """After HTTP/1.0, or ``Connection: close`` of either side, the response says so and the connection ends."""
    app = small_app().with_stateless_route("/bye", lambda _: Response(200, "fine", {"Connection": "close"}))
    async with in_memory(app) as connect:
        client = connect()
        answer = await client.ask(request_ + get())
        assert (answer.content, answer.headers.get_all("Connection")) == (b"fine", ("close",))
        assert await client.rest() == b""


async def test_half_closed_client_gets_all_responses() -> None:
    """A client that sends an end of file after its requests gets all responses."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get() + sized("/echo", b"body"))
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        assert [(await client.receive()).content, (await client.receive()).content] == [b"fine", b"body"]
        assert await client.rest() == b""


@pytest.mark.parametrize("sent", [b"", b"\r", get()[:-1], sized("/echo", b"body")[:-1]])
async def test_incomplete_request_is_dropped(sent: bytes) -> None:
    """A request that is not complete at the end of file gets no response and reaches no handler."""
    seen: list[Request] = []

    def see(request: Request) -> Response:
        seen.append(request)
        return Response.empty(204)

    app = App().with_stateless_route("/*", see)
    async with in_memory(app) as connect:
        client = connect()
        await client.send(sent)
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        assert await client.rest() == b""
    assert seen == []


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        (["Content-Length: 10"], [b"01234", b"56789"]),
        (["Transfer-Encoding: chunked"], [chunks(b"0123", b"4567"), chunks(b"89") + b"0\r\n\r\n"]),
        (["Transfer-Encoding: chunked"], [b"a;x=y\r\n012", b"3456789\r\n0\r\nX-Trailer: 1\r\n", b"\r\n"]),
    ],
)
async def test_bodies_arrive_whole(lines: list[str], sent: list[bytes]) -> None:
    """A handler gets the whole body in any framing and reads, and the connection is kept alive."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert (await client.ask(post("/echo", *lines), *sent)).content == b"0123456789"
        assert (await client.ask(get())).content == b"fine"


async def test_request_after_a_body_in_the_same_read() -> None:
    """A request that follows a body in the same read is served."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for body in (
            sized("/echo", b"body"),
            post("/echo", "Transfer-Encoding: chunked", content=b"4\r\nbody\r\n0\r\n\r\n"),
        ):
            await client.send(body + get())
            assert [(await client.receive()).content, (await client.receive()).content] == [b"body", b"fine"]


@pytest.mark.parametrize(
    ("line", "sent"), [("Content-Length: 4", b"body"), ("Transfer-Encoding: chunked", b"4\r\nbody\r\n0\r\n\r\n")]
)
async def test_100_continue(line: str, sent: bytes) -> None:
    """A client that expects 100 Continue gets it when the handler needs the body, and then the response."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert await client.ask(post("/echo", line, EXPECT)) == (100, Headers(), b"")
        assert (await client.ask(sent)).content == b"body"
        assert (await client.ask(get())).content == b"fine"


@pytest.mark.parametrize(
    ("sent", "status", "closes"),
    [
        (post("/nowhere", "Content-Length: 4", EXPECT), 404, True),
        (post("/echo", "Content-Length: 99", EXPECT), 413, True),
        (post("/echo", "Content-Length: 0", EXPECT), 200, False),
        (get("/", EXPECT), 200, False),
        (post("/echo", "Content-Length: 4", EXPECT, content=b"body"), 200, False),
        (post("/echo", "Content-Length: 4", EXPECT, content=b"body", version="1.0"), 200, True),
    ],
    ids=["no route", "too large", "empty", "none", "sent already", "HTTP/1.0"],
)
async def test_no_100_continue_without_need(sent: bytes, status: int, closes: bool) -> None:
    """There is no 100 Continue for a body that is refused, absent, or already received."""
    async with in_memory(small_app(limits=Limits(body=98))) as connect:
        client = connect()
        answer = await client.ask(sent)
        assert (answer.status, "Connection" in answer.headers) == (status, closes)


async def test_unread_body_is_not_parsed_as_a_request() -> None:
    """A body that is not read is never parsed as a request: the connection closes after the 404."""
    async with in_memory(small_app()) as connect:
        client = connect()
        answer = await client.ask(sized("/nowhere", get()))
        assert (answer.status, answer.headers["Connection"]) == (404, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("fits", "too_large"),
    [
        (sized("/echo", b"0123456789"), post("/echo", "Content-Length: 11")),
        (sized("/echo", b"0123456789"), post("/echo", f"Content-Length: {10**19}")),
        (
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"01234", b"56789") + b"0\r\n\r\n"),
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"01234", b"567890")),
        ),
        (
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"0123456789") + b"0\r\n\r\n"),
            post("/echo", "Transfer-Encoding: chunked", content=b"ffffffffffff\r\n0123456789a"),
        ),
    ],
    ids=["Content-Length", "lying Content-Length", "chunks", "lying chunk"],
)
async def test_body_limit(fits: bytes, too_large: bytes) -> None:
    """A body of exactly the limit is accepted; one that declares or sends more is a 413 at once."""
    async with in_memory(small_app(limits=Limits(body=10))) as connect:
        client = connect()
        assert (await client.ask(fits)).content == b"0123456789"
        answer = await client.ask(too_large)
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        assert b"longer than 10 bytes" in answer.content


async def test_memory_of_a_body_in_tiny_chunks() -> None:
    """The memory of a body depends on its size, not on the size of its chunks."""
    size = 64 * 1024
    wire = chunks(*[b"x"] * size) + b"0\r\n\r\n"
    async with in_memory(small_app()) as connect:
        client = connect()
        tracemalloc.start()
        try:
            await client.send(post("/echo", "Transfer-Encoding: chunked"))
            for start in range(0, len(wire), 4096):
                await client.send(wire[start : start + 4096])
                await trio.testing.wait_all_tasks_blocked()
            assert len((await client.receive()).content) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The request's, the response's and the client's copy, and what lets a buffer grow.
    assert peak < 10 * size


async def test_error_response_after_pipelined_responses() -> None:
    """Malformed bytes after valid requests get their 400 after the other responses, and end the connection."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get() + sized("/echo", b"body") + b"\x00" + get())
        assert [(await client.receive()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""


class AwaitableResponse:
    """An awaitable that is not a coroutine."""

    def __await__(self) -> Generator[Any, Any, Response]:
        return wait_a_second(Request()).__await__()


@pytest.mark.parametrize(
    "handler",
    [wait_a_second, lambda _: wait_a_second(_), lambda _: AwaitableResponse()],
    ids=["async def", "plain", "object"],
)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_handler_whose_previous_response_cannot_be_sent(
    handler: Callable[[Request], Awaitable[Response]], cancelled: bool
) -> None:
    """If the previous response cannot be sent, the handler is not awaited, and Python warns of no coroutine."""
    app = small_app().with_stateless_route("/handler", handler)
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send(get() + get("/handler"))
        await trio.testing.wait_all_tasks_blocked()
        if not cancelled:
            await trio.aclose_forcefully(client.stream)
            await trio.testing.wait_all_tasks_blocked()
    gc.collect()


async def test_handler_failure_is_logged_if_the_previous_response_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A plain handler that raises is logged, even if the previous response cannot be sent."""

    def fail(request: Request) -> Response:
        raise ValueError("boom")

    app = small_app().with_stateless_route("/fail", fail)
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send(get() + get("/fail"))
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
    (message,) = caplog.messages
    assert message.startswith(f"the handler {__name__}.")
    assert message.endswith(".fail failed for GET /fail")


async def refuse(upgrade: Upgrade, state: None) -> Response:
    return Response(403, "no")


UPGRADE = request_bytes("GET /ws HTTP/1.1")


async def test_refused_upgrade_keeps_the_connection() -> None:
    """Requests around a refused upgrade are answered in order, even if they arrive in one read."""
    async with in_memory(small_app().with_websocket_route("/ws", refuse)) as connect:
        client = connect()
        await client.send(get() + UPGRADE * 2 + get())
        assert [(await client.receive()).status for _ in range(4)] == [200, 403, 403, 200]


async def test_refused_upgrade_with_connection_close() -> None:
    """A refused upgrade with ``Connection: close`` gets its response, and then the connection ends."""
    fields = [(name, "upgrade, close" if name == "Connection" else value) for name, value in HANDSHAKE_FIELDS]
    async with in_memory(small_app().with_websocket_route("/ws", refuse)) as connect:
        client = connect()
        answer = await client.ask(request_bytes("GET /ws HTTP/1.1", fields) + get())
        assert (answer.status, answer.headers["Connection"]) == (403, "close")
        assert await client.rest() == b""


async def test_upgrade_without_a_websocket_route_is_a_request() -> None:
    """A request with the fields of an upgrade is an ordinary request where no WebSocket route matches."""
    head = request_bytes("GET / HTTP/1.1")
    fields = [*HANDSHAKE_FIELDS, ("Content-Length", "4")]
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(head + request_bytes("POST /echo HTTP/1.1", fields) + b"body" + head)
        assert [(await client.receive()).content for _ in range(3)] == [b"fine", b"body", b"fine"]
        await client.send(request_bytes("HEAD / HTTP/1.1") + request_bytes("GET /nowhere HTTP/1.1"))
        assert (await client.receive(head_only=True)).status == 200
        assert (await client.receive()).status == 404
