"""Connections: every response has exactly one line in the access log, and the counters and events add up."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio import App, HttpError, Limits, Response, Timeouts, WhenLeft
from humphrey_trio.http import Request, SubApp, Write
from humphrey_trio.layers import Cors, compression, cors
from humphrey_trio.monitor import Event, EventLevel, EventType, MonitorConfig
from humphrey_trio.testing import MemoryStream, memory_connection, websocket_client
from humphrey_trio.websocket import HandshakeError, Upgrade, WebsocketStream, websocket_handler
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import StreamPair
from tests.support.clients import half_close
from tests.support.logs import errors
from tests.support.streamed import StreamClient, each_stream, streaming
from tests.support.wire import HANDSHAKE_FIELDS, close_frame

Clock = trio.testing.MockClock

LARGE = 10 * 1024 * 1024
HANDSHAKE = ("/ws", *(f"{name}: {value}" for name, value in HANDSHAKE_FIELDS[1:]))


class Line(NamedTuple):
    """The line of one response."""

    method: str
    path: str
    status: int
    bytes: int
    route: str | None


class Lines:
    """The lines of the access log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def records(self) -> list[Any]:
        return [record for record in self._caplog.records if record.name == "humphrey_trio.access"]

    @property
    def all(self) -> list[Line]:
        return [Line(*(getattr(record, name) for name in Line._fields)) for record in self.records]

    def one(self) -> Line:
        (line,) = self.all
        return line


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, "humphrey_trio.access")
    return Lines(caplog)


async def two_pieces(write: Write) -> None:
    await write(b"hello ")
    await write(b"world")


async def fails(write: Write) -> None:
    await write(b"hello ")
    raise ValueError("the body failed")


async def fails_at_once(write: Write) -> None:
    raise ValueError("the body failed")


async def endless(write: Write) -> None:
    while True:
        await write(b"x" * 1000)


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


async def refuses(upgrade: Upgrade, state: None) -> Response:
    return Response(403, "no")


