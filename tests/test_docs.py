"""The documentation: every block of Python in it is built or run, and none is left out."""

from __future__ import annotations

import builtins
import dis
import hashlib
import inspect
import os
import re
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp
from humphrey_trio.http import Address, Request, ServerSentEvent, open_body
from humphrey_trio.testing import WebsocketClient, http_client, open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support import ANY_PORT, PATIENCE
from tests.support.programs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of Python on a page."""

    page: Path
    line: int
    source: str

    @property
    def is_program(self) -> bool:
        """Whether it imports what it uses. Otherwise it is a fragment."""
        return bool(re.search(r"^(import|from) ", self.source, re.MULTILINE))

    def code(self, source: str) -> CodeType:
        """Compile it with the line numbers of its page, without the future import of this module."""
        return compile("\n" * self.line + source, self.page, "exec", dont_inherit=True)

    def run(self) -> dict[str, Any]:
        """Run it as a module; what it defines."""
        namespace: dict[str, Any] = {"__name__": "documentation"}
        exec(self.code(self.source), namespace)
        return namespace


def fences(page: Path) -> Iterator[tuple[str, int, str]]:
    """The blocks of a page: language, line of the fence, and content."""
    text = page.read_text()
    marks = list(_FENCE.finditer(text))
    assert len(marks) % 2 == 0, f"a block of {page.name} does not end"
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        assert end[1] == "", f"a block of {page.name} has no language, or another stands in it"
        yield begin[1].strip(), text.count("\n", 0, begin.start()) + 1, text[begin.end() + 1 : end.start()]


BLOCKS = [Block(page, line, source) for page in PAGES for kind, line, source in fences(page) if kind == "python"]
PROGRAMS = [block for block in BLOCKS if block.is_program]
FRAGMENTS = [block for block in BLOCKS if not block.is_program]


def name_of(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def block_with(text: str) -> Block:
    """The only program that contains a text."""
    (found,) = (block for block in PROGRAMS if text in block.source)
    return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of ``trio.run``, which are recorded and not executed."""
    calls: list[tuple[Any, ...]] = []

    def run(async_fn: Any, *args: object, **_: object) -> None:
        assert inspect.iscoroutinefunction(async_fn), "trio.run takes an async function"
        inspect.signature(async_fn).bind(*args)
        calls.append((async_fn, *args))

    monkeypatch.setattr(trio, "run", run)
    return calls


