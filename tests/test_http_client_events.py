"""Server-sent events with the HTTP client of ``humphrey_trio.testing``."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response
from humphrey_trio._testing._event_decoder import EventDecoder
from humphrey_trio.http import EventSender, Write
from humphrey_trio.testing import ResponseError, ServerSentEvent, http_client


def ticker(left: list[str]) -> App[None]:
    """An app that counts the seconds after the last event that the client has received."""

    def count(request: Request) -> Response:
        async def produce(events: EventSender) -> None:
            number = int(request.last_event_id or 0)
            try:
                while True:
                    number += 1
                    await events.send(f"{request.text}{number}\n!", event="tick", id=str(number), retry=100)
                    await trio.sleep(1)
            except trio.Cancelled:
                left.append("cancelled")
                raise

        return Response.events(produce)

    return App().with_stateless_route("/", count)


async def test_events(autojump_clock: trio.testing.MockClock) -> None:
    """Events arrive when they are sent. The end of the block disconnects, so the producer is cancelled."""
    left: list[str] = []
    async with http_client(ticker(left)) as client:
        async with client.events("/") as events:
            assert events.response.headers["Cache-Control"] == "no-store"
            assert await anext(events) == ServerSentEvent("1\n!", "tick", "1")
            begun = trio.current_time()
            async for event in events:
                if event.id == "3":
                    break
            assert trio.current_time() - begun == pytest.approx(2)
            assert (events.last_event_id, events.retry) == ("3", 100)
        await trio.sleep(2)
        assert left == ["cancelled"]


async def test_resuming(autojump_clock: trio.testing.MockClock) -> None:
    """The last event id is sent, and so are a method, header fields and a body."""
    async with http_client(ticker([])) as client:
        async with client.events("/", last_event_id="41") as events:
            assert events.last_event_id == "41"
            assert (await anext(events)).id == "42"
        async with client.events("/", method="POST", content="n", headers={"A": "b"}) as events:
            assert (await anext(events)).data == "n1\n!"
            await events.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await anext(events)


async def test_ids_of_any_text() -> None:
    """An id may have characters outside ASCII."""

    def show(request: Request) -> Response:
        async def produce(events: EventSender) -> None:
            await events.send(request.last_event_id, id="\u4e2d")

        return Response.events(produce)

    async with (
        http_client(App().with_stateless_route("/", show)) as client,
        client.events("/", last_event_id="\u00f6\u4e2d") as events,
    ):
        assert [event async for event in events] == [ServerSentEvent("\u00f6\u4e2d", "message", "\u4e2d")]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Response(404, "nothing here"), "status 404, Content-Type 'text/plain; charset=utf-8': 'nothing here'"),
        (Response(200, "data: a\n\n"), "status 200, Content-Type 'text/plain"),
        (Response.empty(204), "status 204"),
    ],
)
async def test_refusals(response: Response, error: str) -> None:
    """Another response than an event stream is an error that has it."""
    async with http_client(App().with_stateless_route("/", lambda _: response)) as client:
        with pytest.raises(ResponseError, match=f"not an event stream: {error}") as caught:
            async with client.events("/"):
                pass
        assert caught.value.response is not None
        assert (caught.value.response.status, caught.value.response.text) == (response.status, response.text)


async def test_wrong_bytes() -> None:
    """A stream that is not UTF-8 is an error."""

    async def produce(write: Write) -> None:
        await write(b"data: \xff\n\n")

    response = Response.stream(produce, headers={"Content-Type": "text/event-stream"})
    async with (
        http_client(App().with_stateless_route("/", lambda _: response)) as client,
        client.events("/") as events,
    ):
        with pytest.raises(ResponseError, match="an event stream must be UTF-8"):
            await anext(events)


def decoded(*pieces: bytes) -> list[ServerSentEvent]:
    decoder, events = EventDecoder(), list[ServerSentEvent]()
    for piece in pieces:
        decoder.receive(piece)
        while (event := decoder.next()) is not None:
            events.append(event)
    return events


E = ServerSentEvent
STREAMS = {
    "data: a\n\n": [E("a")],
    "data:a\rdata: b\r\ndata:  c\n\r\n\r": [E("a\nb\n c")],
    "data\n\ndata:\ndata\n\n": [E(""), E("\n")],
    ": comment\n\n:\n\nother: x\n\nevent: e\n\ndata: a\n\n": [E("a")],
    "event: e\ndata: a\n\ndata: b\n\n": [E("a", "e"), E("b")],
    "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n": [E("a", id="1"), E("b", id="1"), E("c")],
    "id: 1\n\nid: 2\0\ndata: a\n\n": [E("a", id="1")],
    "\ufeffdata: \ufeffa\u2028b\n\n": [E("\ufeffa\u2028b")],
    "data: incomplete\n": [],
    "retry: 1\nretry: x\nretry: \u00b2\ndata: \u4e2d\n\n": [E("\u4e2d")],
}


@pytest.mark.parametrize("stream", STREAMS)
def test_decoding(stream: str) -> None:
    """A stream means what the HTML standard says, however it is cut into pieces."""
    data = stream.encode()
    assert decoded(data) == STREAMS[stream]
    assert decoded(*(data[at : at + 1] for at in range(len(data)))) == STREAMS[stream]
    for at in range(1, len(data)):
        assert decoded(data[:at], data[at:]) == STREAMS[stream]


def test_bound_of_a_line() -> None:
    """A line that never ends is an error."""
    decoder = EventDecoder()
    for _ in range(16):
        decoder.receive(b"x" * 2**20)
    with pytest.raises(ResponseError, match="longer than 16777216 characters"):
        decoder.receive(b"x")
