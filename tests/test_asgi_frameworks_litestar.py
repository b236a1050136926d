"""Apps of Litestar that an ``App`` serves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import trio
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from humphrey_trio.testing import ServerSentEvent
from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.litestar_apps import CROWD, litestar_app


@pytest.fixture
async def site(probe: Probe, tmp_path: Path) -> AsyncGenerator[Site]:
    (tmp_path / "a.txt").write_text("0123456789")
    async with mounted(litestar_app(probe, tmp_path)) as site:
        yield site


async def test_quick_start(site: Site) -> None:
    """The first program of Litestar answers."""
    assert (await site.client.get("/")).text == "Hello, world!"
    assert (await site.client.get("/books/5?tag=a&tag=b")).json() == {"book_id": 5, "tags": ["a", "b"]}
    assert (await site.client.get("/inner")).text == "Hello, world!"


async def test_bodies(site: Site) -> None:
    """A body of JSON, a form, a file, and a body that is read while it arrives."""
    answer = await site.client.post("/books", json={"title": "a", "pages": 1})
    assert (answer.status_code, answer.json()) == (201, {"title": "A", "pages": 2})
    assert (await site.client.post("/books", json={"title": "a"})).status_code == 400
    assert (await site.client.post("/form", data={"a": "é&"})).json() == {"a": "é&"}
    upload = await site.client.post("/upload", files={"data": ("f.bin", b"x" * 2_000_000)})
    assert upload.json() == {"name": "f.bin", "size": 2_000_000}
    assert (await site.client.post("/count", content=b"x" * 500_000)).json() == 500_000


async def test_plain_function(site: Site) -> None:
    """A handler with ``sync_to_thread=True`` runs in a thread."""
    assert (await site.client.get("/thread")).json() is False


async def test_background_task(site: Site, probe: Probe) -> None:
    """The response arrives before the background task ends, which runs on when the client has left."""
    async with site.another_client() as client:
        assert (await client.get("/background")).text == "accepted"
    probe.gate.set()
    await probe.noted("task ends")


async def test_streams(site: Site, probe: Probe) -> None:
    """A piece of a stream arrives while the next one is not there yet; a plain generator is a stream, too."""
    async with site.streaming("/numbers") as response:
        assert await anext(response) == b"one"
        probe.gate.set()
        assert await response.read() == b"two"
    assert (await site.client.get("/lines")).text.split() == [str(number) for number in range(20)]


async def test_client_leaves_a_stream(site: Site, probe: Probe) -> None:
    """A stream is closed when its client has left."""
    async with site.streaming("/endless") as response:
        await anext(response)
    await probe.noted("stream ends")


async def test_server_sent_events(site: Site, probe: Probe) -> None:
    """Events arrive one by one, and their generator is closed when the client has left."""
    async with site.events("/events") as events:
        assert [await anext(events) for _ in range(3)] == [
            ServerSentEvent(str(number), "tick", str(number)) for number in range(3)
        ]
    await probe.noted("events end")


async def test_server_sent_events_that_end(site: Site) -> None:
    """A stream of events that ends is a complete response."""
    async with site.events("/finite-events") as events:
        assert [event.data async for event in events] == ["one", "two"]
    assert (await site.client.get("/finite-events")).text.count("data: ") == 2


async def test_concurrent_requests(site: Site) -> None:
    """The requests of many clients run at the same time."""
    answers: list[str] = []

    async def ask() -> None:
        async with site.another_client() as client:
            answers.append((await client.get("/crowd")).text)

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(ask)
    assert answers == ["together"] * CROWD


async def test_dependency(site: Site, probe: Probe) -> None:
    """A dependency with ``yield`` is opened before the handler and closed after it."""
    assert (await site.client.get("/session")).text == "session"
    await probe.noted("session closes")
    assert probe.notes == ["startup", "session opens", "handler", "session closes"]


async def test_urls(site: Site) -> None:
    """The URLs that an app makes contain the path of the mount."""
    assert (await site.client.get("/url")).json() == {
        "book": site.url("/books/3"),
        "base": site.url("/"),
        "url": site.url("/url"),
    }


async def test_schema(site: Site) -> None:
    """The description of the app is below the path of the mount."""
    description = (await site.client.get("/schema/openapi.json")).json()
    assert "/books/{book_id}" in description["paths"]
    assert (await site.client.get("/schema/swagger")).status_code == 200


async def test_lifespan(probe: Probe, tmp_path: Path) -> None:
    """The app starts before the first request, and its state is in requests."""
    async with mounted(litestar_app(probe, tmp_path)) as site:
        assert probe.notes == ["startup"]
        assert (await site.client.get("/lifespan")).json() == {"database": "connected"}
    assert probe.notes == ["startup", "shutdown"]


async def test_files(site: Site) -> None:
    """A download and a static file."""
    answer = await site.client.get("/file")
    assert (answer.text, answer.headers["content-disposition"]) == ("0123456789", 'attachment; filename="b.txt"')
    static = await site.client.get("/static/a.txt")
    assert (static.text, static.headers["content-length"]) == ("0123456789", "10")
    assert (await site.client.head("/static/a.txt")).content == b""


async def test_cors_and_compression(site: Site) -> None:
    """A preflight reaches the app, and a long response is compressed."""
    preflight = await site.client.options(
        "/books", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    )
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    large = await site.client.get("/large")
    assert (large.headers["content-encoding"], large.text) == ("gzip", "text " * 1000)


async def test_errors(site: Site) -> None:
    """The app answers its exceptions, and an unexpected one tells nothing."""
    missing = await site.client.get("/missing")
    assert (missing.json()["detail"], missing.headers["x-error"]) == ("no such book", "there")
    teapot = await site.client.get("/teapot")
    assert (teapot.status_code, teapot.text) == (418, "short")
    answer = await site.client.get("/fail")
    assert answer.json() == {"status_code": 500, "detail": "Internal Server Error"}
    assert (await site.client.delete("/books")).status_code == 405


async def test_stream_that_fails(site: Site) -> None:
    """A stream that fails is visibly incomplete."""
    with pytest.raises(httpx.RemoteProtocolError):
        await site.client.get("/torn")


async def test_websocket(site: Site, probe: Probe) -> None:
    """A WebSocket with a subprotocol, header fields and a path parameter, whose close the app sees."""
    async with site.websocket("/ws/ann", subprotocols=["a", "b"]) as client:
        assert (client.subprotocol, client.response.headers["x-name"]) == ("b", "ann")
        await client.send('{"a": 1}')
        assert await client.recv() == '{"name":"ann","got":{"a":1}}'
        await client.aclose(4005)
    await probe.noted("left 4005")


async def test_websocket_listener(site: Site) -> None:
    """A listener gets each message, and its result is sent."""
    async with site.websocket("/listener") as client:
        for text in ("a", "b"):
            await client.send(text)
        assert [await client.recv() for _ in range(2)] == ["A", "B"]


async def test_websocket_stream(site: Site, probe: Probe) -> None:
    """The messages of a generator are sent, and it is closed when the client has left."""
    async with site.websocket("/ticks") as client:
        assert [await client.recv() for _ in range(3)] == ["0", "1", "2"]
    await probe.noted("ticks end")


async def test_websocket_refused(site: Site) -> None:
    """A WebSocket that the app closes before it accepts it is a 403."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/refuse"):
            pass
    assert caught.value.response.status_code == 403


async def test_websocket_closed(site: Site) -> None:
    """The app closes with a code and a reason; an exception closes with a code of its own."""
    async with site.websocket("/close") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "enough")
    async with site.websocket("/break-down") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
    assert caught.value.rcvd.code == 4500
