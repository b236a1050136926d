"""The beginning and the end of apps of Starlette that an ``App`` serves, beside its own routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette

from humphrey_trio import App, Response
from humphrey_trio.http import LifespanError
from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import mounted
from tests.support.hosted_apps import echo_app
from tests.support.starlette_apps import starlette_app


async def test_lifespan(probe: Probe) -> None:
    """The app starts before the first request, its state is in requests, and it shuts down behind the last."""
    async with mounted(starlette_app(probe)) as site:
        assert probe.notes == ["startup"]
        assert (await site.client.get("/state")).json() == {"database": "connected"}
        assert probe.notes == ["startup"]
    assert probe.notes == ["startup", "shutdown"]


async def test_graceful_end_waits_for_background_tasks(probe: Probe) -> None:
    """A background task that runs when the server ends is finished before the app shuts down."""
    async with mounted(starlette_app(probe)) as site:
        await site.client.get("/in-background")
        await probe.noted("task begins")
        probe.gate.set()
    assert probe.notes[-3:] == ["task ends", "thread", "shutdown"]


async def test_graceful_end_ends_events(probe: Probe) -> None:
    """A stream of events that is open when the server ends is complete, and its generator is closed."""
    async with mounted(starlette_app(probe)) as site, site.events("/events") as events:
        assert [(await anext(events)).id for _ in range(3)] == ["0", "1", "2"]
        site.shutdown.set()
        assert [event async for event in events] == []
    assert probe.notes == ["startup", "events end", "shutdown"]


@pytest.mark.parametrize("grouped", [False, True])
async def test_startup_that_fails(grouped: bool) -> None:
    """An app whose startup fails ends the run with an error that says so, before a client can connect."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        failure = ConnectionRefusedError("no database")
        raise ExceptionGroup("a nursery", [failure]) if grouped else failure
        yield

    with pytest.RaisesGroup(pytest.RaisesExc(LifespanError, match="no database"), flatten_subgroups=True):
        async with mounted(Starlette(lifespan=lifespan)):
            raise AssertionError("the app has started")


async def test_beside_other_routes(probe: Probe) -> None:
    """Routes and a WebSocket app of the same ``App`` take precedence over an app at every path."""
    app = (
        App()
        .with_stateless_route("/ours", lambda request: Response(200, "ours"))
        .with_websocket_app("/echo/ours", echo_app())
    )
    async with mounted(starlette_app(probe), "*", app=app) as site:
        assert (await site.client.get("/ours")).text == "ours"
        assert (await site.client.get("/")).json() == {"hello": "world"}
        for target in ("/echo/ours", "/echo/theirs"):
            async with site.websocket(target) as client:
                await client.send("hi")
                assert await client.recv() == "hi"
                assert client.response.headers.get("x-room") == (None if target == "/echo/ours" else "theirs")
