"""Server-sent events: their encoding, comments in silence, and the graceful end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response
from humphrey_trio.http import EventSender, Request, read_body
from humphrey_trio.testing import memory_connection
from tests.support.apps import StreamPair
from tests.support.logs import errors
from tests.support.streamed import StreamClient, each_stream, streaming

Clock = trio.testing.MockClock


def parse(stream: str) -> list[dict[str, str]]:
    """Parse an event stream as a browser does (HTML standard, section 9.2.6): events with type, data and id."""
    events: list[dict[str, str]] = []
    data: list[str] = []
    event, last_id = "", ""
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append({"type": event or "message", "data": "\n".join(data), "id": last_id})
            data, event = [], ""
        elif name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


def app_of(produce: Any, **settings: Any) -> App:
    return App(**settings).with_stateless_route("/", lambda _: Response.events(produce))


async def sent(*arguments: Any, **fields: Any) -> str:
    """What is sent for one event."""

    async def produce(events: EventSender) -> None:
        await events.send(*arguments, **fields)

    return (await read_body(Response.events(produce))).decode()


# ------------------------------------------------------------------------------------------ encoding


async def test_the_fields_of_an_event() -> None:
    """All fields in one event, and an empty line behind it."""
    assert await sent("hello", event="greeting", id="7", retry=1500) == (
        "event: greeting\nid: 7\nretry: 1500\ndata: hello\n\n"
    )
    assert await sent("hello") == "data: hello\n\n"


async def test_an_id_without_an_event() -> None:
    """``send_id`` sends an id and an empty line, and refuses an id that clients would ignore."""

    async def produce(events: EventSender) -> None:
        await events.send_id("7")
        for wrong in ("a\nb", "a\0"):
            with pytest.raises(ValueError, match="the id of an event must not contain"):
                await events.send_id(wrong)

    assert await read_body(Response.events(produce)) == b"id: 7\n\n"


@pytest.mark.parametrize(
    ("data", "received"),
    [
        ("", ""),
        ("one\ntwo", "one\ntwo"),
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("\n", "\n"),
        (" spaces ", " spaces "),
        (": no comment", ": no comment"),
        ("id: 5\n\nevent: forged", "id: 5\n\nevent: forged"),
        ("\u2028 \x0b \x0c \x1c \x85 \0 wörld", "\u2028 \x0b \x0c \x1c \x85 \0 wörld"),
    ],
)
async def test_any_text_is_data(data: str, received: str) -> None:
    """A client gets every text as it is, except that each line end becomes LF. No text forges a field."""
    assert parse(await sent(data, event="e", id="1")) == [{"type": "e", "data": received, "id": "1"}]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("field", ["event", "id"])
async def test_a_line_end_in_a_field(field: str, end: str) -> None:
    """The type and the id are one line."""
    with pytest.raises(ValueError, match=f"the {field} of an event must not contain a line end"):
        await sent("data", **{field: f"a{end}data: forged"})


async def test_a_nul_in_an_id() -> None:
    """Browsers ignore an id with a NUL. In a type it is an ordinary character."""
    with pytest.raises(ValueError, match="NUL"):
        await sent("data", id="a\0b")
    assert parse(await sent("data", event="a\0b"))[0]["type"] == "a\0b"


async def test_an_empty_id_resets_it() -> None:
    """An empty id is sent: from then on, a client that reconnects sends none."""
    assert await sent("data", id="") == "id: \ndata: data\n\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"data": b"bytes"}, TypeError),
        ({"data": {"a": 1}}, TypeError),
        ({"data": "\ud800"}, ValueError),
        ({"data": "", "event": 5}, TypeError),
        ({"data": "", "id": 5}, TypeError),
        ({"data": "", "retry": 1.5}, TypeError),
        ({"data": "", "retry": True}, TypeError),
        ({"data": "", "retry": -1}, ValueError),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Other types, and what cannot be encoded, are errors."""
    with pytest.raises(error):
        await sent(**arguments)


# ---------------------------------------------------------------------------------------- connections


