"""Apps of FastAPI that an ``App`` serves."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import pytest
import trio
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.fastapi_apps import CROWD, fastapi_app, plain_app
from tests.support.logs import errors


@pytest.fixture
async def site(probe: Probe) -> AsyncGenerator[Site]:
    async with mounted(fastapi_app(probe)) as site:
        yield site


async def test_quick_start(site: Site) -> None:
    """The first program of FastAPI answers."""
    assert (await site.client.get("/")).json() == {"message": "Hello World"}
    assert (await site.client.get("/items/5?q=some%20query")).json() == {"item_id": 5, "q": "some query"}


async def test_model(site: Site) -> None:
    """A handler gets its path parameter, a validated body and a header field."""
    answer = await site.client.put("/items/3", json={"name": "é", "price": 1.5}, headers={"X-Token": "t"})
    assert answer.json() == {"id": 3, "total": 3.0, "token": "t", "name": "é", "price": 1.5, "tags": []}


async def test_validation(site: Site) -> None:
    """A wrong parameter and a wrong body are a 422, as FastAPI answers them."""
    assert (await site.client.get("/items/five")).json()["detail"][0]["loc"] == ["path", "item_id"]
    wrong = await site.client.put("/items/3", content=b"{", headers={"Content-Type": "application/json"})
    assert (wrong.status_code, wrong.json()["detail"][0]["type"]) == (422, "json_invalid")


async def test_query(site: Site) -> None:
    """A parameter of the query that occurs twice is a list."""
    assert (await site.client.get("/search?tag=a&tag=b")).json() == {"tags": ["a", "b"], "limit": 10}


async def test_forms(site: Site) -> None:
    """A form, and one with files."""
    answer = await site.client.post("/login", data={"name": "ann", "password": "&="})
    assert answer.json() == {"name": "ann", "password": "&="}
    files = {"small": b"123", "large": ("l.bin", b"x" * 2_000_000)}
    answer = await site.client.post("/files", data={"note": "n"}, files=files)
    assert answer.json() == {"small": 3, "large": 2_000_000, "name": "l.bin", "note": "n"}


async def test_plain_functions(site: Site) -> None:
    """Handlers that are plain functions run in threads, at the same time."""
    assert (await site.client.get("/thread")).json() == {"main": False}
    answers: list[str] = []

    async def ask() -> None:
        async with site.another_client() as client:
            answers.append((await client.get("/crowd")).json())

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(ask)
    assert answers == ["together"] * CROWD


async def test_background_tasks(site: Site, probe: Probe) -> None:
    """The response arrives before the background tasks end."""
    answer = await site.client.post("/notify/a@example.org")
    assert answer.json() == {"message": "Notification sent in the background"}
    assert "task ends" not in probe.notes
    probe.gate.set()
    await probe.noted("task ends")
    assert probe.notes == ["startup", "mail to a@example.org", "task ends"]


async def test_dependency(site: Site, probe: Probe) -> None:
    """A dependency with ``yield`` is opened before the handler and closed after it."""
    assert (await site.client.get("/session")).json() == "session"
    await probe.noted("session closes")
    assert probe.notes == ["startup", "session opens", "handler", "session closes"]


async def test_plain_dependency(site: Site, probe: Probe) -> None:
    """The same with a plain generator."""
    assert (await site.client.get("/plain-session")).json() == "plain session"
    await probe.noted("session closes")


async def test_dependency_of_a_handler_that_fails(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """The exception of the handler passes the dependency, is a 500, and is logged once."""
    async with mounted(fastapi_app(probe)) as site:
        assert (await site.client.get("/failing-session")).status_code == 500
    assert probe.notes == ["startup", "session opens", "session fails", "session closes", "shutdown"]
    assert len(errors(caplog)) == 1


async def test_dependency_of_a_stream(site: Site, probe: Probe) -> None:
    """A dependency is open until its stream has ended."""
    async with site.streaming("/stream") as response:
        assert await anext(response) == b"one"
        assert "session closes" not in probe.notes
        probe.gate.set()
        assert await response.read() == b" session"
    await probe.noted("session closes")
    assert probe.notes == ["startup", "session opens", "stream ends", "session closes"]


async def test_server_sent_events(site: Site, probe: Probe) -> None:
    """Events of FastAPI arrive one by one, and their generator is closed when the client has left."""
    async with site.events("/events") as events:
        received = [await anext(events) for _ in range(3)]
    assert [json.loads(event.data) for event in received] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [(event.event, event.id) for event in received] == [("tick", "0"), ("tick", "1"), ("tick", "2")]
    await probe.noted("events end")


async def test_server_sent_events_go_on(site: Site) -> None:
    """A client that has lost its connection gets the events behind the last that it has."""
    async with site.events("/events", last_event_id="2") as events:
        assert (await anext(events)).id == "2"


async def test_is_disconnected(probe: Probe) -> None:
    """A handler that asks whether its client has left gets the answer.

    Behind ``@app.middleware("http")`` it gets none on trio: that starts a task in a cancelled scope to ask.
    """
    async with mounted(plain_app(probe)) as site:
        async with site.another_client() as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/wait")
            await probe.noted("waits")
            nursery.cancel_scope.cancel()
        await probe.noted("left")


async def test_documentation(site: Site) -> None:
    """The page of the documentation loads the description of the app from below the path of the mount."""
    docs = await site.client.get("/docs")
    assert "url: '/api/openapi.json'" in docs.text
    assert "/api/openapi.json" in (await site.client.get("/redoc")).text
    description = (await site.client.get("/openapi.json")).json()
    assert description["servers"] == [{"url": "/api"}]
    assert "/items/{item_id}" in description["paths"]


async def test_sub_application(site: Site) -> None:
    """An app that is mounted inside the app has both paths before its own."""
    assert (await site.client.get("/subapi/sub")).json() == {"message": "Hello World from sub API"}
    assert "url: '/api/subapi/openapi.json'" in (await site.client.get("/subapi/docs")).text
    description = (await site.client.get("/subapi/openapi.json")).json()
    assert description["servers"] == [{"url": "/api/subapi"}]


async def test_url_for(site: Site) -> None:
    """The URL of a route contains the path of the mount."""
    assert (await site.client.get("/url")).json() == site.url("/items/3")


async def test_middleware(site: Site) -> None:
    """A middleware adds a header field."""
    assert float((await site.client.get("/")).headers["x-process-time"]) > 0


async def test_errors(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Exceptions that the app answers are not logged."""
    missing = await site.client.get("/missing")
    assert (missing.status_code, missing.json()) == (404, {"detail": {"why": "no such item"}})
    assert missing.headers["x-error"] == "there"
    unicorn = await site.client.get("/unicorn")
    assert (unicorn.status_code, unicorn.text) == (418, "a unicorn")
    assert errors(caplog) == []


async def test_exception(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is a 500 that tells nothing, and is logged once."""
    async with mounted(fastapi_app(probe)) as site:
        answer = await site.client.get("/fail")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert "the secret cause" in str(record.exc_info[1])


async def test_lifespan(probe: Probe) -> None:
    """The app starts before the first request, and its state is in requests."""
    async with mounted(fastapi_app(probe)) as site:
        assert probe.notes == ["startup"]
        assert (await site.client.get("/state")).json() == "loaded"
    assert probe.notes == ["startup", "shutdown"]


async def test_websocket(site: Site, probe: Probe) -> None:
    """The chat of the documentation, with a path parameter and a dependency that reads the query."""
    async with site.websocket("/ws/7?token=t") as client:
        await client.send("hi")
        assert await client.recv() == "Client #7 with t says: hi"
    await probe.noted("left 1000")


async def test_websocket_dependency_refuses(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A dependency that refuses before the handshake is a 403."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/ws/7"):
            pass
    assert caught.value.response.status_code == 403
    assert errors(caplog) == []


async def test_websocket_exception(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A WebSocketException after the handshake closes with its code and reason."""
    async with site.websocket("/late") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "too late")
    assert errors(caplog) == []
