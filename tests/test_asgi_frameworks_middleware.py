"""Middleware of Starlette around an app that an ``App`` serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import mounted
from tests.support.logs import errors
from tests.support.starlette_apps import starlette_app


class Names(BaseHTTPMiddleware):
    """Adds a header field, by the base class that has tasks of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Path"] = request.url.path
        return response


class Counts:
    """Counts the messages of the app."""

    def __init__(self, app: ASGIApp, kinds: list[str]) -> None:
        self._app = app
        self._kinds = kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            self._kinds.append(message["type"])
            await send(message)

        await self._app(scope, receive, note)


def served(probe: Probe, *middleware: Any, folder: Path | None = None) -> Any:
    return mounted(starlette_app(probe, folder, middleware))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "large.bin").write_bytes(bytes(200_000))
    return tmp_path


async def test_pure_middleware(probe: Probe, folder: Path) -> None:
    """A middleware sees all messages of the app, those of the lifespan and of files, too."""
    kinds: list[str] = []
    async with served(probe, Middleware(Counts, kinds), folder=folder) as site:
        await site.client.get("/")
        assert kinds == ["lifespan.startup.complete", "http.response.start", "http.response.body"]
        kinds.clear()
        assert len((await site.client.get("/file")).content) == 200_000
        async with site.websocket("/chat") as client:
            await client.send("1")
            await client.recv()
    assert kinds[-4:] == ["websocket.accept", "websocket.send", "websocket.close", "lifespan.shutdown.complete"]


async def test_base_middleware(probe: Probe, folder: Path) -> None:
    """The base class of Starlette: bodies in both directions, streams, files, errors and background tasks."""
    async with served(probe, Middleware(Names), folder=folder) as site:
        answer = await site.client.post("/json", json={"a": 1})
        assert (answer.json(), answer.headers["x-path"]) == ({"a": 1}, "/api/json")
        assert len((await site.client.get("/lines")).text.split()) == 20
        assert len((await site.client.get("/file")).content) == 200_000
        assert (await site.client.get("/teapot")).status_code == 418
        assert (await site.client.get("/in-background")).text == "accepted"
        probe.gate.set()
        await probe.noted("thread")


# The base class leaves generators to the garbage collector: its own, and that of a stream that is sending.
@pytest.mark.filterwarnings("ignore:Async generator '(starlette.middleware.base|tests):ResourceWarning")
async def test_client_leaves_behind_base_middleware(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A stream behind the base class is closed when the client has left, which is no error."""
    async with served(probe, Middleware(Names)) as site:
        for target in ("/endless", "/silent"):
            async with site.streaming(target) as response:
                await anext(response)
            await probe.noted("stream ends")
            probe.notes.remove("stream ends")
        async with site.events("/events") as events:
            await anext(events)
        await probe.noted("events end")
    assert errors(caplog) == []


async def test_exception_behind_base_middleware(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """An exception behind the base class is a 500, and logged once. One in a stream is logged, too.

    The client does not see that the stream is incomplete: the base class completes it before it raises.
    """
    async with served(probe, Middleware(Names)) as site:
        assert (await site.client.get("/fail")).status_code == 500
        assert (await site.client.get("/torn")).text == "one"
    assert len(errors(caplog)) == 2


async def test_cors(probe: Probe) -> None:
    """A preflight is answered by the middleware of the app, and its fields are in the response."""
    cors = Middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["PUT"])
    async with served(probe, cors) as site:
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
        preflight = await site.client.options("/method", headers=headers)
        assert (preflight.status_code, preflight.text) == (200, "OK")
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        answer = await site.client.get("/", headers={"Origin": "https://a.example"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


async def test_gzip(probe: Probe, folder: Path) -> None:
    """Bodies and streams are compressed by the middleware of the app. Files, which the server reads, are not."""
    async with served(probe, Middleware(GZipMiddleware, minimum_size=10), folder=folder) as site:
        for target, size in (("/", 17), ("/lines", 50)):
            answer = await site.client.get(target)
            assert (answer.headers["content-encoding"], len(answer.content)) == ("gzip", size)
        assert len((await site.client.get("/file")).content) == 200_000
        part = await site.client.get("/file", headers={"Range": "bytes=0-99"})
        assert (part.status_code, len(part.content)) == (206, 100)


async def test_trusted_hosts(probe: Probe) -> None:
    """A middleware of the app may refuse requests and WebSockets."""
    hosts: Sequence[str] = ("a.example",)
    async with served(probe, Middleware(TrustedHostMiddleware, allowed_hosts=hosts)) as site:
        assert (await site.client.get("/")).status_code == 400
        assert (await site.client.get("/", headers={"Host": "a.example"})).status_code == 200


async def test_several(probe: Probe, folder: Path) -> None:
    """Middlewares around each other."""
    several = (Middleware(GZipMiddleware, minimum_size=10), Middleware(Names), Middleware(Names))
    async with served(probe, *several, folder=folder) as site:
        answer = await site.client.get("/lines")
        assert (answer.headers["content-encoding"], answer.headers["x-path"]) == ("gzip", "/api/lines")
