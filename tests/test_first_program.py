"""The README's first program, unchanged except for the port, with common clients."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed as TrioConnectionClosed
from trio_websocket import open_websocket_url, wrap_client_stream
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.programs import Ending, Program, first_program, free_port, running

SIZES = (0, 1, 125, 126, 65535, 65536, 2**20)
CLIENTS_AT_ONCE = 12
PATIENCE = 60

Echo: TypeAlias = Callable[[str | bytes], Any]


@contextmanager
def first_program_running(tmp_path: Path, program: str) -> Iterator[tuple[Program, int]]:
    """Run the program on a free port."""
    port = free_port()
    file = tmp_path / "first_program.py"
    assert program.count('"127.0.0.1:8080"') == 1
    file.write_text(program.replace('"127.0.0.1:8080"', f'"127.0.0.1:{port}"'))
    with running(str(file)) as process:
        process.wait_for_port(port)
        yield process, port


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Program, int]]:
    with first_program_running(tmp_path, first_program()) as running_program:
        yield running_program


@pytest.fixture
def program(started: tuple[Program, int]) -> Program:
    return started[0]


@pytest.fixture
def port(started: tuple[Program, int]) -> int:
    return started[1]


# ------------------------------------------------------------------------------------------- clients


@asynccontextmanager
async def websockets_client(port: int) -> AsyncGenerator[Echo]:
    """An echo by the client of websockets, which has its own threads."""
    with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, max_size=2**21) as client:

        def echo(message: str | bytes) -> str | bytes:
            client.send(message)
            return client.recv(timeout=PATIENCE)

        yield partial(trio.to_thread.run_sync, echo)


@asynccontextmanager
async def trio_websocket_client(port: int) -> AsyncGenerator[Echo]:
    """An echo by the client of trio-websocket."""
    url = f"ws://127.0.0.1:{port}/ws"
    async with open_websocket_url(url, max_message_size=2**21) as client:

        async def echo(message: str | bytes) -> str | bytes:
            await client.send_message(message)
            return await client.get_message()

        yield echo


either_client = pytest.mark.parametrize(
    "open_client", [websockets_client, trio_websocket_client], ids=["websockets", "trio-websocket"]
)


async def echo_all_sizes(port: int, open_client: Callable[[int], Any], seed: int = 0) -> None:
    """Text and bytes of every size are echoed unchanged on one connection."""
    async with open_client(port) as echo:
        for size in SIZES:
            text = (chr(0xE0 + seed) * (size // 2) + "x" * (size % 2)) if size else ""
            assert len(text.encode()) == size
            for message in (text, bytes([seed]) * size):
                assert await echo(message) == message


# ------------------------------------------------------------------------------------------- tests


def test_hello_world(port: int) -> None:
    """``GET /`` returns the text of the program, on a connection that is kept alive."""
    with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            answer = client.get("/")
            assert (answer.status_code, answer.text) == (200, "Hello world!")
        assert client.get("/ws").status_code == 426


@either_client
async def test_echo(port: int, open_client: Callable[[int], Any]) -> None:
    """Text and binary messages from 0 bytes to 1 MiB are echoed unchanged."""
    with trio.fail_after(PATIENCE):
        await echo_all_sizes(port, open_client)


@either_client
async def test_many_clients_at_once(port: int, open_client: Callable[[int], Any]) -> None:
    """Each of many concurrent clients gets its own messages back, of every size."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for seed in range(CLIENTS_AT_ONCE):
                nursery.start_soon(echo_all_sizes, port, open_client, seed)


async def test_order_of_start_does_not_matter(tmp_path: Path) -> None:
    """With its two ``start_soon`` lines exchanged, the program does the same."""
    program = first_program()
    lines = re.findall(r"^ +nursery\.start_soon\(.*\n", program, re.MULTILINE)
    assert len(lines) == 2
    exchanged = program.replace("".join(lines), "".join(reversed(lines)))
    assert exchanged != program
    with first_program_running(tmp_path, exchanged) as (_, port), trio.fail_after(PATIENCE):
        await echo_all_sizes(port, websockets_client)


def assert_ended_gracefully(ending: Ending) -> None:
    """The exit status is 0, and the log has the address and nothing above INFO."""
    assert (ending.status, ending.stdout) == (0, "")
    first, *others = ending.stderr.splitlines()
    assert first.startswith("INFO:humphrey_trio.http:listening on http://127.0.0.1:")
    assert all(line.startswith("INFO:humphrey_trio.") for line in others)


def test_ctrl_c_closes_the_clients_of_websockets(program: Program, port: int) -> None:
    """Ctrl-C ends the program with the exit status 0 and without a traceback; its clients get 1001."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws", proxy=None)) for _ in range(CLIENTS_AT_ONCE)
        ]
        for client in clients:
            client.send("text")
            assert client.recv(timeout=PATIENCE) == "text"
        assert_ended_gracefully(program.interrupt())
        for client in clients:
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001


async def test_ctrl_c_closes_the_clients_of_trio_websocket(program: Program, port: int) -> None:
    """At Ctrl-C a trio-websocket client gets 1001, too."""
    with trio.fail_after(PATIENCE):
        # If the server closes first, this client leaves its stream open, so the test closes it.
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            client = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", "/ws")
            await client.send_message("text")
            assert await client.get_message() == "text"
            program.send_signal(signal.SIGINT)
            with pytest.raises(TrioConnectionClosed) as caught:
                await client.get_message()
            assert caught.value.reason.code == 1001
        assert_ended_gracefully(await trio.to_thread.run_sync(program.finish))
