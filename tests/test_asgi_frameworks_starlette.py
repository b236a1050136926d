"""Apps of Starlette that an ``App`` serves: requests, responses, files and errors, with the client httpx."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from humphrey_trio.testing import ServerSentEvent
from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.logs import errors
from tests.support.starlette_apps import CROWD, starlette_app

LARGE = bytes(range(256)) * 4096  # more than Starlette keeps in memory of an upload


@pytest.fixture
async def site(probe: Probe, tmp_path: Path) -> AsyncGenerator[Site]:
    (tmp_path / "large.bin").write_bytes(LARGE)
    async with mounted(starlette_app(probe, tmp_path)) as site:
        yield site


async def leave(site: Site, target: str, probe: Probe, note: str) -> None:
    """Send a request, and leave when its handler has made a note."""
    async with site.another_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, target)
        await probe.noted(note)
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------------- requests


async def test_quick_start(site: Site) -> None:
    """The first program of Starlette answers."""
    answer = await site.client.get("/")
    assert answer.json() == {"hello": "world"}


async def test_request(site: Site) -> None:
    """A handler gets path parameters, the query, header fields, cookies and the address of the client."""
    answer = await site.client.get(
        "/users/12?tag=a&tag=%C3%A9%20b", headers={"User-Agent": "me", "Cookie": "session=s1"}
    )
    assert answer.json() == {"id": 12, "tags": ["a", "é b"], "agent": "me", "cookie": "s1", "client": "127.0.0.1"}


async def test_path_is_decoded(site: Site) -> None:
    """A path parameter is the decoded text of the path."""
    assert (await site.client.get("/words/caf%C3%A9/%7Ea%20b")).text == "café/~a b"


async def test_json(site: Site) -> None:
    """A handler gets a body of JSON, and its status and both of its cookies are sent."""
    answer = await site.client.post("/json", json={"a": ["é", 1]})
    assert (answer.status_code, answer.json()) == (201, {"a": ["é", 1]})
    assert answer.headers.get_list("set-cookie") == [
        "a=1; Path=/; SameSite=lax",
        "b=2; HttpOnly; Path=/; SameSite=lax",
    ]


async def test_urlencoded_form(site: Site) -> None:
    """A handler gets the fields of a form."""
    answer = await site.client.post("/form", data={"name": "a b&c"})
    assert answer.json() == {"name": "a b&c", "size": 0, "end": ""}


async def test_upload(site: Site) -> None:
    """A handler gets the whole content of a file that is too large for memory."""
    answer = await site.client.post("/form", data={"name": "n"}, files={"file": ("f.bin", LARGE + b"end")})
    assert answer.json() == {"name": "n", "size": len(LARGE) + 3, "end": "end"}


async def test_streamed_request(site: Site) -> None:
    """A handler reads a chunked body while it arrives."""

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(50):
            yield bytes(10_000)

    assert (await site.client.post("/count", content=pieces())).text == "500000"


async def test_unread_request(site: Site) -> None:
    """A body that the handler does not read does not disturb the next request."""
    assert (await site.client.post("/method", content=b"x" * 1000)).status_code == 405
    assert (await site.client.put("/method", content=b"x" * 1000)).text == "PUT"


async def test_client_leaves_during_its_request(
    site: Site, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that reads a body learns that its client has left, which is no error."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as client, trio.open_nursery() as nursery:

        async def pieces() -> AsyncGenerator[bytes]:
            yield b"x"
            await probe.noted("piece")
            nursery.cancel_scope.cancel()
            await trio.sleep_forever()

        await client.post(site.url("/read-after-leaving"), content=pieces())
    await probe.noted("left")
    assert errors(caplog) == []


async def test_methods(site: Site) -> None:
    """The app decides about methods: PROPFIND and OPTIONS reach it, HEAD has no body, others are refused by it."""
    assert (await site.client.request("PROPFIND", "/method")).text == "PROPFIND"
    assert (await site.client.options("/method")).text == "OPTIONS"
    head = await site.client.head("/")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "17")
    refused = await site.client.delete("/json")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_addresses(site: Site) -> None:
    """The URLs that an app makes contain the path below which it is mounted."""
    answer = (await site.client.get("/addresses?q=1")).json()
    assert answer == {
        "user": site.url("/users/3"),
        "inner": site.url("/inner/x"),
        "static": site.url("/static/a.txt"),
        "base": site.url("/"),
        "url": site.url("/addresses?q=1"),
        "root_path": "/api",
    }


async def test_redirects(site: Site) -> None:
    """A redirect to a route, and the one that adds a slash, lead below the path of the mount."""
    moved = await site.client.get("/redirect")
    assert (moved.status_code, moved.headers["location"]) == (307, site.url("/users/7"))
    slash = await site.client.get("/users/7/")
    assert (slash.status_code, slash.headers["location"]) == (307, site.url("/users/7"))


async def test_nested_mount(site: Site) -> None:
    """A mount inside the app has the path of both mounts as its root path."""
    assert (await site.client.get("/inner/x")).text == "x below /api/inner"


async def test_whole_server() -> None:
    """An app that is mounted at every path has an empty root path."""

    async def page(request: httpx.Request) -> PlainTextResponse:
        return PlainTextResponse(repr(request.scope["root_path"]))

    async with mounted(Starlette(routes=[Route("/a", page)]), "*") as site:
        assert (await site.client.get("/a")).text == "''"


async def test_concurrent_requests(site: Site) -> None:
    """The requests of many clients run at the same time."""

    async def ask(answers: list[str]) -> None:
        async with site.another_client() as client:
            answers.append((await client.get("/crowd")).text)

    answers: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(ask, answers)
    assert answers == ["together"] * CROWD


# ----------------------------------------------------------------------------------------------- responses


async def test_plain_function(site: Site) -> None:
    """A handler that is a plain function runs in a worker thread."""
    assert (await site.client.get("/in-thread")).json() == {"main": False}


async def test_background_tasks(site: Site, probe: Probe) -> None:
    """The client has the whole response, and gets the next one, before the background tasks have ended."""
    assert (await site.client.get("/in-background")).text == "accepted"
    await probe.noted("task begins")
    assert (await site.client.get("/")).status_code == 200
    probe.gate.set()
    await probe.noted("thread")
    assert probe.notes == ["startup", "task begins", "task ends", "thread"]


async def test_background_task_runs_on_without_its_client(site: Site, probe: Probe) -> None:
    """A background task is not cancelled when its client has left."""
    async with site.another_client() as client:
        await client.get("/in-background")
    await leave(site, "/wait", probe, "waits")
    await probe.noted("left")  # so the server knows that the first client has left, too
    probe.gate.set()
    await probe.noted("thread")


async def test_streamed_response(site: Site, probe: Probe) -> None:
    """A piece of a stream arrives while the next one is not there yet."""
    async with site.streaming("/numbers") as response:
        assert await anext(response) == b"one\n"
        probe.gate.set()
        assert await response.read() == b"two\n"


async def test_streamed_response_of_a_plain_generator(site: Site) -> None:
    """A stream can be a generator that runs in threads. It has no Content-Type if the app gives none."""
    answer = await site.client.get("/lines")
    assert answer.text.split() == [str(number) for number in range(20)]
    assert "content-type" not in answer.headers


# Starlette leaves the generator of a stream that it cancels while it sends to the garbage collector.
@pytest.mark.filterwarnings("ignore:Async generator 'tests:ResourceWarning")
async def test_head_of_an_endless_stream(site: Site, probe: Probe) -> None:
    """A request for the head of a stream gets it, and the stream is cancelled."""
    answer = await site.client.head("/endless")
    assert (answer.status_code, answer.content) == (200, b"")
    await probe.noted("after the stream")


async def test_client_leaves_a_busy_stream(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that sends is closed when its client has left, which is no error. Its background task runs."""
    async with site.streaming("/endless") as response:
        await anext(response)
    await probe.noted("after the stream")
    assert "stream ends" in probe.notes
    assert errors(caplog) == []