def test_all_python_blocks_are_tested() -> None:
    """All blocks of Python are marked as such, and are on pages that are tested."""
    languages = {kind for page in PAGES for kind, _, _ in fences(page)}
    assert languages == {"json", "python", "sh"}
    assert {*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README*.md")} == {*PAGES}
    assert {block.page.name for block in BLOCKS} >= {
        "README.md",
        "errors.md",
        "events.md",
        "http.md",
        "linking.md",
        "logging.md",
        "proxies.md",
        "requests.md",
        "responses.md",
        "routing.md",
        "shutdown.md",
        "slow-clients.md",
        "streaming.md",
        "testing.md",
        "uploads.md",
        "websocket.md",
    }
    assert sum(page.read_text().count("```python") for page in PAGES) == len(PROGRAMS) + len(FRAGMENTS)


@pytest.mark.parametrize("block", PROGRAMS, ids=name_of)
def test_programs(block: Block, runs: list[tuple[Any, ...]]) -> None:
    """A program builds its app with its own imports, and starts it where it says so."""
    namespace = block.run()
    assert len(runs) == block.source.count("trio.run(")
    assert global_names(block.code(block.source)) <= {*namespace, *dir(builtins)}


def global_names(code: CodeType) -> set[str]:
    """The global names that some code and the functions in it use."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


@pytest.mark.parametrize("block", FRAGMENTS, ids=name_of)
def test_fragments(block: Block) -> None:
    """A fragment compiles as the body of an async function."""
    block.code("async def fragment():\n" + textwrap.indent(block.source, "    "))


def documented_tests() -> Iterator[Any]:
    """The tests in testing.md."""
    for block in PROGRAMS:
        if block.page.name == "testing.md":
            for name, value in block.run().items():
                if name.startswith("test_"):
                    yield pytest.param(value, id=name)


DOCUMENTED_TESTS = list(documented_tests())
assert DOCUMENTED_TESTS, "testing.md shows no test"


def documented_tests_with(*fixtures: str) -> Any:
    """Run a test with the documented tests that have these fixtures."""
    found = [test for test in DOCUMENTED_TESTS if [*inspect.signature(test.values[0]).parameters] == [*fixtures]]
    assert found
    return pytest.mark.parametrize("function", found)


@documented_tests_with()
async def test_documented_tests(function: Any) -> None:
    """Each documented test passes."""
    with trio.fail_after(PATIENCE):
        await function()


@documented_tests_with("nursery")
async def test_documented_tests_with_a_nursery(function: Any, nursery: trio.Nursery) -> None:
    """So does each one with a nursery."""
    with trio.fail_after(PATIENCE):
        await function(nursery)
    nursery.cancel_scope.cancel()


@documented_tests_with("autojump_clock")
async def test_documented_tests_in_virtual_time(function: Any, autojump_clock: trio.testing.MockClock) -> None:
    """So does each one in virtual time."""
    with trio.fail_after(PATIENCE):
        await function(autojump_clock)


async def test_program_of_accept(runs: list[tuple[Any, ...]]) -> None:
    """The program under "Who may connect" accepts users with a valid token, and refuses others."""
    app: App[Any] = block_with("Accept(value=user)").run()["app"]
    headers = {"Authorization": "Bearer secret", "Sec-WebSocket-Protocol": "chat.v1, chat.v2"}
    async with websocket_client(app, "/ws", headers=headers) as client:
        assert (await client.receive()).text == "hello ann, we speak chat.v2"
    for wrong, status in (({"Authorization": "Bearer guess"}, 401), ({"Origin": "https://foe.example"}, 403)):
        with pytest.raises(HandshakeError) as refused:
            async with websocket_client(app, "/ws", headers=headers | wrong):
                pass
        assert refused.value.status == status


@asynccontextmanager
async def client_of(
    addresses: tuple[Address, ...], path: str = "/", **options: Any
) -> AsyncIterator[WebsocketClient]:
    """A client of an internally linked app. It closes at the end of the block."""
    (address,) = addresses
    async with await trio.open_tcp_stream(*address) as stream:
        client = await open_websocket(stream, path, **options)
        yield client
        await client.close()


async def test_compression(runs: list[tuple[Any, ...]]) -> None:
    """The program under "Compression" agrees on compression with a client that offers it, and broadcasts."""
    websocket_app: AsyncWebsocketApp = block_with("AsyncWebsocketApp(deflate=Deflate())").run()["app"]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(websocket_app.with_address(ANY_PORT).run)
            headers = {"Sec-WebSocket-Extensions": "permessage-deflate"}
            async with client_of(addresses, headers=headers) as client:
                assert client.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate; ")
                for message in ("short", b"bytes" * 100):
                    await client.send(message)
                    assert (await client.receive()).data == message
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def run_documented(
    text: str, seconds: float = PATIENCE
) -> AsyncIterator[tuple[dict[str, Any], tuple[Address, ...]]]:
    """Run the internally linked app of a program. Yields the namespace of the program and the addresses."""
    namespace = block_with(text).run()
    websocket_app: AsyncWebsocketApp = namespace["app"]
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            yield namespace, await nursery.start(websocket_app.with_address(ANY_PORT).run)
            nursery.cancel_scope.cancel()


async def test_topics(runs: list[tuple[Any, ...]]) -> None:
    """The program under "Topics" publishes to a room, except to its clients that are quiet."""
    async with (
        run_documented('stream.subscribe(("room"') as (_, addresses),
        client_of(addresses, "/?red") as ann,
        client_of(addresses, "/?red") as bob,
        client_of(addresses, "/?blue") as eve,
    ):
        await eve.send("blue")
        assert (await eve.receive()).text == "blue"
        await ann.send("red")
        assert [(await client.receive()).text for client in (ann, bob)] == ["red", "red"]
        await ann.send("/quiet")
        await ann.send("to bob")
        assert (await bob.receive()).text == "to bob"
        await bob.send("to all others")
        assert (await bob.receive()).text == "to all others"
        await ann.close()
        assert [message async for message in ann] == []


async def test_program_of_client_tasks(
    runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock
) -> None:
    """The program under "What belongs to a client" sends the seconds until the token expires."""
    async with run_documented("TOKEN_SECONDS = ", inf) as (namespace, addresses), client_of(addresses) as client:
        begun = trio.current_time()
        assert (await client.receive()).text == "0"
        while trio.current_time() < begun + namespace["TOKEN_SECONDS"] / 2:
            await client.receive()
        await client.send("a new token")
        ticks = [message async for message in client]
        assert client.close_code == 4001
        assert len(ticks) == pytest.approx(namespace["TOKEN_SECONDS"], abs=3)


@pytest.mark.parametrize(("code", "said"), [(1002, "we closed"), (1000, "")])
async def test_why_it_closed(
    runs: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    """The program under "Why it closed" reports streams that the server has closed."""
    async with run_documented("record.initiator ==") as (_, addresses), client_of(addresses) as client:
        if code == 1002:
            await client.send_raw(b"\xff\x80\x00\x00\x00\x00")
            assert [message async for message in client] == []
    assert capsys.readouterr().out.startswith(said)
    assert bool(said) == (client.close_code == 1002)


async def test_program_of_policies(runs: list[tuple[Any, ...]]) -> None:
    """The program under "A client that does not read" sends its announcements to a client that has room."""
    async with run_documented('KeepLatest("EUR")') as (namespace, addresses), client_of(addresses) as client:
        await trio.testing.wait_all_tasks_blocked()
        await namespace["announce"](namespace["app"].sender())
        assert [(await client.receive()).text for _ in range(3)] == ["the market opens", "41.50", "tick"]


async def test_handlers_that_finish(runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock) -> None:
    """The program under "A client that leaves while its handler runs" stores all orders."""
    async with run_documented("when_left=WhenLeft.FINISH, concurrency") as (namespace, addresses):
        async with client_of(addresses) as client:
            for number in range(20):
                await client.send(str(number))
        await trio.sleep(10)
        assert sorted(namespace["app"].state, key=int) == [str(number) for number in range(20)]


async def test_reported_statistics(
    runs: list[tuple[Any, ...]],
    capsys: pytest.CaptureFixture[str],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The program under "Statistics" prints the number of clients."""
    async with run_documented("statistics = app.statistics()") as (namespace, addresses), client_of(addresses):
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(namespace["report"])
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out == "1 connections, 0 bytes queued\n"


async def test_own_route() -> None:
    """The program under "Routes of your own" echoes in its room, and refuses others."""
    app: App[Any] = block_with('subprotocols=["chat"], deflate=Deflate()').run()["app"]
    async with websocket_client(app, "/ws?room=1") as client:
        await client.send("hello")
        assert (await client.receive()).text == "hello"
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app, "/ws?room=2"):
            pass
    assert refused.value.status == 404


