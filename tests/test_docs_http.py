"""The documentation: what the HTTP programs in it answer is what their pages say."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, HandshakeError, Response, SetCookie
from humphrey_trio.http import Address, Request, ServerSentEvent, open_body
from humphrey_trio.testing import Upload, http_client, websocket_client
from tests.support import PATIENCE
from tests.support.documentation import block_with


def app_with(text: str) -> App[Any]:
    """The app of the program that contains a text. It needs the fixture ``runs`` if it calls ``trio.run``."""
    app: App[Any] = block_with(text).run()["app"]
    return app


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[App[Any]]:
    """The apps on which a program calls ``run``, which only waits."""
    found: list[App[Any]] = []

    async def run(app: App[Any], *addresses: str) -> None:
        found.append(app)
        await trio.sleep_forever()

    monkeypatch.setattr(App, "run", run)
    return found


@asynccontextmanager
async def main_of(text: str) -> AsyncGenerator[None]:
    """Run the function ``main`` of a program until the end of the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(block_with(text).run()["main"])
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_routing(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of routing.md adds and shows items, and refuses invalid requests."""
    app = app_with("ITEMS: dict[int, str]")
    async with http_client(app) as client:
        added = await client.post("/items", content="tea")
        assert (added.status, added.headers["Location"]) == (201, "/items/1")
        pages = [await client.get(path) for path in ("/items", "/items/1", "/items/2", "/items/x")]
        assert [(page.status, page.text) for page in pages[:2]] == [(200, "1 tea\n"), (200, "tea")]
        assert [page.status for page in pages[2:]] == [404, 404]
        assert (await client.post("/items/1")).headers["Allow"] == "GET, HEAD, OPTIONS"
        assert (await client.post("/items", content="x" * 1001)).status == 413


async def test_requests(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of requests.md lists and adds notes, and refuses what is malformed."""
    app = app_with("NOTES.append")
    cookie = {"Cookie": "user=ann"}
    async with http_client(app) as client:
        assert (await client.get("/notes?first=2")).text == '["bread"]'
        assert (await client.get("/notes?first=two")).status == 400
        assert (await client.post("/notes", content='"jam"')).status == 401
        assert (await client.post("/notes", headers=cookie, content="jam")).status == 400
        assert (await client.post("/notes", headers=cookie, content="1")).status == 400
        assert (await client.post("/notes", headers=cookie, content='"jam"')).text == '{"notes":4}'
        assert (await client.get("/notes?first=3")).text == '["jam (ann)"]'


async def test_responses(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of responses.md sends a page, JSON, redirects and cookies."""
    app = app_with("async def logout")
    async with http_client(app) as client:
        page, data = await client.get("/"), await client.get("/data")
        login, logout = await client.post("/login"), await client.post("/logout")
    assert (page.text, page.headers["Cache-Control"]) == ("<h1>hello</h1>", "max-age=60")
    assert data.text == '{"host":"testserver"}'
    assert (login.status, login.headers["Set-Cookie"]) == (303, "user=ann; Max-Age=3600; Path=/; HttpOnly")
    assert (logout.status, "Max-Age=0" in logout.headers["Set-Cookie"]) == (302, True)


async def test_streaming(runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock) -> None:
    """The program at the beginning of streaming.md counts, receives, and finishes an order."""
    app = app_with("Write\n\n\nasync def count")
    async with open_body(await app.handle(Request(path="/count"))) as pieces:
        assert [await anext(pieces) for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
    async with http_client(app) as client:
        assert (await client.post("/upload", content="x" * 2_000_000)).text == "2000000 bytes"
        assert (await client.post("/orders")).status == 201


async def test_event_streams(runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock) -> None:
    """The programs of events.md show a progress, and send the news also to a client that was away."""
    async with http_client(app_with("/progress")) as client:
        assert "EventSource" in (await client.get("/")).text
        async with client.events("/progress") as events:
            received = [event async for event in events]
    assert [event.data for event in received] == [*(f"{percent} %" for percent in range(0, 101, 10)), ""]
    assert received[-1].event == "done"
    async with http_client(app_with("App(EventLog(1000))")) as client:
        async with client.events("/news") as events:
            with trio.move_on_after(1):
                await anext(events)  # its connection is lost before the first event
        assert (await client.post("/news", content="one")).status == 202
        async with client.events("/news", last_event_id=events.last_event_id) as events:
            assert await anext(events) == ServerSentEvent("one", "news", events.last_event_id)
        await client.post("/news", content="two")
        async with client.events("/news", last_event_id=events.last_event_id) as events:
            assert (await anext(events)).data == "two"


async def test_events_after_the_current_state() -> None:
    """The program with a snapshot sends it first, and then what is added, also to a client that reconnects."""
    names = block_with("class Board").run()
    board = names["Board"]()
    board.write("old ")
    async with http_client(App(board).with_route("/", names["board"])) as client:
        async with client.events("/") as events:
            assert await anext(events) == ServerSentEvent("old ", "everything", board.log.last_id)
            board.write("new")
            assert (await anext(events)).data == "new"
        board.write("!")
        async with client.events("/", last_event_id=events.last_event_id) as events:
            assert await anext(events) == ServerSentEvent("!", id=board.log.last_id)


async def test_uploads(runs: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of uploads.md for large files stores a video, refuses a form without one, and echoes a file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    namespace = block_with("async def add_video").run()
    app: App[Any] = namespace["app"]
    stored = namespace["directory"]
    os.mkdir(stored)  # the program has removed it at its end
    content = bytes(2_000_000)
    title = b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nTea\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n%b\r\n--b--'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with http_client(app) as client:
        added = await client.post("/videos", content=title + file % (b"video", content), headers=headers)
        refused = await client.post("/videos", content=file % (b"video", content), headers=headers)
        echoed = await client.post("/echo", content=file % (b"file", content), headers=headers)
    assert (added.status, added.text) == (201, f"Tea: 2000000 bytes, {hashlib.sha256(content).hexdigest()}\n")
    (video,) = os.listdir(stored)
    with open(os.path.join(stored, video), "rb") as file_on_disk:  # noqa: ASYNC230 (no other task waits)
        assert file_on_disk.read() == content
    assert (refused.status, echoed.status, echoed.content) == (400, 200, content)
    assert os.listdir(tmp_path) == [os.path.basename(stored)]


async def test_errors(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of errors.md answers in its own format."""
    app = app_with("STOCK = ")
    async with http_client(app) as client:
        pages = [await client.get(path) for path in ("/stock/tea", "/stock/milk", "/")]
    assert [(page.status, page.text) for page in pages] == [
        (200, "3"),
        (404, """{"error":404,"detail":"there is no 'milk'"}"""),
        (404, '{"error":404,"detail":""}'),
    ]


async def test_errors_in_json(runs: list[tuple[Any, ...]]) -> None:
    """The program with the layer for JSON answers errors of its API in JSON, and others as text."""
    app = app_with("was sold")
    async with http_client(app) as client:
        assert (await client.get("/api/items/1")).parse_json()["detail"] == "item 1 was sold"
        assert (await client.get("/items/1")).text == "410 Gone: item 1 was sold\n"


async def test_an_error_handler_that_calls_the_default_one() -> None:
    """The program with its own 404 answers other errors as usual."""
    app: App[Any] = app_with("There is nothing here").with_stateless_route("/", print, methods=("GET",))
    async with http_client(app) as client:
        assert (await client.get("/x")).text == "<h1>There is nothing here</h1>"
        assert (await client.post("/")).text.startswith("405 Method Not Allowed: ")


async def test_more_of_routing(runs: list[tuple[Any, ...]]) -> None:
    """The programs of routing.md for parameters, rooms and hosts."""
    number = "12345678-1234-5678-1234-567812345678"
    async with http_client(app_with("uuid.UUID")) as client:
        assert (await client.get(f"/invoices/2026/{number}")).text == f"invoice {number} of 2026"
        assert [(await client.get(path)).status for path in ("/invoices/2026/7", "/invoices/x/y")] == [404, 404]
    async with websocket_client(app_with("path_param('room')"), "/rooms/red%20tea") as socket:
        await socket.send("hello")
        assert [(await socket.receive()).text for _ in range(2)] == ["welcome to red tea", "hello"]
    hosts = {"api.example.com": 200, "API.example.com.": 200, "api.example.com:8080": 200, "example.com": 404}
    for host, status in hosts.items():
        async with http_client(app_with('with_host("api.example.com"'), host=host) as client:
            assert (await client.get("/")).status == status


async def test_streams_without_a_connection(
    runs: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The program of streaming.md that reads bodies without a connection prints the pieces and the size."""
    namespace = block_with("read_body(await app.handle").run()

    async def pieces(write: Any) -> None:
        for piece in (b"a", b"bc"):
            await write(piece)

    app = App().with_stateless_route("/count", lambda _: Response.stream(pieces))
    await namespace["show"](app)
    assert capsys.readouterr().out == "b'a'\nb'bc'\n3\n"


async def test_small_uploads(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of uploads.md stores an image, and refuses what is none, or too large."""
    app = app_with("add_photo")
    async with http_client(app) as client:
        assert 'enctype="multipart/form-data"' in (await client.get("/")).text
        image = Upload("cat.png", b"...", "image/png")
        assert (await client.post("/photos", form={"title": "cat"}, files={"photo": image})).text == "3 bytes\n"
        assert app.state == {"cat": b"..."}
        assert (await client.post("/photos", files={"photo": Upload("a.txt", b"", "text/plain")})).status == 400
        too_large = Upload("cat.png", bytes(5 * 2**20), "image/png")
        assert (await client.post("/photos", files={"photo": too_large})).status == 413


async def test_parts(
    runs: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The program of uploads.md for parts stores files while they arrive, and shows the progress."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    namespace = block_with("async for part in request.parts()").run()
    os.mkdir(namespace["directory"])  # the program has removed it at its end
    upload: dict[str, Any] = {"form": {"title": "Tea"}, "files": {"file": Upload("a.bin", bytes(1000))}}
    async with http_client(namespace["app"]) as client:
        assert (await client.post("/upload", **upload)).text == "title: Tea\na.bin: 1000 bytes\n"
        assert (await client.post("/upload", form={"title": "x" * 201}, files=upload["files"])).status == 413
        assert (await client.post("/check", **upload)).text == "1003 bytes\n"
    stored = tmp_path.glob("*/*")  # noqa: ASYNC240 (no other task waits)
    assert [file.read_bytes() for file in stored] == [bytes(1000)]
    assert capsys.readouterr().out.startswith("title: ")


async def test_files(runs: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of files.md serve a directory, and a report under another name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "css").mkdir()
    (tmp_path / "css" / "site.css").write_text("p {}")
    (tmp_path / "index.html").write_text("<p>")
    async with http_client(app_with("serve_dir(")) as client:
        assert (await client.get("/", follow_redirects=True)).text == "<p>"
        style = await client.get("/static/css/site.css")
        assert (style.text, style.headers["Cache-Control"]) == ("p {}", "max-age=3600")
        assert [(await client.get(path)).status for path in ("/static/x", "/static/..%2fetc")] == [404, 404]
        moved = await client.get("/static/css")
        assert (moved.status, moved.headers["Location"]) == (302, "css/")
        part = await client.get("/static/css/site.css", headers={"Range": "bytes=0-0"})
        assert (part.status, part.content) == (206, b"p")

    namespace = block_with("REPORTS = ").run()
    namespace["REPORTS"]["2026"] = tmp_path / "index.html"
    async with http_client(namespace["app"]) as client:
        assert (await client.get("/report?2026")).status == 401
        token = {"Authorization": "Bearer secret"}
        assert (await client.get("/report?2025", headers=token)).status == 404
        report = await client.get("/report?2026", headers=token)
        assert (report.content, report.headers["Cache-Control"]) == (b"<p>", "private")
        assert "filename*=UTF-8''Ums%C3%A4tze%202026.pdf" in report.headers["Content-Disposition"]


async def test_layers(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of layers.md measures times, and protects a path."""
    async with http_client(app_with("async def timing")) as client:
        refused = await client.get("/members/")
        member = await client.get("/members/", headers={"Authorization": "Bearer secret"})
        assert (await client.get("/")).text == member.text == "hello\n"
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert all(page.headers["Server-Timing"].startswith("app;dur=") for page in (refused, member))


async def test_the_order_of_layers(runs: list[tuple[Any, ...]]) -> None:
    """In the order of layers.md, a preflight needs no credentials, and a page can read a 401, which is JSON."""
    origin = {"Origin": "https://app.example.com"}
    async with http_client(app_with("async def orders"), headers=origin) as client:
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        assert (await client.options("/api/orders", headers=asked)).status == 204
        refused = await client.get("/api/orders")
        assert (refused.status, refused.content_type) == (401, "application/problem+json")
        assert refused.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        allowed = await client.post("/api/orders", headers={"Authorization": "Bearer secret"})
        assert allowed.parse_json() == []
        foe = {"Origin": "https://foe.example", "Authorization": "Bearer secret"}
        assert (await client.post("/api/orders", headers=foe)).status == 403


async def test_layers_for_pages_of_others(runs: list[tuple[Any, ...]]) -> None:
    """The programs of layers.md for other origins allow the ones that they name."""
    async with http_client(app_with("cors(allowed)")) as client:
        preflight = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}
        allowed = (await client.options("/api/save", headers=preflight)).headers
        assert allowed["Access-Control-Allow-Origin"] == "https://a.example.com"
        assert (allowed["Access-Control-Allow-Methods"], allowed["Access-Control-Max-Age"]) == (
            "PUT, DELETE",
            "600",
        )
        saved = await client.put("/api/save", headers={"Origin": "https://foe.example"})
        assert (saved.text, "Access-Control-Allow-Origin" in saved.headers) == ("saved\n", False)
    async with http_client(app_with("guard = cross_origin_guard")) as client:
        for fields, status in (
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "https://foe.example"}, 403),
            ({"Origin": "https://partner.example", "Sec-Fetch-Site": "cross-site"}, 200),
            ({}, 200),
        ):
            assert (await client.post("/pay", headers=fields)).status == status
        assert (await client.get("/pay", headers={"Sec-Fetch-Site": "cross-site"})).status == 200


async def test_logs(
    runs: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The programs of logging.md write a line for each response, as text or as JSON."""
    caplog.set_level(logging.INFO)
    async with http_client(app_with('format="%(asctime)s')) as client:
        await client.get("/", headers={"User-Agent": "curl/8.5.0"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "humphrey_trio.access"]
    assert re.fullmatch(r'memory:0 "GET /" 200 12 \d\.\d{6} "curl/8\.5\.0"', line)
    app = app_with("JsonFormatter")
    async with http_client(app) as client:
        await client.get("/?secret")
    fields = json.loads(capsys.readouterr().err)
    assert (fields["status"], fields["path"], fields["query_length"], fields["route"]) == (200, "/", 6, "/")


async def test_http_handlers_that_publish(runs: list[tuple[Any, ...]]) -> None:
    """The program of linking.md publishes a POST to the WebSockets of its users, and refuses others."""
    namespace = block_with("class Site:\n    sessions").run()
    async with http_client(namespace["app"]) as client:
        assert (await client.post("/news", content="hello")).status == 403
        with pytest.raises(HandshakeError):
            async with client.websocket("/ws"):
                pass
        client.set_cookie(SetCookie("session", "c2VjcmV0"))
        async with client.websocket("/ws") as socket:
            await trio.testing.wait_all_tasks_blocked()
            assert (await client.post("/news", content="hello")).status == 202
            assert (await socket.receive()).text == "ann: hello"
    assert namespace["names"] == ["ann"]


async def test_tasks_beside_servers(runs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of shutdown.md with a background task ends at a signal, when both servers have ended."""
    listening, ended, run = trio.Event(), list[App[Any]](), App.run
    running: list[App[Any]] = []

    async def run_somewhere(app: App[Any], _: str) -> None:
        async with trio.open_nursery() as servers:
            await servers.start(run, app, "127.0.0.1:0")
            running.append(app)
            if len(running) == 2:
                listening.set()
        ended.append(app)

    monkeypatch.setattr(App, "run", run_somewhere)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block_with("async def refresh_prices").run()["main"])
            await listening.wait()
            signal.raise_signal(signal.SIGTERM)
    assert sorted(map(id, ended)) == sorted(map(id, running))


async def test_metrics(runs: list[tuple[Any, ...]], apps: list[App[Any]]) -> None:
    """The program of logging.md for metrics shows those of both apps to Prometheus."""
    async with main_of("serve_metrics(app, websocket_app)"):
        pages = []
        for one in apps:
            async with http_client(one) as client:
                pages.append(await client.get("/metrics"))
        assert sorted(page.status for page in pages) == [200, 404]
        (page,) = [page for page in pages if page.status == 200]
        assert "\nhumphrey_trio_http_connections 0\n" in page.text
        assert "\nhumphrey_trio_websocket_connections 0\n" in page.text


async def test_a_monitor(
    runs: list[tuple[Any, ...]], apps: list[App[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The program of logging.md with a monitor prints the errors."""
    async with main_of("with_subscription_to(EventLevel.WARNING)"):
        async with http_client(apps[0], peer=Address("192.0.2.1", 5)) as client:
            await client.get("/favicon.ico")
            await client.get("/")
        await trio.testing.wait_all_tasks_blocked()
    assert capsys.readouterr().out.endswith(" 192.0.2.1:5 Request error: 404 Not Found /favicon.ico\n")


async def test_proxies(runs: list[tuple[Any, ...]]) -> None:
    """The program of proxies.md believes a proxy that it trusts, and no other client."""
    forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com"}
    for peer, text in (
        ("127.0.0.1", "Hello 192.0.2.7, you asked https://example.com\n"),
        ("192.0.2.1", "Hello 192.0.2.1, you asked http://testserver\n"),
    ):
        async with http_client(
            app_with("you asked {request.scheme}"), headers=forwarded, peer=Address(peer)
        ) as client:
            assert (await client.get("/")).text == text


async def test_resources(
    runs: list[tuple[Any, ...]], apps: list[App[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The program of scope.md counts visits, and closes its resources at the end."""
    async with main_of("self.visits = 0"), http_client(apps[0]) as client:
        assert [(await client.get("/")).text for _ in range(2)] == ["1\n", "2\n"]
    assert capsys.readouterr().out == "visits: 2\n"
