"""Apps of Quart-Trio that an ``App`` serves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from humphrey_trio.testing import ServerSentEvent
from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.logs import errors

pytest.importorskip("quart_trio", reason="Quart-Trio is not installed")

from tests.support.quart_apps import CROWD, quart_app


@pytest.fixture
async def site(probe: Probe, tmp_path: Path) -> AsyncGenerator[Site]:
    (tmp_path / "a.txt").write_text("0123456789")
    async with mounted(quart_app(probe, tmp_path)) as site:
        yield site


async def test_quick_start(site: Site) -> None:
    """The first program of Quart-Trio answers."""
    assert (await site.client.get("/")).text == "hello"
    answer = await site.client.get("/users/5?tag=a&tag=b")
    assert answer.json() == {"number": 5, "tags": ["a", "b"], "root": "/api"}
    assert (await site.client.get("/pages/x")).text == "page x"


async def test_bodies(site: Site) -> None:
    """A body of JSON, a form, a file, and a body that is read while it arrives."""
    answer = await site.client.post("/json", json={"a": "é"})
    assert (answer.status_code, answer.json()) == (201, {"a": "é"})
    assert (await site.client.post("/form", data={"name": "é&"})).json() == {"name": "é&", "size": 0}
    upload = await site.client.post("/form", data={"name": "n"}, files={"file": ("f.bin", b"x" * 2_000_000)})
    assert upload.json() == {"name": "n", "size": 2_000_000}
    assert (await site.client.post("/count", content=b"x" * 500_000)).text == "500000"


async def test_plain_function(site: Site) -> None:
    """A handler that is a plain function runs in a thread."""
    assert (await site.client.get("/thread")).json() == {"main": False}


async def test_background_task(site: Site, probe: Probe) -> None:
    """The response arrives before the background task ends, which runs on when the client has left."""
    async with site.another_client() as client:
        assert (await client.get("/background")).text == "accepted"
    probe.gate.set()
    await probe.noted("task ends")


async def test_stream(site: Site, probe: Probe) -> None:
    """A piece of a stream arrives while the next one is not there yet."""
    async with site.streaming("/numbers") as response:
        assert await anext(response) == b"one"
        probe.gate.set()
        assert await response.read() == b"two"


async def test_server_sent_events(site: Site, probe: Probe) -> None:
    """Events arrive one by one, and their generator is closed when the client has left."""
    async with site.events("/events") as events:
        assert [await anext(events) for _ in range(3)] == [
            ServerSentEvent(str(number), "tick", str(number)) for number in range(3)
        ]
    await probe.noted("events end")


async def test_client_leaves(site: Site, probe: Probe) -> None:
    """Quart-Trio cancels a handler when it learns that the client has left."""
    async with site.another_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "/wait")
        await probe.noted("waits")
        nursery.cancel_scope.cancel()
    await probe.noted("left")


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


async def test_urls(site: Site) -> None:
    """The URLs that an app makes contain the path of the mount."""
    assert (await site.client.get("/url")).json() == {"page": "/api/pages/x", "static": "/api/static/a.txt"}


async def test_lifespan(probe: Probe, tmp_path: Path) -> None:
    """The app starts before the first request, and ends after the last."""
    async with mounted(quart_app(probe, tmp_path)) as site:
        assert probe.notes == ["startup"]
        assert (await site.client.get("/state")).text == "connected"
    assert sorted(probe.notes[1:]) == ["database closed", "shutdown"]


async def test_files(site: Site) -> None:
    """A file, a range of it, and a static file."""
    assert (await site.client.get("/file")).text == "0123456789"
    part = await site.client.get("/file", headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.text) == (206, "23")
    static = await site.client.get("/static/a.txt")
    assert static.text == "0123456789"
    again = await site.client.get("/static/a.txt", headers={"If-None-Match": static.headers["etag"]})
    assert again.status_code == 304


async def test_errors(site: Site) -> None:
    """The app answers its exceptions, and an unexpected one tells nothing."""
    missing = await site.client.get("/missing")
    assert (missing.status_code, "no such page" in missing.text) == (404, True)
    teapot = await site.client.get("/teapot")
    assert (teapot.status_code, teapot.text) == (418, "short")
    failed = await site.client.get("/fail")
    assert (failed.status_code, "secret" in failed.text) == (500, False)


async def test_websocket(site: Site, probe: Probe) -> None:
    """A WebSocket with a subprotocol, header fields and a path parameter, whose end the app sees."""
    async with site.websocket("/ws/ann", subprotocols=["a", "b"]) as client:
        assert (client.subprotocol, client.response.headers["x-name"]) == ("b", "ann")
        for message in ("text", b"bytes"):
            await client.send(message)
            assert await client.recv() == message
    await probe.noted("left")


async def test_websocket_refused(site: Site) -> None:
    """A handler that returns a response before it accepts refuses with this response."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/refuse"):
            pass
    response = caught.value.response
    assert (response.status_code, response.body) == (401, b"no token")


async def test_websocket_closed(site: Site) -> None:
    """The app closes with a code and a reason."""
    async with site.websocket("/close") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "enough")


async def test_websocket_exception(probe: Probe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception after the handshake, which Quart logs itself, closes the WebSocket."""
    async with mounted(quart_app(probe, tmp_path)) as site, site.websocket("/break-down") as client:
        with pytest.raises(ConnectionClosed):
            await client.recv()
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the secret cause"
