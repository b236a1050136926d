"""The documentation: every block of Python in it is built or run, and none is left out."""

from __future__ import annotations

import builtins
import dis
import inspect
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import inf
from types import CodeType
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp
from humphrey_trio.http import Address
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support import ANY_PORT, PATIENCE
from tests.support.documentation import BLOCKS, FRAGMENTS, PAGES, PROGRAMS, Block, block_with, fences, name_of
from tests.support.programs import ROOT


def test_all_python_blocks_are_tested() -> None:
    """All blocks of Python are marked as such, and are on pages that are tested."""
    languages = {kind for page in PAGES for kind, _, _ in fences(page)}
    assert languages == {"json", "python", "sh"}
    assert {*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README*.md")} == {*PAGES}
    assert {block.page.name for block in BLOCKS} >= {
        "README.md",
        "deployment.md",
        "errors.md",
        "events.md",
        "http.md",
        "linking.md",
        "logging.md",
        "mistakes.md",
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