async def receive_until(client: StreamClient, seconds: float) -> list[bytes]:
    """The chunks that arrive within so many seconds."""
    chunks: list[bytes] = []
    with trio.move_on_after(seconds):
        while chunk := await client.chunk():
            chunks.append(chunk)
    return chunks


@each_stream
async def test_events_arrive_at_once(pair: StreamPair, autojump_clock: Clock) -> None:
    """Each event is a chunk of its own, and the response is not cached."""

    async def produce(events: EventSender) -> None:
        for number in range(3):
            await events.send(str(number))
            await trio.sleep(5)

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.get()
        head = await client.head()
        assert head.headers.get("Content-Type") == "text/event-stream"
        assert head.headers.get("Cache-Control") == "no-store"
        for number in range(3):
            assert await client.chunk() == b"data: %d\n\n" % number
            assert trio.current_time() - start == pytest.approx(5 * number)
        assert await client.chunks() == []


@each_stream
async def test_comments_break_the_silence(pair: StreamPair, autojump_clock: Clock) -> None:
    """After 15 seconds without an event, a comment is sent, and again every 15 seconds."""
    times: list[tuple[float, bytes]] = []

    async def produce(events: EventSender) -> None:
        await trio.sleep(10)
        await events.send("first")
        await trio.sleep(50)

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.get()
        await client.head()
        while chunk := await client.chunk():
            times.append((round(trio.current_time() - start), chunk))
    assert times == [(10, b"data: first\n\n"), *((at, b":\n\n") for at in (25, 40, 55))]
    assert parse("".join(chunk.decode() for _, chunk in times)) == [{"type": "message", "data": "first", "id": ""}]


@each_stream
async def test_events_end_in_a_graceful_shutdown(
    pair: StreamPair, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """When a graceful shutdown begins, the producer is cancelled, and the response is complete."""
    shutdown, ended = trio.Event(), trio.Event()

    async def produce(events: EventSender) -> None:
        await events.send("hello")
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with streaming(app_of(produce).with_shutdown(shutdown), pair) as connect:
        client, other = connect(), connect()
        await client.get()
        await client.head()
        assert await client.chunk() == b"data: hello\n\n"
        start = trio.current_time()
        shutdown.set()
        assert await client.chunks() == []
        assert ended.is_set()
        # A stream that is requested now ends at once.
        await other.get()
        head = await other.head()
        assert head.headers.get("Connection") == "close"
        assert await other.chunks() == []
        assert trio.current_time() - start < 1
        assert await client.rest() == await other.rest() == b""
    assert errors(caplog) == []


@each_stream
async def test_a_failure_of_the_producer(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """A producer that fails before its first event gets a 500."""

    async def produce(events: EventSender) -> None:
        await events.send("data", id="a\nb")

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
    assert len(errors(caplog)) == 1


async def test_several_tasks_may_send(autojump_clock: Clock) -> None:
    """Events of several tasks are not mixed."""

    async def produce(events: EventSender) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(events.send, f"{number}\n" * 3000)

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        await client.head()
        received = parse(b"".join(await client.chunks()).decode())
    assert {event["data"] for event in received} == {f"{number}\n" * 3000 for number in range(50)}


@each_stream
async def test_a_producer_whose_client_leaves(
    pair: StreamPair, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A silent producer is cancelled when its client has left: by the sweep, or when a comment cannot be sent."""
    ended: list[float] = []

    async def produce(events: EventSender) -> None:
        await events.send("hello")
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        assert await client.chunk()
        left = trio.current_time()
        await client.stream.aclose()
        await trio.sleep(60)
    (end,) = ended
    assert end - left <= (1 if pair is memory_connection else 15.1)
    assert errors(caplog) == []


async def test_last_event_id() -> None:
    """A client that reconnects names the last event that it has received."""
    seen: list[str | None] = []

    async def produce(events: EventSender) -> None: ...

    def handler(request: Request) -> Response:
        seen.append(request.last_event_id)
        return Response.events(produce)

    async with streaming(App().with_stateless_route("/", handler), memory_connection) as connect:
        client = connect()
        for lines in ([], ["Last-Event-ID: 41"]):
            await client.get("/", *lines)
            assert await client.reply() == (200, b"")
    assert seen[1] == "41"