async def test_route_with_two_hooks() -> None:
    """The program with two hooks passes a client to the second if the first has no place."""
    names = block_with("first, place_timeout=0.1").run()
    for _ in range(64):
        names["first"].send_nowait(None)
    async with websocket_client(names["app"], "/ws") as client:
        stream = await names["seconds"].receive()
        await stream.send("from the second")
        assert (await client.receive()).text == "from the second"
        await stream.close()


async def test_routing(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of routing.md adds and shows items, and refuses invalid requests."""
    app: App[Any] = block_with("ITEMS: dict[int, str]").run()["app"]
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
    app: App[Any] = block_with("NOTES.append").run()["app"]
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
    app: App[Any] = block_with("async def logout").run()["app"]
    async with http_client(app) as client:
        page, data = await client.get("/"), await client.get("/data")
        login, logout = await client.post("/login"), await client.post("/logout")
    assert (page.text, page.headers["Cache-Control"]) == ("<h1>hello</h1>", "max-age=60")
    assert data.text == '{"host":"testserver"}'
    assert (login.status, login.headers["Set-Cookie"]) == (303, "user=ann; Max-Age=3600; Path=/; HttpOnly")
    assert (logout.status, "Max-Age=0" in logout.headers["Set-Cookie"]) == (302, True)


async def test_streaming(runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock) -> None:
    """The program at the beginning of streaming.md counts, receives, and finishes an order."""
    app: App[Any] = block_with("Write\n\n\nasync def count").run()["app"]
    async with open_body(await app.handle(Request(path="/count"))) as pieces:
        assert [await anext(pieces) for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
    async with http_client(app) as client:
        assert (await client.post("/upload", content="x" * 2_000_000)).text == "2000000 bytes"
        assert (await client.post("/orders")).status == 201


async def test_event_streams(runs: list[tuple[Any, ...]], autojump_clock: trio.testing.MockClock) -> None:
    """The programs of events.md show a progress, and send the news also to a client that was away."""
    async with http_client(block_with("/progress").run()["app"]) as client:
        assert "EventSource" in (await client.get("/")).text
        async with client.events("/progress") as events:
            received = [event async for event in events]
    assert [event.data for event in received] == [*(f"{percent} %" for percent in range(0, 101, 10)), ""]
    assert received[-1].event == "done"
    async with http_client(block_with("App(EventLog(1000))").run()["app"]) as client:
        async with client.events("/news") as events:
            await trio.testing.wait_all_tasks_blocked()
            assert (await client.post("/news", content="one")).status == 202
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
    app: App[Any] = block_with("STOCK = ").run()["app"]
    async with http_client(app) as client:
        pages = [await client.get(path) for path in ("/stock/tea", "/stock/milk", "/")]
    assert [(page.status, page.text) for page in pages] == [
        (200, "3"),
        (404, """{"error":404,"detail":"there is no 'milk'"}"""),
        (404, '{"error":404,"detail":""}'),
    ]


async def test_errors_in_json(runs: list[tuple[Any, ...]]) -> None:
    """The program with the layer for JSON answers errors of its API in JSON, and others as text."""
    app: App[Any] = block_with("json_errors()").run()["app"]
    async with http_client(app) as client:
        assert (await client.get("/api/items/1")).parse_json()["detail"] == "item 1 was sold"
        assert (await client.get("/items/1")).text == "410 Gone: item 1 was sold\n"


async def test_an_error_handler_that_calls_the_default_one() -> None:
    """The program with its own 404 answers other errors as usual."""
    app: App[Any] = (
        block_with("There is nothing here").run()["app"].with_stateless_route("/", print, methods=("GET",))
    )
    async with http_client(app) as client:
        assert (await client.get("/x")).text == "<h1>There is nothing here</h1>"
        assert (await client.post("/")).text.startswith("405 Method Not Allowed: ")