async def test_client_leaves_a_silent_stream(site: Site, probe: Probe) -> None:
    """A stream that waits is closed when its client has left."""
    async with site.streaming("/silent") as response:
        assert await anext(response) == b"one"
    await probe.noted("stream ends")


async def test_is_disconnected(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that asks whether its client has left gets the answer, and its background task runs."""
    await leave(site, "/wait", probe, "waits")
    await probe.noted("left")
    await probe.noted("after leaving")
    assert errors(caplog) == []


async def test_server_sent_events(site: Site, probe: Probe) -> None:
    """Events of sse-starlette arrive one by one, and their generator is closed when the client has left."""
    async with site.events("/events") as events:
        assert [await anext(events) for _ in range(3)] == [
            ServerSentEvent(str(number), "tick", str(number)) for number in range(3)
        ]
    await probe.noted("events end")


# --------------------------------------------------------------------------------------------------- files


async def test_file(site: Site) -> None:
    """A file is sent as a download, and HEAD has its length."""
    answer = await site.client.get("/file")
    assert answer.content == LARGE
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''caf%C3%A9.bin"
    head = await site.client.head("/file")
    assert (head.headers["content-length"], head.content) == (str(len(LARGE)), b"")


async def test_ranges(site: Site) -> None:
    """A range of a file, several, and one that is not there."""
    one = await site.client.get("/static/large.bin", headers={"Range": "bytes=256-511"})
    assert (one.status_code, one.content) == (206, LARGE[:256])
    several = await site.client.get("/static/large.bin", headers={"Range": "bytes=0-1,-2"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert several.content.count(b"Content-Range: ") == 2
    assert (await site.client.get("/static/large.bin", headers={"Range": "bytes=9999999-"})).status_code == 416


async def test_static_files(site: Site) -> None:
    """A static file is sent, is not sent again to a client that has it, and nothing outside is."""
    answer = await site.client.get("/static/large.bin")
    assert answer.content == LARGE
    again = await site.client.get("/static/large.bin", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await site.client.get("/static/none")).status_code == 404
    assert (await site.client.get("/static/..%2f..%2fetc/passwd")).status_code == 404


# -------------------------------------------------------------------------------------------------- errors


async def test_exception(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is a 500 that tells nothing, is logged once, and the connection serves on."""
    async with mounted(starlette_app(probe)) as site:
        answer = await site.client.get("/fail")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert (await site.client.get("/")).status_code == 200
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the secret cause"


async def test_exception_handlers(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Exceptions for which the app has an answer are answered by the app, and are not logged."""
    handled = await site.client.get("/teapot")
    assert (handled.status_code, handled.text) == (418, "short")
    missing = await site.client.get("/missing")
    assert (missing.status_code, missing.text, missing.headers["x-reason"]) == (404, "no such thing", "test")
    assert (await site.client.get("/nowhere")).text == "Not Found"
    assert errors(caplog) == []


async def test_exception_in_a_stream(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that fails is visibly incomplete, and its exception is logged once."""
    async with mounted(starlette_app(probe)) as site:
        with pytest.raises(httpx.RemoteProtocolError):
            await site.client.get("/torn")
        assert (await site.client.get("/")).status_code == 200
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no more"


async def test_nothing_is_logged_as_a_warning(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Ordinary requests cause no log lines above INFO."""
    await site.client.get("/")
    await site.client.get("/lines")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