async def wait(_: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def read_first(request: Request, state: None) -> Response:
    return Response(200, await request.read(limit=100))


def fail(_: Request) -> Response:
    raise ValueError("the handler failed")


def site(**settings: Any) -> App:
    """An app with a path for each kind of response."""
    app = App(limits=Limits(body=10), timeouts=Timeouts(header=5, body=5, idle=5), **settings)
    app.with_stateless_route("/", lambda _: Response(200, "hello"))
    app.with_stateless_route("/items/{id}", lambda request: Response(200, request.path_params["id"]))
    app.with_stateless_route("/stream", lambda _: Response.stream(two_pieces))
    app.with_stateless_route("/fails", lambda _: Response.stream(fails))
    app.with_stateless_route("/fails-at-once", lambda _: Response.stream(fails_at_once))
    app.with_stateless_route("/endless", lambda _: Response.stream(endless))
    app.with_stateless_route("/large", lambda _: Response(200, b"x" * LARGE))
    app.with_stateless_route("/wait", wait)
    app.with_stateless_route("/fail", fail)
    app.with_route("/upload", read_first, methods=("POST",), stream=True)
    app.with_websocket_route("/ws", websocket_handler(echo))
    return app.with_websocket_route("/refused", refuses)


@asynccontextmanager
async def served(pair: StreamPair = memory_connection) -> AsyncGenerator[tuple[App, StreamClient]]:
    """The site, and a client of it. At the end no request is in flight."""
    app = site()
    async with streaming(app, pair) as connect:
        yield app, connect()
    statistics = app.statistics()
    assert statistics.in_flight == 0
    assert statistics.connections == 0


Exchange = Callable[[StreamClient], Awaitable[object]]


async def get(client: StreamClient) -> None:
    await client.get("/")
    assert await client.reply() == (200, b"hello")


async def item(client: StreamClient) -> None:
    await client.get("/items/a%20b?secret=1")
    assert (await client.reply())[0] == 200


async def head(client: StreamClient) -> None:
    await client.get("/", method="HEAD")
    assert (await client.head()).status == 200


async def head_of_a_stream(client: StreamClient) -> None:
    await client.get("/stream", method="HEAD")
    assert (await client.head()).status == 200


async def not_found(client: StreamClient) -> None:
    await client.get("/nowhere")
    assert (await client.reply())[0] == 404


async def not_allowed(client: StreamClient) -> None:
    await client.get("/upload")
    assert (await client.reply())[0] == 405


async def failed(client: StreamClient) -> None:
    await client.get("/fail")
    assert (await client.reply())[0] == 500


async def streamed(client: StreamClient) -> None:
    await client.get("/stream")
    assert await client.reply() == (200, b"hello world")


async def failed_at_once(client: StreamClient) -> None:
    await client.get("/fails-at-once")
    assert (await client.reply())[0] == 500


async def failed_stream(client: StreamClient) -> None:
    await client.get("/fails")
    await client.head()
    assert await client.chunk() == b"hello "


async def uploaded(client: StreamClient) -> None:
    await client.post("/upload", b"12345")
    assert await client.reply() == (200, b"12345")


async def too_large(client: StreamClient) -> None:
    await client.post("/", b"x" * 11)
    assert (await client.reply())[0] == 413


async def malformed(client: StreamClient) -> None:
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (await client.reply())[0] == 400


async def slow_head(client: StreamClient) -> None:
    await client.send(b"GET / HT")
    assert (await client.reply())[0] == 408


async def slow_body(client: StreamClient) -> None:
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n1")
    assert (await client.reply())[0] == 408


async def upgraded(client: StreamClient) -> None:
    await client.get(*HANDSHAKE)
    assert (await client.head()).status == 101
    await client.send(close_frame(1000))
    await client.rest()


async def refused(client: StreamClient) -> None:
    await client.get("/refused", *HANDSHAKE[1:])
    assert (await client.reply())[0] == 403


EXCHANGES: list[tuple[Exchange, Line]] = [
    (get, Line("GET", "/", 200, 5, "/")),
    (item, Line("GET", "/items/a%20b", 200, 3, "/items/{id}")),
    (head, Line("HEAD", "/", 200, 0, "/")),
    (head_of_a_stream, Line("HEAD", "/stream", 200, 0, "/stream")),
    (not_found, Line("GET", "/nowhere", 404, 14, None)),
    (not_allowed, Line("GET", "/upload", 405, 60, None)),
    (failed, Line("GET", "/fail", 500, 26, "/fail")),
    (streamed, Line("GET", "/stream", 200, 11, "/stream")),
    (failed_at_once, Line("GET", "/fails-at-once", 500, 26, "/fails-at-once")),
    (failed_stream, Line("GET", "/fails", 200, 6, "/fails")),
    (uploaded, Line("POST", "/upload", 200, 5, "/upload")),
    (too_large, Line("POST", "/", 413, 0, "/")),
    (malformed, Line("-", "-", 400, 0, None)),
    (slow_head, Line("-", "-", 408, 0, None)),
    (slow_body, Line("POST", "/", 408, 0, "/")),
    (upgraded, Line("GET", "/ws", 101, 0, "/ws")),
    (refused, Line("GET", "/refused", 403, 2, "/refused")),
]


@each_stream
@pytest.mark.parametrize(("exchange", "expected"), EXCHANGES, ids=[case.__name__ for case, _ in EXCHANGES])
async def test_one_line(
    exchange: Exchange, expected: Line, pair: StreamPair, lines: Lines, autojump_clock: Clock
) -> None:
    """A response of any kind has one line, with its status, the bytes of its body, and its route."""
    async with served(pair) as (app, client):
        await exchange(client)
    line = lines.one()
    assert line._replace(bytes=0) == expected._replace(bytes=0)
    if expected.bytes or line.method == "HEAD" or line.status == 101:
        assert line.bytes == expected.bytes
    else:
        assert line.bytes > 0  # the text of an error
    responses = app.statistics().responses
    assert responses == {**dict.fromkeys(responses, 0), f"{expected.status // 100}xx": 1}
    assert app.statistics().requests == (expected.path != "-")


@each_stream
async def test_pipelined_requests(pair: StreamPair, lines: Lines) -> None:
    """Each of several requests in one read has its line, in their order."""
    async with served(pair) as (_, client):
        paths = ["/items/1", "/stream", "/items/234", "/nowhere", "/wait-no", "/items/56"]
        await client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
        for _ in paths:
            await client.reply()
    assert [line.path for line in lines.all] == paths
    assert [line.bytes for line in lines.all if line.route == "/items/{id}"] == [1, 3, 2]


async def test_seconds(lines: Lines, autojump_clock: Clock) -> None:
    """The time of a request begins at the end of its head, and ends with its response."""

    async def slow(write: Write) -> None:
        await trio.sleep(2)
        await write("x")

    async def handler(_: Request) -> Response:
        await trio.sleep(1)
        return Response.stream(slow)

    app = App().with_stateless_route("/", handler)
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.send(b"GET / HT")
        await trio.sleep(4)
        await client.send(b"TP/1.1\r\nHost: a\r\n\r\n")
        await client.reply()
        await trio.sleep(8)
    (record,) = lines.records
    assert record.seconds == pytest.approx(3)


async def test_a_client_that_does_not_read(lines: Lines, autojump_clock: Clock) -> None:
    """A response of which the client has taken a part is one line, with the bytes that were sent."""
    async with served(lambda: memory_connection(10_000)) as (app, client):
        await client.get("/large")
        await trio.sleep(100)
    line = lines.one()
    assert (line.path, line.status) == ("/large", 200)
    sent = app.statistics().bytes_sent
    assert 0 < line.bytes < sent <= 20_000
    assert sent - line.bytes < 300  # the head


@each_stream
async def test_a_stream_that_breaks_off(pair: StreamPair, lines: Lines, autojump_clock: Clock) -> None:
    """A streamed response whose client leaves is one line, with the bytes of the body that were sent."""
    async with served(pair) as (_, client):
        await client.get("/endless")
        await client.head()
        received = sum([len(await client.chunk()) for _ in range(10)])
        await trio.aclose_forcefully(client.stream)
    line = lines.one()
    assert (line.path, line.status) == ("/endless", 200)
    assert line.bytes >= received


async def test_the_size_of_a_stream_that_stalls(lines: Lines, autojump_clock: Clock) -> None:
    """The bytes of the piece that was not sent do not count."""
    app = App(timeouts=Timeouts(write=5)).with_stateless_route("/", lambda _: Response.stream(endless))
    async with streaming(app, lambda: memory_connection(4500)) as connect:
        await connect().get("/")
        await trio.sleep(100)
    sent = app.statistics().bytes_sent
    line = lines.one()
    pieces, rest = divmod(line.bytes, 1000)
    with_frames = line.bytes + pieces * len("3e8\r\n\r\n") + (len("3e8\r\n") if rest else 0)
    head_size = len(
        b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: humphrey_trio\r\n"
        b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert sent == head_size + with_frames


async def test_a_client_that_leaves_before_its_response(lines: Lines, autojump_clock: Clock) -> None:
    """A request that gets no response has no line, and is not in flight any more."""
    async with served() as (app, client):
        await client.get("/wait")
        await trio.sleep(1)
        assert app.statistics().in_flight == 1
        await client.stream.aclose()
        await trio.sleep(1)
        assert app.statistics().in_flight == 0
    assert lines.all == []
    assert app.statistics().requests == 1


async def read_in_a_body(request: Request) -> Response:
    """Answer with a body that reads the request."""

    async def produce(write: Write) -> None:
        await write(await request.read(limit=100))

    return Response.stream(produce)


async def read_parts(request: Request) -> Response:
    return Response.json([await part.read() async for part in request.parts()])


async def reset(client: StreamClient) -> None:
    assert isinstance(client.stream, MemoryStream)
    client.stream.reset()


def taken(events: trio.MemoryReceiveChannel[Event]) -> list[Event]:
    return [events.receive_nowait() for _ in range(events.statistics().current_buffer_used)]


LEAVING: dict[str, Callable[[StreamClient], Awaitable[None]]] = {
    "half-closes": lambda client: half_close(client.stream),
    "closes": lambda client: client.stream.aclose(),
    "resets": reset,
}


@pytest.mark.parametrize("with_layers", [False, True])
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("path", ["/", "/upload", "/parts", "/body"])
async def test_a_client_that_leaves_in_its_upload(
    path: str, how: str, with_layers: bool, lines: Lines, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that leaves in the middle of its body gets no response, on routes with and without stream=True."""
    send_channel, events = trio.open_memory_channel[Event](10)
    kinds = (EventType.STREAM_DISCONNECTED_WHILE_WAITING, EventType.REQUEST_SERVED_ERROR)
    app = site().with_monitor(MonitorConfig(send_channel).with_subscription_to(*kinds))
    app.with_stateless_route("/parts", read_parts, stream=True)
    app.with_stateless_route("/body", read_in_a_body, stream=True)
    if with_layers:
        app.with_layer(cors(Cors(origins="*"))).with_layer(compression())
    async with streaming(app, memory_connection) as connect:
        client = connect()
        form = "Content-Type: multipart/form-data; boundary=b"
        await client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n{form}\r\nContent-Length: 9\r\n\r\n--b".encode())
        await trio.sleep(0.01)  # before the head of a streamed response is sent
        await LEAVING[how](client)
        await trio.sleep(1)
        if how == "half-closes":
            assert await client.rest() == b""
        assert [event.kind for event in taken(events)] == [EventType.STREAM_DISCONNECTED_WHILE_WAITING]
    assert lines.all == []
    assert sum(app.statistics().responses.values()) == 0
    assert app.statistics().in_flight == 0
    assert errors(caplog) == []


async def test_a_handler_may_answer_an_upload_that_has_ended_early(lines: Lines, autojump_clock: Clock) -> None:
    """A client that half-closes can still read, and gets the response of a handler that catches the exception."""

    async def keep_the_beginning(request: Request) -> Response:
        with suppress(trio.BrokenResourceError):
            await request.read(limit=100)
        return Response(202, "a part")

    app = App().with_stateless_route("/", keep_the_beginning, stream=True)
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        await half_close(client.stream)
        assert await client.reply() == (202, b"a part")
    assert lines.one() == Line("POST", "/", 202, 6, "/")


async def test_upgrades_are_in_flight_until_they_are_answered(lines: Lines, autojump_clock: Clock) -> None:
    """A request for a WebSocket is in flight until its 101, and is not while the WebSocket is open."""
    decide = trio.Event()

    async def route(upgrade: Upgrade, state: None) -> None:
        await decide.wait()
        async for _ in await upgrade.accept():
            pass

    async def fails_later(upgrade: Upgrade, state: None) -> None:
        await decide.wait()
        raise HandshakeError("no", 503)

    app = App().with_websocket_route("/ws", route).with_websocket_route("/fails", fails_later)
    async with streaming(app, memory_connection) as connect:
        clients = [connect() for _ in range(3)]
        await clients[0].get(*HANDSHAKE)
        await clients[1].get("/fails", *HANDSHAKE[1:])
        await clients[2].get(*HANDSHAKE)
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().in_flight == 3
        await clients[2].stream.aclose()
        decide.set()
        assert (await clients[0].head()).status == 101
        assert (await clients[1].reply())[0] == 503
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().in_flight == 0
    assert sorted(line.status for line in lines.all) == [101, 101, 503]


async def test_a_cancelled_upgrade_is_not_in_flight() -> None:
    """The end of the server ends the requests whose routes have not decided."""

    async def route(upgrade: Upgrade, state: None) -> None:
        await trio.sleep_forever()

    app = App().with_websocket_route("/ws", route)
    async with streaming(app, memory_connection) as connect:
        await connect().get(*HANDSHAKE)
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().in_flight == 1
    assert app.statistics().in_flight == 0


async def test_bytes(lines: Lines) -> None:
    """The received and the sent bytes are those of the HTTP messages, without the frames of WebSockets."""
    async with served() as (app, client):
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(request)
        await client.reply()
        await client.post("/upload", b"12345")
        await client.reply()
        before = app.statistics()
        assert before.bytes_received == len(request) + len(
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"
        )
        assert before.bytes_sent > 200
        await client.get(*HANDSHAKE)
        await client.head()
        opened = app.statistics()
        assert opened.bytes_sent > before.bytes_sent + 100
        await client.send(close_frame(1000))
        await client.rest()
        assert app.statistics().bytes_received == opened.bytes_received
        assert app.statistics().bytes_sent == opened.bytes_sent


async def test_a_disabled_log(caplog: pytest.LogCaptureFixture) -> None:
    """Without the level INFO, no line is written, and responses are counted all the same."""
    caplog.set_level(logging.WARNING, "humphrey_trio.access")
    async with served() as (app, client):
        await get(client)
    assert Lines(caplog).all == []
    assert app.statistics().responses["2xx"] == 1


async def test_over_a_socket(lines: Lines) -> None:
    """Over a socket, the lines and the counters are the same."""
    app = site()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, ANY_PORT)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                client = StreamClient(stream)
                for exchange in (get, streamed, not_found, upgraded):
                    await exchange(client)
            nursery.cancel_scope.cancel()
    assert [line.status for line in lines.all] == [200, 200, 404, 101]
    assert all(record.client.startswith("127.0.0.1:") for record in lines.records)
    assert app.statistics().requests == 4


# --------------------------------------------------------------------------------------------- events


class Monitored:
    """The site with a monitor, and what it has sent."""

    def __init__(self) -> None:
        send_channel, self._events = trio.open_memory_channel[Event](100)
        self.app = site().with_monitor(MonitorConfig(send_channel).with_subscription_to(EventLevel.DEBUG))

    @property
    def events(self) -> list[Event]:
        return [self._events.receive_nowait() for _ in range(self._events.statistics().current_buffer_used)]


async def test_the_events_of_a_connection(autojump_clock: Clock) -> None:
    """A connection with a response sends the events of its life in their order."""
    monitored = Monitored()
    async with streaming(monitored.app, memory_connection) as connect:
        client = connect()
        await get(client)
        await client.stream.aclose()
        await trio.sleep(10)
    assert [event.kind for event in monitored.events] == [
        EventType.CONNECTION_SUCCESS,
        EventType.REQUEST_SERVED_SUCCESS,
        EventType.KEEP_ALIVE_RESPECTED,
        EventType.CONNECTION_CLOSED,
    ]


async def test_the_events_of_a_websocket(autojump_clock: Clock) -> None:
    """A WebSocket that was opened and closed sends three events, between those of its connection."""
    monitored = Monitored()
    async with streaming(monitored.app, memory_connection) as connect:
        await upgraded(connect())
    events = monitored.events
    assert [event.kind for event in events] == [
        EventType.CONNECTION_SUCCESS,
        EventType.WEBSOCKET_CONNECTION_REQUESTED,
        EventType.REQUEST_SERVED_SUCCESS,
        EventType.WEBSOCKET_CONNECTION_CLOSED,
        EventType.CONNECTION_CLOSED,
    ]
    assert events[1].info == "/ws"
    assert events[2].status == 101
    assert events[3].info.startswith("/ws closed by the client with 1000")


async def test_the_event_of_a_failed_handler() -> None:
    """A failed handler is an event with its name, its method and its path."""
    monitored = Monitored()
    async with streaming(monitored.app, memory_connection) as connect:
        await failed(connect())
    (event,) = [event for event in monitored.events if event.kind is EventType.HANDLER_FAILED]
    assert event.info == f"the handler {__name__}.fail failed for GET /fail"


async def test_the_event_of_a_failed_websocket_handler() -> None:
    """A handler of a WebSocket that fails is an event when its stream has ended."""

    async def broken(stream: WebsocketStream, state: None) -> None:
        raise ValueError("the handler failed")

    monitored = Monitored()
    monitored.app.with_websocket_route("/broken", websocket_handler(broken))
    async with websocket_client(monitored.app, "/broken") as client:
        assert [message async for message in client] == []
    (event,) = [event for event in monitored.events if event.kind is EventType.HANDLER_FAILED]
    assert event.info == "/broken: its handler failed"


@pytest.mark.parametrize("when_left", WhenLeft)
async def test_the_event_of_a_client_that_leaves(when_left: WhenLeft, autojump_clock: Clock) -> None:
    """A client that leaves before its response is one event, whether its handler is cancelled or not."""

    async def slow(_: Request) -> Response:
        await trio.sleep(3)
        return Response(200)

    monitored = Monitored()
    monitored.app.with_stateless_route("/slow", slow, when_left=when_left)
    async with streaming(monitored.app, memory_connection) as connect:
        client = connect()
        await client.get("/slow")
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(10)
    kinds = [event.kind for event in monitored.events]
    assert kinds.count(EventType.STREAM_DISCONNECTED_WHILE_WAITING) == 1


async def test_a_client_that_resets_while_idle(autojump_clock: Clock) -> None:
    """A client that breaks its connection after its response has not left while waiting."""
    monitored = Monitored()
    async with streaming(monitored.app, memory_connection) as connect:
        client = connect()
        await get(client)
        assert isinstance(client.stream, MemoryStream)
        client.stream.reset()
        await trio.sleep(10)
    assert EventType.STREAM_DISCONNECTED_WHILE_WAITING not in [event.kind for event in monitored.events]


# -------------------------------------------------------------------------------------- who has failed


async def auth(request: Request, state: None, call_next: Any) -> Any:
    raise ValueError("the layer failed")


async def test_log_lines_name_who_failed(caplog: pytest.LogCaptureFixture) -> None:
    """The line about a failure names the handler, the layer, the route or the error handler, with the request."""

    def bad_page(status: int, request: Request | None, exception: Exception | None) -> Response:
        raise ValueError("the error handler failed")

    async def route(upgrade: Upgrade, state: None) -> Response:
        raise ValueError("the route failed")

    def raises(_: Request) -> Response:
        raise HttpError(404)

    guarded = SubApp().with_stateless_route("/", lambda _: Response(200)).with_layer(auth)
    app = site().with_host("guarded", guarded).with_websocket_route("/broken", route)
    app.with_stateless_route("/raises", raises).with_error_handler(bad_page)
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: guarded\r\n\r\n")
        await client.reply()
        await client.get("/broken", *HANDSHAKE[1:])
        await client.reply()
        await client.get("/raises")
        await client.reply()
        await client.get("/fails-at-once")
        await client.reply()
    inner = f"{__name__}.test_log_lines_name_who_failed.<locals>"
    page = f"the error handler {inner}.bad_page failed for GET"
    assert caplog.messages == [
        f"the layer {__name__}.auth failed for GET /",
        f"{page} /",
        f"the websocket route {inner}.route failed for GET /broken",
        f"{page} /broken",
        f"{page} /raises",
        f"the body of the response from {__name__}.fails_at_once failed for GET /fails-at-once",
        f"{page} /fails-at-once",
    ]


async def test_a_partial_and_an_object_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Of an object without a name the repr is logged."""

    class Handler:
        def __repr__(self) -> str:
            return "Handler()"

        def __call__(self, request: Request) -> Response:
            raise ValueError("the handler failed")

    await App().with_stateless_route("/", Handler()).handle(Request(headers=[("Host", "a")]))
    assert caplog.messages == ["the handler Handler() failed for GET /"]
